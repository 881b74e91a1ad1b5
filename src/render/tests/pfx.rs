use std::io::Write;
use std::sync::{Arc, Mutex};

use super::openssl::{self, pki};
use super::*;
use crate::render::pkcs12::builder as build;

/// PEM labels with the names of what they hold, in order.
fn named(text: &str) -> Vec<String> {
    let names = ["root", "int", "leaf", "int2", "server", "rsa", "ed", "bare"];
    blocks(text)
        .into_iter()
        .map(|(label, der)| {
            let name = names.iter().find(|name| match label.as_str() {
                "PRIVATE KEY" => pki().key(name) == der,
                _ => pki().certificate(name) == der,
            });
            format!("{label} {}", name.expect("a key or certificate of the fixtures"))
        })
        .collect()
}

const EC_CHAIN: [&str; 4] =
    ["PRIVATE KEY leaf", "CERTIFICATE leaf", "CERTIFICATE int", "CERTIFICATE root"];

/// The first key of the text belongs to its first certificate, says OpenSSL.
fn assert_a_pair(text: &str) {
    let of_key = openssl::run(&["pkey", "-pubout"], text.as_bytes());
    let of_certificate = openssl::run(&["x509", "-noout", "-pubkey"], text.as_bytes());
    assert_eq!(of_key, of_certificate);
}

#[test]
fn u28_u48_a_self_signed_certificate_without_key_identifiers() {
    let text = Case::pfx(&pki().pfx(&["bare"], "", &[])).text();
    assert_eq!(named(&text), ["PRIVATE KEY bare", "CERTIFICATE bare"]);
    assert_a_pair(&text);
}

#[test]
fn u29_u48_an_ec_key_with_its_chain() {
    for names in [["leaf", "int", "root"], ["leaf", "root", "int"]] {
        let text = Case::pfx(&pki().pfx(&names, "", &[])).text();
        assert_eq!(named(&text), EC_CHAIN);
        assert_a_pair(&text);
    }
}

#[test]
fn u30_all_orders_in_a_pfx_give_the_same_text() {
    for names in permutations(&["root", "int", "leaf"]) {
        let mut bags = vec![build::bag(build::KEY_BAG, &pki().key("leaf"))];
        bags.extend(names.iter().map(|name| build::certificate_bag(&pki().certificate(name))));
        assert_eq!(named(&Case::pfx(&build::pfx(&bags)).text()), EC_CHAIN, "{names:?}");
        let unordered = Case { chain: false, ..Case::pfx(&build::pfx(&bags)) }.text();
        let expected: Vec<_> = names.iter().map(|name| format!("CERTIFICATE {name}")).collect();
        assert_eq!(named(&unordered)[1..], expected, "no chain wanted");
    }
}

#[test]
fn u32_an_incomplete_chain_keeps_the_order_of_the_pfx_and_warns() {
    let case = Case::pfx(&pki().pfx(&["leaf", "root"], "", &[]));
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let text = tracing::subscriber::with_default(subscriber, || case.text());
    assert_eq!(named(&text), ["PRIVATE KEY leaf", "CERTIFICATE leaf", "CERTIFICATE root"]);

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("certificate chain is not complete due to missing intermediate/root"));
    assert!(logged.contains("secret/thing"), "{logged}");
    let body = STANDARD.encode(pki().key("leaf"));
    assert!(!logged.contains(&body[60..80]) && !logged.contains("BEGIN"));
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What OpenSSL can be made to write, old and new.
#[test]
fn p14_e4_every_way_to_encrypt_a_pfx_is_read() {
    let variants: [&[&str]; 16] = [
        &[],
        &["-legacy"],
        &["-legacy", "-descert"],
        &["-legacy", "-nomac"],
        &["-nomac"],
        &["-keypbe", "NONE", "-certpbe", "NONE"],
        &["-keypbe", "NONE", "-certpbe", "NONE", "-nomac"],
        &["-keypbe", "NONE"],
        &["-certpbe", "NONE"],
        &["-keypbe", "AES-128-CBC", "-certpbe", "AES-192-CBC", "-macalg", "sha1"],
        &["-keypbe", "DES-EDE3-CBC", "-certpbe", "DES-EDE3-CBC", "-macalg", "sha384"],
        &["-legacy", "-keypbe", "PBE-SHA1-2DES", "-certpbe", "PBE-SHA1-RC2-128"],
        &["-legacy", "-keypbe", "PBE-SHA1-RC2-40", "-macalg", "sha512"],
        &["-noiter", "-nomaciter"],
        &["-iter", "100000"],
        &["-name", "same", "-caname", "same", "-caname", "same", "-CSP", "provider"],
    ];
    for (name, label) in [("leaf", "EC"), ("rsa", "RSA"), ("ed", "Ed25519")] {
        let expected = [
            format!("PRIVATE KEY {name}"),
            format!("CERTIFICATE {name}"),
            "CERTIFICATE int".into(),
            "CERTIFICATE root".into(),
        ];
        for options in variants {
            let text = Case::pfx(&pki().pfx(&[name, "root", "int"], "", options)).text();
            assert_eq!(named(&text), expected, "{label} {options:?}");
            if options.is_empty() {
                assert_a_pair(&text);
            }
        }
    }
}

