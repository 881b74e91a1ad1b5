//! Tokens from Entra by client secret or client assertion, with the SDK's credentials.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret as AzureSecret, TokenCredential};
use azure_core::http::{
    ClientMethodOptions, ClientOptions, RetryOptions, Transport as AzureTransport,
};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions,
};
use serde::Deserialize;

use crate::clock::Clock;
use crate::cloud::Cloud;
use crate::error::{Code, Error, Hop, Result};
use crate::http::{Answer, is_trace_id, request_id, retry_after};
use crate::secret::Secret;

use super::Token;
use super::transport::{Route, Transport};

pub(super) fn client_secret(
    route: Route,
    cloud: &Cloud,
    tenant: &str,
    client_id: &str,
    secret: &Secret,
) -> Result<Arc<dyn TokenCredential>> {
    let text = secret.expose_str().unwrap_or_default().to_owned();
    let options = ClientSecretCredentialOptions { client_options: options(route, cloud) };
    let credential = ClientSecretCredential::new(
        tenant,
        client_id.to_owned(),
        AzureSecret::new(text),
        Some(options),
    )
    .map_err(|error| translate(&error))?;
    Ok(credential)
}

pub(super) fn client_assertion(
    route: Route,
    cloud: &Cloud,
    tenant: &str,
    client_id: &str,
    assertion: &Secret,
) -> Result<Arc<dyn TokenCredential>> {
    let options = ClientAssertionCredentialOptions { client_options: options(route, cloud) };
    let credential = ClientAssertionCredential::new(
        tenant.to_owned(),
        client_id.to_owned(),
        Held(assertion.clone()),
        Some(options),
    )
    .map_err(|error| translate(&error))?;
    Ok(credential)
}

/// Asks once; the deadline covers everything the SDK does. Entra says how long the token lives, so its
/// end is known although its clock and ours may differ.
pub(super) async fn token(
    credential: &dyn TokenCredential,
    scope: &str,
    clock: &Clock,
    deadline: Instant,
) -> Result<Token> {
    let scopes = [scope];
    let request = credential.get_token(&scopes, None);
    let token = match tokio::time::timeout_at(deadline.into(), request).await {
        Ok(Ok(token)) => token,
        Ok(Err(error)) => return Err(translate(&error)),
        Err(_) => {
            return Err(Error::new(Code::TimedOut, "Entra gave no token before the deadline")
                .at(Hop::Entra)
                .fix("check that the node may reach the token service"));
        }
    };
    // The SDK added the lifetime to the system's clock, a moment ago.
    let seconds = u64::try_from(token.expires_on.unix_timestamp()).unwrap_or(0);
    let lifetime = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .and_then(|end| end.duration_since(SystemTime::now()).ok())
        .unwrap_or_default();
    let expires = clock.wall().checked_add(lifetime).unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Token { bearer: Secret::from(token.token.secret()), expires })
}

fn options(route: Route, cloud: &Cloud) -> ClientOptions {
    let mut custom = CustomConfiguration::default();
    custom.authority_host = cloud.authority_host().to_owned();
    ClientOptions {
        cloud: Some(Arc::new(CloudConfiguration::from(custom))),
        // Retrying is decided by whoever knows the caller's deadline, not inside one attempt.
        retry: RetryOptions::none(),
        transport: Some(AzureTransport::new(Arc::new(Transport(route)))),
        ..ClientOptions::default()
    }
}

/// The assertion of this very request, held in memory.
struct Held(Secret);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(***)")
    }
}

#[async_trait::async_trait]
impl ClientAssertion for Held {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.expose_str().unwrap_or_default().to_owned())
    }
}

/// Turns the SDK's error into ours, which travels inside: [`checked`] made it. The SDK's own texts quote
/// the answer.
fn translate(error: &azure_core::Error) -> Error {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(ours) = current.downcast_ref::<Error>() {
            return ours.clone();
        }
        cause = current.source();
    }
    unusable()
}

fn unusable() -> Error {
    Error::new(Code::BadAnswer, "Entra's answer could not be used")
        .at(Hop::Entra)
        .fix("check cloudName, and what answers at the token service's name")
}

/// Looks at an answer before the SDK does: of errors it reads only JSON without escapes, and of tokens
/// it takes an empty one, or one whose end no clock can show.
pub(super) fn checked(answer: Answer) -> Result<Answer> {
    #[derive(Deserialize)]
    struct Wire {
        access_token: Secret,
        expires_in: u32,
    }
    if !(200..300).contains(&answer.status) {
        return Err(refused(&answer));
    }
    match serde_json::from_slice::<Wire>(answer.body.expose()) {
        Ok(Wire { access_token, expires_in }) if !access_token.is_empty() && expires_in > 0 => {
            Ok(answer)
        }
        _ => Err(unusable()),
    }
}

