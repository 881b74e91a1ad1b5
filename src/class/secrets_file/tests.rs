use super::*;

const MANIFEST: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: creds}\ntype: Opaque\n\
    data:\n  clientid: YXBw\n  clientsecret: d29yZA==\n";

fn value(secrets: &Secrets, key: &str) -> String {
    secrets.get(key).and_then(Secret::expose_str).unwrap_or("(none)").to_owned()
}

fn both(secrets: &Secrets) -> (String, String) {
    (value(secrets, "clientid"), value(secrets, "clientsecret"))
}

fn parsed(text: &str) -> (String, String) {
    both(&manifest(text.as_bytes()).unwrap())
}

#[test]
fn a_secret_manifest_is_read() {
    let app = ("app".to_owned(), "word".to_owned());
    assert_eq!(parsed(MANIFEST), app);
    let wrapped = MANIFEST.replace("d29yZA==", "|\n    d29y\n    ZA==");
    assert_eq!(parsed(&wrapped), app);
    let strings = "kind: Secret\nstringData:\n  ClientID: app\n  clientsecret: word\ndata: {clientsecret: eA==}\n";
    assert_eq!(parsed(strings), app);
    let others = format!("kind: ConfigMap\ndata: [x]\n---\n{MANIFEST}---\n");
    assert_eq!(parsed(&others), app);
    assert_eq!(
        parsed(
            "{\"kind\": \"Secret\", \"data\": {\"clientid\": \"YXBw\", \"clientsecret\": \"d29yZA==\"}}"
        ),
        app
    );
}

#[test]
fn wrong_manifests_name_the_key_and_never_the_value() {
    for (text, expected) in [
        ("", "the file has no Secret"),
        ("kind: ConfigMap\ndata: {clientid: canary}", "the file has no Secret"),
        (&format!("{MANIFEST}---\n{MANIFEST}"), "several Secrets"),
        ("kind: Secret\ndata: {clientsecret: canary!}", "data.clientsecret is not base64"),
        ("kind: Secret\ndata: canary", "data is a string, not a mapping"),
        ("kind: Secret\ndata: {clientid: 5}", "data.clientid is a number, not a string"),
        (
            "kind: Secret\nstringData: {clientsecret: 123456789}",
            "stringData.clientsecret is a number",
        ),
        ("kind: Secret\nstringData: [canary]", "stringData is an array"),
        ("kind: Secret\nstringData: {clientsecret: {a: canary}}", "is an object, not a string"),
        ("kind: Secret\nstringData: {clientsecret: \"canary}", "document 0: yaml: not valid"),
        ("kind: Secret\ndata: *canary", "document 0: yaml: not valid"),
        ("canary", "document 0: yaml: not valid"),
        ("kind: Secret\nkind: canary", "document 0: yaml: not valid"),
    ] {
        let error = manifest(text.as_bytes()).unwrap_err();
        assert!(error.message().contains(expected), "{text}: {error}");
        assert!(!format!("{error:?}").contains("canary"), "{error}");
        assert!(!error.to_string().contains("123456789"), "{error}");
    }
    assert!(manifest(b"kind: \xff").unwrap_err().message().contains("not text"));
}

#[cfg(target_os = "linux")]
mod files {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_is_read_as_a_secret_volume() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("clientid"), "app\n", 0o600);
        let error = read(dir.path()).unwrap_err();
        assert!(error.message().contains("clientsecret: entity not found"), "{error}");
        write(&dir.path().join("clientsecret"), " word \r\n", 0o400);
        assert_eq!(both(&read(dir.path()).unwrap()), ("app".to_owned(), " word ".to_owned()));
        write(&dir.path().join("clientsecret"), &"x".repeat(MAX_VALUE + 1), 0o600);
        assert!(read(dir.path()).unwrap_err().message().contains("larger than 65536 bytes"));
    }

    #[test]
    fn a_directory_may_have_a_certificate_instead_of_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("clientid"), "app\n", 0o600);
        // Binary: the line end is part of it.
        write(&dir.path().join("clientcertificate"), "der\n", 0o600);
        let secrets = read(dir.path()).unwrap();
        assert_eq!(secrets.get("clientcertificate").unwrap().expose(), b"der\n");
        assert!(secrets.get("clientsecret").is_none());
        write(&dir.path().join("clientsecret"), "word", 0o600);
        let secrets = read(dir.path()).unwrap();
        assert_eq!(both(&secrets), ("app".to_owned(), "word".to_owned()));
        assert!(secrets.get("clientcertificate").is_none());
    }

    #[test]
    fn files_that_others_may_use_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret.yaml");
        for mode in [0o640, 0o604, 0o620, 0o644, 0o601] {
            write(&file, MANIFEST, mode);
            let error = read(&file).unwrap_err();
            assert!(error.message().contains("may be used by its group or by others"), "{error}");
            assert!(error.likely_fix().unwrap().starts_with("chmod 600 "), "{error}");
        }
        write(&file, MANIFEST, 0o600);
        assert_eq!(both(&read(&file).unwrap()).0, "app");
        write(&file, &"#".repeat(yaml::MAX_TEXT + 1), 0o600);
        assert!(read(&file).unwrap_err().message().contains("larger than 1048576 bytes"));
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&dir.path().join("none")).unwrap_err().message().contains("cannot read"));
        let fifo = dir.path().join("clientid");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(read(dir.path()).unwrap_err().message().contains("not a regular file"));
    }
}
