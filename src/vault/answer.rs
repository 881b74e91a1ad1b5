//! Answers of the data plane, as types or as errors that keep status, code and message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::class::{ObjectKind, ObjectName, Version};
use crate::error::{Code, Error, Hop, Result, printable};
use crate::fetch::ObjectRef;
use crate::http::{Answer, request_id, retry_after};
use crate::secret::Secret;

use super::model::{Body, Jwk, ListedVersion, ObjectVersion};
use super::without_query;

/// Longest message of a vault that is passed on.
const MAX_MESSAGE: usize = 512;

#[derive(Default, Deserialize)]
struct Attributes {
    enabled: Option<bool>,
    created: Option<i64>,
    exp: Option<i64>,
    nbf: Option<i64>,
}

#[derive(Deserialize)]
struct WireSecret {
    value: Option<Secret>,
    id: Option<String>,
    #[serde(rename = "contentType")]
    content_type: Option<String>,
    kid: Option<String>,
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
struct WireKey {
    key: Option<WireJwk>,
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
struct WireJwk {
    kid: Option<String>,
    kty: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct WireCertificate {
    cer: Option<String>,
    id: Option<String>,
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
struct WirePage {
    #[serde(default)]
    value: Option<Vec<WireItem>>,
    #[serde(rename = "nextLink")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct WireItem {
    id: Option<String>,
    kid: Option<String>,
    attributes: Option<Attributes>,
}

impl WireItem {
    fn into_id(self, kind: ObjectKind) -> Option<String> {
        match kind {
            ObjectKind::Key => self.kid,
            ObjectKind::Secret | ObjectKind::Certificate => self.id,
        }
    }
}

/// One page of a list.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) next: Option<String>,
}

/// What a request asks the vault for: another permission, and other roles.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    Object,
    List,
}

/// A 200 answer to a GET of one object.
pub(super) fn object(object: &ObjectRef, url: &str, answer: &Answer) -> Result<ObjectVersion> {
    let (id, attributes, body) = match object.kind {
        ObjectKind::Secret => {
            let wire: WireSecret = decode(url, answer)?;
            let value = wire.value.ok_or_else(|| missing(url, "secret value is nil"))?;
            let id = wire.id.ok_or_else(|| missing(url, "secret id is nil"))?;
            let body = Body::Secret {
                value,
                content_type: wire.content_type.filter(|text| !text.is_empty()),
                kid: wire.kid.filter(|text| !text.is_empty()),
            };
            (id, wire.attributes, body)
        }
        ObjectKind::Key => {
            let wire: WireKey = decode(url, answer)?;
            let jwk = wire.key.ok_or_else(|| missing(url, "key value is nil"))?;
            let id = jwk.kid.ok_or_else(|| missing(url, "key id is nil"))?;
            let WireJwk { kty, crv, n, e, x, y, .. } = jwk;
            (id, wire.attributes, Body::Key(Box::new(Jwk { kty, crv, n, e, x, y })))
        }
        ObjectKind::Certificate => {
            let wire: WireCertificate = decode(url, answer)?;
            let cer = wire
                .cer
                .filter(|text| !text.is_empty())
                .ok_or_else(|| missing(url, "certificate value is nil"))?;
            let id = wire.id.ok_or_else(|| missing(url, "certificate id is nil"))?;
            let cer = STANDARD
                .decode(cer)
                .map_err(|_| missing(url, "certificate value is not base64"))?;
            (id, wire.attributes, Body::Certificate { cer })
        }
    };
    let attributes = attributes.unwrap_or_default();
    Ok(ObjectVersion {
        kind: object.kind,
        name: object.name.as_str().to_owned(),
        version: segment(&id, 2).map(|text| printable(text, 64)).unwrap_or_default(),
        created: attributes.created,
        expires: attributes.exp,
        not_before: attributes.nbf,
        body,
    })
}

/// A 200 answer to a list. Disabled entries are left out; names we could not ask for are too.
pub(super) fn names(kind: ObjectKind, url: &str, answer: &Answer) -> Result<Page<ObjectName>> {
    page(url, answer, |item| {
        if item.attributes.as_ref().and_then(|a| a.enabled) == Some(false) {
            return Ok(None);
        }
        let id = item.into_id(kind);
        let name = id.as_deref().and_then(|id| segment(id, 1));
        Ok(name.and_then(|name| ObjectName::parse(name).ok()))
    })
}

/// A 200 answer to a list of versions. Entries without attributes are left out, as upstream does; an
/// id we could not ask for is an error, since leaving it out would shift the others.
pub(super) fn versions(
    kind: ObjectKind,
    url: &str,
    answer: &Answer,
) -> Result<Page<ListedVersion>> {
    page(url, answer, |mut item| {
        let Some(attributes) = item.attributes.take() else { return Ok(None) };
        let id = item.into_id(kind);
        let version = id.as_deref().and_then(|id| segment(id, 2)).map(Version::parse);
        match version {
            Some(Ok(Version::Exact(id))) => Ok(Some(ListedVersion {
                id,
                enabled: attributes.enabled != Some(false),
                created: attributes.created,
            })),
            _ => Err(missing(url, "an entry of the list is no version")),
        }
    })
}

fn page<T>(
    url: &str,
    answer: &Answer,
    mut read: impl FnMut(WireItem) -> Result<Option<T>>,
) -> Result<Page<T>> {
    let wire: WirePage = decode(url, answer)?;
    let items = wire.value.unwrap_or_default().into_iter();
    let items = items.filter_map(|item| read(item).transpose()).collect::<Result<_>>()?;
    Ok(Page { items, next: wire.next.filter(|link| !link.is_empty()) })
}

/// Any other answer: status, code and message of the service, and what usually helps.
pub(super) fn refused(asked: Asked, url: &str, answer: &Answer) -> Error {
    #[derive(Deserialize)]
    struct Envelope {
        error: Option<Fault>,
    }
    #[derive(Deserialize)]
    struct Fault {
        code: Option<String>,
        message: Option<String>,
        innererror: Option<Inner>,
    }
    #[derive(Deserialize)]
    struct Inner {
        code: Option<String>,
    }
    let fault = serde_json::from_slice::<Envelope>(answer.body.expose())
        .ok()
        .and_then(|envelope| envelope.error);
    let (outer, message, inner) = match fault {
        Some(fault) => (fault.code, fault.message, fault.innererror.and_then(|inner| inner.code)),
        None => (None, None, None),
    };
    let outer = outer.map(|code| printable(&code, 64));
    let inner = inner.map(|code| printable(&code, 64));
    let message = message.map(|text| printable(&text, MAX_MESSAGE));

    let status = answer.status;
    let what = format!("GET {}", without_query(url));
    let mut text = format!("{what}: RESPONSE {status}");
    if let Some(code) = &outer {
        text.push_str(&format!(", ERROR CODE: {code}"));
    }
    if let Some(code) = &inner {
        text.push_str(&format!(" ({code})"));
    }
    if let Some(message) = &message {
        text.push_str(&format!(": {message}"));
    }
    text.push_str(&traced(answer));
    let inner = inner.as_deref().unwrap_or_default();
    let code = match status {
        404 => Code::NotFound,
        403 if inner.ends_with("Disabled") => Code::Disabled,
        401 => Code::Unauthenticated,
        403 => Code::Forbidden,
        429 => Code::Throttled,
        500.. => Code::Unavailable,
        _ => Code::BadAnswer,
    };
    let list = matches!(asked, Asked::List);
    let fix = match (code, inner) {
        (Code::NotFound, _) => "check objectName, objectType, objectVersion and keyvaultName",
        (Code::Disabled, _) => "enable this version in the vault, or name another objectVersion",
        (Code::Forbidden, "ForbiddenByFirewall") => {
            "the vault's network rules refuse this node: allow its subnet, or use a private endpoint"
        }
        (Code::Forbidden, "ForbiddenByConnection") => {
            "the vault takes requests by private endpoints only: its name must lead to one here"
        }
        (Code::Forbidden, "ForbiddenByPolicy") if list => {
            "give this identity the list permission too in the vault's access policies"
        }
        // As of learn.microsoft.com/azure/role-based-access-control/built-in-roles/security: Secrets User
        // has secrets/getSecret and secrets/readMetadata, Crypto User keys/read, Certificate User
        // certificates/read besides those of secrets; Reader has vaults/*/read and readMetadata, no value.
        (Code::Forbidden, _) if list => {
            "give this identity a role that may list, such as Key Vault Secrets User (secrets), Key Vault \
             Crypto User (keys) or Key Vault Certificate User (certificates), on the vault; Key Vault \
             Reader lists too, and reads no value; a role on one object is not enough, and an own role \
             needs readMetadata (secrets) or read (keys, certificates)"
        }
        (Code::Forbidden, "ForbiddenByPolicy") => {
            "give this identity the get (and list) permission in the vault's access policies"
        }
        (Code::Forbidden, _) => {
            "give this identity a role such as Key Vault Secrets User (secrets), Crypto User (keys) or \
             Certificate User (certificates) on the vault; a new role takes minutes to work"
        }
        (Code::Throttled, _) => {
            "the vault's limit is reached: fewer pods or a longer rotation interval"
        }
        (Code::BadAnswer, _) if (300..400).contains(&status) => {
            "redirects are not followed: check what answers at the vault's name"
        }
        _ => "",
    };
    let error = Error::new(code, text)
        .at(Hop::Vault)
        .answered(status, outer)
        .by_firewall(matches!(inner, "ForbiddenByFirewall" | "ForbiddenByConnection"))
        .retry_after(retry_after(&answer.headers));
    if fix.is_empty() { error } else { error.fix(fix) }
}

/// ` (request id ...)` where the vault named one.
pub(super) fn traced(answer: &Answer) -> String {
    request_id(&answer.headers).map_or_else(String::new, |id| format!(" (request id {id})"))
}

/// Decodes a body. serde's own text quotes input, so only the place is kept.
fn decode<T: DeserializeOwned>(url: &str, answer: &Answer) -> Result<T> {
    serde_json::from_slice(answer.body.expose()).map_err(|error| {
        Error::new(
            Code::BadAnswer,
            format!(
                "GET {}: RESPONSE 200 with a body that is not the vault's (line {}, column {})",
                without_query(url),
                error.line(),
                error.column()
            ),
        )
        .at(Hop::Vault)
        .fix("check what answers at the vault's name: a proxy's page is the usual cause")
    })
}

fn missing(url: &str, what: &str) -> Error {
    Error::new(Code::BadAnswer, format!("GET {}: {what}", without_query(url))).at(Hop::Vault)
}

/// Path segment `n` of an id URL: 1 is the name, 2 the version.
fn segment(id: &str, n: usize) -> Option<&str> {
    let path = id.split_once("://")?.1.split_once('/')?.1;
    path.split('/').nth(n).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Version;

    const URL: &str = "https://kv.vault.azure.net/secrets/x/?api-version=7.4";

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, headers: Default::default(), body: Secret::from(body) }
    }

