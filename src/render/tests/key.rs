use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::{blocks, object, openssl, version};
use crate::class::ObjectKind;
use crate::error::{Code, Result};
use crate::render::{Options, render};
use crate::vault::{Body, Jwk};

fn pem(jwk: Jwk) -> Result<String> {
    let version = version(ObjectKind::Key, Body::Key(Box::new(jwk)));
    let files = render(&object(ObjectKind::Key), &version, Options::default())?;
    Ok(files[0].contents.expose_str().unwrap().to_owned())
}

fn refusal(jwk: Jwk) -> String {
    let error = pem(jwk).unwrap_err();
    assert_eq!(error.code(), Code::BadContent);
    let prefix = "failed to get objectType:key, objectName:thing, objectVersion:: ";
    error.message().strip_prefix(prefix).unwrap().to_owned()
}

fn text(bytes: &[u8]) -> Option<String> {
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

fn rsa(n: &[u8], e: &[u8]) -> Jwk {
    Jwk { kty: Some("RSA".into()), n: text(n), e: text(e), ..Jwk::default() }
}

fn ec(crv: &str, x: &[u8], y: &[u8]) -> Jwk {
    let (kty, crv) = (Some("EC".into()), Some(crv.into()));
    Jwk { kty, crv, x: text(x), y: text(y), ..Jwk::default() }
}

/// A fresh key's public half as OpenSSL writes it, in DER.
fn public_key(options: &[&str]) -> Vec<u8> {
    let key = openssl::run(&[&["genpkey"], options].concat(), b"");
    openssl::run(&["pkey", "-pubout", "-outform", "DER"], &key)
}

#[test]
fn e3_rsa_keys_are_what_openssl_writes_of_them() {
    let expected = public_key(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    // The modulus stands before INTEGER 65537, with a zero byte in front.
    let (head, e) = expected.split_at(expected.len() - 3);
    let n = &head[head.len() - 2 - 256..head.len() - 2];
    for kty in ["RSA", "RSA-HSM"] {
        let text = pem(Jwk { kty: Some(kty.into()), ..rsa(n, e) }).unwrap();
        assert_eq!(blocks(&text), [("PUBLIC KEY".to_owned(), expected.clone())]);
        openssl::run(&["pkey", "-pubin", "-noout", "-pubcheck"], text.as_bytes());
    }
    let padded = [&[0], n].concat();
    assert_eq!(pem(rsa(&padded, e)).unwrap(), pem(rsa(n, e)).unwrap(), "leading zeros");
}

#[test]
fn e3_u42_ec_keys_are_what_openssl_writes_of_them() {
    for (crv, size) in [("P-256", 32), ("P-384", 48), ("P-521", 66)] {
        let curve = format!("ec_paramgen_curve:{crv}");
        let expected = public_key(&["-algorithm", "EC", "-pkeyopt", &curve]);
        let (x, y) = expected[expected.len() - 2 * size..].split_at(size);
        for kty in ["EC", "EC-HSM"] {
            let text = pem(Jwk { kty: Some(kty.into()), ..ec(crv, x, y) }).unwrap();
            assert_eq!(blocks(&text), [("PUBLIC KEY".to_owned(), expected.clone())]);
            openssl::run(&["pkey", "-pubin", "-noout", "-pubcheck"], text.as_bytes());
        }
    }
}

#[test]
fn coordinates_are_padded_to_the_field_and_not_cut() {
    let text = pem(ec("P-256", &[1, 2], &[3])).unwrap();
    let der = &blocks(&text)[0].1;
    let point = [&[4][..], &[0; 30], &[1, 2], &[0; 31], &[3]].concat();
    assert!(der.ends_with(&point));
    let longer = [&[0][..], &[9; 32]].concat();
    assert_eq!(pem(ec("P-256", &longer, &[3])).unwrap(), pem(ec("P-256", &[9; 32], &[3])).unwrap());
    assert_eq!(
        refusal(ec("P-256", &[9; 33], &[3])),
        "failed to get key. x is longer than the curve's field"
    );
}

#[test]
fn u42_unsupported_curves_and_types_are_named() {
    assert_eq!(
        refusal(ec("P-256K", &[1], &[1])),
        "failed to get key. curve P-256K is not supported"
    );
    for kty in ["oct", "oct-HSM", "OKP", "rsa", ""] {
        let message = format!("failed to get key. key type '{kty}' currently not supported");
        assert_eq!(refusal(Jwk { kty: Some(kty.into()), ..Jwk::default() }), message);
    }
}

/// Upstream dies without kty or crv, and writes a meaningless key without n or e.
#[test]
fn missing_members_are_errors() {
    let (rsa, ec) = (rsa(&[0xff; 256], &[1, 0, 1]), ec("P-256", &[1], &[1]));
    for (member, jwk) in [
        ("kty", Jwk { kty: None, ..rsa.clone() }),
        ("n", Jwk { n: None, ..rsa.clone() }),
        ("n", Jwk { n: Some(String::new()), ..rsa.clone() }),
        ("e", Jwk { e: None, ..rsa }),
        ("crv", Jwk { crv: None, ..ec.clone() }),
        ("x", Jwk { x: None, ..ec.clone() }),
        ("y", Jwk { y: None, ..ec }),
    ] {
        let message = format!("failed to get key. {member} is missing in the vault's answer");
        assert_eq!(refusal(jwk), message);
    }
}

#[test]
fn senseless_rsa_keys_are_refused() {
    let odd = |length: usize| [vec![0xff; length - 1], vec![1]].concat();
    for n in [odd(127), odd(2049), vec![0xfe; 256]] {
        assert!(refusal(rsa(&n, &[1, 0, 1])).contains("n is not an RSA modulus"));
    }
    for e in [&[1][..], &[4], &[1; 9], &[0]] {
        assert!(refusal(rsa(&odd(256), e)).contains("e is not an RSA exponent"));
    }
    let canary = |member: &mut Option<String>| *member = Some("canary!".into());
    let mut jwk = rsa(&odd(256), &[1, 0, 1]);
    canary(&mut jwk.n);
    assert_eq!(refusal(jwk), "failed to get key. n is not base64url");
    let mut jwk = rsa(&odd(256), &[1, 0, 1]);
    jwk.e = Some("A".repeat(5000));
    assert_eq!(refusal(jwk), "failed to get key. e is too long");
}

fn member() -> impl Strategy<Value = Option<String>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| text(&bytes));
    prop_oneof![Just(None), bytes, any::<String>().prop_map(Some)]
}

proptest! {
    #[test]
    fn no_key_panics(
        kty in prop_oneof![Just("RSA"), Just("EC")],
        crv in prop_oneof![Just("P-256"), Just("P-521"), Just("x")],
        (n, e, x, y) in (member(), member(), member(), member()),
    ) {
        let jwk = Jwk { kty: Some(kty.into()), crv: Some(crv.into()), n, e, x, y };
        if let Ok(text) = pem(jwk) {
            prop_assert_eq!(&blocks(&text)[0].0, "PUBLIC KEY");
        }
    }
}
