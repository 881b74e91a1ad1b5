//! Pod identity: tokens from the node's NMI, for one pod at a time.
//!
//! AAD Pod Identity is archived, but clusters still run it. One GET names the pod in headers; NMI
//! knows which identity was assigned to it. Nothing is tried twice here: the assignment may lag
//! behind the pod, and kubelet repeats the whole Mount until it is there.

use std::time::Instant;

use serde::Deserialize;

use crate::class::Pod;
use crate::error::{Code, Error, Hop, Result};
use crate::http::{Answer, Exchange, Http, exchange, retry_after};
use crate::secret::Secret;

use super::Token;
use super::lifetime::Expiry;

const MAX_BODY: usize = 64 * 1024;
/// Longest client id that is kept.
const MAX_CLIENT_ID: usize = 128;

/// A token for `scope` of the identity assigned to this pod, with that identity's client id.
pub(super) async fn token(
    http: &Http,
    pod: &Pod,
    scope: &str,
    deadline: Instant,
) -> Result<(Token, String)> {
    served_here(cfg!(target_os = "linux"))?;
    let base = format!("{}/host/token/", http.endpoints().nmi);
    let resource = scope.strip_suffix("/.default").unwrap_or(scope);
    // As it is: NMI compares the resource without decoding it.
    let request = http
        .link_local()?
        .get(format!("{base}?resource={resource}"))
        .header("podname", &pod.name)
        .header("podns", &pod.namespace);
    let what = format!("GET {base}");
    let answer =
        exchange(request, Exchange { hop: Hop::Nmi, what: &what, max_body: MAX_BODY, deadline })
            .await
            .map_err(unreachable)?;
    if answer.status != 200 {
        return Err(refused(&answer));
    }
    parse(&answer.body)
}

/// NMI never existed for Windows nodes.
fn served_here(linux: bool) -> Result<()> {
    match linux {
        true => Ok(()),
        false => Err(Error::new(
            Code::IdentityUnavailable,
            "pod identity (usePodIdentity) works only on Linux nodes",
        )
        .at(Hop::Nmi)
        .fix("use workload identity: set clientID instead of usePodIdentity")),
    }
}

fn unreachable(error: Error) -> Error {
    Error::new(Code::IdentityUnavailable, error.message().to_owned()).at(Hop::Nmi).fix(
        "pod identity needs the NMI DaemonSet of AAD Pod Identity on this node (port 2579 of the \
         host network); AAD Pod Identity is archived: prefer workload identity",
    )
}

fn refused(answer: &Answer) -> Error {
    let status = answer.status;
    let code = match status {
        429 => Code::Throttled,
        500.. => Code::Unavailable,
        _ => Code::IdentityUnavailable,
    };
    Error::new(code, format!("nmi response failed with status code: {status}"))
        .at(Hop::Nmi)
        .answered(status, None)
        .retry_after(retry_after(&answer.headers))
        .fix(
            "check the pod's AzureIdentity and AzureIdentityBinding and its aadpodidbinding label; \
             right after the pod's creation the assignment may take a while, and kubelet tries again",
        )
}

fn parse(body: &Secret) -> Result<(Token, String)> {
    #[derive(Deserialize)]
    struct Wire {
        token: Option<Inner>,
        #[serde(default)]
        clientid: Option<String>,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(default)]
        access_token: Secret,
        expires_on: Option<Expiry>,
    }
    let bad = |why: &str| Error::new(Code::BadAnswer, why).at(Hop::Nmi);
    let unexpected = || bad("nmi did not return expected values in response: token and clientid");
    let wire: Wire = serde_json::from_slice(body.expose()).map_err(|_| unexpected())?;
    let (Some(token), Some(client_id)) = (wire.token, wire.clientid) else {
        return Err(unexpected());
    };
    if token.access_token.is_empty() || client_id.is_empty() || client_id.len() > MAX_CLIENT_ID {
        return Err(unexpected());
    }
    let expires = token.expires_on.as_ref().and_then(Expiry::time);
    let expires = expires.ok_or_else(|| bad("nmi returned an expires_on that is not a time"))?;
    Ok((Token { bearer: token.access_token, expires }, client_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_nmi_says_so() {
        assert!(served_here(true).is_ok());
        let error = served_here(false).unwrap_err();
        assert_eq!(error.code(), Code::IdentityUnavailable);
        assert!(error.to_string().contains("only on Linux"), "{error}");
    }

    #[test]
    fn token_and_client_id_are_both_needed_and_errors_quote_nothing() {
        for good in ["\"1700000000\"", "1700000000"] {
            let body = format!(
                r#"{{"token":{{"access_token":"canary-t","expires_on":{good}}},"clientid":"c"}}"#
            );
            let (token, client_id) = parse(&Secret::from(body)).unwrap();
            assert_eq!((token.bearer.expose(), client_id.as_str()), (&b"canary-t"[..], "c"));
        }
        const MISSING: &str = "nmi did not return expected values in response: token and clientid";
        for (body, text) in [
            ("canary", MISSING),
            ("{}", MISSING),
            (r#"{"token":{"access_token":"canary","expires_on":1}}"#, MISSING),
            (r#"{"token":{"access_token":"canary","expires_on":1},"clientid":""}"#, MISSING),
            (r#"{"token":{"access_token":"","expires_on":1},"clientid":"c"}"#, MISSING),
            (r#"{"token":"canary","clientid":"c"}"#, MISSING),
            (
                r#"{"token":{"access_token":"t","expires_on":"canary"},"clientid":"c"}"#,
                "nmi returned an expires_on that is not a time",
            ),
        ] {
            let error = parse(&Secret::from(body)).err().unwrap();
            assert_eq!((error.code(), error.message()), (Code::BadAnswer, text), "{body}");
        }
    }
}
