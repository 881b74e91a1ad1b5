//! PKCS#12 (PFX, RFC 7292) in: every private key and every certificate, in the order they stand.
//!
//! ```text
//! PFX { version 3, authSafe, macData? }
//! authSafe -> safes, each in the clear or encrypted -> bags: key | encrypted key | certificate | bags
//! ```
//!
//! Key Vault stores certificates without a password. "Empty" has two spellings in this format, the
//! two zero bytes of an empty terminated string and no bytes at all, and both are tried.
//!
//! A walk of our own, because the file is whatever somebody imported: all its key derivations
//! together have one budget ([`kdf::Budget`]), what is decrypted lies in wiped buffers, and neither
//! names nor ids of bags decide what is found or in which order.

mod asn1;
#[cfg(test)]
pub(super) mod builder;
mod kdf;
mod pbe;
use der::Tag;
use der::asn1::ObjectIdentifier as Oid;
use ring::hmac;
use zeroize::Zeroizing;

use self::asn1::{EXPLICIT_0, Elements, IMPLICIT_0};
use self::kdf::Budget;
use super::bad;
use crate::error::{Error, Result};

const DATA: Oid = Oid::new_unwrap("1.2.840.113549.1.7.1");
const ENCRYPTED_DATA: Oid = Oid::new_unwrap("1.2.840.113549.1.7.6");
const KEY_BAG: Oid = Oid::new_unwrap("1.2.840.113549.1.12.10.1.1");
const SHROUDED_KEY_BAG: Oid = Oid::new_unwrap("1.2.840.113549.1.12.10.1.2");
const CERT_BAG: Oid = Oid::new_unwrap("1.2.840.113549.1.12.10.1.3");
const SAFE_CONTENTS_BAG: Oid = Oid::new_unwrap("1.2.840.113549.1.12.10.1.6");
const X509_CERTIFICATE: Oid = Oid::new_unwrap("1.2.840.113549.1.9.22.1");

/// Most bags of a file; the walk over the certificates is quadratic.
const MAX_BAGS: usize = 128;
/// Deepest nesting of bags in bags.
const MAX_DEPTH: usize = 4;

/// The two spellings of the empty password.
const EMPTY_TERMINATED: &[u8] = &[0, 0];
const EMPTY: &[u8] = &[];

/// What a PFX holds, in its order.
#[derive(Default)]
pub(crate) struct Contents {
    /// PKCS#8 DER.
    pub(crate) keys: Vec<Zeroizing<Vec<u8>>>,
    /// X.509 DER.
    pub(crate) certificates: Vec<Vec<u8>>,
}

/// Opens a PFX that has the empty password.
pub(crate) fn open(pfx: &[u8]) -> Result<Contents> {
    let mut budget = Budget::default();
    let mut outer = Elements::new("PFX", pfx);
    let mut pfx = outer.sequence("PFX")?;
    outer.end()?;
    if pfx.number()? != 3 {
        return Err(error("only version 3 is supported"));
    }
    let mut content = pfx.sequence("authSafe")?;
    if content.oid()? != DATA {
        return Err(error("only password integrity is supported"));
    }
    let mut content = Elements::new("authSafe", content.value(EXPLICIT_0)?);
    let safes = content.value(Tag::OctetString)?;

    if pfx.is_empty() {
        // Nothing tells the two passwords apart but whether what comes out makes sense.
        return Walk::over(safes, EMPTY_TERMINATED, &mut budget)
            .or_else(|first| Walk::over(safes, EMPTY, &mut budget).map_err(|_| first));
    }
    let mac = Mac::read(pfx.sequence("macData")?)?;
    for password in [EMPTY_TERMINATED, EMPTY] {
        if mac.verifies(safes, password, &mut budget)? {
            return Walk::over(safes, password, &mut budget);
        }
    }
    Err(error("the integrity check fails: the file is damaged or has a password")
        .fix("import the certificate into the vault again; the vault stores it without a password"))
}

/// The integrity check over all safes.
struct Mac<'a> {
    algorithm: hmac::Algorithm,
    digest: &'a [u8],
    salt: &'a [u8],
    iterations: u32,
}

impl<'a> Mac<'a> {
    fn read(mut mac: Elements<'a>) -> Result<Self> {
        let mut digest_info = mac.sequence("macData")?;
        let oid = digest_info.sequence("macData")?.oid()?;
        let digest = digest_info.value(Tag::OctetString)?;
        let salt = mac.value(Tag::OctetString)?;
        let iterations = if mac.is_empty() { 1 } else { mac.number()? };
        let algorithm =
            pbe::hash(oid).ok_or_else(|| error(format!("unknown digest algorithm: {oid}")))?;
        Ok(Self { algorithm, digest, salt, iterations })
    }

