//! AKS identity binding: token requests that go to the cluster's token proxy instead of to Entra.
//!
//! The proxy stands behind the API server's address and is told apart by the TLS server name alone.
//! That name is derived from the cluster's id ([`sni`]), which the API server's certificate carries;
//! it is looked up on the first Mount of this mode, in a task of its own, so that a cluster without
//! the feature costs nothing. A failure is remembered for a while and told to these Mounts only. The
//! cluster's CA is re-read for every token request and trusted alone.

mod sni;

use std::sync::{Arc, Mutex as SyncMutex};
use std::time::{Duration, Instant};

use reqwest::header::HOST;
use reqwest::{Client, RequestBuilder, Url};
use tokio::sync::Mutex;

use crate::cloud::TokenProxy;
use crate::error::{Code, Error, Hop, Result};
use crate::http::{Exchange, Http, peer_certificate};

/// Limit of one look at the API server's certificate.
const LOOK_UP: Duration = Duration::from_secs(10);
/// A failed look-up answers this long.
const REMEMBERED: Duration = Duration::from_secs(15);
const MAX_CA: u64 = 1024 * 1024;

/// The way to the token proxy, found out once.
pub(super) struct Binding(Arc<Inner>);

struct Inner {
    http: Http,
    name: Mutex<Name>,
    /// The latest client with the roots it trusts.
    client: SyncMutex<Option<(Option<Vec<u8>>, Client)>>,
}

/// What is known of the proxy's TLS name.
#[derive(Default)]
struct Name {
    found: Option<String>,
    failed: Option<(Instant, Error)>,
}

impl Name {
    /// An answer that needs no look-up.
    fn known(&self, now: Instant) -> Option<Result<String>> {
        if let Some(name) = &self.found {
            return Some(Ok(name.clone()));
        }
        let (at, error) = self.failed.as_ref()?;
        (now.saturating_duration_since(*at) < REMEMBERED).then(|| Err(error.clone()))
    }
}

/// The way of one token request.
#[derive(Debug)]
pub(super) struct TokenRoute {
    client: Client,
    /// The proxy's URL, with the TLS name for a host.
    base: Url,
    /// The proxy's own host and port, for the Host header and for texts.
    host: String,
}

impl Binding {
    pub(super) fn new(http: Http) -> Self {
        Self(Arc::new(Inner { http, name: Mutex::default(), client: SyncMutex::default() }))
    }

    /// The way to the proxy, by `deadline`.
    pub(super) async fn route(&self, deadline: Instant) -> Result<TokenRoute> {
        // Its own task: the first caller's end does not end the look-up for the others.
        let work = tokio::spawn(self.0.clone().build());
        let route = match tokio::time::timeout_at(deadline.into(), work).await {
            Ok(Ok(route)) => route,
            Ok(Err(_)) => Err(Error::new(Code::Internal, "a task of akvfs failed")),
            Err(_) => Err(Error::new(Code::TimedOut, "no TLS name before the deadline")),
        };
        route.map_err(|error| error.at(Hop::Entra).context("proxy transport not available"))
    }
}

impl Inner {
    async fn build(self: Arc<Self>) -> Result<TokenRoute> {
        let proxy = self.http.endpoints().token_proxy.as_ref().ok_or_else(|| {
            Error::new(Code::IdentityUnavailable, "there is no token proxy outside a cluster")
        })?;
        let roots = roots(proxy).await?;
        let name = match proxy.sni.as_str() {
            "" => self.server_name(proxy, roots.as_deref()).await?,
            name => name.to_owned(),
        };
        let client = self.client(proxy, roots)?;
        TokenRoute::new(client, &proxy.url, &name)
    }

    async fn server_name(&self, proxy: &TokenProxy, roots: Option<&[u8]>) -> Result<String> {
        let mut name = self.name.lock().await;
        if let Some(known) = name.known(self.http.clock().now()) {
            return known;
        }
        let outcome = self.look_up(proxy, roots).await;
        match &outcome {
            Ok(found) => name.found = Some(found.clone()),
            Err(error) => name.failed = Some((self.http.clock().now(), error.clone())),
        }
        outcome
    }

