//! The data plane: read-only, three collections, by name, by version, and their lists.

mod wire;

use axum::http::header::{HeaderName, WWW_AUTHENTICATE};

use crate::class::ObjectKind;
use crate::error::printable;

use super::lock;
use super::reply::{Reply, Request};
use super::state::{KINDS, Shared, Verb};
use super::store::{AccessModel, Store};

/// What the service answers to; anything else is 400.
const API_VERSIONS: [&str; 9] =
    ["2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01"];
/// The service's page size.
const PAGE: usize = 25;

/// What a path asks for.
enum Route<'a> {
    Object { kind: ObjectKind, name: &'a str, version: &'a str },
    Names { kind: ObjectKind },
    Versions { kind: ObjectKind, name: &'a str },
}

pub(super) fn answer(state: &Shared, vault: &str, request: &Request) -> Reply {
    let known = lock(&state.vaults).contains_key(vault);
    if !known {
        return Reply::nowhere();
    }
    let reply = match authorized(state, vault, request) {
        Ok(reply) | Err(reply) => reply,
    };
    reply.with(HeaderName::from_static("x-ms-keyvault-region"), "loopback")
}

fn authorized(state: &Shared, vault: &str, request: &Request) -> Result<Reply, Reply> {
    let client = authenticate(state, request).inspect_err(|_| state.log.challenged())?;
    answer_to(state, vault, request, &client)
        .map(|reply| reply.by(&client))
        .map_err(|reply| reply.by(&client))
}

/// The client that the bearer token proves.
fn authenticate(state: &Shared, request: &Request) -> Result<String, Reply> {
    let resource = state.addresses.resource();
    let refused = |why: &str| challenge(&state.authorization(), &resource, why);
    let token = request
        .header("authorization")
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| refused("AKV10000: Request is missing a Bearer or PoP token."))?;
    let (client, epoch) = state.signer.check(token, &resource).map_err(refused)?;
    match lock(&state.identities).get(&client) {
        Some(identity) if identity.epoch == epoch => Ok(client),
        _ => Err(refused("AKV10045: Token was revoked.")),
    }
}

/// 401 with the service's challenge.
pub(super) fn challenge(authorization: &str, resource: &str, why: &str) -> Reply {
    let value = format!("Bearer authorization=\"{authorization}\", resource=\"{resource}\"");
    Reply::error(401, "Unauthorized", why, None).with(WWW_AUTHENTICATE, &value)
}

fn answer_to(state: &Shared, vault: &str, request: &Request, client: &str) -> Result<Reply, Reply> {
    match request.query("api-version") {
        Some(version) if API_VERSIONS.contains(&version) => {}
        Some(_) => return Err(bad("The specified api-version is not supported.")),
        None => return Err(bad("api-version must be specified")),
    }
    let route = route(&request.path)?;
    if request.method != "GET" {
        let message = "The emulator's vaults are read-only over REST.";
        return Err(Reply::error(405, "MethodNotAllowed", message, None));
    }
    let (kind, verb) = match &route {
        Route::Object { kind, name, .. } => {
            state.log.read(&format!("{vault}/{}/{}", kind.collection(), name.to_ascii_lowercase()));
            (*kind, Verb::Get)
        }
        Route::Names { kind } | Route::Versions { kind, .. } => {
            state.log.listed();
            (*kind, Verb::List)
        }
    };
    let allowed = lock(&state.identities)
        .get(client)
        .is_some_and(|identity| identity.allowed.contains(&(kind, verb)));
    let vaults = lock(&state.vaults);
    let store = vaults.get(vault).ok_or_else(Reply::nowhere)?;
    if !allowed {
        return Err(forbidden(store.access, client, kind, verb, vault));
    }
    match route {
        Route::Object { kind, name, version } => object(state, store, vault, kind, name, version),
        Route::Names { kind } => names(state, store, vault, kind, request),
        Route::Versions { kind, name } => versions(state, store, vault, kind, name, request),
    }
}

fn route(path: &str) -> Result<Route<'_>, Reply> {
    let mut parts = path.trim_start_matches('/').split('/');
    let collection = parts.next().unwrap_or_default();
    let kind = KINDS
        .into_iter()
        .find(|kind| kind.collection() == collection)
        .ok_or_else(|| Reply::error(404, "NotFound", "The requested resource is unknown.", None))?;
    let name = parts.next().unwrap_or_default();
    let version = parts.next().unwrap_or_default();
    if parts.next().is_some() {
        return Err(bad("The request URI is not valid."));
    }
    if name.is_empty() && version.is_empty() {
        return Ok(Route::Names { kind });
    }
    let fits = (1..=127).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !fits {
        return Err(bad("The request URI contains an invalid name."));
    }
    match version {
        "versions" => Ok(Route::Versions { kind, name }),
        version => Ok(Route::Object { kind, name, version }),
    }
}

