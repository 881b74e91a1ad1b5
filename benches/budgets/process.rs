//! A provider's process: its start, its memory, its CPU time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use akvfs::csi::client;
use akvfs::csi::proto::VersionRequest;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;

use super::Outcome;

/// A start that takes longer than this has failed. Under the CPU limit it takes a while.
const START: Duration = Duration::from_secs(30);
/// The kernel's unit of CPU times in /proc, fixed for user space.
const TICKS: f64 = 100.0;

pub struct Provider {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    /// From the start of the process to its first answer to Version.
    pub started_in: Duration,
}

impl Provider {
    /// Starts it and waits for its first answer.
    pub async fn start(mut command: Command, dir: &Path) -> Outcome<Self> {
        let (socket, log) = (dir.join("azure.sock"), dir.join("provider.log"));
        let _ = std::fs::remove_file(&socket);
        command.args([
            &format!("--endpoint=unix://{}", socket.display()),
            "--construct-pem-chain=true",
            "--healthz-port=8989",
            "--healthz-path=/healthz",
            "--healthz-timeout=5s",
        ]);
        command.env("SSL_CERT_FILE", dir.join("ca.pem"));
        let output = File::create(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        let begin = Instant::now();
        let child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
        let mut provider = Self { child, socket, log, started_in: Duration::ZERO };
        while !provider.answers().await {
            if provider.child.try_wait()?.is_some() {
                return Err(format!("it ended at once: {}", provider.last_line()).into());
            }
            if begin.elapsed() > START {
                return Err(format!("it does not answer: {}", provider.last_line()).into());
            }
            // tokio's timer counts in milliseconds; this thread has nothing else to do.
            std::thread::sleep(Duration::from_micros(100));
        }
        provider.started_in = begin.elapsed();
        Ok(provider)
    }

    async fn answers(&self) -> bool {
        if !self.socket.exists() {
            return false;
        }
        let Ok(channel) = client::connect(self.socket.clone()).await else { return false };
        let request = VersionRequest { version: "v1alpha1".to_owned() };
        CsiDriverProviderClient::new(channel).version(request).await.is_ok()
    }

    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// User and system time so far.
    pub fn cpu(&self) -> Outcome<Duration> {
        cpu(&self.child.id().to_string())
    }

    /// Resident memory now and at its most, MiB.
    pub fn memory(&self) -> Outcome<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.map(|kib| kib / 1024.0).ok_or("no memory figures in /proc")
        };
        Ok(Memory { now: field("VmRSS:")?, most: field("VmHWM:")? })
    }

    fn last_line(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().last().unwrap_or("no output").to_owned()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Memory {
    pub now: f64,
    pub most: f64,
}

/// User and system time of a process, `self` for this one.
pub fn cpu(pid: &str) -> Outcome<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may hold anything: state is field 3, utime 14, stime 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<f64>).sum();
    Ok(Duration::from_secs_f64(ticks / TICKS))
}