    fn wanted(kind: ObjectKind) -> ObjectRef {
        ObjectRef { kind, name: ObjectName::parse("x").unwrap(), version: Version::Latest }
    }

    #[test]
    fn a_secret_keeps_its_version_and_dates() {
        let body = r#"{"value":"v","id":"https://kv.vault.azure.net/secrets/x/abc123",
            "contentType":"","kid":"","attributes":{"enabled":true,"created":5,"exp":6,"nbf":4}}"#;
        let version = object(&wanted(ObjectKind::Secret), URL, &answer(200, body)).unwrap();
        assert_eq!(version.version, "abc123");
        assert_eq!(
            (version.created, version.expires, version.not_before),
            (Some(5), Some(6), Some(4))
        );
        let Body::Secret { value, content_type, kid } = version.body else { panic!() };
        assert_eq!(value.expose(), b"v");
        assert_eq!((content_type, kid), (None, None), "blank counts as absent");
    }

    #[test]
    fn bodies_that_are_not_the_vaults_give_errors_without_input() {
        let cases = [
            (ObjectKind::Secret, r#"{"value":7,"canary":"canary"}"#),
            (ObjectKind::Secret, r#"{"value":{"canary":1}}"#),
            (ObjectKind::Secret, r#"{"id":"https://x/secrets/x/canary"}"#),
            (ObjectKind::Secret, r#"{"value":"canary"}"#),
            (ObjectKind::Secret, "<html>canary</html>"),
            (ObjectKind::Secret, ""),
            (ObjectKind::Key, "{}"),
            (ObjectKind::Key, r#"{"key":{"kty":"RSA","n":"canary"}}"#),
            (ObjectKind::Certificate, r#"{"id":"https://x/certificates/x/1","cer":null}"#),
            (ObjectKind::Certificate, r#"{"id":"https://x/certificates/x/1","cer":""}"#),
            (ObjectKind::Certificate, r#"{"id":"https://x/certificates/x/1","cer":"canary!"}"#),
        ];
        for (kind, body) in cases {
            let error = object(&wanted(kind), URL, &answer(200, body)).unwrap_err();
            assert_eq!(error.code(), Code::BadAnswer, "{body}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn refusals_keep_status_code_and_message_and_name_a_fix() {
        let body = r#"{"error":{"code":"Forbidden","message":"no\r\nway",
            "innererror":{"code":"SecretDisabled"}}}"#;
        let error = refused(Asked::Object, URL, &answer(403, body));
        assert_eq!(error.code(), Code::Disabled);
        assert_eq!(
            error.message(),
            "GET https://kv.vault.azure.net/secrets/x/: RESPONSE 403, ERROR CODE: Forbidden \
             (SecretDisabled): noway"
        );
        for (status, code) in [
            (302, Code::BadAnswer),
            (400, Code::BadAnswer),
            (401, Code::Unauthenticated),
            (403, Code::Forbidden),
            (404, Code::NotFound),
            (429, Code::Throttled),
            (500, Code::Unavailable),
            (503, Code::Unavailable),
        ] {
            let error = refused(Asked::Object, URL, &answer(status, "<html>"));
            assert_eq!(error.code(), code, "{status}");
        }
    }

    #[test]
    fn a_refused_list_names_the_permission_or_the_role() {
        let refusal = |asked, inner: &str| {
            let body = format!(r#"{{"error":{{"innererror":{{"code":"{inner}"}}}}}}"#);
            refused(asked, URL, &answer(403, &body)).to_string()
        };
        assert!(refusal(Asked::List, "ForbiddenByPolicy").contains("the list permission too"));
        let roles = refusal(Asked::List, "ForbiddenByRbac");
        assert!(roles.contains("may list") && roles.contains("Key Vault Secrets User"), "{roles}");
        assert!(!refusal(Asked::Object, "ForbiddenByRbac").contains("may list"));
        for asked in [Asked::Object, Asked::List] {
            assert!(refusal(asked, "ForbiddenByFirewall").contains("network rules"));
        }
    }

    #[test]
    fn names_leave_out_disabled_and_unusable_names() {
        let body = r#"{"value":[
            {"id":"https://kv/secrets/a","attributes":{"enabled":true}},
            {"id":"https://kv/secrets/b","attributes":{"enabled":false}},
            {"id":"https://kv/secrets/c"}, {"id":"https://kv/secrets/.."}, {"id":"nonsense"}, {}],
            "nextLink":"https://kv/secrets?x"}"#;
        let page = names(ObjectKind::Secret, URL, &answer(200, body)).unwrap();
        let names: Vec<_> = page.items.iter().map(|name| name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(page.next.as_deref(), Some("https://kv/secrets?x"));
    }

    #[test]
    fn versions_keep_the_vaults_order_and_who_is_disabled() {
        let body = r#"{"value":[
            {"kid":"https://kv/keys/a/v1","attributes":{"enabled":true,"created":5}},
            {"kid":"https://kv/keys/a/v2","attributes":{"enabled":false,"created":6}},
            {"kid":"https://kv/keys/a/v3"},
            {"kid":"https://kv/keys/a/v4","attributes":{}}], "nextLink":""}"#;
        let page = versions(ObjectKind::Key, URL, &answer(200, body)).unwrap();
        let listed = |id: &str, enabled, created| ListedVersion { id: id.into(), enabled, created };
        assert_eq!(
            page.items,
            [listed("v1", true, Some(5)), listed("v2", false, Some(6)), listed("v4", true, None)]
        );
        assert_eq!(page.next, None);
        for id in ["https://kv/keys/a", "https://kv/keys/a/..", "https://kv/keys/a/latest", "x"] {
            let body = format!(r#"{{"value":[{{"kid":"{id}","attributes":{{}}}}]}}"#);
            let refused = versions(ObjectKind::Key, URL, &answer(200, &body)).err().unwrap();
            assert_eq!(refused.code(), Code::BadAnswer, "{id}");
        }
    }
}
