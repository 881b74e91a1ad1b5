//! Entra, IMDS, NMI and Key Vault on loopback: everything akvfs needs, without Azure.
//!
//! The double speaks TLS with a CA of its own that is made at start, and is no kinder than the
//! service: a vault answers 401 with a challenge until a token of this tenant, for its resource, not
//! expired, arrives; permissions are per client, object type and verb; lists come in pages of 25;
//! errors are the service's JSON. Entra and all vaults share one port and are told apart by host
//! name, as with the real ones; [`Names`] says which names. IMDS, NMI and the admin endpoint are
//! plain HTTP. A cluster's API server, with AKS' token proxy behind it, has a CA of its own.
//!
//! Tests steer it through [`Emulator::control`]; other processes through the admin endpoint, JSON
//! over POST (every field but `name`, `client` and `status` has a default):
//!
//! | Path | Body |
//! |---|---|
//! | `/rotate` | `{"name", "vault", "value"}`: a new version of a secret, or of a certificate |
//! | `/enable`, `/disable` | `{"name", "kind", "version", "vault"}`: the newest version, unless named |
//! | `/delete` | `{"name", "kind", "vault"}` |
//! | `/permission` | `{"client", "kind", "verb", "allow"}` |
//! | `/delay` | `{"ms"}` and where: `{"service", "vault", "path", "times"}` |
//! | `/throttle` | `{"retryAfter"}` and where |
//! | `/limit` | `{"perSecond", "retryAfter"}` and where: 429 for what comes faster |
//! | `/fail` | `{"status"}` and where |
//! | `/hang` | where |
//! | `/reset` | ends all faults, empties the log |
//!
//! `GET /requests` shows the log and counters, `GET /state` names and versions; never a value.

mod addresses;
mod admin;
mod client_assertion;
mod cluster;
mod connections;
mod control;
mod entra;
mod faults;
mod imds;
mod log;
mod machine;
mod reply;
mod seed;
mod serve;
mod state;
mod store;
mod tls;
mod tokens;
mod vault;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::cloud::{Cloud, Endpoints, Machine};
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

use addresses::Addresses;
pub use addresses::Names;
pub use control::Control;
pub use faults::{Fault, Service, Trouble, Where};
pub use log::{Counters, RequestRecord};
pub use seed::{CertificateSeed, KeySeed, Seed, client_certificate};
use state::Shared;
pub use state::{
    BINDING_CLIENT, POD_IDENTITY, SYSTEM_IDENTITY, TENANT, USER_IDENTITY, Verb, WORKLOAD_CLIENT,
};
pub use store::AccessModel;
pub use tokens::WorkloadToken;

/// How to start.
pub struct Config {
    /// What the vaults hold.
    pub seed: Seed,
    /// Entra and the vaults, by host name. Port 0: any free one.
    pub https: SocketAddr,
    /// IMDS; the only listener that may be elsewhere: at 169.254.169.254.
    pub imds: SocketAddr,
    /// NMI.
    pub nmi: SocketAddr,
    /// The admin endpoint.
    pub admin: SocketAddr,
    /// The cluster's API server with the token proxy.
    pub cluster: SocketAddr,
    /// Host names.
    pub names: Names,
    /// Whether HTTP/2 is offered; without it, every connection is HTTP/1.1.
    pub http2: bool,
    /// How long access tokens live.
    pub token_lifetime: Duration,
    /// Pods that NMI gives tokens to: namespace and name.
    pub pods: Vec<(String, String)>,
    /// How often NMI first says that a pod has no identity yet.
    pub nmi_refusals: u32,
    /// What time it is for tokens: those given, those checked, and those of service accounts.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            seed: Seed::default(),
            https: any,
            imds: any,
            nmi: any,
            admin: any,
            cluster: any,
            names: Names::default(),
            http2: true,
            token_lifetime: Duration::from_secs(3599),
            pods: vec![("default".to_owned(), "app".to_owned())],
            nmi_refusals: 0,
            clock: Clock::system(),
        }
    }
}

