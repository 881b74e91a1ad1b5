//! First Mount of 1, 10, 100 and 500 secrets at 0, 20 and 50 ms of injected vault latency.
//!
//! `cargo bench --bench first_mount`. Each sample is a provider that has never been asked: no token,
//! no connection. "raw" is the same objects fetched by parallel GETs with a token at hand, with no
//! provider and no cache: the least that any provider needs. The samples are interleaved; the ratio
//! is of medians of one run. Everything is on loopback, emulator and provider share the machine.

use std::time::{Duration, Instant};

use akvfs::app;
use akvfs::cloud::CloudSource;
use akvfs::csi::client;
use akvfs::csi::mount::Mounter;
use akvfs::csi::proto::MountRequest;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::delivery::response;
use akvfs::emulator::{Config, Emulator, Seed, Service, Trouble, Where};
use akvfs::fetch::Fetch;
use akvfs::http::Http;
use akvfs::render;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const COUNTS: [usize; 4] = [1, 10, 100, 500];
const LATENCIES: [u64; 3] = [0, 20, 50];
const SAMPLES: usize = 7;

fn main() {
    let emulator_runtime = runtime();
    let seed = (0..500).fold(Seed::default(), |seed, n| seed.secret(&name(n), &[&"x".repeat(350)]));
    let config = Config { seed, ..Config::default() };
    let emulator = emulator_runtime.block_on(Emulator::start(config)).expect("emulator");
    println!("first mount, milliseconds: median (fastest to slowest) of {SAMPLES}");
    println!("{:>8} {:>8} {:>24} {:>24} {:>9}", "latency", "objects", "akvfs", "raw", "akvfs/raw");
    for latency in LATENCIES {
        for count in COUNTS {
            emulator.control().clear_faults();
            if latency > 0 {
                let delay = Trouble::Delay(Duration::from_millis(latency));
                emulator.control().always(Where::service(Service::Vault), delay);
            }
            let (mut ours, mut raw) = (Vec::new(), Vec::new());
            for _ in 0..SAMPLES {
                ours.push(runtime().block_on(mount(&emulator, count)));
                raw.push(runtime().block_on(gets(&emulator, count)));
            }
            let (ours, raw) = (Spread::of(ours), Spread::of(raw));
            println!(
                "{latency:>5} ms {count:>8} {:>24} {:>24} {:>9.2}",
                ours.text(),
                raw.text(),
                ours.median / raw.median
            );
        }
    }
    emulator_runtime.block_on(emulator.shutdown());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime")
}

fn name(number: usize) -> String {
    format!("secret-{number}")
}

/// One Mount through the socket of a fresh provider.
async fn mount(emulator: &Emulator, count: usize) -> f64 {
    let endpoints = emulator.endpoints();
    let dir = tempfile::tempdir().expect("directory");
    let clouds = CloudSource::new(endpoints.clone(), "AzurePublicCloud", dir.path().to_owned());
    let options = response::Options { render: render::Options::default(), max_bytes: 4 << 20 };
    let fetch = Fetch::new(Http::new(endpoints)).expect("fetch");
    let mounter = Mounter::new(fetch, clouds.expect("clouds"), options);
    let (socket, stop) = (dir.path().join("azure.sock"), CancellationToken::new());
    let server = app::serve_csi(mounter, socket.clone(), stop.clone()).expect("socket");
    let mut driver = CsiDriverProviderClient::new(client::connect(socket).await.expect("connect"));
    let objects: String = (0..count)
        .map(|n| format!("  - |\n    objectName: {}\n    objectType: secret\n", name(n)))
        .collect();
    let (client_id, secret) = emulator.service_principal();
    let request = MountRequest {
        attributes: json!({
            "csi.storage.k8s.io/pod.name": "pod",
            "csi.storage.k8s.io/pod.namespace": "default",
            "keyvaultName": emulator.vault_name(),
            "tenantID": emulator.tenant(),
            "objects": format!("array:\n{objects}"),
        })
        .to_string(),
        secrets: json!({"clientid": client_id, "clientsecret": secret.expose_str()}).to_string(),
        target_path: "/target".to_owned(),
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    };
    let begin = Instant::now();
    let response = driver.mount(request).await.expect("mount").into_inner();
    let taken = begin.elapsed();
    assert_eq!(response.files.len(), count);
    stop.cancel();
    server.ended().await.expect("server");
    taken.as_secs_f64() * 1000.0
}

/// The same objects by plain GETs, all at once over a fresh client.
async fn gets(emulator: &Emulator, count: usize) -> f64 {
    let token = token(emulator).await;
    let http = client(emulator);
    let begin = Instant::now();
    let answers: Vec<usize> = stream::iter(0..count)
        .map(|n| {
            let url = format!("{}/secrets/{}/?api-version=7.4", emulator.vault_url(), name(n));
            let request = http.get(url).bearer_auth(&token);
            async move {
                let answer = request.send().await.expect("answer").error_for_status().expect("200");
                answer.bytes().await.expect("body").len()
            }
        })
        .buffer_unordered(count)
        .collect()
        .await;
    assert_eq!(answers.len(), count);
    begin.elapsed().as_secs_f64() * 1000.0
}

fn client(emulator: &Emulator) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(emulator.ca_pem().as_bytes()).expect("CA");
    let mut builder = reqwest::Client::builder().add_root_certificate(root);
    for host in [&emulator.vault_url(), &emulator.endpoints().clouds["azurecloud"].authority] {
        let url = reqwest::Url::parse(host).expect("URL");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], url.port().unwrap_or(443)));
        builder = builder.resolve(url.host_str().expect("host"), address);
    }
    builder.build().expect("client")
}

async fn token(emulator: &Emulator) -> String {
    let (client_id, secret) = emulator.service_principal();
    let cloud = &emulator.endpoints().clouds["azurecloud"];
    let answer: serde_json::Value = client(emulator)
        .post(format!("{}/{}/oauth2/v2.0/token", cloud.authority, emulator.tenant()))
        .form(&[
            ("grant_type", "client_credentials"),
            ("client_id", client_id),
            ("client_secret", secret.expose_str().expect("text")),
            ("scope", &format!("{}/.default", cloud.resource)),
        ])
        .send()
        .await
        .expect("answer")
        .json()
        .await
        .expect("JSON");
    answer["access_token"].as_str().expect("token").to_owned()
}

/// Median and spread of samples.
struct Spread {
    fastest: f64,
    median: f64,
    slowest: f64,
}

impl Spread {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self {
            fastest: samples[0],
            median: samples[samples.len() / 2],
            slowest: samples[samples.len() - 1],
        }
    }

    fn text(&self) -> String {
        format!("{:.1} ({:.1} to {:.1})", self.median, self.fastest, self.slowest)
    }
}
