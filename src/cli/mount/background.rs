//! A mount as a process of its own: the caller waits for it, then they have nothing in common.
//!
//! The command starts itself again with `--report-ready` (a process with threads cannot be forked) and ends
//! when the child has mounted or failed. The child's stdout is the pipe it reports on; its stderr stays the
//! caller's until then, so errors reach the caller as they are. What else the caller left open is closed by
//! then: a source may be `/dev/fd/63`. The directory stays the caller's, since relative paths (a token file,
//! SSL_CERT_FILE) are read later too.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use crate::error::Result;

use super::{REPORT_READY, helper, local};

/// What the child writes when it has mounted.
const READY: &[u8] = b"ready\n";

/// Starts the serving process and waits until it has mounted or failed.
pub(super) fn start() -> Result<()> {
    let program = std::env::current_exe()
        .map_err(|error| local("this program cannot be found again", &error))?;
    let line: Vec<OsString> = std::env::args_os().collect();
    let is_helper = helper::is_meant(&line);
    let mut args = line.into_iter();
    let name = args.next();
    let mut command = Command::new(program);
    // What mount(8) has started has no command before its arguments.
    let command_name = if is_helper { None } else { args.next() };
    let mut child = command
        .arg0(name.unwrap_or_else(|| "akvfs".into()))
        .args(command_name)
        // Before all others, so that a `--` among them changes nothing.
        .arg(REPORT_READY)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| local("the serving process cannot be started", &error))?;
    let mut said = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        // Ends when the child is ready or gone; its own steps all have deadlines.
        let _ = pipe.take(READY.len() as u64).read_to_end(&mut said);
    }
    if said == READY {
        return Ok(());
    }
    let status = child.wait().map_err(|error| local("the serving process", &error))?;
    // It has said why, on the same stderr; the caller gets its exit code.
    std::process::exit(exit_code(is_helper, status.code()))
}

/// The caller's exit code for a child that has not mounted. mount(8) knows two, and takes 1 for a wrong command
/// line: a child that was killed has failed.
fn exit_code(is_helper: bool, child: Option<i32>) -> i32 {
    let known = child.filter(|code| *code != 0);
    let (usage, failed) = (i32::from(helper::USAGE), i32::from(helper::FAILED));
    match is_helper {
        true => known.filter(|code| *code == usage).unwrap_or(failed),
        false => known.unwrap_or(1),
    }
}

/// What the caller left open. A lock or a pipe among it must not be held for the life of the mount.
/// Called before this process opens anything itself.
pub(super) fn inherited() -> Vec<OwnedFd> {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<RawFd> =
        open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The descriptor that listed them is among them, and is closed by now.
    let inherited = |number: &RawFd| {
        *number > 2 && std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok()
    };
    let numbers = numbers.into_iter().filter(inherited);
    // SAFETY: these are open, and nothing else in this process owns them.
    numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}

/// Cancels the token when the caller that waits has gone. What is no pipe is not watched.
pub(super) async fn caller_gone(stop: CancellationToken) {
    let Ok(stdout) = std::io::stdout().as_fd().try_clone_to_owned() else { return };
    // SAFETY: the descriptor is its owner's for as long as it lives, and always the same.
    let watched = unsafe { AsyncFd::register_with_interest(stdout, Interest::ERROR) };
    let Ok(watched) = watched else { return };
    // A pipe that nobody reads from any more is in this state, and no other is.
    if watched.ready(Interest::ERROR).await.is_ok() {
        stop.cancel();
    }
}

/// Tells the caller that the tree is there, and lets go of what is the caller's.
pub(super) fn report() -> Result<()> {
    let told = std::io::stdout().write_all(READY).and_then(|()| std::io::stdout().flush());
    // The caller is gone: nobody knows of this mount.
    told.map_err(|error| local("the caller cannot be told", &error))?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| local("/dev/null", &error))?;
    rustix::stdio::dup2_stdout(&null)
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(|error| local("/dev/null", &error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_was_killed_is_a_mount_failure() {
        let codes = [Some(1), Some(32), Some(0), Some(2), Some(101), None];
        assert_eq!(codes.map(|code| exit_code(true, code)), [1, 32, 32, 32, 32, 32]);
        assert_eq!(codes.map(|code| exit_code(false, code)), [1, 32, 1, 2, 101, 1]);
    }
}