/// Entra answered with an error status. Only that, the first of Entra's own numbers and the ids that its
/// sign-in log knows are kept.
fn refused(answer: &Answer) -> Error {
    #[derive(Deserialize)]
    struct Fault {
        error_codes: Vec<u32>,
    }
    let status = answer.status;
    let fault = serde_json::from_slice::<Fault>(answer.body.expose()).ok();
    let number = fault.and_then(|fault| fault.error_codes.first().map(u32::to_string));
    let service_code = number.as_ref().map(|number| format!("AADSTS{number}"));
    let code = match status {
        429 => Code::Throttled,
        500.. => Code::Unavailable,
        400 | 401 | 403 => Code::Unauthenticated,
        _ => Code::BadAnswer,
    };
    let shown = service_code.as_deref().unwrap_or("no AADSTS code");
    let traced = traced(answer);
    let text = format!("Entra refused the token request: RESPONSE {status}, {shown}{traced}");
    let error = Error::new(code, text).at(Hop::Entra).retry_after(retry_after(&answer.headers));
    let error = match number.as_deref().and_then(likely_fix) {
        Some(fix) => error.fix(fix),
        None if code == Code::BadAnswer => {
            error.fix("check cloudName, and what answers at the token service's name")
        }
        None => error,
    };
    error.answered(status, service_code)
}

/// ` (trace id ..., correlation id ...)`, as far as the answer names them.
fn traced(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Traced {
        trace_id: Option<String>,
        correlation_id: Option<String>,
    }
    let body = serde_json::from_slice::<Traced>(answer.body.expose()).ok();
    let (trace, correlation) =
        body.map_or((None, None), |body| (body.trace_id, body.correlation_id));
    let header = || request_id(&answer.headers).map(str::to_owned);
    let ids = [("trace id", trace.or_else(header)), ("correlation id", correlation)]
        .into_iter()
        .filter_map(|(name, id)| Some((name, id.filter(|id| is_trace_id(id))?)))
        .map(|(name, id)| format!("{name} {id}"))
        .collect::<Vec<_>>()
        .join(", ");
    if ids.is_empty() { ids } else { format!(" ({ids})") }
}

/// The codes that users meet, and what helped them.
fn likely_fix(number: &str) -> Option<&'static str> {
    Some(match number {
        "7000215" => "the client secret is wrong: use the secret's value, not its id",
        "7000222" => "the client secret has expired: create a new one and update the Secret",
        "700016" => {
            "no app registration with this client id in this tenant: check clientID and tenantID"
        }
        "700027" => {
            "the app registration does not know this certificate, or it has expired: upload its \
             public part there"
        }
        "90002" => "no such tenant: check tenantID and cloudName",
        "70021" | "700213" | "700211" | "7002138" => {
            "no federated credential matches: its issuer, subject \
             (system:serviceaccount:NAMESPACE:NAME) and audience must equal the token's"
        }
        "700024" => "the service account token has expired, or the node's clock is off",
        "50013" | "5002723" => {
            "the service account token's signature was not accepted: check the issuer URL"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, headers: Default::default(), body: Secret::from(body) }
    }

    #[test]
    fn a_refusal_keeps_status_and_number_and_names_a_fix() {
        let refused = |status, body: &str| refused(&answer(status, body));
        let error = refused(401, r#"{"error_codes":[7000215],"error_description":"a\r\nb"}"#);
        assert_eq!(error.code(), Code::Unauthenticated);
        assert_eq!(error.service_code(), Some("AADSTS7000215"));
        assert!(error.to_string().contains("RESPONSE 401, AADSTS7000215"), "{error}");
        assert!(error.likely_fix().unwrap().contains("client secret is wrong"));
        assert_eq!(refused(503, "<html>").code(), Code::Unavailable);
        assert_eq!(refused(302, "").code(), Code::BadAnswer);
        assert_eq!(refused(429, r#"{"error_codes":["x"]}"#).service_code(), None);
    }

    #[test]
    fn trace_ids_are_told_when_they_are_ids() {
        let told = |body: &str| traced(&answer(400, body));
        assert_eq!(
            told(r#"{"trace_id":"0a-1b","correlation_id":"2c"}"#),
            " (trace id 0a-1b, correlation id 2c)"
        );
        assert_eq!(told(r#"{"trace_id":"canary!","correlation_id":"2c"}"#), " (correlation id 2c)");
        for body in [r#"{"trace_id":7}"#, "{}", "<html>", ""] {
            assert_eq!(told(body), "", "{body}");
        }
    }

    #[test]
    fn a_token_must_be_one_and_end() {
        assert!(checked(answer(200, r#"{"access_token":"t","expires_in":3599}"#)).is_ok());
        for body in [
            "{}",
            "",
            r#"{"access_token":"","expires_in":3599}"#,
            r#"{"access_token":"t"}"#,
            r#"{"access_token":"t","expires_in":0}"#,
            r#"{"access_token":"t","expires_in":-1}"#,
            r#"{"access_token":"t","expires_in":9223372036854775807}"#,
        ] {
            assert_eq!(checked(answer(200, body)).err().map(|e| e.code()), Some(Code::BadAnswer));
        }
    }
}
