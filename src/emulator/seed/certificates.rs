//! Certificates with their private keys, as PEM text or PKCS#12 without a password.

use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, PrivateKey,
    PrivateKeyChain,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;

use crate::error::{Code, Error, Result};

use super::super::now;
use super::keys::{RSA_INTERMEDIATE, RSA_LEAF, RSA_ROOT, jwk, pair};
use super::{CertificateSeed, KeySeed};

/// Subject and DNS name of every leaf.
pub(super) const COMMON_NAME: &str = "test.domain.com";

/// A certificate in all its forms.
pub(super) struct Made {
    pub(super) cer: Vec<u8>,
    pub(super) jwk: Value,
    /// Private key, leaf, intermediate, root.
    pub(super) pem: String,
    /// The same as PKCS#12, in the old encryption that the service still exports.
    pub(super) pfx: Option<Vec<u8>>,
    /// Validity, seconds since the epoch.
    pub(super) validity: (i64, i64),
}

const DAY: i64 = 24 * 3600;
/// Days that a leaf, and an authority, are valid.
const LEAF: i64 = 365;
const AUTHORITY: i64 = 3650;

/// From yesterday's midnight, for so many days.
fn valid(params: &mut CertificateParams, days: i64) -> (i64, i64) {
    let from = (now() / DAY - 1) * DAY;
    let to = from + days * DAY;
    let date = |seconds: i64| {
        let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(
            date.year().into(),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    params.not_before = date(from);
    params.not_after = date(to);
    (from, to)
}

pub(super) fn make(name: &str, seed: CertificateSeed) -> Result<Made> {
    let failed =
        || Error::new(Code::Internal, format!("the emulator cannot make certificate {name}"));
    let key = pair(seed.key, RSA_LEAF)?;
    let (chain, validity) = chain(&key, seed).map_err(|_| failed())?;
    let mut pem = key.serialize_pem();
    for certificate in &chain {
        pem.push_str(&certificate.pem());
    }
    let ders: Vec<&[u8]> = chain.iter().map(|certificate| certificate.der().as_ref()).collect();
    let pfx = match seed.pfx {
        true => Some(pkcs12(name, key.serialized_der(), &ders).ok_or_else(failed)?),
        false => None,
    };
    let cer = ders.first().ok_or_else(failed)?.to_vec();
    // OpenSSL and Key Vault end lines with LF.
    Ok(Made { cer, jwk: jwk(seed.key, &key)?, pem: pem.replace('\r', ""), pfx, validity })
}

/// Leaf first, and the leaf's validity.
fn chain(
    key: &KeyPair,
    seed: CertificateSeed,
) -> std::result::Result<(Vec<rcgen::Certificate>, (i64, i64)), rcgen::Error> {
    let mut leaf = CertificateParams::new(vec![COMMON_NAME.to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    // Gives the leaf a subject key identifier.
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let validity = valid(&mut leaf, LEAF);
    if !seed.chain {
        return Ok((vec![leaf.self_signed(key)?], validity));
    }
    let (root_key, root) = authority("akvfs test root", seed.key, RSA_ROOT)?;
    let (middle_key, mut middle) =
        authority("akvfs test intermediate", seed.key, RSA_INTERMEDIATE)?;
    middle.use_authority_key_identifier_extension = true;
    leaf.use_authority_key_identifier_extension = true;
    let root_certificate = root.self_signed(&root_key)?;
    let root = Issuer::new(root, root_key);
    let middle_certificate = middle.signed_by(&middle_key, &root)?;
    let middle = Issuer::new(middle, middle_key);
    let chain = vec![leaf.signed_by(key, &middle)?, middle_certificate, root_certificate];
    Ok((chain, validity))
}

fn authority(
    name: &str,
    key: KeySeed,
    rsa: &str,
) -> std::result::Result<(KeyPair, CertificateParams), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid(&mut params, AUTHORITY);
    Ok((pair(key, rsa).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?, params))
}

fn pkcs12(name: &str, key: &[u8], chain: &[&[u8]]) -> Option<Vec<u8>> {
    let certificates: Option<Vec<_>> =
        chain.iter().map(|der| Certificate::from_der(der).ok()).collect();
    let key = PrivateKey::from_der(key).ok()?;
    let mut store = KeyStore::new();
    let entry = PrivateKeyChain::new(vec![1_u8], key, certificates?);
    store.add_entry(name, KeyStoreEntry::PrivateKeyChain(entry));
    store
        .writer("")
        .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
        .encryption_iterations(2000)
        .mac_algorithm(MacAlgorithm::HmacSha1)
        .mac_iterations(2000)
        .write()
        .ok()
}
