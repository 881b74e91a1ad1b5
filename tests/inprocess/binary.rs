//! The real binary, as the driver and an operator meet it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use akvfs::csi::client;
use akvfs::csi::proto::VersionRequest;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use tonic::transport::Channel;

use akvfs::emulator::{Config, Emulator, Names, Service, Trouble, Where};
use prost::Message;
use serde_json::json;

use crate::world::{World, call_of, eventually, secret};
use crate::{canary, malformed, seeds};

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");
/// For what takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn akvfs(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(AKVFS);
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("AKVFS_")) {
        command.env_remove(key);
    }
    command.args(args).stdin(Stdio::null());
    command.stdout(canary::emitted(name)).stderr(canary::emitted(name));
    command
}

/// A child that does not outlive its test.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Bytes that are in memory.
    fn resident(&self) -> usize {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.0.id())).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command says on stderr until it ends, and how it ends.
fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let mut command = akvfs("refused", args);
    let mut child = Process(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut said = String::new();
    let mut stderr = child.0.stderr.take().unwrap();
    let status = child.end();
    stderr.read_to_string(&mut said).unwrap();
    canary::record("refused", &said);
    (status.code(), said)
}

/// A provider with the argument list of the Go provider's DaemonSet.
pub(crate) struct Provider {
    pub(crate) process: Process,
    socket: PathBuf,
    pub(crate) healthz: u16,
    pub(crate) metrics: u16,
    name: String,
    dir: tempfile::TempDir,
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        canary::record(&self.name, &self.log());
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

impl Provider {
    pub(crate) async fn start(name: &str, extra: &[&str]) -> Self {
        Self::start_with(name, extra, &[]).await
    }