/// A running emulator. Dropping it closes every listener and connection.
pub struct Emulator {
    state: Arc<Shared>,
    ca_pem: String,
    imds: SocketAddr,
    nmi: SocketAddr,
    admin: SocketAddr,
    cluster: cluster::Cluster,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Emulator {
    /// Binds, fills the vaults and serves. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When an address is not loopback or is taken, or the seed cannot be built.
    pub async fn start(config: Config) -> Result<Self> {
        let link_local = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
        for (what, address) in [
            ("https", config.https),
            ("NMI", config.nmi),
            ("admin", config.admin),
            ("API server", config.cluster),
        ] {
            if !address.ip().is_loopback() {
                return Err(not_loopback(what, address));
            }
        }
        if !config.imds.ip().is_loopback() && config.imds.ip() != link_local {
            return Err(not_loopback("IMDS", config.imds));
        }
        let (https, https_at) = bind("https", config.https).await?;
        let (imds, imds_at) = bind("IMDS", config.imds).await?;
        let (nmi, nmi_at) = bind("NMI", config.nmi).await?;
        let (admin, admin_at) = bind("admin", config.admin).await?;

        let addresses = Addresses::new(config.names, https_at);
        let (api, api_at) = bind("API server", config.cluster).await?;
        let (acceptor, ca_pem) = tls::acceptor(&addresses.certificate_names(), config.http2)?;
        let state = Arc::new(Shared::new(addresses, &config)?);
        let (cluster_acceptor, cluster) = cluster::Cluster::new(api_at)?;
        let emulator = Self {
            state,
            cluster,
            ca_pem,
            imds: imds_at,
            nmi: nmi_at,
            admin: admin_at,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        emulator.serve(https, Some(acceptor), serve::Front::Secure);
        emulator.serve(imds, None, serve::Front::Imds);
        emulator.serve(nmi, None, serve::Front::Nmi);
        emulator.serve(admin, None, serve::Front::Admin);
        emulator.serve(api, Some(cluster_acceptor), serve::Front::Cluster);
        Ok(emulator)
    }

    fn serve(
        &self,
        listener: TcpListener,
        tls: Option<tokio_rustls::TlsAcceptor>,
        front: serve::Front,
    ) {
        let state = self.state.clone();
        let app = move |name: Option<&str>| {
            let front = match front {
                serve::Front::Cluster => cluster::front(name),
                front => front,
            };
            serve::app(state.clone(), front)
        };
        let counted = match front {
            serve::Front::Admin => None,
            _ => Some(self.state.connections.clone()),
        };
        serve::spawn(listener, tls, app, counted, &self.stop, &self.tasks);
    }

    /// Stops and waits until every connection is closed.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Where akvfs finds it: the public cloud's names lead here.
    pub fn endpoints(&self) -> Endpoints {
        let cloud = self.cloud();
        Endpoints {
            clouds: ["azurepubliccloud", "azurecloud"]
                .map(|name| (name.to_owned(), cloud.clone()))
                .into(),
            imds: format!("http://{}", self.imds),
            nmi: format!("http://{}", self.nmi),
            machine: Machine::Imds,
            token_proxy: self.cluster.token_proxy().ok(),
            extra_root: Some(self.ca_pem.clone()),
            resolve: [self.state.addresses.resolve(), self.cluster.resolve()].concat(),
        }
    }

    /// The same machine as an App Service would see it.
    pub fn app_service(&self) -> Machine {
        machine::app_service(&self.state, self.imds)
    }

    /// The same machine as an Azure Arc server, whose agent puts its key files into this directory.
    pub fn arc(&self, keys: &std::path::Path) -> Machine {
        machine::arc(&self.state, self.imds, keys)
    }

    /// The emulated cloud.
    pub fn cloud(&self) -> Cloud {
        self.state.addresses.cloud()
    }

    /// The CA certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The first vault of the seed.
    pub fn vault_name(&self) -> &str {
        &self.state.vault
    }

    /// `https://NAME.SUFFIX[:PORT]` of the first vault.
    pub fn vault_url(&self) -> String {
        self.state.addresses.vault_url(&self.state.vault)
    }

    /// The only tenant.
    pub fn tenant(&self) -> &str {
        TENANT
    }

    /// A client id with its secret, which is new at every start.
    pub fn service_principal(&self) -> (&str, Secret) {
        (state::SERVICE_PRINCIPAL, self.state.service_principal_secret.clone())
    }

    /// The client id that accepts service account tokens of `default/app`.
    pub fn workload_client_id(&self) -> &str {
        WORKLOAD_CLIENT
    }

    /// A service account token by the emulator's own issuer.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn workload_token(&self, token: &WorkloadToken) -> Result<Secret> {
        self.state.issuer.token(token)
    }

    /// An access token for the vaults, as a login of this client got it some way or other.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn access_token(&self, client: &str) -> Result<Secret> {
        let client = client.to_ascii_lowercase();
        let epoch = lock(&self.state.identities).get(&client).map_or(0, |found| found.epoch);
        let lifetime = *lock(&self.state.token_lifetime);
        let resource = self.state.addresses.resource();
        let (token, _) = self.state.signer.mint(&client, epoch, &resource, lifetime)?;
        Ok(Secret::from_string(token))
    }

    /// `http://ADDRESS` of the admin endpoint.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Rotation, permissions, faults and the request log.
    pub fn control(&self) -> Control {
        Control::new(self.state.clone())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn not_loopback(what: &str, address: SocketAddr) -> Error {
    Error::class(format!("the emulator's {what} address {address} is not loopback"))
        .fix("its secrets are for tests: use 127.0.0.1")
}

async fn bind(what: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let failed = |error: std::io::Error| {
        Error::new(Code::Local, format!("the emulator's {what} cannot listen: {}", error.kind()))
            .fix(format!("check what else uses {address}"))
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    Ok((listener, at))
}

/// Seconds since the epoch, by the system's clock: for what the vaults hold.
fn now() -> i64 {
    seconds(&Clock::system())
}

/// Seconds since the epoch.
fn seconds(clock: &Clock) -> i64 {
    let since = clock.wall().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}

/// `N` random bytes.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Error::new(Code::Local, "the system gives no random numbers"))?;
    Ok(bytes)
}

/// The lock, also when a test panicked while holding it.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