    async fn look_up(&self, proxy: &TokenProxy, roots: Option<&[u8]>) -> Result<String> {
        let unavailable = |error: Error| {
            Error::new(Code::IdentityUnavailable, error.message().to_owned()).fix(
                "identity binding needs an AKS cluster that offers it, and cluster DNS in the \
                 provider's pod (dnsPolicy: ClusterFirstWithHostNet); or give --sni-name",
            )
        };
        let host = proxy.api_server.host_str().unwrap_or_default();
        let client = self.http.pinned(host, roots).map_err(unavailable)?;
        let what = format!("the certificate of {}", proxy.api_server);
        let exchange = Exchange {
            hop: Hop::Entra,
            what: &what,
            max_body: 0,
            deadline: Instant::now() + LOOK_UP,
        };
        let certificate = peer_certificate(client.get(proxy.api_server.clone()), exchange).await;
        certificate.and_then(|der| sni::of_certificate(&der)).map_err(unavailable)
    }

    /// The client that trusts these roots; the one at hand unless they changed.
    fn client(&self, proxy: &TokenProxy, roots: Option<Vec<u8>>) -> Result<Client> {
        let mut latest = self.client.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((known, client)) = latest.as_ref()
            && *known == roots
        {
            return Ok(client.clone());
        }
        let host = proxy.url.host_str().unwrap_or_default();
        let client = self
            .http
            .pinned(host, roots.as_deref())
            .map_err(|error| error.context(proxy.ca_file.display()))?;
        *latest = Some((roots, client.clone()));
        Ok(client)
    }
}

/// The cluster's CA, where there is one.
async fn roots(proxy: &TokenProxy) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let path = proxy.ca_file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut pem = Vec::new();
        std::fs::File::open(path)?.take(MAX_CA).read_to_end(&mut pem)?;
        Ok::<_, std::io::Error>(pem)
    });
    let failed = |kind: std::io::ErrorKind| {
        Error::new(Code::Local, format!("cannot read {}: {kind}", proxy.ca_file.display()))
    };
    match read.await {
        Ok(Ok(pem)) => Ok(Some(pem)),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Ok(Err(error)) => Err(failed(error.kind())),
        Err(_) => Err(failed(std::io::ErrorKind::Other)),
    }
}

impl TokenRoute {
    fn new(client: Client, proxy: &Url, name: &str) -> Result<Self> {
        let unusable = || Error::new(Code::IdentityUnavailable, "its TLS name is not a host name");
        let mut base = proxy.clone();
        base.set_host(Some(name)).map_err(|_| unusable())?;
        let mut host = proxy.host_str().unwrap_or_default().to_owned();
        if let Some(port) = proxy.port() {
            host.push_str(&format!(":{port}"));
        }
        Ok(Self { client, base, host })
    }

    /// The request that stands for one to `url`, and what it is called in texts.
    pub(super) fn post(&self, url: &Url) -> (RequestBuilder, String) {
        let mut to = self.base.clone();
        to.set_path(&format!("{}{}", self.base.path().trim_end_matches('/'), url.path()));
        to.set_query(url.query());
        let shown = format!("https://{}{}", self.host, to.path());
        (self.client.post(to).header(HOST, &self.host), shown)
    }
}

/// Adds what a refusal by the proxy usually means.
pub(super) fn explain(error: Error, client_id: &str) -> Error {
    if error.status() != Some(403) || error.likely_fix().is_some() {
        return error;
    }
    error.fix(format!(
        "let the pod's service account use the identity: a ClusterRole with apiGroup \
         cid.wi.aks.azure.com, verb use-managed-identity and resource name {}",
        crate::error::printable(client_id, 64)
    ))
}

#[cfg(test)]
mod tests;
