//! Outbound HTTP: the one place that builds clients and reads answers.
//!
//! Redirects are never followed, every exchange has a deadline, bodies are bounded and land in a
//! zeroizing buffer of their final size. Failures are sorted by hop (DNS, connect, TLS, the service)
//! before anyone else sees them, since "it did not work" is not an answer to whoever is paged.
//! There are two clients: one for Entra and the vaults (system roots, proxy variables honoured), one
//! for IMDS and NMI (plain HTTP, never proxied).

mod pinned;
mod retry;
mod user_agent;

use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder};

use crate::clock::Clock;
use crate::cloud::Endpoints;
use crate::error::{Code, Error, Hop, Result, printable};
use crate::secret::Secret;

pub(crate) use pinned::peer_certificate;
pub use retry::Retry;
pub(crate) use retry::{is_transient, jitter};
pub use user_agent::UserAgent;

/// A TCP connection and TLS handshake that take longer are reported as such, although the request's
/// own deadline may be later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POOL_IDLE: Duration = Duration::from_secs(90);
const POOL_PER_HOST: usize = 64;
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The outbound clients of the process, built on first use.
#[derive(Clone, Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoints: Endpoints,
    options: Options,
    secure: OnceLock<Client>,
    link_local: OnceLock<Client>,
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
        let (secure, link_local) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Inner { endpoints, options, secure, link_local }))
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

    /// For Entra and the vaults: TLS only.
    pub(crate) fn secure(&self) -> Result<Client> {
        if let Some(client) = self.0.secure.get() {
            return Ok(client.clone());
        }
        let mut builder = self
            .common()
            .https_only(true)
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            .dns_resolver(Resolver(Arc::new(self.0.endpoints.resolve.clone())));
        if !self.0.endpoints.resolve.is_empty() {
            // These hosts are on this machine; no proxy could find them.
            builder = builder.no_proxy();
        }
        if let Some(pem) = &self.0.endpoints.extra_root {
            let root = reqwest::Certificate::from_pem(pem.as_bytes())
                .map_err(|_| Error::new(Code::Local, "the extra root certificate is not PEM"))?;
            builder = builder.add_root_certificate(root);
        }
        let client = builder.build().map_err(|error| {
            Error::new(Code::Local, format!("TLS cannot be set up: {}", deepest(&error)))
                .at(Hop::Tls)
                .fix("install ca-certificates, or point SSL_CERT_FILE at a bundle of root certificates")
        })?;
        Ok(self.0.secure.get_or_init(|| client).clone())
    }

    /// For IMDS and NMI: never through a proxy, no TLS.
    pub(crate) fn link_local(&self) -> Result<Client> {
        if let Some(client) = self.0.link_local.get() {
            return Ok(client.clone());
        }
        let client = self
            .common()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .map_err(|_| Error::new(Code::Local, "the HTTP client cannot be set up"))?;
        Ok(self.0.link_local.get_or_init(|| client).clone())
    }

    fn common(&self) -> reqwest::ClientBuilder {
        Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_PER_HOST)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .user_agent(self.0.options.user_agent.value())
    }
}

/// Sends a request and reads the whole answer, within the exchange's deadline and size.
pub(crate) async fn exchange(request: RequestBuilder, exchange: Exchange<'_>) -> Result<Answer> {
    let work = async {
        let mut response =
            request.send().await.map_err(|error| transport_error(&error, exchange))?;
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let body = read_body(&mut response, exchange).await?;
        Ok(Answer { status, headers, body })
    };
    match tokio::time::timeout_at(exchange.deadline.into(), work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            Code::TimedOut,
            format!("{}: no answer before the deadline", exchange.what),
        )
        .at(exchange.hop)
        .fix("check that the node may reach this host, and the service's health")),
    }
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

/// Sorts a transport failure by hop. The texts of the layers below name addresses and certificate
/// faults, never content.
fn transport_error(error: &reqwest::Error, exchange: Exchange<'_>) -> Error {
    let cause = deepest(error);
    let what = exchange.what;
    if error.is_dns() {
        return Error::new(
            Code::Unavailable,
            format!("{what}: the name cannot be resolved: {cause}"),
        )
        .at(Hop::Dns)
        .fix("check the vault or cloud name, and DNS on this node");
    }
    if find::<rustls::Error>(error).is_some() {
        return Error::new(Code::Unavailable, format!("{what}: TLS failed: {cause}"))
            .at(Hop::Tls)
            .fix("a proxy that re-signs traffic needs its root in SSL_CERT_FILE; check the clock too");
    }
    if error.is_connect() {
        return Error::new(Code::Unavailable, format!("{what}: cannot connect: {cause}"))
            .at(Hop::Connect)
            .fix("check firewall, private endpoint and proxy settings of this node");
    }
    if error.is_timeout() {
        return Error::new(Code::TimedOut, format!("{what}: no answer in time")).at(exchange.hop);
    }
    Error::new(Code::Unavailable, format!("{what}: the connection broke: {cause}")).at(exchange.hop)
}

/// The innermost cause: the only text of a chain that says something new.
fn deepest(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    printable(&cause.to_string(), 256)
}

/// The first error of type `T` in the chain. An `io::Error` is looked into: its `source` skips what it
/// wraps, and the TLS layers wrap one in another.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = current.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => current.source(),
        };
    }
    None
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

/// Fixed addresses for the names the process was built with, loopback for `localhost` and names
/// below it (RFC 6761 6.3), the system's resolver for all others.
#[derive(Clone)]
struct Resolver(Arc<Vec<(String, SocketAddr)>>);

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
        let below = |suffix: &str| {
            host == suffix || host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
        };
        let fixed =
            self.0.iter().find(|(suffix, _)| below(suffix)).map(|(_, address)| *address).or_else(
                || below("localhost").then(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)),
            );
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = match fixed {
                // Port 0: the URL's port counts.
                Some(address) => vec![SocketAddr::new(address.ip(), 0)],
                None => tokio::net::lookup_host((host, 0)).await?.collect(),
            };
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
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

    #[test]
    fn a_cause_is_found_through_nested_io_errors() {
        let tls = rustls::Error::DecryptError;
        let nested = std::io::Error::other(std::io::Error::other(tls));
        assert!(find::<rustls::Error>(&nested).is_some());
        assert!(find::<rustls::Error>(&std::io::Error::other("x")).is_none());
    }

    #[tokio::test]
    async fn names_below_a_fixed_suffix_resolve_to_its_address_and_others_do_not() {
        use reqwest::dns::Resolve;
        let fixed: SocketAddr = "127.0.0.9:443".parse().unwrap();
        let resolver = Resolver(Arc::new(vec![("akvfs.test".to_owned(), fixed)]));
        for (name, address) in [
            ("kv.vault.akvfs.test", "127.0.0.9"),
            ("AKVFS.test", "127.0.0.9"),
            ("kv.vault.localhost", "127.0.0.1"),
        ] {
            let found: Vec<_> = resolver.resolve(name.parse().unwrap()).await.unwrap().collect();
            assert_eq!(found, [SocketAddr::new(address.parse().unwrap(), 0)], "{name}");
        }
        assert!(resolver.resolve("notakvfs.test".parse().unwrap()).await.is_err());
    }
}
