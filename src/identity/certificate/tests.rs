use super::*;
use crate::emulator::{CertificateSeed, KeySeed, client_certificate};

fn made(key: KeySeed, pfx: bool) -> Secret {
    client_certificate(CertificateSeed { key, pfx, chain: true }).unwrap().0
}

fn refused(material: &[u8]) -> String {
    match ClientCertificate::parse(&Secret::new(material.to_vec())) {
        Ok(_) => panic!("accepted"),
        Err(error) => {
            assert_eq!(error.code(), Code::ClassInvalid);
            error.to_string()
        }
    }
}

#[test]
fn pem_and_pfx_in_both_spellings_give_the_same_key_with_its_own_certificate_first() {
    let pem = made(KeySeed::Rsa, false);
    let base64 = made(KeySeed::Rsa, true);
    let binary = STANDARD.decode(base64.expose()).unwrap();
    // The other way round: certificates before the key, root first.
    let text = pem.expose_str().unwrap();
    let mut blocks: Vec<_> = text
        .split_inclusive("-----\n")
        .collect::<Vec<_>>()
        .chunks(2)
        .map(|block| block.concat())
        .collect();
    blocks.reverse();
    let reversed = Secret::from(blocks.concat());
    for material in [pem.clone(), base64, Secret::new(binary), reversed] {
        let certificate = ClientCertificate::parse(&material).unwrap();
        assert_eq!(certificate.chain.len(), 3);
        let own = Certificate::from_der(&certificate.chain[0]).unwrap();
        let info = own.tbs_certificate().subject_public_key_info();
        let key = certificate.key.public_key();
        assert_eq!(info.subject_public_key.raw_bytes(), key.as_ref());
    }
}

#[test]
fn what_cannot_sign_is_refused_by_its_reason_without_quoting() {
    let (rsa, ec) = (made(KeySeed::Rsa, false), made(KeySeed::P256, false));
    let text = rsa.expose_str().unwrap();
    let (key, certificates) = text.split_at(text.find("-----BEGIN CERT").unwrap());
    let other = ec.expose_str().unwrap();
    let others = &other[other.find("-----BEGIN CERT").unwrap()..];
    for (material, reason) in [
        ("canary".to_owned(), "neither PEM nor a PFX"),
        ("Y2FuYXJ5".to_owned(), "pkcs12: "),
        (key.to_owned(), "no certificate in it belongs"),
        (certificates.to_owned(), "no private key"),
        (format!("{key}{others}"), "no certificate in it belongs"),
        (format!("{key}{key}{certificates}"), "more than one private key"),
        (other.to_owned(), "not an RSA key"),
        (key.replace("BEGIN ", "BEGIN ENCRYPTED "), "encrypted"),
        ("-----BEGIN PRIVATE KEY-----canary".to_owned(), "not whole"),
        ("-----BEGIN PRIVATE KEY-----\n%canary\n-----END ".to_owned(), "not whole"),
    ] {
        let error = refused(material.as_bytes());
        assert!(error.starts_with("clientcertificate: ") && error.contains(reason), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
    assert!(refused(made(KeySeed::P384, true).expose()).contains("not an RSA key"));
    assert!(refused(&vec![b'a'; MAX_MATERIAL + 1]).contains("larger than"));
    assert!(refused(&[0x30, 0x82, 0xff]).contains("pkcs12: "));
}
