//! Encryption by password: the PKCS#12 schemes that Key Vault exports with (SHA-1 with Triple-DES or
//! RC2), and PBES2 (RFC 8018: PBKDF2 with AES), which OpenSSL 3 and current Windows write.

use std::num::NonZeroU32;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use der::Tag;
use der::asn1::ObjectIdentifier as Oid;
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::asn1::Elements;
use super::error;
use super::kdf::{self, Budget, Purpose, Salt};
use crate::error::{Error, Result};

const PBES2: Oid = Oid::new_unwrap("1.2.840.113549.1.5.13");
const PBKDF2: Oid = Oid::new_unwrap("1.2.840.113549.1.5.12");

#[derive(Clone, Copy)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
    TwoKeyTripleDes,
    Rc2Bits128,
    Rc2Bits40,
}

impl Cipher {
    /// The PKCS#12 schemes, all with SHA-1.
    fn of_pkcs12(scheme: Oid) -> Option<Self> {
        const TRIPLE_DES: Oid = Oid::new_unwrap("1.2.840.113549.1.12.1.3");
        const TWO_KEY_TRIPLE_DES: Oid = Oid::new_unwrap("1.2.840.113549.1.12.1.4");
        const RC2_128: Oid = Oid::new_unwrap("1.2.840.113549.1.12.1.5");
        const RC2_40: Oid = Oid::new_unwrap("1.2.840.113549.1.12.1.6");
        match scheme {
            TRIPLE_DES => Some(Self::TripleDes),
            TWO_KEY_TRIPLE_DES => Some(Self::TwoKeyTripleDes),
            RC2_128 => Some(Self::Rc2Bits128),
            RC2_40 => Some(Self::Rc2Bits40),
            _ => None,
        }
    }

    /// The ciphers of PBES2.
    fn of_pbes2(cipher: Oid) -> Option<Self> {
        const AES_128: Oid = Oid::new_unwrap("2.16.840.1.101.3.4.1.2");
        const AES_192: Oid = Oid::new_unwrap("2.16.840.1.101.3.4.1.22");
        const AES_256: Oid = Oid::new_unwrap("2.16.840.1.101.3.4.1.42");
        const TRIPLE_DES: Oid = Oid::new_unwrap("1.2.840.113549.3.7");
        match cipher {
            AES_128 => Some(Self::Aes128),
            AES_192 => Some(Self::Aes192),
            AES_256 => Some(Self::Aes256),
            TRIPLE_DES => Some(Self::TripleDes),
            _ => None,
        }
    }

    /// In bytes.
    const fn key_length(self) -> usize {
        match self {
            Self::Aes128 | Self::TwoKeyTripleDes | Self::Rc2Bits128 => 16,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes256 => 32,
            Self::Rc2Bits40 => 5,
        }
    }

    fn decrypt(self, key: &[u8], iv: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        match self {
            Self::Aes128 => cbc::<aes::Aes128>(key, iv, data),
            Self::Aes192 => cbc::<aes::Aes192>(key, iv, data),
            Self::Aes256 => cbc::<aes::Aes256>(key, iv, data),
            Self::TripleDes => cbc::<des::TdesEde3>(key, iv, data),
            Self::TwoKeyTripleDes => cbc::<des::TdesEde2>(key, iv, data),
            Self::Rc2Bits128 | Self::Rc2Bits40 => cbc::<rc2::Rc2>(key, iv, data),
        }
    }
}

/// Decrypts in place, in a buffer that is wiped.
fn cbc<C: BlockCipherDecrypt + KeyInit>(
    key: &[u8],
    iv: &[u8],
    data: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(data.to_vec());
    let decryptor = cbc::Decryptor::<C>::new_from_slices(key, iv)
        .map_err(|_| error("an initialization vector of wrong length"))?;
    let length = decryptor
        .decrypt_padded::<Pkcs7>(&mut buffer)
        .map_err(|_| error("decryption fails: the file is damaged or has a password"))?
        .len();
    buffer.truncate(length);
    Ok(buffer)
}

