//! A service principal with a certificate: the assertion that its private key signs.
//!
//! Entra takes RSA only, and prefers PS256 with the SHA-256 thumbprint. The whole chain goes along
//! (`x5c`), so that applications which trust an issuer and a subject name need nothing else. Own code,
//! since the SDK's needs OpenSSL.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use serde_json::json;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::render::open_pkcs12;
use crate::secret::Secret;

/// What the token service understands.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// PS256, SHA-256 thumbprint.
    Entra,
    /// RS256, SHA-1 thumbprint: AD FS knows no other.
    Adfs,
}

/// How long an assertion is good; it is used at once.
const LIFETIME: Duration = Duration::from_secs(600);
/// What clocks may differ.
const SKEW: Duration = Duration::from_secs(60);
/// Largest accepted PEM or PFX.
const MAX_MATERIAL: usize = 256 * 1024;
/// Most certificates that go along.
const MAX_CHAIN: usize = 8;
/// Most blocks of a PEM text that are looked at.
const MAX_BLOCKS: usize = 64;

/// The signed assertion for a token request at `audience`, the token endpoint. Opening a PFX and
/// signing take a while, so they have a thread of their own.
pub(super) async fn assertion(
    material: &Secret,
    form: Form,
    audience: &str,
    client_id: &str,
    now: SystemTime,
) -> Result<Secret> {
    let (material, audience) = (material.clone(), audience.to_owned());
    let client_id = client_id.to_owned();
    let work = move || ClientCertificate::parse(&material)?.sign(form, &audience, &client_id, now);
    let signed = tokio::task::spawn_blocking(work).await;
    signed.unwrap_or_else(|_| Err(Error::new(Code::Internal, "the assertion was not signed")))
}

/// A private key with its certificates, the key's own first.
struct ClientCertificate {
    key: RsaKeyPair,
    chain: Vec<Vec<u8>>,
}

impl ClientCertificate {
    fn parse(material: &Secret) -> Result<Self> {
        Self::open(material).map_err(|error| error.context("clientcertificate"))
    }

    fn open(material: &Secret) -> Result<Self> {
        let bytes = material.expose();
        if bytes.len() > MAX_MATERIAL {
            return Err(Error::class("larger than 256 KiB"));
        }
        let (key, certificates) = match bytes {
            _ if bytes.windows(BEGIN.len()).any(|window| window == BEGIN) => pem(bytes)?,
            // A PFX as it is: base64 text has no byte above 127.
            [0x30, 0x80..=0xff, ..] => pfx(bytes)?,
            _ => {
                let compact: Zeroizing<Vec<u8>> = Zeroizing::new(
                    bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect(),
                );
                let decoded = STANDARD.decode(compact.as_slice()).map(Zeroizing::new);
                pfx(&decoded.map_err(|_| {
                    Error::class("neither PEM nor a PFX in base64")
                        .fix("put the PEM text, or the output of base64 -w0 FILE.pfx, into it")
                })?)?
            }
        };
        Self::pair(key, certificates)
    }

    /// Puts the key's own certificate first.
    fn pair(key: RsaKeyPair, mut certificates: Vec<Vec<u8>>) -> Result<Self> {
        certificates.truncate(MAX_BLOCKS);
        let own = certificates.iter().position(|der| {
            Certificate::from_der(der).is_ok_and(|certificate| {
                let info = certificate.tbs_certificate().subject_public_key_info();
                info.subject_public_key.raw_bytes() == key.public_key().as_ref()
            })
        });
        let own = own.ok_or_else(|| {
            Error::class("no certificate in it belongs to the private key")
                .fix("put the certificate and its key into one PEM text or PFX")
        })?;
        certificates.swap(0, own);
        certificates.truncate(MAX_CHAIN);
        Ok(Self { key, chain: certificates })
    }

