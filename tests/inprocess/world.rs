//! A whole world in one process: emulator, provider on a real socket, and a driver that calls it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use akvfs::app::{self, CsiServer};
use akvfs::clock::Clock;
use akvfs::cloud::{CloudSource, Endpoints, Machine};
use akvfs::csi::client;
use akvfs::csi::mount::Mounter;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::csi::proto::{MountRequest, MountResponse};
use akvfs::delivery::response;
use akvfs::emulator::{Config, Control, Emulator, Seed, WorkloadToken};
use akvfs::fetch::{self, Fetch, Source};
use akvfs::http::{self, Http, Retry, UserAgent};
use akvfs::render;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::canary;
use crate::seeds;

/// With the ages of these tests.
pub fn new_fetch(http: Http) -> Fetch {
    let options = fetch::Options { ages: crate::ages(), ..fetch::Options::default() };
    Fetch::with(http, options).unwrap()
}

/// As many tries as in the field, without the pauses between them.
pub fn quick() -> http::Options {
    let retry =
        Retry { tries: 4, pause: Duration::from_micros(100), longest: Duration::from_secs(60) };
    let user_agent = UserAgent::new("managedBy:tests").unwrap();
    http::Options { retry, user_agent, ..http::Options::default() }
}

/// The emulator, a provider that asks it, and a connection to the provider.
pub struct World {
    pub emulator: Emulator,
    pub control: Control,
    pub stop: CancellationToken,
    pub server: CsiServer,
    pub channel: Channel,
    pub dir: tempfile::TempDir,
    /// The provider's; the services' too, unless the test gave them another.
    pub clock: Clock,
}

/// Attributes and secrets of a Mount, as the driver sends them.
#[derive(Clone)]
pub struct Call {
    pub attributes: BTreeMap<String, String>,
    pub secrets: Value,
    pub target: String,
}

impl World {
    pub async fn start(seed: Seed) -> Self {
        Self::with(seed, new_fetch).await
    }

    /// With values from `source` instead of the vault; identities stay real.
    pub async fn with_source(seed: Seed, source: Arc<dyn Source>) -> Self {
        Self::with(seed, |http| Fetch::with_source(http, source).unwrap()).await
    }

    /// With `--write-cert-and-key-in-separate-files`.
    pub async fn with_separate_files(seed: Seed) -> Self {
        let render = render::Options { separate_files: true, ..render::Options::default() };
        Self::rendering(seed, |_, _| {}, new_fetch, render).await
    }

    /// With one clock for the provider, and another one for the services.
    pub async fn with_clocks(seed: Seed, clock: Clock, services: Clock) -> Self {
        Self::with_options(seed, http::Options { clock, ..quick() }, services).await
    }

    /// With another way to make requests.
    pub async fn with_options(seed: Seed, options: http::Options, services: Clock) -> Self {
        let config = Config { seed, clock: services, ..Config::default() };
        Self::started(config, options, |_, _| {}, new_fetch, render::Options::default()).await
    }

    async fn with(seed: Seed, fetch: impl FnOnce(Http) -> Fetch) -> Self {
        Self::rendering(seed, |_, _| {}, fetch, render::Options::default()).await
    }

    /// On a machine that has another token service than IMDS.
    pub async fn with_machine(seed: Seed, machine: impl FnOnce(&Emulator) -> Machine) -> Self {
        let change = |emulator: &Emulator, endpoints: &mut Endpoints| {
            endpoints.machine = machine(emulator);
        };
        Self::with_endpoints(seed, change, new_fetch).await
    }

    /// With addresses that differ from the emulator's own.
    pub async fn with_endpoints(
        seed: Seed,
        change: impl FnOnce(&Emulator, &mut Endpoints),
        fetch: impl FnOnce(Http) -> Fetch,
    ) -> Self {
        Self::rendering(seed, change, fetch, render::Options::default()).await
    }

    async fn rendering(
        seed: Seed,
        change: impl FnOnce(&Emulator, &mut Endpoints),
        fetch: impl FnOnce(Http) -> Fetch,
        render: render::Options,
    ) -> Self {
        let clock = Clock::adjustable();
        let config = Config { seed, clock: clock.clone(), ..Config::default() };
        let options = http::Options { clock, ..quick() };
        Self::started(config, options, change, fetch, render).await
    }

