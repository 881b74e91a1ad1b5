//! Keys: the public half of a JSON Web Key as a SubjectPublicKeyInfo in PEM.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use der::asn1::{BitStringRef, ObjectIdentifier, UintRef};
use der::{AnyRef, Encode, Sequence};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::{bad, pem};
use crate::error::{Code, Error, Result, printable};
use crate::secret::Secret;
use crate::vault::Jwk;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// RSA moduli in bytes: vaults make 2048 to 4096 bits; imported ones get some room.
const MODULUS: std::ops::RangeInclusive<usize> = 128..=2048;
/// Longest RSA exponent, in bytes; OpenSSL takes no longer one with a large modulus.
const MAX_EXPONENT: usize = 8;
/// Longest text of one member that is decoded at all.
const MAX_TEXT: usize = 4096;
/// Longest quoted part of a key type or curve, in bytes.
const MAX_QUOTED: usize = 32;

const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// PKCS#1's public key, the content of an RSA SubjectPublicKeyInfo.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

pub(super) fn render(jwk: &Jwk) -> Result<Secret> {
    let info = match jwk.kty.as_deref() {
        Some("RSA" | "RSA-HSM") => rsa(jwk)?,
        Some("EC" | "EC-HSM") => ec(jwk)?,
        Some(other) => {
            return Err(bad(format!(
                "failed to get key. key type '{}' currently not supported",
                printable(other, MAX_QUOTED)
            ))
            .fix("only RSA and EC keys have a public half"));
        }
        None => return Err(missing("kty")),
    };
    pem::encode(&[(pem::PUBLIC_KEY, &info)])
}

fn rsa(jwk: &Jwk) -> Result<Vec<u8>> {
    let (n, e) = (number("n", &jwk.n)?, number("e", &jwk.e)?);
    let odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte & 1 == 1);
    if !MODULUS.contains(&n.len()) || !odd(&n) {
        return Err(bad("failed to get key. n is not an RSA modulus of 1024 to 16384 bits"));
    }
    if e.len() > MAX_EXPONENT || !odd(&e) || e == [1] {
        return Err(bad("failed to get key. e is not an RSA exponent"));
    }
    let key = RsaPublicKey {
        modulus: UintRef::new(&n).map_err(unbuilt)?,
        exponent: UintRef::new(&e).map_err(unbuilt)?,
    };
    let key = key.to_der().map_err(unbuilt)?;
    public_key_info(RSA, AnyRef::NULL, &key)
}

fn ec(jwk: &Jwk) -> Result<Vec<u8>> {
    let (curve, size) = curve(jwk.crv.as_deref())?;
    // An uncompressed point: 4, then both coordinates in the field's full width.
    let mut point = vec![4];
    for (member, text) in [("x", &jwk.x), ("y", &jwk.y)] {
        let coordinate = number(member, text)?;
        let padding = size.checked_sub(coordinate.len()).ok_or_else(|| {
            bad(format!("failed to get key. {member} is longer than the curve's field"))
        })?;
        point.extend(std::iter::repeat_n(0, padding));
        point.extend(coordinate);
    }
    public_key_info(EC, AnyRef::from(&curve), &point)
}

/// The curve's identifier and the width of its coordinates in bytes.
fn curve(name: Option<&str>) -> Result<(ObjectIdentifier, usize)> {
    match name {
        Some("P-256") => Ok((P256, 32)),
        Some("P-384") => Ok((P384, 48)),
        Some("P-521") => Ok((P521, 66)),
        Some(other) => Err(bad(format!(
            "failed to get key. curve {} is not supported",
            printable(other, MAX_QUOTED)
        ))
        .fix("use a key on P-256, P-384 or P-521")),
        None => Err(missing("crv")),
    }
}

/// A member's base64url number, big endian without leading zeros.
fn number(member: &str, text: &Option<String>) -> Result<Vec<u8>> {
    let text = text.as_deref().filter(|text| !text.is_empty()).ok_or_else(|| missing(member))?;
    if text.len() > MAX_TEXT {
        return Err(bad(format!("failed to get key. {member} is too long")));
    }
    let bytes = BASE64URL
        .decode(text)
        .map_err(|_| bad(format!("failed to get key. {member} is not base64url")))?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn missing(member: &str) -> Error {
    bad(format!("failed to get key. {member} is missing in the vault's answer"))
}

fn public_key_info(
    oid: ObjectIdentifier,
    parameters: AnyRef<'_>,
    subject_public_key: &[u8],
) -> Result<Vec<u8>> {
    SubjectPublicKeyInfoRef {
        algorithm: AlgorithmIdentifierRef { oid, parameters: Some(parameters) },
        subject_public_key: BitStringRef::from_bytes(subject_public_key).map_err(unbuilt)?,
    }
    .to_der()
    .map_err(unbuilt)
}

/// Sizes were checked, so nothing leads here.
fn unbuilt(_: der::Error) -> Error {
    Error::new(Code::Internal, "failed to get key. the public key cannot be encoded")
}
