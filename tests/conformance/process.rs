//! The process: endpoint, health, version, logs; and clouds that never mix in one of them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use akvfs::csi::client;
use akvfs::csi::listen::Endpoint;
use akvfs::csi::proto::VersionRequest;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::emulator::{Config, Emulator, Names, Seed};
use akvfs::telemetry::health;
use akvfs::telemetry::web::Place;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use crate::canary;
use crate::seeds::{self, ONE};
use crate::support::text;
use crate::world::{World, call_of, secret};

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");
const PATIENCE: Duration = Duration::from_secs(30);

/// The real provider, with its log in a file.
struct Provider {
    child: Child,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

impl Provider {
    async fn start(flags: &[&str], ca: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("azure.sock");
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(AKVFS);
        command.arg(format!("--endpoint=unix://{}", socket.display()));
        command
            .args(["-healthz-port", "0", "-prometheus-port=0"])
            .args(flags)
            .stdin(Stdio::null())
            .stderr(log);
        if let Some(ca) = ca {
            command.env("SSL_CERT_FILE", ca);
        }
        let mut provider = Self { child: command.spawn().unwrap(), socket, dir };
        let end = Instant::now() + PATIENCE;
        while !provider.socket.exists() {
            assert!(provider.child.try_wait().unwrap().is_none(), "{}", provider.log());
            assert!(Instant::now() < end, "no socket");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        provider
    }

    async fn driver(&self) -> CsiDriverProviderClient<Channel> {
        CsiDriverProviderClient::new(client::connect(self.socket.clone()).await.unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        canary::record("conformance-provider", &self.log());
    }
}

#[test]
fn u69_endpoints() {
    for bad in ["udp:///x", "unix://", "tcp://", "/provider/azure.sock", ""] {
        assert!(Endpoint::parse(bad).is_err(), "{bad}");
    }
    let unix = Endpoint::Unix(PathBuf::from("/provider/azure.sock"));
    for good in ["unix:///provider/azure.sock", "UNIX:///provider/azure.sock"] {
        assert_eq!(Endpoint::parse(good).unwrap(), unix);
    }
    assert_eq!(Endpoint::parse("tcp://:7777").unwrap(), Endpoint::Tcp(":7777".to_owned()));
}

/// Status and body of `GET /healthz` about this socket.
async fn healthz(socket: PathBuf) -> (String, String) {
    let (path, timeout) = ("/healthz".to_owned(), Duration::from_secs(5));
    let stop = CancellationToken::new();
    let place = Place { address: Some(Ipv4Addr::LOCALHOST.into()), port: 0 };
    let draining = CancellationToken::new();
    let options = health::Options { place, path, timeout, socket, draining };
    let port = health::serve(options, stop.clone()).await.unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    stop.cancel();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn u70_health_with_and_without_a_server() {
    let world = World::start(seeds::one()).await;
    let (status, _) = healthz(world.dir.path().join("nobody.sock")).await;
    assert_eq!(status, "503");
    let answer = healthz(world.dir.path().join("azure.sock")).await;
    assert_eq!(answer, ("200".to_owned(), "ok".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn u71_health_of_a_socket_with_a_drive_letter() {
    let (status, body) = healthz(PathBuf::from(r"C:\provider\azure.sock")).await;
    assert_eq!(status, "503");
    for address in ["parse", "colons", "URI", "invalid"] {
        assert!(!body.contains(address), "{body}");
    }
}

/// The status passes through, and its code is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn u72_requests_and_responses_are_logged_with_their_codes() {
    let provider = Provider::start(&["-v", "5"], None).await;
    let mut driver = provider.driver().await;
    driver.version(VersionRequest::default()).await.unwrap();
    let mut call = World::start(seeds::one()).await.call(&[&secret(ONE)]);
    // A file that is not there: the public cloud's vault is not asked.
    call.set("cloudName", "AzureStackCloud");
    let status = driver.mount(call.request()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let log = provider.log();
    for (method, code) in [("Version", "OK"), ("Mount", "InvalidArgument")] {
        let method = format!("method=\"/v1alpha1.CSIDriverProvider/{method}\"");
        let about = |what: &str| log.lines().find(|l| l.contains(what) && l.contains(&method));
        assert!(about("\"request\"").is_some(), "{method} in\n{log}");
        let response = about("\"response\"").unwrap_or_else(|| panic!("{method} in\n{log}"));
        assert!(response.contains(&format!("code=\"{code}\"")), "{response}");
    }
}

/// Nothing has to be shortened where nothing is logged: neither tokens nor the ids beside them.
#[tokio::test(flavor = "multi_thread")]
async fn u73_ids_and_tokens_are_not_logged_at_all() {
    let (emulator, dir) = custom_cloud(seeds::one()).await;
    let flags = ["-v=5", "-log-format-json", "--cloud-env-dir", dir.path().to_str().unwrap()];
    let provider = Provider::start(&flags, Some(&dir.path().join("ca.pem"))).await;
    let mut call = call_of(&emulator, &[&secret(ONE)]);
    call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", "cloud.json");
    assert!(provider.driver().await.mount(call.request()).await.is_ok());
    let (id, password) = emulator.service_principal();
    let log = provider.log();
    assert!(log.contains("mount"), "{log}");
    for secret in [id, password.expose_str().unwrap()] {
        assert!(!log.contains(secret) && !log.contains(&secret[..8]), "{log}");
    }
}

#[test]
fn u74_the_version() {
    for flag in ["--version", "-version", "-version=true"] {
        let output = Command::new(AKVFS).arg(flag).output().unwrap();
        assert!(output.status.success(), "{flag}");
        let text = String::from_utf8(output.stdout).unwrap();
        let version = concat!(r#"{"version":"v"#, env!("CARGO_PKG_VERSION"), r#"","buildDate":""#);
        assert!(text.starts_with(version), "{text}");
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object.as_object().unwrap().len(), 2, "{text}");
    }
}

/// As every service sees it, and not only in the flag's help.
#[tokio::test(flavor = "multi_thread")]
async fn u75_the_user_agent() {
    let (emulator, dir) = custom_cloud(seeds::one()).await;
    let env_dir = dir.path().to_str().unwrap();
    let flags = ["--custom-user-agent", "managedBy:aks", "--cloud-env-dir", env_dir];
    let provider = Provider::start(&flags, Some(&dir.path().join("ca.pem"))).await;
    let mut call = call_of(&emulator, &[&secret(ONE)]);
    call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", "cloud.json");
    assert!(provider.driver().await.mount(call.request()).await.is_ok());
    let requests = emulator.control().requests();
    assert!(requests.len() >= 2, "{requests:?}");
    let begin = concat!("csi-secrets-store/v", env!("CARGO_PKG_VERSION"), " (");
    for agent in requests.iter().map(|request| &request.agent) {
        let middle = agent.strip_prefix(begin).and_then(|rest| rest.strip_suffix(" managedBy:aks"));
        let (platform, build) = middle.and_then(|middle| middle.split_once(") ")).expect(agent);
        assert!(platform.contains('/') && build.contains('/'), "{agent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u76_json_logs_are_json_lines() {
    let provider = Provider::start(&["-log-format-json", "-v=5"], None).await;
    let mut call = World::start(seeds::one()).await.call(&[&secret(ONE)]);
    call.set("keyvaultName", "no\nsuch");
    assert!(provider.driver().await.mount(call.request()).await.is_err());
    let log = provider.log();
    assert!(log.lines().count() >= 2, "{log}");
    for line in log.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()), "{line}");
    }
}

/// An emulator that the real binary finds through a custom cloud's file, and a directory with it.
async fn custom_cloud(seed: Seed) -> (Emulator, tempfile::TempDir) {
    let config = Config { seed, names: Names::Localhost, ..Config::default() };
    let emulator = Emulator::start(config).await.unwrap();
    canary::note("client secret", emulator.service_principal().1.expose());
    let cloud = emulator.cloud();
    let file = json!({
        "name": "AzureStackCloud",
        "activeDirectoryEndpoint": format!("{}/", cloud.authority),
        "keyVaultEndpoint": format!("{}/", cloud.resource),
        "keyVaultDNSSuffix": cloud.vault_suffix,
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cloud.json"), file.to_string()).unwrap();
    std::fs::write(dir.path().join("ca.pem"), emulator.ca_pem()).unwrap();
    (emulator, dir)
}

/// Upstream exports the file's name to the whole process: mounts that run together may swap clouds.
#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_two_custom_clouds_at_the_same_time_never_mix() {
    let mut clouds = Vec::new();
    for name in ["left", "right"] {
        let value = canary::value(name);
        let (emulator, dir) = custom_cloud(Seed::default().secret(ONE, &[&value])).await;
        clouds.push((name, value, emulator, dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut roots = String::new();
    for (name, _, emulator, own) in &clouds {
        roots.push_str(emulator.ca_pem());
        std::fs::copy(own.path().join("cloud.json"), dir.path().join(format!("{name}.json")))
            .unwrap();
    }
    std::fs::write(dir.path().join("ca.pem"), roots).unwrap();
    let flags = ["--cloud-env-dir", dir.path().to_str().unwrap()];
    let provider = Provider::start(&flags, Some(&dir.path().join("ca.pem"))).await;
    let driver = provider.driver().await;
    let mounts = (0..40).map(|number: usize| {
        let (name, value, emulator, _) = &clouds[number % 2];
        let mut call = call_of(emulator, &[&secret(ONE)]);
        call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", &format!("{name}.json"));
        call.target = format!("/targets/{number}");
        let (mut driver, value) = (driver.clone(), value.clone());
        async move {
            let response = driver.mount(call.request()).await.unwrap().into_inner();
            assert_eq!(text(&response, ONE), value);
        }
    });
    futures_util::future::join_all(mounts).await;
}
