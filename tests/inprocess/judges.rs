//! OpenSSL and the JDK are the judges of what applications get: both must read every file of the
//! default vault, and find the same in it.

use std::collections::BTreeMap;
use std::process::Command;

use akvfs::csi::proto::MountResponse;
use akvfs::emulator::Seed;

use crate::world::World;

/// The files of a response in a directory, for programs.
pub struct Judge(tempfile::TempDir);

impl Judge {
    pub fn of(response: &MountResponse) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in &response.files {
            std::fs::write(dir.path().join(&file.path), &file.contents).unwrap();
        }
        Self(dir)
    }

    pub fn openssl(&self, args: &[&str]) -> Vec<u8> {
        self.run("openssl", args)
    }

    /// What the JDK finds in each file: `certificate`, `public` or `private`, and the SHA-256 of it.
    fn java(&self, files: &[&str]) -> BTreeMap<String, Vec<(String, String)>> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inprocess/Judge.java");
        // The serial collector and one compiler: its start is most of the work.
        let flags = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", source];
        let said = String::from_utf8(self.run("java", &[&flags, files].concat())).unwrap();
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for line in said.lines() {
            let [file, what, digest] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            found.entry(file.to_owned()).or_default().push((what.to_owned(), digest.to_owned()));
        }
        found
    }

    fn run(&self, program: &str, args: &[&str]) -> Vec<u8> {
        let output =
            Command::new(program).args(args).current_dir(self.0.path()).output().unwrap_or_else(
                |error| panic!("the tests need {program} of OpenSSL or a JDK: {error}"),
            );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {said}");
        output.stdout
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

const CERTIFICATES: [(&str, usize); 5] =
    [("pemcert1", 3), ("pkcs12cert1", 3), ("ecccert1", 3), ("ecc-pem", 3), ("self-signed", 1)];
const PFX: [&str; 2] = ["pkcs12cert1", "ecccert1"];
const KEYS: [&str; 4] = ["key1", "ec-p256", "ec-p384", "ec-p521"];

/// Everything that can be rendered of certificates and keys, separate files included.
async fn rendered() -> Judge {
    let world = World::with_separate_files(Seed::default_seed().unwrap()).await;
    let mut entries: Vec<String> = Vec::new();
    for (name, _) in CERTIFICATES {
        entries.push(format!("objectName: {name}\nobjectType: secret\nobjectAlias: {name}.pem"));
        entries.push(format!("objectName: {name}\nobjectType: cert\nobjectAlias: {name}.cer"));
        entries.push(format!("objectName: {name}\nobjectType: key\nobjectAlias: {name}.pub"));
    }
    for name in PFX {
        entries.push(format!(
            "objectName: {name}\nobjectType: secret\nobjectAlias: {name}.pfx\n\
             objectFormat: pfx\nobjectEncoding: base64"
        ));
    }
    for name in KEYS {
        entries.push(format!("objectName: {name}\nobjectType: key\nobjectAlias: {name}.pub"));
    }
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    Judge::of(&world.mount(&world.call(&entries)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn e3_e4_e5_e6_openssl_and_the_jdk_agree_on_every_file_of_the_default_vault() {
    let judge = rendered().await;
    let entries = std::fs::read_dir(judge.0.path()).unwrap();
    let files: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // Five certificates as .pem, .pem.crt, .pem.key, .cer and .pub; two of them as PFX; four keys.
    assert_eq!(files.len(), 5 * 5 + 2 + 4);
    let java = judge.java(&files.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(java.len(), files.len());
    let all = |file: &str, what: &str| -> Vec<String> {
        let found = java[file].iter().filter(|(kind, _)| kind == what);
        found.map(|(_, digest)| digest.clone()).collect()
    };
    for (name, chain) in CERTIFICATES {
        let file = |extension: &str| format!("{name}.{extension}");
        let openssl = |args: &[&str], file: &str| {
            sha256(&judge.openssl(&[args, &["-outform", "DER", "-in", file]].concat()))
        };
        let leaf = openssl(&["x509"], &file("pem"));
        let public = openssl(&["pkey", "-pubout"], &file("pem"));
        assert_eq!(public, openssl(&["pkey", "-pubin", "-pubout"], &file("pub")), "{name}");
        let private = sha256(&judge.openssl(&[
            "pkcs8",
            "-topk8",
            "-nocrypt",
            "-outform",
            "DER",
            "-in",
            &file("pem.key"),
        ]));
        let mut whole = vec![file("pem")];
        whole.extend(PFX.contains(&name).then(|| file("pfx")));
        for whole in whole {
            assert_eq!(all(&whole, "private"), std::slice::from_ref(&private), "{whole}");
            assert_eq!(all(&whole, "certificate"), all(&file("pem.crt"), "certificate"), "{whole}");
        }
        assert_eq!(all(&file("pem.key"), "private"), [private], "{name}");
        assert_eq!(all(&file("pem.crt"), "certificate").len(), chain, "{name}");
        assert_eq!(all(&file("pem.crt"), "certificate")[0], leaf, "{name}");
        // Only the server's certificate, never the chain.
        assert_eq!(all(&file("cer"), "certificate"), std::slice::from_ref(&leaf), "{name}");
        assert_eq!(leaf, openssl(&["x509"], &file("cer")), "{name}");
        for extension in ["pem", "pem.crt", "cer", "pub"] {
            assert_eq!(
                all(&file(extension), "public"),
                std::slice::from_ref(&public),
                "{name}.{extension}"
            );
        }
    }
    for name in PFX {
        let (pfx, pem) = (format!("{name}.pfx"), format!("{name}.pem"));
        let arguments =
            ["pkcs12", "-legacy", "-passin", "pass:", "-nodes", "-nocerts", "-in", &pfx];
        let key = judge.openssl(&arguments);
        std::fs::write(judge.0.path().join("key"), key).unwrap();
        let public = |file: &str| judge.openssl(&["pkey", "-pubout", "-in", file]);
        assert_eq!(public("key"), public(&pem), "{name}");
    }
    for name in KEYS {
        let file = format!("{name}.pub");
        let der = judge.openssl(&["pkey", "-pubin", "-pubout", "-outform", "DER", "-in", &file]);
        assert_eq!(all(&file, "public"), [sha256(&der)], "{name}");
    }
}
