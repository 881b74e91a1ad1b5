//! The command line, and the run.

#[path = "bare.rs"]
mod bare;
#[path = "client.rs"]
mod client;
#[path = "contest.rs"]
mod contest;
#[path = "ours.rs"]
mod ours;
#[path = "report.rs"]
mod report;
#[path = "server.rs"]
mod server;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Set for the process inside the mount namespace.
const MARKER: &str = "AKVFS_BENCH_MOUNTS";

pub struct Args {
    /// Rounds of each row.
    pub rounds: usize,
    /// Does it still work?
    pub quick: bool,
    pub markdown: Option<PathBuf>,
}

pub fn main() -> ExitCode {
    let mut given = std::env::args().skip(1);
    // A server is this program too.
    if given.next().as_deref() == Some(server::SERVE) {
        return ended(server::serve(given.collect()).map(|()| ExitCode::SUCCESS));
    }
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("fuse: {why}");
            return ExitCode::from(64);
        }
    };
    ended(if std::env::var_os(MARKER).is_some() { contest::run(&args) } else { enter() })
}

fn ended(outcome: Outcome<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("fuse: {error}");
        ExitCode::from(2)
    })
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args { rounds: 0, quick: false, markdown: None };
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            // cargo's own.
            "--bench" => {}
            "--quick" => args.quick = true,
            "--rounds" => {
                let number = value()?.parse().ok().filter(|number| (1..=100).contains(number));
                args.rounds = number.ok_or("--rounds takes a number from 1 to 100")?;
            }
            "--markdown" => args.markdown = Some(value()?.into()),
            _ => {
                return Err(format!("unknown argument {flag}; the head of benches/fuse.rs tells"));
            }
        }
    }
    if args.rounds == 0 {
        args.rounds = if args.quick { 1 } else { 7 };
    }
    Ok(args)
}

/// Runs this program again in a mount namespace of its own.
fn enter() -> Outcome<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root: it mounts".into());
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(MARKER, "1")
        .status()
        .map_err(|error| format!("unshare cannot be started: {error}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
