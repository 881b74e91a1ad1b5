//! The `openssl` program: maker of fixtures and judge. Keys are made for each run and lie in
//! temporary directories only while a command needs them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Runs a command with this standard input; fails the test with OpenSSL's own words.
pub(super) fn run(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    run_in(Path::new("."), arguments, input)
}

fn run_in(directory: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tests need the openssl program");
    let mut stdin = child.stdin.take().unwrap();
    // Inputs are far smaller than a pipe; a command that does not read them closes its end.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {}: {words}", arguments.join(" "));
    output.stdout
}

const CONFIG: &str = "
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
[leaf]
basicConstraints = CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
[leaf_without_ski]
subjectKeyIdentifier = none
authorityKeyIdentifier = keyid:always
[bare]
subjectKeyIdentifier = none
authorityKeyIdentifier = none
";

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const ED25519: &[&str] = &["-algorithm", "ED25519"];

/// Certificates and keys, by name.
///
/// | name | signed by | |
/// |---|---|---|
/// | root, int, leaf | root, root, int | EC |
/// | int2, server | int, int2 | the server has no SubjectKeyIdentifier |
/// | rsa, ed | int | RSA-2048 and Ed25519 |
/// | bare | bare | RSA-2048, no key identifiers |
/// | there, back, below | back, there, back | two that signed each other, and a leaf |
pub(super) struct Pki {
    keys: BTreeMap<&'static str, String>,
    certificates: BTreeMap<&'static str, String>,
}

pub(super) fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let mut pki = Pki { keys: BTreeMap::new(), certificates: BTreeMap::new() };
        for (name, key, signer, extensions) in [
            ("root", P256, "root", "ca"),
            ("int", P256, "root", "ca"),
            ("leaf", P256, "int", "leaf"),
            ("int2", P256, "int", "ca"),
            ("server", P256, "int2", "leaf_without_ski"),
            ("rsa", RSA, "int", "leaf"),
            ("ed", ED25519, "int", "leaf"),
            ("bare", RSA, "bare", "bare"),
            ("there", P256, "there", "ca"),
            ("back", P256, "there", "ca"),
            ("below", P256, "back", "leaf"),
        ] {
            let key = [&["genpkey"], key].concat();
            pki.keys.insert(name, String::from_utf8(run(&key, b"")).unwrap());
            pki.sign(name, signer, extensions);
        }
        // Signed anew by the one it signed: same key, same identifier, now a circle.
        pki.sign("there", "back", "ca");
        pki
    })
}

impl Pki {
    fn sign(&mut self, name: &'static str, signer: &str, extensions: &str) {
        let directory = tempfile::tempdir().unwrap();
        let write =
            |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
        write("config", CONFIG);
        write("key", &self.keys[name]);
        let mut arguments = vec![
            "req",
            "-x509",
            "-config",
            "config",
            "-extensions",
            extensions,
            "-subj",
            "/CN=test.domain.com",
            "-days",
            "30",
            "-key",
            "key",
        ];
        if signer != name {
            write("ca", &self.certificates[signer]);
            write("cakey", &self.keys[signer]);
            arguments.extend(["-CA", "ca", "-CAkey", "cakey"]);
        }
        let certificate = run_in(directory.path(), &arguments, b"");
        self.certificates.insert(name, String::from_utf8(certificate).unwrap());
    }

    /// DER.
    pub(super) fn certificate(&self, name: &str) -> Vec<u8> {
        der(&self.certificates[name])
    }

    /// DER of several.
    pub(super) fn certificates(&self, names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| self.certificate(name)).collect()
    }

    /// PKCS#8 DER.
    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        der(&self.keys[name])
    }

    /// PKCS#8, encrypted with an empty password as the options say.
    pub(super) fn encrypted_key(&self, name: &str, options: &[&str]) -> Vec<u8> {
        let arguments = ["pkcs8", "-topk8", "-outform", "DER", "-passout", "pass:"];
        run(&[&arguments, options].concat(), self.keys[name].as_bytes())
    }

    /// A PFX as OpenSSL writes it: the key of the first name, and the certificates of all.
    pub(super) fn pfx(&self, names: &[&str], password: &str, options: &[&str]) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let certificates: String =
            names.iter().map(|name| self.certificates[*name].as_str()).collect();
        std::fs::write(directory.path().join("certificates"), certificates).unwrap();
        std::fs::write(directory.path().join("key"), &self.keys[names[0]]).unwrap();
        let arguments = ["pkcs12", "-export", "-in", "certificates", "-inkey", "key", "-passout"];
        let password = format!("pass:{password}");
        run_in(directory.path(), &[&arguments[..], &[&password], options].concat(), b"")
    }
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).unwrap()
}