/// Decrypts as an AlgorithmIdentifier says.
pub(super) fn decrypt(
    mut algorithm: Elements<'_>,
    data: &[u8],
    password: &[u8],
    budget: &mut Budget,
) -> Result<Zeroizing<Vec<u8>>> {
    let oid = algorithm.oid()?;
    let mut parameters = algorithm.sequence("encryption parameters")?;
    if oid == PBES2 {
        return pbes2(&mut parameters, data, budget);
    }
    let cipher = Cipher::of_pkcs12(oid).ok_or_else(|| unknown("encryption", oid))?;
    let salt =
        Salt { bytes: parameters.value(Tag::OctetString)?, iterations: parameters.number()? };
    let hash = &digest::SHA1_FOR_LEGACY_USE_ONLY;
    let key = kdf::derive(hash, Purpose::Key, password, &salt, cipher.key_length(), budget)?;
    let iv = kdf::derive(hash, Purpose::Iv, password, &salt, 8, budget)?;
    cipher.decrypt(&key, &iv, data)
}

/// PBES2 takes the password as UTF-8, where the empty one has a single spelling.
fn pbes2(
    parameters: &mut Elements<'_>,
    data: &[u8],
    budget: &mut Budget,
) -> Result<Zeroizing<Vec<u8>>> {
    let mut derivation = parameters.sequence("key derivation")?;
    let oid = derivation.oid()?;
    if oid != PBKDF2 {
        return Err(unknown("key derivation", oid));
    }
    let mut derivation = derivation.sequence("PBKDF2 parameters")?;
    let salt = derivation.value(Tag::OctetString)?;
    let iterations = derivation.number()?;
    // The length of the key, where present, repeats what the cipher says.
    let length = derivation.optional_number()?;
    let (prf, prf_length) = if derivation.is_empty() {
        (pbkdf2::PBKDF2_HMAC_SHA1, digest::SHA1_OUTPUT_LEN)
    } else {
        let oid = derivation.sequence("PBKDF2 parameters")?.oid()?;
        prf(oid).ok_or_else(|| unknown("key derivation", oid))?
    };

    let mut scheme = parameters.sequence("encryption scheme")?;
    let oid = scheme.oid()?;
    let cipher = Cipher::of_pbes2(oid).ok_or_else(|| unknown("encryption", oid))?;
    let iv = scheme.value(Tag::OctetString)?;
    if length.is_some_and(|length| length as usize != cipher.key_length()) {
        return Err(error("a key of wrong length"));
    }

    let mut key = Zeroizing::new(vec![0; cipher.key_length()]);
    // A round of PBKDF2 is an HMAC, two of the hashes that the budget counts.
    let blocks = key.len().div_ceil(prf_length) * 2;
    budget.take(iterations, blocks)?;
    let iterations =
        NonZeroU32::new(iterations).ok_or_else(|| error("an iteration count of zero"))?;
    pbkdf2::derive(prf, iterations, salt, &[], &mut key);
    cipher.decrypt(&key, iv, data)
}

/// PBKDF2's pseudo-random functions, with the length of their output.
fn prf(oid: Oid) -> Option<(pbkdf2::Algorithm, usize)> {
    const SHA1: Oid = Oid::new_unwrap("1.2.840.113549.2.7");
    const SHA256: Oid = Oid::new_unwrap("1.2.840.113549.2.9");
    const SHA384: Oid = Oid::new_unwrap("1.2.840.113549.2.10");
    const SHA512: Oid = Oid::new_unwrap("1.2.840.113549.2.11");
    match oid {
        SHA1 => Some((pbkdf2::PBKDF2_HMAC_SHA1, digest::SHA1_OUTPUT_LEN)),
        SHA256 => Some((pbkdf2::PBKDF2_HMAC_SHA256, digest::SHA256_OUTPUT_LEN)),
        SHA384 => Some((pbkdf2::PBKDF2_HMAC_SHA384, digest::SHA384_OUTPUT_LEN)),
        SHA512 => Some((pbkdf2::PBKDF2_HMAC_SHA512, digest::SHA512_OUTPUT_LEN)),
        _ => None,
    }
}

/// The hashes of the integrity check.
pub(super) fn hash(oid: Oid) -> Option<hmac::Algorithm> {
    const SHA1: Oid = Oid::new_unwrap("1.3.14.3.2.26");
    const SHA256: Oid = Oid::new_unwrap("2.16.840.1.101.3.4.2.1");
    const SHA384: Oid = Oid::new_unwrap("2.16.840.1.101.3.4.2.2");
    const SHA512: Oid = Oid::new_unwrap("2.16.840.1.101.3.4.2.3");
    match oid {
        SHA1 => Some(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        SHA256 => Some(hmac::HMAC_SHA256),
        SHA384 => Some(hmac::HMAC_SHA384),
        SHA512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn unknown(what: &str, oid: Oid) -> Error {
    error(format!("unknown {what} algorithm: {oid}"))
}
