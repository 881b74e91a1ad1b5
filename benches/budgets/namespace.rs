//! A network and a mount namespace of this run's own: its only network is loopback.

use std::process::{Command, ExitCode};

use super::Outcome;

/// Set for the process inside.
const MARKER: &str = "AKVFS_BENCH_NAMESPACE";

pub fn inside() -> bool {
    std::env::var_os(MARKER).is_some()
}

/// Runs this program again, inside.
pub fn enter() -> Outcome<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root: it makes a network namespace, in which the emulator \
            answers at the public cloud's names"
            .into());
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(MARKER, "1")
        .status()
        .map_err(|error| format!("unshare cannot be started: {error}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// A machine of Azure, as far as addresses go: IMDS at its own, the cloud's names at loopback.
pub fn furnish(dir: &std::path::Path, names: &[&str]) -> Outcome<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["address", "add", "169.254.169.254/32", "dev", "lo"])?;
    let hosts = dir.join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost {}\n", names.join(" ")))?;
    run("mount", &["--bind", &hosts.to_string_lossy(), "/etc/hosts"])
}

fn run(program: &str, args: &[&str]) -> Outcome<()> {
    let status = Command::new(program).args(args).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("{program} {} failed", args.join(" ")).into()),
        Err(error) => Err(format!("{program} cannot be started: {error}").into()),
    }
}
