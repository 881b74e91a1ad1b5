//! Managed identity: tokens from the instance metadata service.
//!
//! Own code: the SDK retries for up to 72 seconds whatever the caller's deadline is, and accepts
//! `expires_on` in one spelling only. Whoever asks here tries again (see [`super::flight`]). Protocol: "How to use managed identities to acquire an access
//! token", api-version 2018-02-01.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::{Code, Error, Hop, Result};
use crate::http::{Answer, Exchange, Http, exchange, retry_after};
use crate::secret::Secret;

use super::Token;
use super::lifetime::Expiry;

const MAX_BODY: usize = 64 * 1024;
/// One try; IMDS answers in milliseconds when it is there.
const TRY: Duration = Duration::from_secs(5);
/// How long a look takes at whether it is there.
const PROBE: Duration = Duration::from_secs(1);

/// Asks once for a token for `scope` of the identity with this client id, or of the system-assigned one.
pub(super) async fn token(
    http: &Http,
    client_id: Option<&str>,
    scope: &str,
    deadline: Instant,
) -> Result<Token> {
    let url = format!("{}/metadata/identity/oauth2/token", http.endpoints().imds);
    let resource = scope.strip_suffix("/.default").unwrap_or(scope);
    let mut query = vec![("api-version", "2018-02-01"), ("resource", resource)];
    if let Some(id) = client_id {
        query.push(("client_id", id));
    }
    let request = http.link_local()?.get(&url).header("Metadata", "true").query(&query);
    let what = format!("GET {url}");
    let limits = Exchange {
        hop: Hop::Imds,
        what: &what,
        max_body: MAX_BODY,
        deadline: deadline.min(Instant::now() + TRY),
    };
    let answer = exchange(request, limits).await?;
    if answer.status != 200 {
        return Err(refused(&what, &answer, client_id));
    }
    parse(&answer.body, "IMDS")
}

/// Whether IMDS is there and answers at once. Without the header it gives no token, only a refusal.
pub(super) async fn answers(http: &Http) -> bool {
    let Ok(client) = http.link_local() else { return false };
    let url =
        format!("{}/metadata/identity/oauth2/token?api-version=2018-02-01", http.endpoints().imds);
    let exchanged = exchange(
        client.get(url),
        Exchange {
            hop: Hop::Imds,
            what: "IMDS",
            max_body: MAX_BODY,
            deadline: Instant::now() + PROBE,
        },
    );
    exchanged.await.is_ok()
}

/// No answer at all: this is no Azure machine, or the way is blocked.
pub(super) fn unreachable(error: &Error) -> Error {
    Error::new(Code::IdentityUnavailable, error.message().to_owned()).at(Hop::Imds).fix(
        "managed identity needs an Azure machine whose IMDS (169.254.169.254) is not blocked for \
         this process; in a pod, use workload identity",
    )
}

fn refused(what: &str, answer: &Answer, client_id: Option<&str>) -> Error {
    let code = match answer.status {
        429 => Code::Throttled,
        500.. => Code::Unavailable,
        _ => Code::IdentityUnavailable,
    };
    let error = Error::new(code, format!("{what}: RESPONSE {}", answer.status))
        .at(Hop::Imds)
        .answered(answer.status, None)
        .retry_after(retry_after(&answer.headers));
    match (code, client_id) {
        (Code::IdentityUnavailable, Some(_)) => error.fix(
            "assign this user-assigned identity to the machine (or scale set); \
             userAssignedIdentityID is its client id, not its object or resource id",
        ),
        (Code::IdentityUnavailable, None) => error
            .fix("switch the machine's system-assigned identity on, or set userAssignedIdentityID"),
        _ => error,
    }
}

/// The answer that all services of managed identities give.
pub(super) fn parse(body: &Secret, who: &str) -> Result<Token> {
    #[derive(Deserialize)]
    struct Wire {
        access_token: Secret,
        expires_on: Expiry,
    }
    let bad = |what: &str| {
        Error::new(Code::BadAnswer, format!("{who} answered 200, but {what}")).at(Hop::Imds)
    };
    let wire: Wire = serde_json::from_slice(body.expose())
        .map_err(|_| bad("without access_token and expires_on"))?;
    let expires = wire.expires_on.time().ok_or_else(|| bad("expires_on is not a time"))?;
    if wire.access_token.is_empty() {
        return Err(bad("access_token is empty"));
    }
    Ok(Token { bearer: wire.access_token, expires })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn both_spellings_of_the_end_are_read_and_others_are_errors_without_input() {
        for body in [
            r#"{"access_token":"canary-t","expires_on":"1700000000"}"#,
            r#"{"access_token":"canary-t","expires_on":1700000000}"#,
        ] {
            let token = parse(&Secret::from(body), "IMDS").unwrap();
            assert_eq!(token.expires, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
            assert_eq!(token.bearer.expose(), b"canary-t");
        }
        for body in [
            r#"{"access_token":"canary-t","expires_on":"canary"}"#,
            r#"{"access_token":"canary-t"}"#,
            r#"{"access_token":{"canary":1},"expires_on":"1"}"#,
            r#"{"access_token":"","expires_on":"1"}"#,
            "canary",
        ] {
            let error = match parse(&Secret::from(body), "IMDS") {
                Ok(_) => panic!("{body} was accepted"),
                Err(error) => format!("{error:?}"),
            };
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