    fn verifies(&self, data: &[u8], password: &[u8], budget: &mut Budget) -> Result<bool> {
        let hash = self.algorithm.digest_algorithm();
        let salt = kdf::Salt { bytes: self.salt, iterations: self.iterations };
        let key = kdf::derive(hash, kdf::Purpose::Mac, password, &salt, hash.output_len(), budget)?;
        let key = hmac::Key::new(self.algorithm, &key);
        Ok(hmac::verify(&key, data, self.digest).is_ok())
    }
}

/// The walk over safes and bags.
struct Walk<'a> {
    password: &'a [u8],
    budget: &'a mut Budget,
    bags: usize,
    found: Contents,
}

impl<'a> Walk<'a> {
    fn over(safes: &[u8], password: &'a [u8], budget: &'a mut Budget) -> Result<Contents> {
        let mut walk = Self { password, budget, bags: 0, found: Contents::default() };
        let mut safes = Elements::new("authSafe", safes).sequence("authSafe")?;
        while !safes.is_empty() {
            walk.safe(safes.sequence("safe")?)?;
        }
        Ok(walk.found)
    }

    fn safe(&mut self, mut safe: Elements<'_>) -> Result<()> {
        match safe.oid()? {
            DATA => {
                let mut content = Elements::new("safe", safe.value(EXPLICIT_0)?);
                self.bags(content.value(Tag::OctetString)?, 0)
            }
            ENCRYPTED_DATA => {
                let content = safe.value(EXPLICIT_0)?;
                let mut encrypted = Elements::new("encrypted safe", content).sequence("safe")?;
                encrypted.number()?;
                let mut info = encrypted.sequence("encrypted safe")?;
                if info.oid()? != DATA {
                    return Err(error("an encrypted safe of unknown content"));
                }
                let algorithm = info.sequence("encryption algorithm")?;
                let data = info.value(IMPLICIT_0)?;
                let bags = pbe::decrypt(algorithm, data, self.password, self.budget)?;
                self.bags(&bags, 0)
            }
            _ => Err(error("a safe that is not encrypted by password")),
        }
    }

    fn bags(&mut self, bags: &[u8], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(error("bags are nested too deep"));
        }
        let mut bags = Elements::new("bags", bags).sequence("bags")?;
        while !bags.is_empty() {
            self.bags += 1;
            if self.bags > MAX_BAGS {
                return Err(error(format!("more than {MAX_BAGS} keys and certificates")));
            }
            let mut bag = bags.sequence("bag")?;
            let kind = bag.oid()?;
            let value = bag.value(EXPLICIT_0)?;
            // What follows are attributes (names, ids): not needed.
            match kind {
                KEY_BAG => self.found.keys.push(private_key(value)?),
                SHROUDED_KEY_BAG => {
                    let mut key =
                        Elements::new("encrypted key", value).sequence("encrypted key")?;
                    let algorithm = key.sequence("encryption algorithm")?;
                    let data = key.value(Tag::OctetString)?;
                    let key = pbe::decrypt(algorithm, data, self.password, self.budget)?;
                    self.found.keys.push(private_key(&key)?);
                }
                CERT_BAG => {
                    let mut bag = Elements::new("certificate", value).sequence("certificate")?;
                    if bag.oid()? != X509_CERTIFICATE {
                        return Err(error("a certificate that is not X.509"));
                    }
                    let mut certificate = Elements::new("certificate", bag.value(EXPLICIT_0)?);
                    let certificate = certificate.value(Tag::OctetString)?;
                    self.found.certificates.push(whole(certificate)?.to_vec());
                }
                SAFE_CONTENTS_BAG => self.bags(value, depth + 1)?,
                // Revocation lists and other secrets have no place in the PEM text.
                _ => {}
            }
        }
        Ok(())
    }
}

/// A certificate must at least be one complete element.
fn whole(certificate: &[u8]) -> Result<&[u8]> {
    let mut elements = Elements::new("certificate", certificate);
    elements.sequence("certificate")?;
    elements.end()?;
    Ok(certificate)
}

/// The PKCS#8 bytes of a key, without the attributes that some exporters append: not every reader
/// of PEM takes them, and upstream drops them.
fn private_key(der: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let mut outer = Elements::new("private key", der);
    let content = outer.value(Tag::Sequence)?;
    outer.end()?;
    let mut key = Elements::new("private key", content);
    let version = key.number()?;
    key.sequence("private key")?;
    key.value(Tag::OctetString)?;
    match version {
        0 if key.is_empty() => Ok(Zeroizing::new(der.to_vec())),
        0 => asn1::sequence_of(content.get(..key.position()).unwrap_or_default()),
        // Version 1 carries the public key behind the private one.
        1 => Ok(Zeroizing::new(der.to_vec())),
        _ => Err(error("a private key of unknown version")),
    }
}

fn error(message: impl std::fmt::Display) -> Error {
    bad(format!("pkcs12: {message}"))
}
