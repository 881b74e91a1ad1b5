use super::openssl::{self, pki};
use super::*;

/// Names and texts of the files.
fn files(case: &Case) -> Vec<(String, String)> {
    let file =
        |view: FileView| (view.path.to_string(), view.contents.expose_str().unwrap().to_owned());
    case.files().unwrap().into_iter().map(file).collect()
}

fn separate(content_type: &'static str, value: impl Into<Vec<u8>>) -> Case {
    Case { separate: true, ..Case::certificate(content_type, value) }
}

const CERT: &str = "folder/alias.crt";
const KEY: &str = "folder/alias.key";
const ALL: &str = "folder/alias";

#[test]
fn u44_u49_a_certificate_gives_its_chain_and_its_key_and_the_whole() {
    let pfx = STANDARD.encode(pki().pfx(&["rsa", "root", "int"], "", &["-legacy"]));
    let whole = Case::certificate("application/x-pkcs12", pfx.clone()).text();
    let pem = "application/x-pem-file";
    for case in [separate("application/x-pkcs12", pfx), separate(pem, whole.clone())] {
        let files = files(&case);
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [CERT, KEY, ALL]);
        assert_eq!(format!("{}{}", files[1].1, files[0].1), whole, "the key is first in the whole");
        assert_eq!(files[2].1, whole);
        assert_eq!(blocks(&files[0].1).len(), 3);
        let of_key = openssl::run(&["pkey", "-pubout"], files[1].1.as_bytes());
        assert_eq!(of_key, openssl::run(&["x509", "-noout", "-pubkey"], files[0].1.as_bytes()));
    }
}

/// Upstream writes empty `.crt` and `.key` files for a PFX.
#[test]
fn p15_what_has_no_pem_blocks_stays_one_file() {
    let der = pki().pfx(&["leaf"], "", &["-legacy"]);
    let pfx = Case { format: Format::Pfx, separate: true, ..Case::pfx(&der) };
    let binary = Case { encoding: Encoding::Base64, ..pfx };
    assert_eq!(binary.render().unwrap(), der);
    let text = Case { encoding: Encoding::Utf8, ..binary };
    assert_eq!(text.text(), STANDARD.encode(&der));
    for value in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nYQ==\n", "\u{e9}\n-----BEGIN X"] {
        assert_eq!(files(&separate("application/x-pem-file", value)), [(ALL.into(), value.into())]);
    }
}

#[test]
fn only_a_certificates_secret_is_split() {
    let pem = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n";
    let plain = Case { separate: true, ..Case::plain(pem) };
    let untyped = Case { content_type: None, ..separate("", pem) };
    for case in [plain, untyped] {
        assert_eq!(files(&case), [(ALL.to_owned(), pem.to_owned())]);
    }
    let options = Options { separate_files: true, ..Options::default() };
    let body = Body::Certificate { cer: b"test".to_vec() };
    let cert = version(ObjectKind::Certificate, body);
    assert_eq!(render(&object(ObjectKind::Certificate), &cert, options).unwrap().len(), 1);
    let named = |kind| paths(&object(kind), options).iter().map(FilePath::to_string).collect();
    let (secret, key): (Vec<_>, Vec<_>) = (named(ObjectKind::Secret), named(ObjectKind::Key));
    assert_eq!((secret, key), (vec![CERT.into(), KEY.into(), ALL.into()], vec![ALL.to_owned()]));
}

/// What upstream's parser skips is skipped, and what it finds is written in one form.
#[test]
fn blocks_are_found_in_whatever_stands_around_them() {
    let value = "Bag Attributes\r\n friendlyName: x\r\n-----BEGIN CERTIFICATE-----\r\nZm  9v\r\n\
        YmFy\r\n-----END CERTIFICATE-----\r\nsubject=CN\n-----BEGIN EC PARAMETERS-----\n\
        BggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n-----BEGIN LOST-----\nYQ==\n\
        -----BEGIN EC PRIVATE KEY-----\nYmF6\n-----END EC PRIVATE KEY-----  \n\
        -----BEGIN A-----\nYQ==\n-----END B-----\n-----END A-----\n\
        -----BEGIN BAD-----\n****\n-----END BAD-----\n-----BEGIN NONE-----\n-----END NONE-----\n\
        -----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\n\r\nYQ==\r\n\
        -----END RSA PRIVATE KEY-----\r\n-----BEGIN CERTIFICATE-----\nYg==\n-----END CERTIFICATE-----";
    let files = files(&separate("application/x-pem-file", value));
    let block = |label: &str, body: &str| {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    let rest = [
        block("EC PARAMETERS", "BggqhkjOPQMBBw=="),
        block("EC PRIVATE KEY", "YmF6"),
        block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nYQ=="),
    ];
    let certificates = block("CERTIFICATE", "Zm9vYmFy") + &block("CERTIFICATE", "Yg==");
    assert_eq!(files[0], (CERT.to_owned(), certificates));
    assert_eq!(files[1], (KEY.to_owned(), rest.concat()));
    assert_eq!(files[2].1, value);
    let alone = separate("application/x-pem-file", block("PRIVATE KEY", "YQ=="));
    let names: Vec<_> = alone.files().unwrap().iter().map(|file| file.path.to_string()).collect();
    assert_eq!(names, [KEY, ALL], "no empty file");
}

#[test]
fn the_encoding_is_that_of_each_part_and_a_name_may_become_too_long() {
    let pem = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n";
    let case = Case { encoding: Encoding::Base64, ..separate("application/x-pem-file", pem) };
    assert_eq!(case.refusal().1, "illegal base64 data at input byte 0");
    let mut object = object(ObjectKind::Secret);
    object.path = FilePath::parse(&format!("folder/{}", "n".repeat(252))).unwrap();
    let options = Options { separate_files: true, ..Options::default() };
    assert_eq!(paths(&object, options), [object.path.clone()]);
    let body = Body::Secret {
        value: Secret::from(pem),
        content_type: Some("application/x-pem-file".into()),
        kid: Some("kid".into()),
    };
    let error = render(&object, &version(ObjectKind::Secret, body), options).unwrap_err();
    assert!(error.message().ends_with("element longer than 255 bytes"), "{error}");
}

#[test]
fn beginnings_without_an_end_are_no_blocks() {
    let value = "-----BEGIN CERTIFICATE-----\n".repeat(9000);
    assert_eq!(files(&separate("application/x-pem-file", value)).len(), 1);
}