    fn sign(&self, form: Form, audience: &str, client_id: &str, now: SystemTime) -> Result<Secret> {
        let failed = || Error::new(Code::Local, "the client assertion cannot be signed");
        let random = SystemRandom::new();
        let mut id = [0; 16];
        random.fill(&mut id).map_err(|_| failed())?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let own = self.chain.first().ok_or_else(failed)?;
        let (algorithm, thumbprint, hash, padding): (_, _, _, &dyn RsaEncoding) = match form {
            Form::Entra => ("PS256", "x5t#S256", &SHA256, &RSA_PSS_SHA256),
            Form::Adfs => ("RS256", "x5t", &SHA1_FOR_LEGACY_USE_ONLY, &RSA_PKCS1_SHA256),
        };
        let header = json!({
            "typ": "JWT",
            "alg": algorithm,
            thumbprint: URL_SAFE_NO_PAD.encode(digest(hash, own)),
            "x5c": self.chain.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>(),
        });
        let claims = json!({
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": hex::encode(id),
            "nbf": now.saturating_sub(SKEW).as_secs(),
            "iat": now.as_secs(),
            "exp": (now + LIFETIME).as_secs(),
        });
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let mut text = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key.sign(padding, &random, text.as_bytes(), &mut signature).map_err(|_| failed())?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(&signature, &mut text);
        Ok(Secret::from_string(text))
    }
}

/// The one key and the certificates of a PFX without a password.
fn pfx(bytes: &[u8]) -> Result<(RsaKeyPair, Vec<Vec<u8>>)> {
    // The fix that belongs to a vault's certificate does not fit here.
    let contents = open_pkcs12(bytes).map_err(|error| {
        Error::class(error.message().to_owned())
            .fix("export the certificate as a PFX without a password")
    })?;
    let mut keys = contents.keys.iter().map(|key| RsaKeyPair::from_pkcs8(key));
    Ok((one_key(&mut keys)?, contents.certificates))
}

const BEGIN: &[u8] = b"-----BEGIN ";

fn pem(bytes: &[u8]) -> Result<(RsaKeyPair, Vec<Vec<u8>>)> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::class("the PEM text is not text"))?;
    let (mut keys, mut certificates) = (Vec::new(), Vec::new());
    for block in text.split("-----BEGIN ").skip(1).take(MAX_BLOCKS) {
        let broken = || Error::class("a block of the PEM text is not whole");
        let (label, rest) = block.split_once("-----").ok_or_else(broken)?;
        let body = rest.split_once("-----END ").ok_or_else(broken)?.0;
        let decoded = || {
            let compact: Zeroizing<Vec<u8>> =
                Zeroizing::new(body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
            STANDARD.decode(compact.as_slice()).map(Zeroizing::new).map_err(|_| broken())
        };
        match label {
            "CERTIFICATE" => certificates.push(decoded()?.to_vec()),
            "PRIVATE KEY" => keys.push(RsaKeyPair::from_pkcs8(&decoded()?)),
            "RSA PRIVATE KEY" => keys.push(RsaKeyPair::from_der(&decoded()?)),
            "ENCRYPTED PRIVATE KEY" => {
                return Err(Error::class("its private key is encrypted")
                    .fix("store it without a password; the Secret is what protects it"));
            }
            "EC PRIVATE KEY" => return Err(not_rsa()),
            _ => {}
        }
    }
    Ok((one_key(&mut keys.into_iter())?, certificates))
}

fn one_key(
    keys: &mut dyn Iterator<Item = std::result::Result<RsaKeyPair, ring::error::KeyRejected>>,
) -> Result<RsaKeyPair> {
    match (keys.next(), keys.next()) {
        (None, _) => Err(Error::class("there is no private key in it")
            .fix("put the certificate and its key into one PEM text or PFX")),
        (Some(_), Some(_)) => Err(Error::class("there is more than one private key in it")),
        (Some(Ok(key)), None) => Ok(key),
        (Some(Err(_)), None) => Err(not_rsa()),
    }
}

fn not_rsa() -> Error {
    Error::class("its private key is not an RSA key of 2048 to 4096 bits")
        .fix("Entra accepts RSA certificates only (PS256, RS256)")
}

#[cfg(all(test, feature = "emulator"))]
mod tests;
