//! The token service: client credentials by secret or assertion, and the two discovery documents.

use serde_json::json;

use super::client_assertion;
use super::reply::{Reply, Request, pairs, trace_id};
use super::state::{Holder, Shared, TENANT};
use super::tokens;
use super::{lock, seconds};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// `proxied`: the cluster's token proxy asks, which vouches for tokens of its own audience.
pub(super) fn answer(state: &Shared, request: &Request, proxied: bool) -> Reply {
    let path = request.path.trim_start_matches('/');
    if request.method == "GET" && path == "common/discovery/instance" {
        return instances(state);
    }
    let Some((tenant, rest)) = path.split_once('/') else { return not_found() };
    // The same applications by the older protocol.
    if tenant == "adfs" && (request.method.as_str(), rest) == ("POST", "oauth2/token") {
        return token(state, request, From::Adfs).unwrap_or_else(|refused| refused);
    }
    if !tenant.eq_ignore_ascii_case(TENANT) {
        let why = "Tenant not found. Check to make sure you have the correct tenant ID.";
        return refusal(400, "invalid_request", 90002, why);
    }
    let from = if proxied { From::Proxy } else { From::Entra };
    match (request.method.as_str(), rest) {
        ("GET", "v2.0/.well-known/openid-configuration") => discovery(state),
        ("POST", "oauth2/v2.0/token") => match token(state, request, from) {
            Ok(reply) | Err(reply) => reply,
        },
        _ => not_found(),
    }
}

/// By which way a token request came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Entra,
    Adfs,
    Proxy,
}

fn token(state: &Shared, request: &Request, from: From) -> Result<Reply, Reply> {
    let form_type = request
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let form = match std::str::from_utf8(&request.body) {
        Ok(text) if form_type => pairs(text),
        _ => Vec::new(),
    };
    let field = |name: &str| {
        let found = form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty()).ok_or_else(|| {
            let why = format!("The request body must contain the following parameter: '{name}'.");
            refusal(400, "invalid_request", 900_144, &why)
        })
    };
    if field("grant_type")? != "client_credentials" {
        let why = "The app requested an unsupported grant type.";
        return Err(refusal(400, "unsupported_grant_type", 70003, why));
    }
    let client = field("client_id")?.to_ascii_lowercase();
    let scope = field("scope")?;

    let (mode, epoch) = {
        let identities = lock(&state.identities);
        let identity = identities
            .get(&client)
            .filter(|identity| identity.holder == Holder::Application)
            .ok_or_else(|| {
                let why = "Application was not found in the directory.";
                refusal(400, "unauthorized_client", 700_016, why)
            })?;
        let mode = if let Ok(assertion) = field("client_assertion")
            && client_assertion::is_by(assertion, &client)
        {
            let audience = match from {
                From::Adfs => format!("{}/adfs/oauth2/token", state.addresses.authority()),
                _ => format!("{}/oauth2/v2.0/token", state.authorization()),
            };
            let (known, now) = (&identity.certificates, seconds(&state.clock));
            client_assertion::check(assertion, &client, &audience, known, now)
                .map_err(|refused| refusal(401, "invalid_client", refused.number, refused.why))?;
            "certificate"
        } else if let Ok(assertion) = field("client_assertion") {
            if field("client_assertion_type")? != JWT_BEARER {
                let why = "The client_assertion_type is not supported.";
                return Err(refusal(400, "invalid_request", 900_144, why));
            }
            let (audience, accounts, mode) = match from == From::Proxy {
                true => (tokens::BINDING, &identity.bound, "binding"),
                false => (tokens::EXCHANGE, &identity.federated, "workload"),
            };
            state
                .issuer
                .check(assertion, audience, accounts)
                .map_err(|refused| refusal(401, "invalid_client", refused.number, refused.why))?;
            mode
        } else {
            let secret = field("client_secret").map_err(|_| {
                let why = "The request body must contain: 'client_assertion' or 'client_secret'.";
                refusal(401, "invalid_client", 7_000_218, why)
            })?;
            if !identity.secrets.iter().any(|known| known.expose() == secret.as_bytes()) {
                let why = "Invalid client secret provided.";
                return Err(refusal(401, "invalid_client", 7_000_215, why));
            }
            "service-principal"
        };
        (mode, identity.epoch)
    };

    let resource = resource(scope)?;
    if resource != state.addresses.resource() {
        let why = "The resource principal was not found in the tenant.";
        return Err(refusal(400, "invalid_resource", 500_011, why));
    }
    let lifetime = *lock(&state.token_lifetime);
    let (token, _) = state
        .signer
        .mint(&client, epoch, resource, lifetime)
        .map_err(|_| refusal(500, "server_error", 90033, "no randomness"))?;
    state.log.token(mode);
    let seconds = lifetime.as_secs();
    let body = json!({
        "token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds,
        "access_token": token,
    });
    Ok(Reply::json(200, &body).by(&client))
}

/// The one `RESOURCE/.default` of a scope; the OpenID scopes that some libraries add are ignored.
fn resource(scope: &str) -> Result<&str, Reply> {
    let mut resources = scope
        .split(' ')
        .filter(|part| !["", "openid", "offline_access", "profile"].contains(part))
        .map(|part| part.strip_suffix("/.default"));
    match (resources.next(), resources.next()) {
        (Some(Some(resource)), None) => Ok(resource),
        _ => {
            let why = "Client credential flows must have a scope value with /.default suffixed to \
                       the resource identifier.";
            Err(refusal(400, "invalid_scope", 1_002_012, why))
        }
    }
}

/// Entra's error shape.
pub(super) fn refusal(status: u16, error: &str, number: u32, why: &str) -> Reply {
    let body = json!({
        "error": error,
        "error_description": format!("AADSTS{number}: {why}"),
        "error_codes": [number],
        "trace_id": trace_id(),
        "correlation_id": trace_id(),
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    });
    Reply::json(status, &body)
}

fn not_found() -> Reply {
    Reply::text(404, "text/html", "<html><body>not found</body></html>")
}

fn discovery(state: &Shared) -> Reply {
    let base = state.authorization();
    let body = json!({
        "issuer": format!("{base}/v2.0"),
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "response_types_supported": ["token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    });
    Reply::json(200, &body)
}

fn instances(state: &Shared) -> Reply {
    let host = state.addresses.authority_host();
    let body = json!({
        "tenant_discovery_endpoint":
            format!("{}/v2.0/.well-known/openid-configuration", state.authorization()),
        "api-version": "1.1",
        "metadata": [{ "preferred_network": host, "preferred_cache": host, "aliases": [host] }],
    });
    Reply::json(200, &body)
}
