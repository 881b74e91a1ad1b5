//! The admin endpoint: what [`Control`] does, for other processes on this machine.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::class::ObjectKind;
use crate::error::Error;

use super::control::Control;
use super::faults::{Fault, Service, Trouble, Where};
use super::reply::{Reply, Request};
use super::state::{KINDS, Shared, Verb};
use super::{lock, random};

pub(super) fn answer(state: &Arc<Shared>, request: &Request) -> Reply {
    // A web page may send requests to loopback too; it cannot do so without an Origin.
    if request.headers.contains_key("origin") {
        return refused(403, "not from a browser");
    }
    let result = match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/requests") => Ok(requests(state)),
        ("GET", "/state") => Ok(contents(state)),
        ("POST", path) => match serde_json::from_slice(&request.body) {
            Ok(Value::Object(body)) => change(state, path, &Body(body)),
            Err(_) if request.body.is_empty() => change(state, path, &Body(Map::new())),
            _ => Err(refused(400, "the body is not a JSON object")),
        },
        _ => Err(refused(404, "unknown path")),
    };
    match result {
        Ok(body) => Reply::json(200, &body),
        Err(reply) => reply,
    }
}

/// A request's JSON.
struct Body(Map<String, Value>);

impl Body {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    fn needs<T>(&self, name: &str, found: Option<T>) -> Result<T, Reply> {
        found.ok_or_else(|| refused(400, &format!("{name} is missing or of the wrong type")))
    }

    fn kind(&self) -> Result<Option<ObjectKind>, Reply> {
        let Some(text) = self.0.get("kind") else { return Ok(None) };
        let found = KINDS.into_iter().find(|kind| Some(kind.as_str()) == text.as_str());
        self.needs("kind (secret, key or cert)", found).map(Some)
    }

    fn place(&self) -> Result<Where, Reply> {
        let service = match self.text("service") {
            None => Service::Vault,
            Some(text) => {
                self.needs("service (entra, imds, nmi or vault)", Service::parse(text))?
            }
        };
        let place = match self.text("vault") {
            Some(vault) if service == Service::Vault => Where::vault(vault),
            _ => Where::service(service),
        };
        Ok(place.path(self.text("path").unwrap_or_default()))
    }
}

fn change(state: &Arc<Shared>, path: &str, body: &Body) -> Result<Value, Reply> {
    let control = Control::new(state.clone());
    let fault = |trouble: Trouble| -> Result<Value, Reply> {
        let times = body.number("times").map(|times| u32::try_from(times).unwrap_or(u32::MAX));
        control.fault(Fault { at: body.place()?, trouble, times });
        Ok(json!({}))
    };
    match path {
        "/rotate" => rotate(state, &control, body),
        "/enable" | "/disable" => {
            let name = body.needs("name", body.text("name"))?;
            let version = body.text("version").unwrap_or_default();
            let (vault, kind) = object(state, body, name)?;
            control.enable(&vault, kind, name, version, path == "/enable").map_err(failed)?;
            Ok(json!({}))
        }
        "/delete" => {
            let name = body.needs("name", body.text("name"))?;
            let (vault, kind) = object(state, body, name)?;
            control.delete(&vault, kind, name).map_err(failed)?;
            Ok(json!({}))
        }
        "/permission" => {
            let client = body.needs("client", body.text("client"))?;
            let kind = body.needs("kind", body.kind()?)?;
            let verb = match body.text("verb") {
                Some("get") => Verb::Get,
                Some("list") => Verb::List,
                _ => return Err(refused(400, "verb is not get or list")),
            };
            let allow = body.needs("allow", body.0.get("allow").and_then(Value::as_bool))?;
            control.permit(client, kind, verb, allow).map_err(failed)?;
            Ok(json!({}))
        }
        "/delay" => {
            let ms = body.needs("ms", body.number("ms"))?;
            fault(Trouble::Delay(Duration::from_millis(ms)))
        }
        "/throttle" => fault(Trouble::Throttle(body.number("retryAfter"))),
        "/limit" => {
            let rate = body.number("perSecond").and_then(|rate| u32::try_from(rate).ok());
            let per_second = body.needs("perSecond (1 or more)", rate.filter(|rate| *rate > 0))?;
            fault(Trouble::Limit { per_second, retry_after: body.number("retryAfter") })
        }
        "/fail" => {
            let status = body.number("status").and_then(|status| u16::try_from(status).ok());
            let status = status.filter(|status| (400..600).contains(status));
            fault(Trouble::Status(body.needs("status (400 to 599)", status)?))
        }
        "/hang" => fault(Trouble::Hang),
        "/reset" => {
            control.clear_faults();
            control.reset_log();
            Ok(json!({}))
        }
        _ => Err(refused(404, "unknown path")),
    }
}

