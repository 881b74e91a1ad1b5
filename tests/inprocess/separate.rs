//! `--write-cert-and-key-in-separate-files` through the socket.

use akvfs::emulator::Seed;
use tonic::Code;

use crate::judges::Judge;
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn u49_e6_certificate_and_key_have_files_of_their_own() {
    let world = World::with_separate_files(Seed::default_seed().unwrap()).await;
    for (name, chain) in [("pemcert1", 3), ("pkcs12cert1", 3), ("ecccert1", 3), ("self-signed", 1)]
    {
        let alias = format!("{name}-secret");
        let response = world
            .mount(&world.call(&[
                &format!(
                    "objectName: {name}\nobjectType: secret\nobjectAlias: {alias}\n\
                     filePermission: 0400"
                ),
                "objectName: secret1\nobjectType: secret",
            ]))
            .await
            .unwrap();
        let paths: Vec<_> = response.files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(paths[..3], [".crt", ".key", ""].map(|suffix| format!("{alias}{suffix}")));
        assert_eq!(paths[3..], ["secret1"], "a plain secret is one file");
        assert!(response.files[..3].iter().all(|file| file.mode == 0o400));
        let versions = &response.object_version;
        assert_eq!(versions.len(), 4);
        assert!(versions[..3].iter().all(|version| *version == versions[0]));
        assert_eq!(versions[0].id, format!("secret/{name}"));

        let judge = Judge::of(&response);
        let (certificate, key) = (format!("{alias}.crt"), format!("{alias}.key"));
        let text = String::from_utf8(response.files[0].contents.clone()).unwrap();
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), chain);
        let of_key = judge.openssl(&["pkey", "-in", &key, "-pubout"]);
        assert_eq!(of_key, judge.openssl(&["x509", "-in", &certificate, "-noout", "-pubkey"]));
        let subject = judge.openssl(&["x509", "-in", &certificate, "-noout", "-subject"]);
        assert!(String::from_utf8(subject).unwrap().contains("test.domain.com"));
    }
}

/// Upstream writes two empty files besides.
#[tokio::test(flavor = "multi_thread")]
async fn p15_a_pfx_stays_one_binary_file() {
    let world = World::with_separate_files(Seed::default_seed().unwrap()).await;
    let entry = "objectName: pkcs12cert1\nobjectType: secret\nobjectFormat: pfx\n\
                 objectEncoding: base64\nobjectAlias: tls.pfx";
    let response = world.mount(&world.call(&[entry])).await.unwrap();
    let paths: Vec<_> = response.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!((paths, response.files[0].contents[0]), (vec!["tls.pfx"], 0x30));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_certificate_have_their_files_too() {
    let world = World::with_separate_files(Seed::default_seed().unwrap()).await;
    world.control.rotate_certificate(world.emulator.vault_name(), "ecccert1").unwrap();
    let entry = "objectName: ecccert1\nobjectType: secret\nobjectVersionHistory: 2";
    let response = world.mount(&world.call(&[entry])).await.unwrap();
    let files = response.files.iter().zip(&response.object_version);
    let files: Vec<_> = files.map(|(file, v)| (file.path.as_str(), v.id.as_str())).collect();
    let (newest, older) = ("secret/ecccert1/0", "secret/ecccert1/1");
    assert_eq!(
        files,
        [
            ("ecccert1/0.crt", newest),
            ("ecccert1/0.key", newest),
            ("ecccert1/0", newest),
            ("ecccert1/1.crt", older),
            ("ecccert1/1.key", older),
            ("ecccert1/1", older),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_objects_on_one_file_are_refused_where_the_file_is_needed() {
    let world = World::with_separate_files(Seed::default_seed().unwrap()).await;
    let tls = "objectName: pemcert1\nobjectType: secret\nobjectAlias: tls";
    let plain = "objectName: secret1\nobjectType: secret\nobjectAlias: tls";
    for (alias, said) in [("tls.key", "are both the file tls.key"), ("tls.crt/x", "as a folder")] {
        let other = format!("objectName: api-token\nobjectType: secret\nobjectAlias: {alias}");
        for entries in [[tls, &other], [&other, tls]] {
            let status = world.mount(&world.call(&entries)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(said), "{status}");
            assert!(status.message().contains("separate-files"), "{status}");
        }
        // A plain secret needs no such file.
        assert_eq!(world.mount(&world.call(&[plain, &other])).await.unwrap().files.len(), 2);
    }
}
