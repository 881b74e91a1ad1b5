//! Tokens: the access tokens of this Entra, and the service account tokens of this cluster.
//!
//! Access tokens are JWTs under a key of this start (HS256: only the emulator itself reads them).
//! Service account tokens are ES256 by an issuer that every federated credential here trusts.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use ring::{hmac, rand};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

use super::state::TENANT;
use super::{random, seconds};

/// Issuer of service account tokens.
const CLUSTER: &str = "https://oidc.akvfs.test/cluster/";
/// The audience that Entra takes client assertions for.
pub(super) const EXCHANGE: &str = "api://AzureADTokenExchange";

/// The audience that the token proxy takes client assertions for.
pub(super) const BINDING: &str = "api://AKSIdentityBinding";

/// A service account token to be made; the default one is accepted.
#[derive(Clone, Debug)]
pub struct WorkloadToken {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Audience.
    pub audience: String,
    /// Issuer.
    pub issuer: String,
    /// When it ends, relative to now; `None`: it ended a minute ago.
    pub lifetime: Option<Duration>,
    /// Signed by somebody else's key.
    pub forged: bool,
}

impl Default for WorkloadToken {
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            service_account: "app".to_owned(),
            audience: EXCHANGE.to_owned(),
            issuer: CLUSTER.to_owned(),
            lifetime: Some(Duration::from_secs(3600)),
            forged: false,
        }
    }
}

/// Claims of an access token that the vault looks at.
#[derive(Deserialize)]
struct Access {
    iss: String,
    aud: String,
    tid: String,
    appid: String,
    exp: i64,
    nbf: i64,
    epoch: u64,
}

pub(super) struct Signer {
    key: hmac::Key,
    clock: Clock,
}

impl Signer {
    pub(super) fn new(clock: Clock) -> Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| no_randomness())?;
        Ok(Self { key, clock })
    }

    /// An access token with its end, seconds since the epoch.
    pub(super) fn mint(
        &self,
        client: &str,
        epoch: u64,
        resource: &str,
        lifetime: Duration,
    ) -> Result<(String, i64)> {
        let now = seconds(&self.clock);
        let end = now.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        let claims = json!({
            "aud": resource, "iss": issuer(), "tid": TENANT, "appid": client, "oid": client,
            "iat": now, "nbf": now - 300, "exp": end, "epoch": epoch, "ver": "1.0",
            "uti": hex::encode(random::<8>()?),
        });
        let text = unsigned("HS256", &claims);
        let tag = hmac::sign(&self.key, text.as_bytes());
        Ok((format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag)), end))
    }

    /// The client and the epoch of a token for this resource, or why it is not accepted.
    pub(super) fn check(
        &self,
        token: &str,
        resource: &str,
    ) -> std::result::Result<(String, u64), &'static str> {
        let (text, tag) = token.rsplit_once('.').ok_or("AKV10001: Token is not a JWT.")?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| "AKV10001: Token is not a JWT.")?;
        hmac::verify(&self.key, text.as_bytes(), &tag)
            .map_err(|_| "AKV10011: Token signature is not valid.")?;
        let claims: Access = payload(text).ok_or("AKV10001: Token is not a JWT.")?;
        if claims.iss != issuer() || claims.tid != TENANT {
            return Err("AKV10032: Invalid issuer.");
        }
        if claims.aud != resource {
            return Err("AKV10022: Invalid audience.");
        }
        let now = seconds(&self.clock);
        if claims.exp <= now || claims.nbf > now {
            return Err("AKV10046: Token is expired or not yet valid.");
        }
        Ok((claims.appid, claims.epoch))
    }
}

/// Issuer of access tokens.
fn issuer() -> String {
    format!("https://sts.windows.net/{TENANT}/")
}

/// Why an assertion is refused, as Entra numbers it.
pub(super) struct Refused {
    pub(super) number: u32,
    pub(super) why: &'static str,
}

/// Issuer of service account tokens.
pub(super) struct Issuer {
    key: EcdsaKeyPair,
    other: EcdsaKeyPair,
    clock: Clock,
}

impl Issuer {
    pub(super) fn new(clock: Clock) -> Result<Self> {
        Ok(Self { key: key_pair()?, other: key_pair()?, clock })
    }

    pub(super) fn token(&self, wanted: &WorkloadToken) -> Result<Secret> {
        let now = seconds(&self.clock);
        let end = match wanted.lifetime {
            Some(lifetime) => {
                now.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX))
            }
            None => now - 60,
        };
        let claims = json!({
            "iss": wanted.issuer, "aud": [wanted.audience],
            "sub": format!("system:serviceaccount:{}:{}", wanted.namespace, wanted.service_account),
            "iat": now - 60, "nbf": now - 60, "exp": end, "jti": hex::encode(random::<16>()?),
        });
        let text = unsigned("ES256", &claims);
        let key = if wanted.forged { &self.other } else { &self.key };
        let signature =
            key.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| no_randomness())?;
        Ok(Secret::from_string(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }

    /// Whether Entra accepts `assertion` for a client with these federated credentials.
    pub(super) fn check(
        &self,
        assertion: &str,
        audience: &str,
        federated: &[(String, String)],
    ) -> std::result::Result<(), Refused> {
        #[derive(Deserialize)]
        struct Claims {
            iss: String,
            aud: Value,
            sub: String,
            exp: i64,
        }
        let refused = |number, why| Refused { number, why };
        let malformed = || refused(50027, "JWT token is invalid or malformed.");
        let (text, signature) = assertion.rsplit_once('.').ok_or_else(malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        let claims: Claims = payload(text).ok_or_else(malformed)?;
        if federated.is_empty() {
            return Err(refused(
                70025,
                "The client has no configured federated identity credentials.",
            ));
        }
        if claims.iss != CLUSTER {
            return Err(refused(
                700_211,
                "No matching federated identity record found for presented assertion issuer.",
            ));
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(text.as_bytes(), &signature)
            .map_err(|_| refused(50013, "Assertion failed signature validation."))?;
        if claims.exp <= seconds(&self.clock) {
            return Err(refused(700_024, "Client assertion is not within its valid time range."));
        }
        let right = claims.aud == audience
            || claims.aud.as_array().is_some_and(|list| list.iter().any(|aud| aud == audience));
        if !right {
            return Err(refused(
                700_212,
                "No matching federated identity record found for presented assertion audience.",
            ));
        }
        let subject = |(namespace, account): &(String, String)| {
            claims.sub == format!("system:serviceaccount:{namespace}:{account}")
        };
        if !federated.iter().any(subject) {
            return Err(refused(
                700_213,
                "No matching federated identity record found for presented assertion subject.",
            ));
        }
        Ok(())
    }
}

fn key_pair() -> Result<EcdsaKeyPair> {
    let random = SystemRandom::new();
    let random: &dyn rand::SecureRandom = &random;
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random)
        .ok()
        .and_then(|document| {
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), random).ok()
        })
        .ok_or_else(no_randomness)
}

/// `HEADER.PAYLOAD`
fn unsigned(algorithm: &str, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", part(&json!({ "typ": "JWT", "alg": algorithm, "kid": "dev" })), part(claims))
}

/// The payload of `HEADER.PAYLOAD`.
pub(super) fn payload<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    let (_, payload) = text.split_once('.')?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn no_randomness() -> Error {
    Error::new(Code::Local, "the system gives no random numbers")
}