#[test]
fn every_way_to_encrypt_a_key_is_read() {
    let variants: [&[&str]; 7] = [
        &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA1"],
        &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256"],
        &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA384"],
        &["-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA512"],
        &["-v2", "des3"],
        &["-v1", "PBE-SHA1-3DES"],
        &["-v1", "PBE-SHA1-2DES"],
    ];
    for options in variants {
        let key = pki().encrypted_key("rsa", options);
        let bags = [
            build::bag(build::SHROUDED_KEY_BAG, &key),
            build::certificate_bag(&pki().certificate("rsa")),
        ];
        let text = Case::pfx(&build::pfx(&bags)).text();
        assert_eq!(named(&text), ["PRIVATE KEY rsa", "CERTIFICATE rsa"], "{options:?}");
    }
    for (options, oid) in [
        (&["-scrypt"][..], "key derivation algorithm: 1.3.6.1.4.1.11591.4.11"),
        (&["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA224"], "1.2.840.113549.2.8"),
        (&["-v2", "camellia-256-cbc"], "encryption algorithm: 1.2.392.200011.61.1.1.1.4"),
    ] {
        let key = pki().encrypted_key("rsa", options);
        let pfx = build::pfx(&[build::bag(build::SHROUDED_KEY_BAG, &key)]);
        let (code, message) = Case::pfx(&pfx).refusal();
        assert_eq!(code, Code::BadContent);
        assert!(message.starts_with("pkcs12: unknown ") && message.ends_with(oid), "{message}");
    }
}

/// Without ids that match, without names, several keys, bags in bags, bags of other kinds.
#[test]
fn all_keys_then_all_certificates_in_the_order_of_the_bags() {
    let certificate = |name| build::certificate_bag(&pki().certificate(name));
    let inner = [certificate("ed"), build::bag(build::KEY_BAG, &pki().key("rsa"))];
    let bags = [
        certificate("rsa"),
        build::bag(build::KEY_BAG, &pki().key("ed")),
        build::bag(build::CRL_BAG, &build::sequence(&[])),
        build::bag(build::SAFE_CONTENTS_BAG, &build::contents(&inner)),
        build::encrypted_key_bag(&pki().key("leaf"), &[0, 0], 10),
        certificate("bare"),
        certificate("rsa"),
    ];
    let expected = [
        "PRIVATE KEY ed",
        "PRIVATE KEY rsa",
        "PRIVATE KEY leaf",
        "CERTIFICATE rsa",
        "CERTIFICATE ed",
        "CERTIFICATE bare",
        "CERTIFICATE rsa",
    ];
    for pfx in [build::pfx(&bags), build::pfx_with_mac(&bags, &[0, 0], 2048)] {
        assert_eq!(named(&Case::pfx(&pfx).text()), expected);
    }
}

