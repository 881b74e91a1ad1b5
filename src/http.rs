//! Outbound HTTP: the one place that builds clients and reads answers.
//!
//! Redirects are never followed, every exchange has a deadline, bodies are bounded and land in a
//! zeroizing buffer of their final size. Failures are sorted by hop (DNS, connect, TLS, the service)
//! before anyone else sees them, since "it did not work" is not an answer to whoever is paged.
//! There are two clients: one for Entra and the vaults (system roots, proxy variables honoured), one
//! for IMDS and NMI (plain HTTP, never proxied); `clients` tells how long their connections live.

mod clients;
mod failure;
mod first;
mod pinned;
mod proxy;
mod resolver;
mod retry;
mod roots;
mod user_agent;

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;

use crate::clock::Clock;
use crate::cloud::Endpoints;
use crate::error::{Code, Error, Hop, Result};
use crate::secret::Secret;

use clients::Clients;
pub use clients::Pool;
use failure::transport_error;
pub(crate) use pinned::peer_certificate;
pub use retry::Retry;
pub(crate) use retry::{is_transient, jitter};
pub use user_agent::UserAgent;

const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The outbound clients of the process, built on first use.
#[derive(Clone, Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoints: Endpoints,
    options: Options,
    clients: Clients,
}

/// How requests are made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How requests to vaults and Entra are tried again.
    pub retry: Retry,
    /// Who asks.
    pub user_agent: UserAgent,
    /// What time it is for tokens and values that come over these connections.
    pub clock: Clock,
    /// How connections are kept.
    pub pool: Pool,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Secret,
}

/// Which service a request goes to, for bounds and error texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    /// The service.
    pub(crate) hop: Hop,
    /// What is done, without query or secrets: `GET https://kv.vault.azure.net/secrets/name`.
    pub(crate) what: &'a str,
    /// Largest accepted body in bytes.
    pub(crate) max_body: usize,
    /// When the exchange must have ended.
    pub(crate) deadline: Instant,
}

impl Http {
    /// Clients for these endpoints. Nothing is opened or read before the first request.
    pub fn new(endpoints: Endpoints) -> Self {
        Self::with(endpoints, Options::default())
    }

    /// The same with other options.
    pub fn with(endpoints: Endpoints, options: Options) -> Self {
        // Another part of the process may have installed the same provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self(Arc::new(Inner { endpoints, options, clients: Clients::default() }))
    }

    /// How requests to vaults and Entra are tried again.
    pub(crate) fn retry(&self) -> Retry {
        self.0.options.retry
    }

    /// What time it is.
    pub(crate) fn clock(&self) -> &Clock {
        &self.0.options.clock
    }

    /// The endpoints the process was built with.
    pub fn endpoints(&self) -> &Endpoints {
        &self.0.endpoints
    }

    /// [`exchange`] with Entra or a vault: the first request to a host goes alone.
    pub(crate) async fn exchange(
        &self,
        request: RequestBuilder,
        ask: Exchange<'_>,
    ) -> Result<Answer> {
        let (client, request) = request.build_split();
        let request = request.map_err(|error| transport_error(&error, ask))?;
        let host = request.url().authority().to_owned();
        let (contacts, kept) = (&self.0.clients.contacts, self.0.options.pool.idle);
        let work = async {
            let contact = contacts.wait(&host, kept).await;
            let answer = attempt(RequestBuilder::from_parts(client, request), ask).await;
            match &answer {
                Ok(_) => contact.answered(),
                Err(error) => contact.failed(error),
            }
            answer
        };
        within(ask, work).await
    }
}

/// Sends a request and reads the whole answer, within the exchange's deadline and size.
pub(crate) async fn exchange(request: RequestBuilder, exchange: Exchange<'_>) -> Result<Answer> {
    within(exchange, attempt(request, exchange)).await
}

async fn attempt(request: RequestBuilder, exchange: Exchange<'_>) -> Result<Answer> {
    let mut response = request.send().await.map_err(|error| transport_error(&error, exchange))?;
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    let body = read_body(&mut response, exchange).await?;
    Ok(Answer { status, headers, body })
}

async fn within(
    exchange: Exchange<'_>,
    work: impl Future<Output = Result<Answer>>,
) -> Result<Answer> {
    match tokio::time::timeout_at(exchange.deadline.into(), work).await {
        Ok(result) => result,
        Err(_) => Err(late(exchange.what, exchange.hop)),
    }
}

/// The error for `what` that a service has not answered in time.
pub(crate) fn late(what: &str, hop: Hop) -> Error {
    Error::new(Code::TimedOut, format!("{what}: no answer before the deadline"))
        .at(hop)
        .fix("check that the node may reach this host, and the service's health")
}

/// Reads the body into one buffer that never moves: growing it would leave unwiped copies behind.
async fn read_body(response: &mut reqwest::Response, exchange: Exchange<'_>) -> Result<Secret> {
    let too_large = || {
        Error::new(
            Code::BadAnswer,
            format!("{}: the answer is larger than {} bytes", exchange.what, exchange.max_body),
        )
        .at(exchange.hop)
    };
    let expected = response.content_length().and_then(|n| usize::try_from(n).ok());
    if expected.is_some_and(|n| n > exchange.max_body) {
        return Err(too_large());
    }
    let capacity = expected.unwrap_or(exchange.max_body);
    let mut body = zeroize::Zeroizing::new(Vec::with_capacity(capacity));
    while let Some(chunk) =
        response.chunk().await.map_err(|error| transport_error(&error, exchange))?
    {
        if body.len() + chunk.len() > capacity {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Secret::new(std::mem::take(&mut *body)))
}

/// The service's answer to a 429 or 503: how long to stay away, in its three spellings. More than a
/// day is a day, so that every clock can add it.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| {
        let text = headers.get(name).and_then(|value| value.to_str().ok())?;
        text.trim().parse::<u64>().ok()
    };
    let millis = number("retry-after-ms").or_else(|| number("x-ms-retry-after-ms"));
    let wait = match millis {
        Some(millis) => Duration::from_millis(millis),
        None => Duration::from_secs(number("retry-after")?),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// The number that the service's support finds this request by. Only what looks like one is passed on:
/// the header is the peer's to fill.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("x-ms-request-id")
        .and_then(|value| value.to_str().ok())
        .filter(|id| is_trace_id(id))
}

/// A GUID, or something of its alphabet and about its length.
pub(crate) fn is_trace_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_its_three_spellings() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert("retry-after", "7".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        headers.insert("retry-after", u64::MAX.to_string().parse().unwrap());
        assert_eq!(retry_after(&headers), Some(MAX_RETRY_AFTER));
        headers.insert("x-ms-retry-after-ms", "250".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_request_id_is_one_or_nothing() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-ms-request-id", text.parse().unwrap());
            request_id(&headers).map(str::to_owned)
        };
        let guid = "b2c5a1d0-2f1e-4c7e-9c3c-0a1b2c3d4e5f";
        assert_eq!(id(guid).as_deref(), Some(guid));
        for bad in ["", "canary", "a b", &"a".repeat(65)] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
