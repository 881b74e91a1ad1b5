//! Keys, and their public halves as JSON Web Keys.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::Decode;
use der::asn1::UintRef;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
use serde_json::{Value, json};
use x509_cert::spki::SubjectPublicKeyInfoRef;

use crate::error::{Code, Error, Result};

use super::KeySeed;

/// THROW-AWAY TEST KEYS: published, so they protect nothing. RSA is too slow to make at each start,
/// and the crypto library makes no P-521 keys.
pub(super) const RSA_LEAF: &str = include_str!("rsa-leaf.pem");
pub(super) const RSA_INTERMEDIATE: &str = include_str!("rsa-intermediate.pem");
pub(super) const RSA_ROOT: &str = include_str!("rsa-root.pem");
const P521_PUBLIC: &str = include_str!("p521-public.pem");

#[derive(der::Sequence)]
struct RsaPublicKey<'a> {
    n: UintRef<'a>,
    e: UintRef<'a>,
}

/// A key pair for certificates.
pub(super) fn pair(key: KeySeed, rsa: &str) -> Result<KeyPair> {
    let made = match key {
        KeySeed::Rsa => KeyPair::from_pem(rsa),
        KeySeed::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeySeed::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeySeed::P521 => {
            return Err(Error::class("the emulator makes no P-521 certificates")
                .fix("use RSA, P-256 or P-384"));
        }
    };
    made.map_err(|_| Error::new(Code::Local, "the emulator's test key cannot be made"))
}

/// The public half of a new (or, for RSA and P-521, the fixed) key.
pub(super) fn public_jwk(key: KeySeed) -> Result<Value> {
    match key {
        KeySeed::P521 => {
            let bad = || Error::new(Code::Internal, "the emulator's P-521 key is not readable");
            let (_, der) = pem_rfc7468::decode_vec(P521_PUBLIC.as_bytes()).map_err(|_| bad())?;
            let info = SubjectPublicKeyInfoRef::from_der(&der).map_err(|_| bad())?;
            let point = info.subject_public_key.raw_bytes();
            curve_jwk("P-521", point).ok_or_else(bad)
        }
        key => jwk(key, &pair(key, RSA_LEAF)?),
    }
}

/// The public half of a pair.
pub(super) fn jwk(key: KeySeed, pair: &KeyPair) -> Result<Value> {
    let raw = pair.public_key_raw();
    let made = match key {
        KeySeed::Rsa => RsaPublicKey::from_der(raw).ok().map(|rsa| {
            json!({
                "kty": "RSA",
                "key_ops": ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
                "n": URL_SAFE_NO_PAD.encode(rsa.n.as_bytes()),
                "e": URL_SAFE_NO_PAD.encode(rsa.e.as_bytes()),
            })
        }),
        KeySeed::P256 => curve_jwk("P-256", raw),
        KeySeed::P384 => curve_jwk("P-384", raw),
        KeySeed::P521 => curve_jwk("P-521", raw),
    };
    made.ok_or_else(|| Error::new(Code::Internal, "the emulator's test key is not readable"))
}

/// From an uncompressed point, `04 X Y`.
fn curve_jwk(curve: &str, point: &[u8]) -> Option<Value> {
    let [4, coordinates @ ..] = point else { return None };
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
    Some(json!({
        "kty": "EC", "crv": curve, "key_ops": ["sign", "verify"],
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }))
}
