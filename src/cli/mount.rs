//! `akvfs mount`: a source as a FUSE tree, in the foreground or as a process of its own.
//!
//! In the background the command starts itself again with `--report-ready` (a process with threads
//! cannot be forked) and ends when the child has mounted or failed. The child's stdout is the pipe it
//! reports on; its stderr stays the caller's until then, so errors reach the caller as they are.
//! What else the caller left open is closed by then: a source may be `/dev/fd/63`. The directory stays
//! the caller's, since relative paths (a token file, SSL_CERT_FILE) are read later too.

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::wire::Kind;
use crate::delivery::fuse::{self, Mounted};
use crate::error::{Code, Error, Result};
use crate::fetch::Ages;
use crate::view::Limits;
use crate::{config, process};

use super::source::{Opened, SourceArgs, serve_status};

/// Listing a vault at mount may take this long.
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// What the child writes when it has mounted.
const READY: &[u8] = b"ready\n";

/// Show a source as files that are fetched when they are opened
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Where to mount
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
    /// Longest wait of an open for its value
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = config::duration, env = "AKVFS_OPEN_TIMEOUT")]
    open_timeout: Duration,
    /// How often to look for new versions of what was opened
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = config::duration, env = "AKVFS_REFRESH_INTERVAL")]
    refresh_interval: Duration,
    /// The child of a background mount: tell the parent on stdout, then let go of the terminal
    #[arg(long, hide = true)]
    report_ready: bool,
}

pub(super) fn run(args: Args, runtime: fn() -> Result<Runtime>) -> Result<()> {
    if args.refresh_interval < Duration::from_secs(1) || args.open_timeout.is_zero() {
        return Err(Error::class("--refresh-interval or --open-timeout is too short")
            .fix("refresh at most once a second, and give opens some time"));
    }
    if args.refresh_interval.max(args.open_timeout) > config::LONGEST {
        return Err(Error::class("--refresh-interval or --open-timeout is longer than a year"));
    }
    if !args.foreground && !args.report_ready {
        return background();
    }
    let inherited = if args.report_ready { inherited() } else { Vec::new() };
    let runtime = runtime()?;
    let result = runtime.block_on(serve(args, inherited));
    // Fetches that still run are not waited for.
    runtime.shutdown_background();
    result
}

async fn serve(args: Args, inherited: Vec<OwnedFd>) -> Result<()> {
    if args.report_ready {
        // A terminal that closes, or its Ctrl-C, is not meant for us. Fails for a group leader only.
        let _ = rustix::process::setsid();
    }
    let stop = process::stop_token()?;
    // A terminal that is closed ends a foreground mount: killed, it would leave a dead one.
    let hangup = signal(SignalKind::hangup());
    let mut hangup = hangup.map_err(|error| process::unhandled(&error))?;
    let hung_up = stop.clone();
    tokio::spawn(async move {
        hangup.recv().await;
        hung_up.cancel();
    });
    // Who looks for new versions here is one view: it wants the vault's answer, whoever asked before.
    let ages = Ages { refresh: Duration::ZERO, ..Ages::default() };
    let opened = args.source.open(ages).await?;
    for notice in &opened.notices {
        eprintln!("akvfs: note: {notice}");
    }
    let view = tokio::select! {
        view = opened.view(None, Limits::default(), Instant::now() + LIST_LIMIT) => view?,
        () = stop.cancelled() => return Ok(()),
    };
    let options = fuse::Options { open_timeout: args.open_timeout, ..fuse::Options::default() };
    let mounted = fuse::mount(view.clone(), &args.dir, options).await?;
    let entry = opened.entry(Kind::Mount, mounted.dir(), &view);
    let mut endings = entry.ending.listen();
    let control = serve_status(entry);
    // All is read by now, and the caller goes on as soon as it is told.
    drop(inherited);
    if let Err(error) = ready(&args, &opened, &mounted) {
        mounted.unmount().await?;
        return Err(error);
    }
    let refresher = tokio::spawn(view.keep_fresh(args.refresh_interval));
    let (result, asked) = loop {
        tokio::select! {
            result = mounted.wait() => break (result, None),
            () = stop.cancelled() => break (mounted.unmount().await, None),
            // What cannot be taken away is served on.
            Some(asked) = endings.recv() => match mounted.may_unmount().await {
                Ok(()) => break (mounted.unmount().await, Some(asked)),
                Err(error) => drop(asked.send(Err(error))),
            },
        }
    };
    refresher.abort();
    if let Some(asked) = asked {
        let _ = asked.send(result.clone());
    }
    // Whoever asked meanwhile learns by this that it has ended.
    drop(endings);
    if let Some(control) = control {
        control.finish().await;
    }
    result
}

/// Tells whoever waits that the tree is there.
fn ready(args: &Args, opened: &Opened, mounted: &Mounted) -> Result<()> {
    if !args.report_ready {
        eprintln!("akvfs: {} is at {}", opened.description(), mounted.dir().display());
        return Ok(());
    }
    let told = std::io::stdout().write_all(READY).and_then(|()| std::io::stdout().flush());
    // The caller is gone: nobody knows of this mount.
    told.map_err(|error| local("the caller cannot be told", &error))?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| local("/dev/null", &error))?;
    rustix::stdio::dup2_stdout(&null)
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(|error| local("/dev/null", &error.into()))
}

/// What the caller left open. A lock or a pipe among it must not be held for the life of the mount.
/// Called before this process opens anything itself.
fn inherited() -> Vec<OwnedFd> {
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

/// Starts the serving process and waits until it has mounted or failed.
fn background() -> Result<()> {
    let program = std::env::current_exe()
        .map_err(|error| local("this program cannot be found again", &error))?;
    // After the command's name, so that a `--` among the arguments changes nothing.
    let mut args = std::env::args_os().skip(1);
    let mut child = Command::new(program)
        .args(args.next())
        .arg("--report-ready")
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
    std::process::exit(status.code().filter(|code| *code != 0).unwrap_or(1))
}

fn local(what: &str, error: &std::io::Error) -> Error {
    Error::new(Code::Local, format!("{what}: {}", error.kind()))
}
