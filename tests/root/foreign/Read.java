import java.io.FileInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;

/** Reads a file as Java programs do: `bytes FILE`, or `keystore TYPE FILE PASSWORD`. */
public final class Read {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("bytes")) {
            System.out.write(Files.readAllBytes(Path.of(args[1])));
            System.out.flush();
            return;
        }
        KeyStore store = KeyStore.getInstance(args[1]);
        try (FileInputStream file = new FileInputStream(args[2])) {
            store.load(file, args[3].toCharArray());
        }
        for (String alias : java.util.Collections.list(store.aliases())) {
            System.out.println(alias + " " + store.getCertificate(alias).hashCode());
        }
    }
}
