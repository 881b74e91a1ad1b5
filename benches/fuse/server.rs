//! A contestant's process: serves until its stdin ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Outcome, bare, ours};

/// First argument of a server.
pub const SERVE: &str = "--serve";
/// Printed once the files are there.
const READY: &str = "ready";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tmpfs,
    Bare,
    Akvfs,
}

pub const KINDS: [Kind; 3] = [Kind::Tmpfs, Kind::Bare, Kind::Akvfs];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Bare => "bare",
            Self::Akvfs => "akvfs",
        }
    }
}

/// `--serve KIND DIR FILES SIZE PINNED`
pub fn serve(args: Vec<String>) -> Outcome<()> {
    let [kind, dir, files, size, pinned] = args.as_slice() else {
        return Err("--serve is for this program itself".into());
    };
    if pinned == "pinned" {
        pin()?;
    }
    let (dir, files, size) = (Path::new(dir), files.parse()?, size.parse()?);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let wait = || -> Outcome<()> {
        println!("{READY}");
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    };
    match kind.as_str() {
        "bare" => {
            let session = bare::mount(dir, files, size)?;
            wait()?;
            drop(session);
        }
        "akvfs" => {
            let mounted = runtime.block_on(ours::mount(dir, files, size))?;
            wait()?;
            drop(mounted);
        }
        _ => return Err("no such server".into()),
    }
    // Fetches that hang are not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// Everything this process starts from now on runs on one CPU.
pub fn pin() -> Outcome<()> {
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    rustix::thread::sched_setaffinity(None, &one)?;
    Ok(())
}

/// Files of one contestant, served while this lives.
pub struct Served {
    pub kind: Kind,
    pub dir: PathBuf,
    process: Option<Child>,
}

impl Served {
    pub fn start(
        kind: Kind,
        dir: PathBuf,
        files: usize,
        size: usize,
        pinned: bool,
    ) -> Outcome<Self> {
        std::fs::create_dir_all(&dir)?;
        if kind == Kind::Tmpfs {
            let mounted =
                Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&dir).status()?;
            if !mounted.success() {
                return Err("tmpfs cannot be mounted".into());
            }
            for number in 0..files {
                std::fs::write(dir.join(format!("name-{number:05}")), vec![b'x'; size])?;
            }
            return Ok(Self { kind, dir, process: None });
        }
        let mut process = Command::new(std::env::current_exe()?)
            .args([SERVE, kind.name()])
            .arg(&dir)
            .args([files.to_string(), size.to_string()])
            .arg(if pinned { "pinned" } else { "free" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let served = Self { kind, dir, process: Some(process) };
        if line.trim_end() != READY {
            return Err(format!("{} did not start", kind.name()).into());
        }
        Ok(served)
    }

    /// Resident bytes of the serving process; none for tmpfs.
    pub fn resident(&self) -> Option<u64> {
        let process = self.process.as_ref()?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        match &mut self.process {
            None => drop(Command::new("umount").arg("-l").arg(&self.dir).status()),
            Some(process) => {
                drop(process.stdin.take());
                let _ = process.wait();
            }
        }
    }
}