fn object(
    state: &Shared,
    store: &Store,
    vault: &str,
    kind: ObjectKind,
    name: &str,
    version: &str,
) -> Result<Reply, Reply> {
    let entry = store.objects(kind).get_key_value(&name.to_ascii_lowercase());
    let found = entry.and_then(|(_, object)| object.find(version));
    let (Some((name, object)), Some(version)) = (entry, found) else {
        return Err(not_found(kind, name, version));
    };
    if !version.enabled {
        let (noun, inner) = match kind {
            ObjectKind::Secret => ("secret", "SecretDisabled"),
            ObjectKind::Key => ("key", "KeyDisabled"),
            ObjectKind::Certificate => ("certificate", "CertificateDisabled"),
        };
        let message = format!("Operation get is not allowed on a disabled {noun}.");
        return Err(Reply::error(403, "Forbidden", &message, Some(inner)));
    }
    let base = state.addresses.vault_url(vault);
    Ok(Reply::json(200, &wire::bundle(&base, kind, name, object.managed, version)))
}

fn names(
    state: &Shared,
    store: &Store,
    vault: &str,
    kind: ObjectKind,
    request: &Request,
) -> Result<Reply, Reply> {
    let (size, after) = paging(request)?;
    let base = state.addresses.vault_url(vault);
    let start = match &after {
        Some(name) => std::ops::Bound::Excluded(name.as_str()),
        None => std::ops::Bound::Unbounded,
    };
    let objects = store.objects(kind).range::<str, _>((start, std::ops::Bound::Unbounded));
    let mut page: Vec<_> = objects
        .filter_map(|(name, object)| Some((name, object, object.versions.last()?)))
        .take(size + 1)
        .collect();
    let more = page.len() > size;
    page.truncate(size);
    let last = page.last().map(|(name, ..)| name.as_str());
    let next = last.filter(|_| more).map(wire::token);
    let items = page
        .iter()
        .map(|(name, object, version)| {
            wire::item(&base, kind, name, object.managed, version, false)
        })
        .collect();
    let path = format!("{}/{}", state.addresses.vault_url_with_port(vault), kind.collection());
    Ok(Reply::json(200, &wire::page(items, next.as_deref(), &path, request, size)))
}

fn versions(
    state: &Shared,
    store: &Store,
    vault: &str,
    kind: ObjectKind,
    name: &str,
    request: &Request,
) -> Result<Reply, Reply> {
    let (size, after) = paging(request)?;
    let object = store
        .objects(kind)
        .get(&name.to_ascii_lowercase())
        .ok_or_else(|| not_found(kind, name, ""))?;
    let base = state.addresses.vault_url(vault);
    // By id, which is random: the service promises no order either.
    let mut all: Vec<_> = object.versions.iter().collect();
    all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let rest = all.into_iter().filter(|version| after.as_ref().is_none_or(|id| version.id > *id));
    let mut page: Vec<_> = rest.take(size + 1).collect();
    let more = page.len() > size;
    page.truncate(size);
    let next = page.last().filter(|_| more).map(|last| wire::token(&last.id));
    let items = page
        .iter()
        .map(|version| wire::item(&base, kind, name, object.managed, version, true))
        .collect();
    let path = format!(
        "{}/{}/{name}/versions",
        state.addresses.vault_url_with_port(vault),
        kind.collection()
    );
    Ok(Reply::json(200, &wire::page(items, next.as_deref(), &path, request, size)))
}

/// Page size, and the last entry of the page before.
fn paging(request: &Request) -> Result<(usize, Option<String>), Reply> {
    let size = match request.query("maxresults") {
        None => PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|size| (1..=PAGE).contains(size))
            .ok_or_else(|| bad("maxresults must be between 1 and 25."))?,
    };
    let after = match request.query("$skiptoken") {
        None => None,
        Some(token) => {
            Some(wire::from_token(token).ok_or_else(|| bad("The skiptoken is not valid."))?)
        }
    };
    Ok((size, after))
}

fn bad(message: &str) -> Reply {
    Reply::error(400, "BadParameter", message, None)
}

fn not_found(kind: ObjectKind, name: &str, version: &str) -> Reply {
    let (noun, code) = match kind {
        ObjectKind::Secret => ("secret", "SecretNotFound"),
        ObjectKind::Key => ("key", "KeyNotFound"),
        ObjectKind::Certificate => ("certificate", "CertificateNotFound"),
    };
    let id = match version {
        "" => name.to_owned(),
        version => format!("{name}/{}", printable(version, 64)),
    };
    let message = format!(
        "A {noun} with (name/id) {id} was not found in this key vault. If you recently deleted \
         this {noun} you may be able to recover it using the correct recovery command."
    );
    Reply::error(404, code, &message, None)
}

fn forbidden(
    access: AccessModel,
    client: &str,
    kind: ObjectKind,
    verb: Verb,
    vault: &str,
) -> Reply {
    let verb = verb.as_str();
    let collection = kind.collection();
    let (message, inner) = match access {
        AccessModel::Rbac => (
            format!(
                "Caller is not authorized to perform action on resource. If role assignments were \
                 changed recently, please observe propagation time. Caller: appid={client}. Action: \
                 'Microsoft.KeyVault/vaults/{collection}/{verb}'. Vault: {vault}"
            ),
            "ForbiddenByRbac",
        ),
        AccessModel::Policy => (
            format!(
                "The user, group or application 'appid={client}' does not have {collection} {verb} \
                 permission on key vault '{vault}'."
            ),
            "ForbiddenByPolicy",
        ),
    };
    Reply::error(403, "Forbidden", &message, Some(inner))
}