/// No bytes at all instead of a terminated empty string: OpenSSL reads what we take for it.
#[test]
fn both_spellings_of_the_empty_password_open_a_pfx() {
    for password in [&[0, 0][..], &[]] {
        let bags = [
            build::encrypted_key_bag(&pki().key("leaf"), password, 10),
            build::certificate_bag(&pki().certificate("leaf")),
        ];
        let with_mac = build::pfx_with_mac(&bags, password, 2048);
        for pfx in [&with_mac, &build::pfx(&bags)] {
            let text = Case::pfx(pfx).text();
            assert_eq!(named(&text), ["PRIVATE KEY leaf", "CERTIFICATE leaf"], "{password:?}");
        }
        let judge = ["pkcs12", "-legacy", "-nodes", "-passin", "pass:"];
        let judged = openssl::run(&judge, &with_mac);
        assert!(String::from_utf8(judged).unwrap().contains("BEGIN PRIVATE KEY"));
    }
}

#[test]
fn attributes_behind_a_key_are_dropped() {
    let key = pki().key("leaf");
    // [0] with one attribute: a key usage.
    let attributes = [0xa0, 0x0d, 0x30, 0x0b, 6, 3, 0x55, 0x1d, 0x0f, 0x31, 4, 3, 2, 5, 0xa0];
    let content = &key[if key[1] < 0x80 { 2 } else { 3 }..];
    let exported = build::sequence(&[content, &attributes]);
    let bags =
        [build::bag(build::KEY_BAG, &exported), build::certificate_bag(&pki().certificate("leaf"))];
    let text = Case::pfx(&build::pfx(&bags)).text();
    assert_eq!(named(&text), ["PRIVATE KEY leaf", "CERTIFICATE leaf"]);
}

/// A PFX stays base64 text; with objectEncoding base64 it is the binary file (P15's combined file).
#[test]
fn u47_e5_p15_a_pfx_is_left_alone_when_wanted() {
    for name in ["rsa", "leaf"] {
        let pfx = pki().pfx(&[name, "int", "root"], "", &["-legacy"]);
        let case = Case { format: Format::Pfx, ..Case::pfx(&pfx) };
        assert_eq!(case.text(), STANDARD.encode(&pfx));
        let binary = Case { encoding: Encoding::Base64, ..case }.render().unwrap();
        assert_eq!(binary, pfx);
        openssl::run(&["pkcs12", "-legacy", "-noout", "-passin", "pass:"], &binary);
    }
}

#[test]
fn decoding_the_converted_text_fails_with_a_hint() {
    let case = Case { encoding: Encoding::Base64, ..Case::pfx(&pki().pfx(&["leaf"], "", &[])) };
    let error = case.render().unwrap_err();
    assert!(error.message().ends_with(": illegal base64 data at input byte 0"));
    assert_eq!(error.likely_fix(), Some("for the binary PFX set objectFormat: pfx too"));
}

#[test]
fn a_password_is_named_as_a_likely_cause() {
    for (options, message) in [
        (&[][..], "pkcs12: the integrity check fails: the file is damaged or has a password"),
        (&["-nomac"], "pkcs12: decryption fails: the file is damaged or has a password"),
    ] {
        // What a wrong key decrypts to has a valid padding once in 256 times; the unchecked file is
        // then called malformed.
        let refusal = Case::pfx(&pki().pfx(&["leaf"], "canary", options)).refusal();
        assert_eq!(refusal.0, Code::BadContent);
        assert!(refusal.1 == message || refusal.1 == "pkcs12: malformed bags", "{refusal:?}");
    }
}

#[test]
fn u50_what_is_no_pfx_is_an_error() {
    let case = Case::certificate("application/x-pkcs12", "invalid");
    assert_eq!(case.refusal().1, "illegal base64 data at input byte 4");
    assert_eq!(Case::pfx(b"test").refusal().1, "pkcs12: malformed PFX");
    assert_eq!(Case::pfx(b"").refusal().1, "pkcs12: malformed PFX");
    assert_eq!(Case::pfx(&build::pfx(&[])).refusal().1, "no leaf found");
    assert_eq!(Case { chain: false, ..Case::pfx(&build::pfx(&[])) }.text(), "");
}
