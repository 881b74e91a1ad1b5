//! The service's JSON.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::class::ObjectKind;

use super::super::reply::Request;
use super::super::store::{Content, Version};

fn attributes(version: &Version) -> Value {
    let mut attributes = json!({
        "enabled": version.enabled,
        "created": version.created,
        "updated": version.updated,
        "recoveryLevel": "Recoverable+Purgeable",
        "recoverableDays": 90,
    });
    if let Some(expires) = version.expires {
        attributes["exp"] = json!(expires);
    }
    if let Some(not_before) = version.not_before {
        attributes["nbf"] = json!(not_before);
    }
    attributes
}

/// The answer to a GET of one version.
pub(super) fn bundle(
    base: &str,
    kind: ObjectKind,
    name: &str,
    managed: bool,
    version: &Version,
) -> Value {
    let id = |kind: ObjectKind| format!("{base}/{}/{name}/{}", kind.collection(), version.id);
    let mut bundle = match &version.content {
        Content::Secret { value } => {
            let mut bundle = json!({
                "value": value.expose_str().unwrap_or_default(),
                "id": id(kind),
            });
            if managed {
                bundle["kid"] = json!(id(ObjectKind::Key));
            }
            bundle
        }
        Content::Key(jwk) => {
            let mut jwk = jwk.clone();
            jwk["kid"] = json!(id(kind));
            json!({ "key": jwk })
        }
        Content::Certificate { cer, subject, secret_type } => {
            let policy = format!("{base}/certificates/{name}/policy");
            let thumbprint = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, cer);
            json!({
                "id": id(kind),
                "kid": id(ObjectKind::Key),
                "sid": id(ObjectKind::Secret),
                "x5t": URL_SAFE_NO_PAD.encode(thumbprint),
                "cer": STANDARD.encode(cer),
                "policy": {
                    "id": policy,
                    "secret_props": { "contentType": secret_type },
                    "x509_props": { "subject": subject, "validity_months": 12 },
                    "issuer": { "name": "Unknown" },
                    "attributes": {
                        "enabled": true, "created": version.created, "updated": version.updated,
                    },
                },
            })
        }
    };
    finish(&mut bundle, kind, managed, version);
    bundle
}

/// An entry of a list: never a value.
pub(super) fn item(
    base: &str,
    kind: ObjectKind,
    name: &str,
    managed: bool,
    version: &Version,
    with_version: bool,
) -> Value {
    let mut id = format!("{base}/{}/{name}", kind.collection());
    if with_version {
        id.push('/');
        id.push_str(&version.id);
    }
    let mut item = match &version.content {
        Content::Secret { .. } => json!({ "id": id }),
        Content::Key(_) => json!({ "kid": id }),
        Content::Certificate { cer, subject, .. } => {
            let thumbprint = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, cer);
            json!({ "id": id, "x5t": URL_SAFE_NO_PAD.encode(thumbprint), "subject": subject })
        }
    };
    finish(&mut item, kind, managed, version);
    item
}

fn finish(value: &mut Value, kind: ObjectKind, managed: bool, version: &Version) {
    value["attributes"] = attributes(version);
    value["tags"] = json!({});
    if let Some(content_type) = &version.content_type {
        value["contentType"] = json!(content_type);
    }
    if managed && kind != ObjectKind::Certificate {
        value["managed"] = json!(true);
    }
}

/// A page; `next` continues at the same path with the caller's api-version.
pub(super) fn page(
    items: Vec<Value>,
    next: Option<&str>,
    path: &str,
    request: &Request,
    size: usize,
) -> Value {
    let link = next.map(|token| {
        let version = request.query("api-version").unwrap_or_default();
        format!("{path}?api-version={version}&$skiptoken={token}&maxresults={size}")
    });
    json!({ "value": items, "nextLink": link })
}

/// An opaque mark: where the next page begins.
pub(super) fn token(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

pub(super) fn from_token(token: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}