    pub(crate) async fn start_with(name: &str, extra: &[&str], env: &[(&str, &Path)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("azure.sock");
        // Somebody else may take the port in between: then with another one.
        for _ in 0..5 {
            let (healthz, metrics) = (free_port(), free_port());
            let endpoint = format!("--endpoint=unix://{}", socket.display());
            let port = format!("--healthz-port={healthz}");
            let mut args = vec![endpoint.as_str(), "-construct-pem-chain=true", &port];
            args.extend(["--healthz-path=/healthz", "--healthz-timeout", "5s"]);
            let metrics_port = format!("--prometheus-port={metrics}");
            args.push(&metrics_port);
            args.extend(extra);
            let log = File::options().append(true).create(true).open(dir.path().join("log"));
            let mut command = akvfs(name, &args);
            command.envs(env.to_vec()).stderr(log.unwrap());
            let mut process = Process(command.spawn().unwrap());
            let end = Instant::now() + PATIENCE;
            while process.0.try_wait().unwrap().is_none() {
                if socket.exists() {
                    let name = name.to_owned();
                    return Self { process, socket, healthz, metrics, name, dir };
                }
                assert!(Instant::now() < end, "the socket does not appear");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        panic!("the provider ends at once");
    }

    /// What it has said on stderr so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub(crate) async fn channel(&self) -> Channel {
        client::connect(self.socket.clone()).await.unwrap()
    }
}

fn http_status(port: u16, path: &str) -> String {
    http_get(port, path).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// The whole answer, head and body.
pub(crate) fn http_get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_argument_list_serves_and_stops_on_a_signal() {
    for (signal, level) in [("TERM", "-v=5"), ("INT", "-log-format-json=1")] {
        let mut provider = Provider::start("provider", &[level]).await;
        let mut driver = CsiDriverProviderClient::new(provider.channel().await);
        let version = driver.version(VersionRequest::default()).await.unwrap().into_inner();
        assert_eq!(version.runtime_name, "secrets-store-csi-driver-provider-azure");
        for (path, status) in
            [("/healthz", "200"), ("/healthz/", "404"), ("/readyz", "200"), ("/", "404")]
        {
            assert_eq!(http_status(provider.healthz, path), status, "{path}");
        }
        // The driver keeps its connection; that must not hold up the end.
        provider.process.signal(signal);
        assert!(provider.process.end().success(), "{signal}");
    }
}

/// The emulator as a custom cloud of another process: with the files that it needs.
pub(crate) async fn custom_cloud(dir: &Path) -> Emulator {
    let config = Config { seed: seeds::one(), names: Names::Localhost, ..Config::default() };
    let emulator = Emulator::start(config).await.unwrap();
    let (_, secret) = emulator.service_principal();
    canary::note("client secret", secret.expose());
    let cloud = emulator.cloud();
    let file = json!({
        "name": "AzureStackCloud",
        "activeDirectoryEndpoint": format!("{}/", cloud.authority),
        "keyVaultEndpoint": format!("{}/", cloud.resource),
        "keyVaultDNSSuffix": cloud.vault_suffix,
    });
    std::fs::write(dir.join("cloud.json"), file.to_string()).unwrap();
    std::fs::write(dir.join("ca.pem"), emulator.ca_pem()).unwrap();
    emulator
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_mount_is_finished_after_the_stop_and_logs_no_value() {
    let dir = tempfile::tempdir().unwrap();
    let emulator = custom_cloud(dir.path()).await;
    let control = emulator.control();
    let dir_name = dir.path().to_str().unwrap();
    let flags = ["-v=5", "--cloud-env-dir", dir_name, "--refresh-max-age", "0s"];
    let ca = dir.path().join("ca.pem");
    let mut provider = Provider::start_with("mounts", &flags, &[("SSL_CERT_FILE", &ca)]).await;
    let mut driver = CsiDriverProviderClient::new(provider.channel().await);
    let mut call = call_of(&emulator, &[&secret(seeds::ONE)]);
    let file = dir.path().join("cloud.json");
    call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", file.to_str().unwrap());
    assert_eq!(driver.mount(call.request()).await.unwrap().into_inner().files.len(), 1);
    let delay = Trouble::Delay(Duration::from_millis(1500));
    control.always(Where::service(Service::Vault), delay);
    let before = control.counters().vault_requests;
    let (outcome, ()) = tokio::join!(driver.mount(call.request()), async {
        eventually("the vault is asked", || control.counters().vault_requests > before).await;
        provider.process.signal("TERM");
        let terminating = || http_get(provider.healthz, "/readyz").ends_with("terminating");
        eventually("it is not ready any more", terminating).await;
    });
    assert_eq!(outcome.unwrap().into_inner().files.len(), 1);
    assert!(provider.process.end().success());
}

/// A peer that says nothing has no call to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_does_not_hold_up_the_end() {
    let mut provider = Provider::start("silent", &[]).await;
    let _silent = std::os::unix::net::UnixStream::connect(&provider.socket).unwrap();
    let mut driver = CsiDriverProviderClient::new(provider.channel().await);
    driver.version(VersionRequest::default()).await.unwrap();
    provider.process.signal("TERM");
    // A running call would be waited for longer than this.
    let ended = tokio::task::spawn_blocking(move || provider.process.end());
    let status = tokio::time::timeout(Duration::from_secs(15), ended).await.unwrap().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_response_counts_what_travels() {
    let dir = tempfile::tempdir().unwrap();
    let emulator = custom_cloud(dir.path()).await;
    let ca = dir.path().join("ca.pem");
    let file = dir.path().join("cloud.json");
    let mut call = call_of(&emulator, &[&secret(seeds::ONE)]);
    call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", file.to_str().unwrap());
    // First without a limit that counts, then one byte below what was sent, then just that.
    let (mut limit, mut size) = (4 << 20, 0);
    for (change, fits) in [(0, true), (-1, false), (0, true)] {
        if size > 0 {
            limit = size + change;
        }
        let limit = format!("--max-response-bytes={limit}");
        let flags = [limit.as_str(), "--cloud-env-dir", dir.path().to_str().unwrap()];
        let provider = Provider::start_with("limits", &flags, &[("SSL_CERT_FILE", &ca)]).await;
        let mut driver = CsiDriverProviderClient::new(provider.channel().await);
        match driver.mount(call.request()).await {
            Ok(response) => {
                assert!(fits, "{limit}");
                size = i64::try_from(response.into_inner().encoded_len()).unwrap();
            }
            Err(status) => {
                assert!(!fits, "{limit}: {status}");
                assert_eq!(status.code(), tonic::Code::Internal, "{status}");
                assert!(status.message().contains("larger than"), "{status}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_takes_the_socket_and_a_failed_start_does_not() {
    let provider = Provider::start("provider", &[]).await;
    let endpoint = format!("--endpoint=unix://{}", provider.socket.display());
    let port = format!("--healthz-port={}", provider.healthz);
    let taken = format!("--prometheus-port={}", provider.metrics);
    let (any, any_metrics) = ("--healthz-port=0", "--prometheus-port=0");
    for (flags, what) in [([&port, any_metrics], "healthz"), ([any, &taken], "metrics")] {
        let (code, said) = refusal(&[&endpoint, flags[0], flags[1]]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("{what} cannot listen on port")), "{said}");
    }
    let mut driver = CsiDriverProviderClient::new(provider.channel().await);
    driver.version(VersionRequest::default()).await.unwrap();
    let before = inode(&provider.socket);
    let _successor = Process(akvfs("provider", &[&endpoint, any, any_metrics]).spawn().unwrap());
    let end = Instant::now() + PATIENCE;
    while inode(&provider.socket) == before {
        assert!(Instant::now() < end, "the successor does not take the socket");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut driver = CsiDriverProviderClient::new(provider.channel().await);
    driver.version(VersionRequest::default()).await.unwrap();
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
}

#[test]
fn wrong_flags_exit_64_before_anything_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("--endpoint=unix://{}/azure.sock", dir.path().display());
    for (flag, reason) in [
        ("--nonsense", "--nonsense"),
        ("-v=x", "invalid value"),
        ("--construct-pem-chain=maybe", "expected true or false"),
        ("--healthz-timeout=5", "expected a duration"),
        ("--healthz-path=healthz", "not a plain path"),
        ("--cloud-name=Nowhere", "no cloud environment"),
        ("--metrics-backend=statsd", "only metrics backend is Prometheus"),
        ("--metrics-address=here", "invalid value"),
        ("--custom-user-agent=a\u{e9}", "not header text"),
        ("--endpoint=tcp://0.0.0.0:1", "tcp endpoints are not served"),
    ] {
        let (code, said) = refusal(&[&endpoint, "--healthz-port=0", "--prometheus-port=0", flag]);
        assert_eq!(code, Some(64), "{flag}: {said}");
        assert!(said.contains(reason) && !said.contains("panicked"), "{flag}: {said}");
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "{flag}");
    }
}

#[test]
fn a_closed_stdout_or_stderr_is_no_crash() {
    for args in [&["--version"][..], &["-v=3", "--version"], &["check", "dev:"], &["get", "x", "y"]]
    {
        let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = akvfs("closed", args);
        let status = Process(command.stdout(full()).stderr(full()).spawn().unwrap()).end();
        assert_ne!(status.code(), Some(101), "{args:?} panics");
        assert_ne!(status.code(), Some(0), "{args:?} hides that nothing was written");
    }
}

#[test]
fn the_printed_commands_of_the_development_vault_work_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("it's out");
    let mut command = akvfs("dev-vault", &["dev-vault", "--out", out.to_str().unwrap()]);
    let mut vault = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut commands = String::new();
    let mut stdout = BufReader::new(vault.0.stdout.take().unwrap());
    for line in stdout.by_ref().lines() {
        let line = line.unwrap();
        canary::record("dev-vault", &line);
        if line.starts_with("Ctrl-C") {
            break;
        }
        if line.starts_with("export ") || line.starts_with(AKVFS) {
            commands.push_str(&format!("{line}\n"));
        }
    }
    assert_eq!(commands.lines().count(), 3, "{commands}");
    let output = Command::new("sh").args(["-ec", &commands]).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{commands}{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let (report, value) = said.rsplit_once('\n').unwrap();
    assert!(report.contains("RESULT") && value.starts_with("dev-only-db-password-"), "{said}");
    vault.signal("INT");
    assert!(vault.end().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_mounts_leave_no_memory_behind() {
    let world = World::start(seeds::one()).await;
    let requests = malformed::requests(&world);
    let provider = Provider::start("refused", &["-v=5"]).await;
    let channel = provider.channel().await;
    let mut resident = Vec::new();
    for _ in 0..4 {
        for (request, expected) in &requests {
            let mut driver = CsiDriverProviderClient::new(channel.clone());
            let status = driver.mount(request.clone()).await.unwrap_err();
            malformed::check(request, &status, expected);
        }
        resident.push(provider.process.resident());
    }
    // The first round fills the allocator's pools; from then on it is the same work again.
    let growth = resident[3].saturating_sub(resident[0]);
    assert!(growth < 4 << 20, "{resident:?}");
}