fn rotate(state: &Arc<Shared>, control: &Control, body: &Body) -> Result<Value, Reply> {
    let name = body.needs("name", body.text("name"))?;
    let vault = vault(state, body);
    let kind = lock(&state.vaults).get(&vault).and_then(|store| store.kind_of(name));
    let version = match kind {
        Some(ObjectKind::Certificate) => control.rotate_certificate(&vault, name),
        _ => {
            let value = match body.text("value") {
                Some(value) => value.to_owned(),
                None => {
                    let digits = hex::encode(random::<8>().map_err(failed)?);
                    format!("dev-only-{name}-rotated-{digits}")
                }
            };
            control.set_secret(&vault, name, value)
        }
    };
    Ok(json!({ "version": version.map_err(failed)? }))
}

/// The named vault, or the first one.
fn vault(state: &Shared, body: &Body) -> String {
    body.text("vault").unwrap_or(&state.vault).to_ascii_lowercase()
}

/// Where an object is: its vault, and its kind when the request does not say.
fn object(state: &Shared, body: &Body, name: &str) -> Result<(String, ObjectKind), Reply> {
    let vault = vault(state, body);
    let kind = match body.kind()? {
        Some(kind) => Some(kind),
        None => lock(&state.vaults).get(&vault).and_then(|store| store.kind_of(name)),
    };
    Ok((vault, kind.ok_or_else(|| refused(404, "no such object"))?))
}

fn requests(state: &Arc<Shared>) -> Value {
    let records: Vec<Value> = state
        .log
        .records()
        .into_iter()
        .map(|record| {
            let at = record.at.duration_since(UNIX_EPOCH).map_or(0.0, |at| at.as_secs_f64());
            json!({
                "at": at, "service": record.service.as_str(), "method": record.method,
                "host": record.host, "path": record.path, "client": record.client,
                "status": record.status,
            })
        })
        .collect();
    let counters = Control::new(state.clone()).counters();
    json!({
        "requests": records,
        "counters": {
            "vaultRequests": counters.vault_requests, "challenges": counters.challenges,
            "reads": counters.reads, "lists": counters.lists, "tokens": counters.tokens,
            "tokenRequests": counters.token_requests, "inFlight": counters.in_flight,
            "mostInFlight": counters.most_in_flight, "connections": counters.connections,
            "openConnections": counters.open_connections, "handshakes": counters.handshakes,
            "resumed": counters.resumed, "http2": counters.http2,
        },
    })
}

fn contents(state: &Shared) -> Value {
    let vaults = lock(&state.vaults);
    let mut out = Map::new();
    for (vault, store) in vaults.iter() {
        let mut kinds = Map::new();
        for kind in KINDS {
            let objects = store.objects(kind).iter().map(|(name, object)| {
                let versions = object.versions.iter().map(|version| {
                    json!({
                        "id": version.id, "enabled": version.enabled, "created": version.created,
                    })
                });
                (name.clone(), Value::Array(versions.collect()))
            });
            kinds.insert(kind.collection().to_owned(), Value::Object(objects.collect()));
        }
        out.insert(vault.clone(), Value::Object(kinds));
    }
    let clients: Vec<String> = lock(&state.identities).keys().cloned().collect();
    json!({ "vaults": out, "clients": clients, "faults": state.faults.len() })
}

fn refused(status: u16, why: &str) -> Reply {
    Reply::json(status, &json!({ "error": why }))
}

fn failed(error: Error) -> Reply {
    refused(400, error.message())
}