    pub async fn started(
        config: Config,
        http: http::Options,
        change: impl FnOnce(&Emulator, &mut Endpoints),
        fetch: impl FnOnce(Http) -> Fetch,
        render: render::Options,
    ) -> Self {
        canary::capture_logs();
        let emulator = Emulator::start(config).await.unwrap();
        let (_, secret) = emulator.service_principal();
        canary::note("client secret", secret.expose());
        let mut endpoints = emulator.endpoints();
        change(&emulator, &mut endpoints);
        let dir = tempfile::tempdir().unwrap();
        let clouds =
            CloudSource::new(endpoints.clone(), "AzurePublicCloud", dir.path().to_owned()).unwrap();
        let options = response::Options { render, ..response::Options::default() };
        let stop = CancellationToken::new();
        let socket = dir.path().join("azure.sock");
        let clock = http.clock.clone();
        let http = Http::with(endpoints, http);
        let mounter = Mounter::new(fetch(http), clouds, options);
        let server = app::serve_csi(mounter, socket.clone(), stop.clone()).unwrap();
        let channel = client::connect(socket).await.unwrap();
        Self { control: emulator.control(), emulator, stop, server, channel, dir, clock }
    }

    /// Long enough for every value to be asked for anew, and for no refusal to be remembered.
    pub fn later(&self) {
        self.clock.advance(Duration::from_secs(61));
    }

    /// A call with the service principal, for these entries of `objects`.
    pub fn call(&self, objects: &[&str]) -> Call {
        call_of(&self.emulator, objects)
    }

    /// The same for the first so many of [`seeds::many`].
    pub fn call_for(&self, count: usize) -> Call {
        let entries: Vec<String> = (0..count).map(|n| secret(&seeds::nth(n))).collect();
        self.call(&entries.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same with a service account token.
    pub fn workload_call(&self, objects: &[&str], token: &WorkloadToken) -> Call {
        let token = self.emulator.workload_token(token).unwrap();
        canary::note("service account token", token.expose());
        let mut call = self.call(objects);
        call.secrets = Value::Null;
        call.set("clientID", self.emulator.workload_client_id());
        call.set(
            "csi.storage.k8s.io/serviceAccount.tokens",
            &json!({"api://AzureADTokenExchange": {
                "token": token.expose_str().unwrap(),
                "expirationTimestamp": "2030-01-01T00:00:00Z"}})
            .to_string(),
        );
        call
    }

    pub async fn mount(&self, call: &Call) -> Result<MountResponse, Status> {
        self.mount_within(call, Duration::from_secs(60)).await
    }

    /// As the driver calls: with its own deadline in the request.
    pub async fn mount_within(
        &self,
        call: &Call,
        timeout: Duration,
    ) -> Result<MountResponse, Status> {
        self.mount_raw(call.request(), timeout).await
    }

    pub async fn mount_raw(
        &self,
        request: MountRequest,
        timeout: Duration,
    ) -> Result<MountResponse, Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(timeout);
        let outcome = CsiDriverProviderClient::new(self.channel.clone()).mount(request).await;
        // What the driver would write into events and logs.
        if let Err(status) = &outcome {
            canary::record("statuses", &format!("{status:?} {status}"));
        }
        outcome.map(tonic::Response::into_inner)
    }
}

/// A call with the emulator's service principal, for these entries of `objects`.
pub fn call_of(emulator: &Emulator, objects: &[&str]) -> Call {
    let (client_id, secret) = emulator.service_principal();
    let mut call = Call {
        attributes: BTreeMap::new(),
        secrets: json!({"clientid": client_id, "clientsecret": secret.expose_str().unwrap()}),
        target: "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/v/mount".to_owned(),
    };
    call.set("csi.storage.k8s.io/pod.name", "app-0");
    call.set("csi.storage.k8s.io/pod.namespace", "default");
    call.set("csi.storage.k8s.io/pod.uid", "7d3f");
    call.set("csi.storage.k8s.io/serviceAccount.name", "app");
    call.set("keyvaultName", emulator.vault_name());
    call.set("tenantID", emulator.tenant());
    call.set("objects", &array(objects));
    call
}

impl Call {
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.attributes.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn request(&self) -> MountRequest {
        MountRequest {
            attributes: json!(self.attributes).to_string(),
            secrets: self.secrets.to_string(),
            target_path: self.target.clone(),
            permission: "420".to_owned(),
            current_object_version: Vec::new(),
        }
    }
}

/// `objects` from entries such as `objectName: a\nobjectType: secret`.
pub fn array(entries: &[&str]) -> String {
    let mut text = String::from("array:\n");
    for entry in entries {
        text.push_str("  - |\n");
        for line in entry.lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

/// An entry for a plain secret.
pub fn secret(name: &str) -> String {
    format!("objectName: {name}\nobjectType: secret")
}

/// Polls until `done`, for at most ten seconds.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within ten seconds");
}
