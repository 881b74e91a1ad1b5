//! Client assertions that an application's own certificate signed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::tokens::{Refused, payload};

/// Longest life of an assertion, seconds.
const MAX_LIFE: i64 = 24 * 3600;

#[derive(Deserialize)]
struct Header {
    alg: String,
    x5t: Option<String>,
    #[serde(rename = "x5t#S256")]
    x5t_s256: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: String,
    exp: i64,
    nbf: i64,
    jti: String,
}

/// Whether the client itself claims to be the issuer.
pub(super) fn is_by(assertion: &str, client: &str) -> bool {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let text = assertion.rsplit_once('.').map_or(assertion, |(text, _)| text);
    payload::<Issuer>(text).is_some_and(|claims| claims.iss.eq_ignore_ascii_case(client))
}

pub(super) fn check(
    assertion: &str,
    client: &str,
    audience: &str,
    certificates: &[Vec<u8>],
    now: i64,
) -> Result<(), Refused> {
    let refused = |number, why| Refused { number, why };
    let malformed = || refused(50027, "JWT token is invalid or malformed.");
    let (text, signature) = assertion.rsplit_once('.').ok_or_else(malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
    let signature = decode(signature)?;
    let header = decode(text.split('.').next().unwrap_or_default())?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| malformed())?;
    let claims: Claims = payload(text).ok_or_else(malformed)?;

    let unknown = || refused(700_027, "The certificate used to sign is not registered.");
    let certificate = certificates
        .iter()
        .find(|der| {
            let is = |hash, wanted: &Option<String>| {
                *wanted == Some(URL_SAFE_NO_PAD.encode(digest(hash, der)))
            };
            // Each algorithm goes with one thumbprint.
            match header.alg.as_str() {
                "PS256" => is(&SHA256, &header.x5t_s256),
                _ => is(&SHA1_FOR_LEGACY_USE_ONLY, &header.x5t),
            }
        })
        .and_then(|der| Certificate::from_der(der).ok())
        .ok_or_else(unknown)?;
    let algorithm: &dyn VerificationAlgorithm = match header.alg.as_str() {
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        _ => return Err(malformed()),
    };
    let key =
        certificate.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes();
    UnparsedPublicKey::new(algorithm, key)
        .verify(text.as_bytes(), &signature)
        .map_err(|_| refused(700_027, "Client assertion failed signature validation."))?;
    if !claims.sub.eq_ignore_ascii_case(client) || claims.jti.is_empty() {
        return Err(refused(700_021, "Client assertion application identifier does not match."));
    }
    if claims.aud != audience {
        return Err(refused(700_023, "Client assertion audience claim does not match."));
    }
    if claims.exp <= now || claims.nbf > now || claims.exp - claims.nbf > MAX_LIFE {
        return Err(refused(700_024, "Client assertion is not within its valid time range."));
    }
    Ok(())
}
