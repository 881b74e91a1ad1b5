import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.InvalidKeySpecException;
import java.security.spec.PKCS8EncodedKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Reads each file as an application would, and prints what is in it, in order: "FILE WHAT SHA-256" for
 * every certificate, public key and private key. A private key must belong to the first certificate,
 * and each certificate be issued by the next one.
 */
public class Judge {
    private static final Pattern BLOCK =
        Pattern.compile("-----BEGIN ([A-Z ]+)-----\n([A-Za-z0-9+/=\n]+)-----END \\1-----\n");

    public static void main(String[] files) throws Exception {
        for (String file : files) {
            byte[] bytes = Files.readAllBytes(Path.of(file));
            if (file.endsWith(".pfx")) {
                pfx(file, bytes);
            } else {
                pem(file, new String(bytes, StandardCharsets.US_ASCII));
            }
        }
    }

    private static void pfx(String file, byte[] bytes) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(new ByteArrayInputStream(bytes), new char[0]);
        for (String alias : Collections.list(store.aliases())) {
            PrivateKey key = (PrivateKey) store.getKey(alias, new char[0]);
            report(file, List.of(store.getCertificateChain(alias)), List.of(key));
        }
    }

    private static void pem(String file, String text) throws Exception {
        List<Certificate> certificates = new ArrayList<>();
        List<PrivateKey> keys = new ArrayList<>();
        Matcher block = BLOCK.matcher(text);
        int end = 0;
        while (block.find()) {
            if (block.start() != end) throw new Exception(file + " has more than PEM blocks");
            end = block.end();
            byte[] der = Base64.getMimeDecoder().decode(block.group(2));
            switch (block.group(1)) {
                case "CERTIFICATE" -> certificates.add(CertificateFactory.getInstance("X.509")
                    .generateCertificate(new ByteArrayInputStream(der)));
                case "PRIVATE KEY" -> keys.add(privateKey(der));
                case "PUBLIC KEY" -> print(file, "public", publicKey(der).getEncoded());
                default -> throw new Exception(file + " has a block " + block.group(1));
            }
        }
        if (end != text.length()) throw new Exception(file + " has more than PEM blocks");
        report(file, certificates, keys);
    }

    private static void report(String file, List<Certificate> chain, List<PrivateKey> keys)
            throws Exception {
        for (PrivateKey key : keys) {
            if (!chain.isEmpty()) pair(key, chain.get(0).getPublicKey());
            print(file, "private", key.getEncoded());
        }
        for (int i = 0; i < chain.size(); i++) {
            if (i + 1 < chain.size()) chain.get(i).verify(chain.get(i + 1).getPublicKey());
            print(file, "certificate", chain.get(i).getEncoded());
        }
        if (!chain.isEmpty()) print(file, "public", chain.get(0).getPublicKey().getEncoded());
    }

    private static void pair(PrivateKey key, PublicKey publicKey) throws Exception {
        Signature signature =
            Signature.getInstance(key.getAlgorithm().equals("RSA") ? "SHA256withRSA" : "SHA256withECDSA");
        signature.initSign(key);
        byte[] signed = signature.sign();
        signature.initVerify(publicKey);
        if (!signature.verify(signed)) throw new Exception("the key is another certificate's");
    }

    private static PrivateKey privateKey(byte[] der) throws Exception {
        try {
            return KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(der));
        } catch (InvalidKeySpecException notRsa) {
            return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(der));
        }
    }

    private static PublicKey publicKey(byte[] der) throws Exception {
        try {
            return KeyFactory.getInstance("RSA").generatePublic(new X509EncodedKeySpec(der));
        } catch (InvalidKeySpecException notRsa) {
            return KeyFactory.getInstance("EC").generatePublic(new X509EncodedKeySpec(der));
        }
    }

    private static void print(String file, String what, byte[] der) throws Exception {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(der);
        System.out.println(file + " " + what + " " + HexFormat.of().formatHex(digest));
    }
}
