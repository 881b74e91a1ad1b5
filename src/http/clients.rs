//! The two clients, and how long their connections live.
//!
//! Connections are kept for [`Pool::idle`] without a request, [`Pool::per_host`] to a host at most.
//! However many vaults classes may name, then, the connections to them end with the requests.
//!
//! A connection that works would stay where it leads for ever, also when its name has moved: a vault that
//! got a private endpoint is still reached by its public address, until that refuses. So new requests get
//! new connections every [`Pool::renewal`], and at once ([`Http::renew`]) when a vault's network rules
//! refuse us; requests under way end on the old ones. TLS sessions and the roots outlive that: a new
//! connection costs no full handshake.
//!
//! A peer that is gone without a word is noticed while a request waits for it: by HTTP/2 pings, and on
//! Linux by the kernel when sent bytes are not acknowledged. That is sooner than the limit of a second
//! try, which then gets another connection. (HTTP/1.1 closes a connection whose request was given up.)

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Client;

use crate::error::{Code, Error, Hop, Result};

use super::Http;
use super::failure::printable_cause;
use super::first::Contacts;
use super::proxy;
use super::resolver::Resolver;
use super::roots;

/// A TCP connection and TLS handshake that take longer are reported as such, although the request's
/// own deadline may be later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// While requests wait on an HTTP/2 connection, it is pinged so often, and is dead without a reply.
const PING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));
/// The same for what was sent and not acknowledged. Idle connections are probed.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));
/// [`Http::renew`] does nothing more often than this: who asks may be refused for good.
const RENEWED: Duration = Duration::from_secs(30);

/// How connections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How long without a request.
    pub idle: Duration,
    /// Most idle ones to one host.
    pub per_host: usize,
    /// New requests get new connections so often, by the process's clock.
    pub renewal: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { idle: seconds(90), per_host: 64, renewal: seconds(600) }
    }
}

/// The clients, built on first use.
#[derive(Debug, Default)]
pub(super) struct Clients {
    tls: OnceLock<Tls>,
    /// With its time of birth.
    secure: Mutex<Option<(Client, Instant)>>,
    link_local: OnceLock<Client>,
    pub(super) contacts: Contacts,
}

/// Roots and TLS sessions.
#[derive(Clone)]
struct Tls(rustls::ClientConfig);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Http {
    /// For Entra and the vaults: TLS only. Not to be kept: a later call may give a newer one.
    pub(crate) fn secure(&self) -> Result<Client> {
        let clients = &self.0.clients;
        let mut secure = clients.secure.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock().now();
        if let Some((client, born)) = secure.as_ref()
            && now.saturating_duration_since(*born) < self.0.options.pool.renewal
        {
            return Ok(client.clone());
        }
        let mut builder = self
            .common()
            .https_only(true)
            .tls_backend_preconfigured(self.tls()?.0)
            .dns_resolver(Resolver::new(self.0.endpoints.resolve.clone()));
        if !self.0.endpoints.resolve.is_empty() {
            // These hosts are on this machine; no proxy could find them.
            builder = builder.no_proxy();
        } else {
            proxy::check()?;
        }
        let client = builder.build().map_err(|error| unusable(&error))?;
        clients.contacts.forget();
        *secure = Some((client.clone(), now));
        Ok(client)
    }

    /// New requests get new connections, which find hosts that have moved.
    pub(crate) fn renew(&self) {
        let now = self.clock().now();
        let mut secure = self.0.clients.secure.lock().unwrap_or_else(PoisonError::into_inner);
        if secure.as_ref().is_some_and(|(_, born)| now.saturating_duration_since(*born) >= RENEWED)
        {
            *secure = None;
        }
    }

    /// For IMDS and NMI: never through a proxy, no TLS.
    pub(crate) fn link_local(&self) -> Result<Client> {
        let link_local = &self.0.clients.link_local;
        if let Some(client) = link_local.get() {
            return Ok(client.clone());
        }
        let client = self
            .common()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .map_err(|_| Error::new(Code::Local, "the HTTP client cannot be set up"))?;
        Ok(link_local.get_or_init(|| client).clone())
    }

    pub(super) fn common(&self) -> reqwest::ClientBuilder {
        let pool = self.0.options.pool;
        let builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(pool.idle)
            .pool_max_idle_per_host(pool.per_host)
            .http2_keep_alive_interval(PING.0)
            .http2_keep_alive_timeout(PING.1)
            .tcp_keepalive(PROBE.0)
            .tcp_keepalive_interval(PROBE.1)
            .user_agent(self.0.options.user_agent.value());
        #[cfg(target_os = "linux")]
        let builder = builder.tcp_user_timeout(UNACKNOWLEDGED);
        builder
    }

    /// The system's roots (`SSL_CERT_FILE`, `SSL_CERT_DIR`), and those that the process was built with.
    fn tls(&self) -> Result<Tls> {
        let tls = &self.0.clients.tls;
        if let Some(tls) = tls.get() {
            return Ok(tls.clone());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = roots::verifier(self.0.endpoints.extra_root.as_deref(), &provider)?;
        // TLS 1.2 and 1.3.
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            // "Dangerous" is what rustls calls every verifier but its own; this one is the system's.
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(tls.get_or_init(|| Tls(config)).clone())
    }
}

pub(super) fn unusable(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(Code::Local, format!("TLS cannot be set up: {}", printable_cause(error)))
        .at(Hop::Tls)
        .fix("install ca-certificates, or point SSL_CERT_FILE at a bundle of root certificates")
}
