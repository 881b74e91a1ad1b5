//! Token services of machines that have no IMDS: App Service, and the agent of Azure Arc.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::http::header;
use serde_json::json;

use crate::cloud::Machine;
use crate::secret::Secret;

use super::imds::{bad, managed};
use super::reply::{Reply, Request};
use super::state::Shared;
use super::{lock, random};

pub(super) const APP_SERVICE: &str = "/MSI/token";
pub(super) const ARC: &str = "/arc/metadata/identity/oauth2/token";

/// The agent with the key that it last challenged somebody to read.
pub(super) struct Agent {
    keys: PathBuf,
    challenge: Option<(PathBuf, Secret)>,
}

pub(super) fn app_service(state: &Shared, at: SocketAddr) -> Machine {
    let header = state.app_service_header.clone();
    Machine::AppService { endpoint: format!("http://{at}{APP_SERVICE}"), header }
}

pub(super) fn arc(state: &Shared, at: SocketAddr, keys: &Path) -> Machine {
    *lock(&state.arc) = Some(Agent { keys: keys.to_owned(), challenge: None });
    Machine::Arc { endpoint: format!("http://{at}{ARC}"), keys: keys.to_owned() }
}

pub(super) fn app_service_answer(state: &Shared, request: &Request) -> Reply {
    let sent = request.header("x-identity-header").unwrap_or_default();
    if sent.as_bytes() != state.app_service_header.expose() {
        return Reply::json(403, &json!({ "statusCode": 403, "message": "Forbidden" }));
    }
    if request.query("api-version") != Some("2019-08-01") {
        return bad("invalid_request", "The api-version is not supported");
    }
    managed(state, request, request.query("client_id"))
}

pub(super) fn arc_answer(state: &Shared, request: &Request) -> Reply {
    if request.header("metadata") != Some("true") {
        return bad("invalid_request", "Required metadata header not specified");
    }
    if request.query("api-version") != Some("2020-06-01") {
        return bad("invalid_request", "The api-version is not supported");
    }
    let mut agent = lock(&state.arc);
    let Some(agent) = agent.as_mut() else {
        return Reply::json(404, &json!({ "error": "Not found" }));
    };
    let sent = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
    let Some(sent) = sent else {
        return challenge(agent).unwrap_or_else(|| Reply::json(500, &json!({ "error": "no key" })));
    };
    let Some((path, key)) = agent.challenge.take() else {
        return Reply::json(401, &json!({ "error": "unauthorized" }));
    };
    // One key is good for one request.
    let _ = std::fs::remove_file(path);
    if sent.as_bytes() != key.expose() {
        return Reply::json(401, &json!({ "error": "unauthorized" }));
    }
    managed(state, request, None)
}

fn challenge(agent: &mut Agent) -> Option<Reply> {
    let key =
        Secret::from_string(format!("dev-only-arc-key-{}", hex::encode(random::<32>().ok()?)));
    let path = agent.keys.join(format!("{}.key", hex::encode(random::<8>().ok()?)));
    std::fs::write(&path, key.expose()).ok()?;
    let realm = format!("Basic realm={}", path.display());
    agent.challenge = Some((path, key));
    let refused = Reply::json(401, &json!({ "error": "unauthorized" }));
    Some(refused.with(header::WWW_AUTHENTICATE, &realm))
}
