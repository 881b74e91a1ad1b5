//! PFX files that OpenSSL's command line cannot be made to write.

use aes::cipher::BlockModeEncrypt;
use aes::cipher::KeyIvInit;
use aes::cipher::block_padding::Pkcs7;
use der::Encode;
use der::asn1::ObjectIdentifier;
use ring::{digest, hmac};

use super::kdf::{Budget, Purpose, Salt, derive};

pub(in crate::render) const KEY_BAG: &str = "1.2.840.113549.1.12.10.1.1";
pub(in crate::render) const SHROUDED_KEY_BAG: &str = "1.2.840.113549.1.12.10.1.2";
pub(in crate::render) const CERT_BAG: &str = "1.2.840.113549.1.12.10.1.3";
pub(in crate::render) const CRL_BAG: &str = "1.2.840.113549.1.12.10.1.4";
pub(in crate::render) const SAFE_CONTENTS_BAG: &str = "1.2.840.113549.1.12.10.1.6";
const DATA: &str = "1.2.840.113549.1.7.1";
const X509: &str = "1.2.840.113549.1.9.22.1";
const SHA1: &str = "1.3.14.3.2.26";
const PBE_TRIPLE_DES: &str = "1.2.840.113549.1.12.1.3";

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        length @ 0..=127 => out.push(length as u8),
        length @ 128..=255 => out.extend([0x81, length as u8]),
        length @ 256..=65535 => out.extend([0x82, (length >> 8) as u8, length as u8]),
        length => out.extend([0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

pub(in crate::render) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

fn explicit(content: &[u8]) -> Vec<u8> {
    tlv(0xa0, &[content])
}

fn octets(content: &[u8]) -> Vec<u8> {
    tlv(4, &[content])
}

pub(in crate::render) fn number(value: u32) -> Vec<u8> {
    value.to_der().unwrap()
}

fn oid(text: &str) -> Vec<u8> {
    ObjectIdentifier::new_unwrap(text).to_der().unwrap()
}

pub(in crate::render) fn bag(kind: &str, value: &[u8]) -> Vec<u8> {
    sequence(&[&oid(kind), &explicit(value)])
}

pub(in crate::render) fn certificate_bag(der: &[u8]) -> Vec<u8> {
    bag(CERT_BAG, &sequence(&[&oid(X509), &explicit(&octets(der))]))
}

/// Bags of bags.
pub(in crate::render) fn contents(bags: &[Vec<u8>]) -> Vec<u8> {
    sequence(&[&bags.concat()])
}

fn data(content: &[u8]) -> Vec<u8> {
    sequence(&[&oid(DATA), &explicit(&octets(content))])
}

/// One safe in the clear, no integrity check.
pub(in crate::render) fn pfx(bags: &[Vec<u8>]) -> Vec<u8> {
    sequence(&[&number(3), &data(&sequence(&[&data(&contents(bags))]))])
}

/// The same with an integrity check that asks for this many iterations of SHA-1.
pub(in crate::render) fn pfx_with_mac(
    bags: &[Vec<u8>],
    password: &[u8],
    iterations: u32,
) -> Vec<u8> {
    let safes = sequence(&[&data(&contents(bags))]);
    let hash = &digest::SHA1_FOR_LEGACY_USE_ONLY;
    let salt = Salt { bytes: b"saltsalt", iterations };
    let digest = match derive(hash, Purpose::Mac, password, &salt, 20, &mut Budget::default()) {
        Ok(key) => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
            hmac::sign(&key, &safes).as_ref().to_vec()
        }
        // Beyond the budget, so nobody will compute it.
        Err(_) => vec![0; 20],
    };
    let digest = sequence(&[&sequence(&[&oid(SHA1), &[5, 0]]), &octets(&digest)]);
    let mac = sequence(&[&digest, &octets(salt.bytes), &number(iterations)]);
    sequence(&[&number(3), &data(&safes), &mac])
}

fn pbe(salt: &Salt<'_>) -> Vec<u8> {
    let parameters = sequence(&[&octets(salt.bytes), &number(salt.iterations)]);
    sequence(&[&oid(PBE_TRIPLE_DES), &parameters])
}

/// An encrypted key bag in the legacy scheme.
pub(in crate::render) fn encrypted_key_bag(
    key: &[u8],
    password: &[u8],
    iterations: u32,
) -> Vec<u8> {
    let salt = Salt { bytes: b"12345678", iterations };
    let hash = &digest::SHA1_FOR_LEGACY_USE_ONLY;
    let derived = |purpose, length| {
        derive(hash, purpose, password, &salt, length, &mut Budget::default()).unwrap()
    };
    let encryptor = cbc::Encryptor::<des::TdesEde3>::new_from_slices(
        &derived(Purpose::Key, 24),
        &derived(Purpose::Iv, 8),
    )
    .unwrap();
    let mut buffer = [key, &[0; 8]].concat();
    let encrypted = encryptor.encrypt_padded::<Pkcs7>(&mut buffer, key.len()).unwrap();
    bag(SHROUDED_KEY_BAG, &sequence(&[&pbe(&salt), &octets(encrypted)]))
}

/// The same with nothing that could be decrypted, for counts that nobody will run.
pub(in crate::render) fn expensive_key_bag(iterations: u32) -> Vec<u8> {
    let salt = Salt { bytes: b"12345678", iterations };
    bag(SHROUDED_KEY_BAG, &sequence(&[&pbe(&salt), &octets(&[0; 16])]))
}
