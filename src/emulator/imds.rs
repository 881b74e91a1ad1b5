//! The two link-local token services: IMDS for machines, NMI for pods.

use serde_json::{Value, json};

use super::reply::{Reply, Request};
use super::state::{Holder, Shared};
use super::{lock, seconds};

const API_VERSIONS: [&str; 4] = ["2018-02-01", "2019-08-01", "2020-06-01", "2021-02-01"];

pub(super) fn answer(state: &Shared, request: &Request) -> Reply {
    match request.path.as_str() {
        super::machine::APP_SERVICE => return super::machine::app_service_answer(state, request),
        super::machine::ARC => return super::machine::arc_answer(state, request),
        _ => {}
    }
    if request.path.trim_end_matches('/') != "/metadata/identity/oauth2/token" {
        return Reply::json(404, &json!({ "error": "Not found" }));
    }
    if request.method != "GET" {
        return Reply::json(405, &json!({ "error": "Method not allowed" }));
    }
    if !request.header("metadata").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return bad("invalid_request", "Required metadata header not specified");
    }
    if request.headers.contains_key("x-forwarded-for") {
        return bad("invalid_request", "The request must not be forwarded");
    }
    match request.query("api-version") {
        Some(version) if API_VERSIONS.contains(&version) => {}
        Some(_) => return bad("invalid_request", "The api-version is not supported"),
        None => return bad("invalid_request", "Required query variable 'api-version' is missing"),
    }
    managed(state, request, request.query("client_id"))
}

/// A token of one of the machine's identities, whichever service is asked.
pub(super) fn managed(state: &Shared, request: &Request, client_id: Option<&str>) -> Reply {
    let Some(resource) = request.query("resource") else {
        return bad("invalid_request", "Required query variable 'resource' is missing");
    };
    if resource.trim_end_matches('/') != state.addresses.resource() {
        return bad("invalid_resource", "AADSTS500011: The resource principal was not found");
    }
    let wanted = client_id.map(str::to_ascii_lowercase);
    let found = lock(&state.identities)
        .iter()
        .find(|(id, identity)| match (&wanted, identity.holder) {
            (Some(wanted), Holder::Managed { .. }) => wanted == *id,
            (None, Holder::Managed { system }) => system,
            _ => false,
        })
        .map(|(id, identity)| (id.clone(), identity.epoch));
    let Some((client, epoch)) = found else { return bad("invalid_request", "Identity not found") };
    match grant(state, &client, epoch, resource) {
        Some(mut token) => {
            token["client_id"] = json!(client);
            state.log.token("managed");
            Reply::json(200, &token).by(&client)
        }
        None => Reply::json(500, &json!({ "error": "server_error" })),
    }
}

/// NMI of the archived AAD Pod Identity: one path, pod name and namespace as headers.
pub(super) fn nmi(state: &Shared, request: &Request) -> Reply {
    if request.path != "/host/token/" || request.method != "GET" {
        return Reply::text(404, "text/plain", "404 page not found\n");
    }
    let (Some(name), Some(namespace)) = (request.header("podname"), request.header("podns")) else {
        return Reply::text(
            400,
            "text/plain",
            "missing 'podname' and 'podns' from request header\n",
        );
    };
    let Some(resource) =
        request.query("resource").filter(|resource| *resource == state.addresses.resource())
    else {
        return Reply::text(400, "text/plain", "parameter resource is not usable\n");
    };
    let client = lock(&state.pods).get(&(namespace.to_owned(), name.to_owned())).cloned();
    let refuse = {
        let mut left = lock(&state.nmi_refusals);
        let refuse = *left > 0;
        *left = left.saturating_sub(1);
        refuse
    };
    let Some(client) = client.filter(|_| !refuse) else {
        return Reply::text(404, "text/plain", "no azure identity found for the pod\n");
    };
    let epoch = lock(&state.identities).get(&client).map(|identity| identity.epoch);
    match epoch.and_then(|epoch| grant(state, &client, epoch, resource)) {
        Some(token) => {
            state.log.token("pod");
            let body = json!({ "token": token, "clientid": client });
            Reply::json(200, &body).by(&client)
        }
        None => Reply::text(403, "text/plain", "no token for the pod\n"),
    }
}

/// A token in the spelling of these services: all numbers are strings.
fn grant(state: &Shared, client: &str, epoch: u64, resource: &str) -> Option<Value> {
    let lifetime = *lock(&state.token_lifetime);
    let audience = state.addresses.resource();
    let (token, end) = state.signer.mint(client, epoch, &audience, lifetime).ok()?;
    let lasts = lifetime.as_secs().to_string();
    Some(json!({
        "access_token": token, "token_type": "Bearer", "resource": resource,
        "expires_on": end.to_string(), "expires_in": lasts, "ext_expires_in": lasts,
        "not_before": (seconds(&state.clock) - 300).to_string(),
    }))
}

pub(super) fn bad(error: &str, description: &str) -> Reply {
    Reply::json(400, &json!({ "error": error, "error_description": description }))
}
