//! `akvfs mount`: a source as a FUSE tree, in the foreground or as a process of its own.
//!
//! Its options can be given in mount(8)'s way too ([`words`]), and the program is what mount(8) starts for a
//! line of fstab when it has a name for that ([`helper`]). Both are rewritten to the one command line before
//! it is read.

mod background;
mod helper;
mod notify;
mod recorded;
mod shown;
mod words;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use rustix::thread::LinkNameSpaceType;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::class::{FetchMode, FuseCache};
use crate::control::Entry;
use crate::control::wire::Kind;
use crate::delivery::fuse::{self, Mounted};
use crate::error::{Code, Error, Result};
use crate::fetch::{self, Ages};
use crate::view::{Limits, View};
use crate::{config, process};

use super::note;
use super::source::{LayoutArg, Opened, SourceArgs, serve_status};
use recorded::Recorded;
use shown::Shown;

/// Held beside a tree's values: answers on their way, and what was asked lately.
const BESIDE_A_TREE: usize = 16 * 1024 * 1024;
/// For a mount that is being made when it is to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of the child of a background mount.
const REPORT_READY: &str = "--report-ready";

/// Show a source as files that are fetched when they are opened
///
/// Each option with a long name can be given by -o, too, with _ in place of -.
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
    /// Options as mount(8) gives them
    #[arg(short = 'o', value_name = "OPTION[=VALUE],...")]
    words: Vec<OsString>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    recorded: Recorded,
    /// atomic: all files change together, behind the link ..data; flat: each on its own. Of a class atomic, of a vault flat
    #[arg(long, value_name = "LAYOUT", env = "AKVFS_LAYOUT")]
    layout: Option<LayoutArg>,
    /// lazy: each value when it is opened; eager: all of them before the mount is there, or it fails. As the class says, or lazy
    #[arg(long, value_name = "WHEN", value_parser = fetch_mode, env = "AKVFS_FETCH")]
    fetch: Option<FetchMode>,
    /// With eager: longest wait until everything is fetched
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = config::duration, env = "AKVFS_FETCH_TIMEOUT")]
    fetch_timeout: Duration,
    /// What the kernel keeps of what was read, keep or none: nothing, so each read asks. As the class says, or keep
    #[arg(long, visible_alias = "fuseCache", value_name = "WHAT", value_parser = fuse_cache, env = "AKVFS_FUSE_CACHE")]
    fuse_cache: Option<FuseCache>,
    /// Longest wait of an open for its value
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = config::duration, env = "AKVFS_OPEN_TIMEOUT")]
    open_timeout: Duration,
    /// How often to look for new versions of what was opened
    #[arg(long, visible_alias = "refresh", value_name = "DURATION", default_value = "60s", value_parser = config::duration, env = "AKVFS_REFRESH_INTERVAL")]
    refresh_interval: Duration,
    /// Longest wait for the names of a whole vault, before it is mounted without them and goes on asking
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = config::duration, env = "AKVFS_LIST_TIMEOUT")]
    list_timeout: Duration,
    /// How long after the vault's last answer files stay while it cannot be asked
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = config::duration, env = "AKVFS_MAX_STALE")]
    max_stale: Duration,
    /// Most bytes of values held in memory
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_bytes, value_parser = config::held_bytes, env = "AKVFS_MAX_BYTES")]
    max_bytes: usize,
    /// The child of a background mount: tell the parent on stdout, then let go of the terminal
    #[arg(long, hide = true)]
    report_ready: bool,
    /// mount(8)'s -f: do everything but mount
    #[arg(long, hide = true)]
    fake: bool,
    /// mount(8)'s -v: say that it is done
    #[arg(long, hide = true)]
    verbose: bool,
    /// mount(8)'s -N: mount in another mount namespace
    #[arg(long, hide = true, value_name = "PATH")]
    namespace: Option<PathBuf>,
}

fn fetch_mode(text: &str) -> std::result::Result<FetchMode, String> {
    FetchMode::parse(text).ok_or_else(|| "expected lazy or eager".to_owned())
}

fn fuse_cache(text: &str) -> std::result::Result<FuseCache, String> {
    FuseCache::parse(text).ok_or_else(|| "expected keep or none".to_owned())
}

/// The command line as clap reads it: without `-o`, and as `akvfs mount` where mount(8) called.
pub(super) fn command_line(args: Vec<OsString>) -> Result<Vec<OsString>> {
    if helper::is_meant(&args) {
        let mut line: Vec<OsString> = vec!["akvfs".into(), "mount".into()];
        line.extend(helper::command_line(args.into_iter().skip(1))?);
        return Ok(line);
    }
    if args.get(1).is_none_or(|command| command != "mount") {
        return Ok(args);
    }
    let mut args = args.into_iter();
    let mut line: Vec<OsString> = args.by_ref().take(2).collect();
    line.extend(words::expanded(args)?);
    Ok(line)
}

/// Exit codes for a wrong command line and for what failed, where they are not the usual ones.
pub(super) fn exit_codes(line: &[OsString]) -> Option<(u8, u8)> {
    helper::is_meant(line).then_some((helper::USAGE, helper::FAILED))
}

pub(super) fn run(args: Args, runtime: fn() -> Result<Runtime>) -> Result<()> {
    args.check()?;
    if !args.foreground && !args.report_ready && !args.fake {
        return background::start();
    }
    let inherited = if args.report_ready { background::inherited() } else { Vec::new() };
    if let Some(namespace) = &args.namespace {
        // While there are no other threads: those would stay where they are.
        enter(namespace)?;
    }
    args.recorded.log(&args.dir)?;
    let runtime = runtime()?;
    let result = runtime.block_on(serve(args, inherited));
    // Fetches that still run are not waited for.
    runtime.shutdown_background();
    result
}

impl Args {
    fn check(&self) -> Result<()> {
        if self.refresh_interval < Duration::from_secs(1) || self.open_timeout.is_zero() {
            return Err(Error::class("--refresh-interval or --open-timeout is too short")
                .fix("refresh at most once a second, and give opens some time"));
        }
        if self.fetch_timeout.is_zero() || self.list_timeout.is_zero() {
            return Err(Error::class("--fetch-timeout or --list-timeout is no time at all"));
        }
        let timeouts = [self.open_timeout, self.fetch_timeout, self.list_timeout];
        let all = [&timeouts[..], &[self.refresh_interval, self.max_stale]].concat();
        if all.iter().any(|time| *time > config::LONGEST) {
            return Err(Error::class("a duration is longer than a year"));
        }
        self.recorded.check(self.foreground)
    }

    fn limits(&self) -> Limits {
        Limits { max_bytes: self.max_bytes, max_stale: self.max_stale, ..Limits::default() }
    }

    /// How the source is shown: what the command line does not say, its class may.
    fn options(&self, opened: &Opened) -> Result<fuse::Options> {
        let mut options = fuse::Options {
            source: self.source.source.clone(),
            open_timeout: self.open_timeout,
            cache: self.fuse_cache.or(opened.fuse_cache).unwrap_or_default(),
            audit: self.recorded.options(),
            ..fuse::Options::default()
        };
        let mut notices = Vec::new();
        self.shown.set(&mut options, &mut notices)?;
        for notice in opened.notices.iter().chain(&notices) {
            note(&format!("note: {notice}"));
        }
        Ok(options)
    }
}

/// Puts this process into another mount namespace.
fn enter(namespace: &std::path::Path) -> Result<()> {
    let failed = |error: &std::io::Error| local("the mount namespace cannot be entered", error);
    let namespace = std::fs::File::open(namespace).map_err(|error| failed(&error))?;
    let kind = Some(LinkNameSpaceType::Mount);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind)
        .map_err(|error| failed(&error.into()))
}

async fn serve(args: Args, inherited: Vec<OwnedFd>) -> Result<()> {
    if args.report_ready {
        // A terminal that closes, or its Ctrl-C, is not meant for us. Fails for a group leader only.
        let _ = rustix::process::setsid();
    }
    let stop = stop_token()?;
    // A caller that has gone, as by Ctrl-C, wants no mount any more.
    let caller = args.report_ready.then(|| tokio::spawn(background::caller_gone(stop.clone())));
    // Who looks for new versions here is one view: it wants the vault's answer, whoever asked before.
    let ages = Ages { refresh: Duration::ZERO, max_stale: args.max_stale, ..Ages::default() };
    let usual = fetch::Options { ages, ..fetch::Options::default() };
    // All of the tree's bytes are the process's, too.
    let max_bytes = args.max_bytes.saturating_add(BESIDE_A_TREE).max(usual.max_bytes);
    let opened = tokio::select! {
        opened = args.source.open_with(fetch::Options { max_bytes, ..usual }) => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    let options = args.options(&opened)?;
    if args.fake {
        return args.say(&opened, "would be");
    }
    let view = tokio::select! {
        view = filled(&args, &opened) => view?,
        () = stop.cancelled() => return Ok(()),
    };
    let mut mounting = std::pin::pin!(fuse::mount(view.clone(), &args.dir, options));
    let mounted = tokio::select! {
        mounted = &mut mounting => mounted?,
        () = stop.cancelled() => {
            // What is mounted meanwhile is not left behind, dead.
            return match tokio::time::timeout(PATIENCE, mounting).await {
                Ok(Ok(mounted)) => mounted.unmount().await,
                Ok(Err(_)) | Err(_) => Ok(()),
            };
        }
    };
    if let Some(caller) = caller {
        // From here on the caller may go: it is told.
        caller.abort();
        let _ = caller.await;
    }
    let entry = opened.entry(Kind::Mount, mounted.dir(), &view);
    let mut endings = entry.ending.listen();
    let (device, audit) = (Some(mounted.device()), recorded::report(&mounted));
    let control = serve_status(Entry { device, audit, ..entry });
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
            () = stop.cancelled() => {
                notify::stopping();
                break (mounted.unmount().await, None);
            }
            // What cannot be taken away is served on.
            Some(asked) = endings.recv() => match mounted.may_unmount().await {
                Ok(()) => {
                    notify::stopping();
                    break (mounted.unmount().await, Some(asked));
                }
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

/// The view, with all its values where they are to be there from the start.
async fn filled(args: &Args, opened: &Opened) -> Result<std::sync::Arc<View>> {
    let layout = args.layout.map_or_else(|| opened.natural_layout(), Into::into);
    let deadline = Instant::now() + args.list_timeout;
    let eager = args.fetch.or(opened.fetch).unwrap_or_default() == FetchMode::Eager;
    let limits = Limits { eager, ..args.limits() };
    let view = match eager {
        true => opened.whole_view(layout, limits, deadline).await?,
        false => opened.view(layout, limits, deadline).await?,
    };
    if eager {
        let filled = view.fill_all(Instant::now() + args.fetch_timeout).await;
        filled.map_err(|error| error.context("fetch=eager"))?;
    }
    Ok(view)
}

/// A terminal that is closed ends a foreground mount: killed, it would leave a dead one. Whoever has that
/// signal ignored (nohup) wants the mount to stay.
fn stop_token() -> Result<CancellationToken> {
    let stop = process::stop_token()?;
    if process::hangup_is_ignored() {
        return Ok(stop);
    }
    let hangup = signal(SignalKind::hangup());
    let mut hangup = hangup.map_err(|error| process::unhandled(&error))?;
    let hung_up = stop.clone();
    tokio::spawn(async move {
        hangup.recv().await;
        hung_up.cancel();
    });
    Ok(stop)
}

/// Tells whoever waits that the tree is there.
fn ready(args: &Args, opened: &Opened, mounted: &Mounted) -> Result<()> {
    if args.report_ready {
        if args.verbose {
            args.say(opened, "is")?;
        }
        return background::report();
    }
    note(&format!("{} is at {}", opened.description(), mounted.dir().display()));
    notify::ready(&opened.description());
    Ok(())
}

impl Args {
    /// Says to people what is where, if they want to know.
    fn say(&self, opened: &Opened, what: &str) -> Result<()> {
        let dir = self.dir.display();
        if !std::fs::metadata(&self.dir).is_ok_and(|there| there.is_dir()) {
            return Err(Error::new(Code::Local, format!("{dir} is not a directory")));
        }
        if self.verbose {
            note(&format!("{} {what} at {dir}", opened.description()));
        }
        Ok(())
    }
}

fn local(what: &str, error: &std::io::Error) -> Error {
    Error::new(Code::Local, format!("{what}: {}", error.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each option has its row, with its variable and its default, in the part of the page that is about it.
    #[test]
    fn the_page_of_options_has_each_option() {
        let page = include_str!("../../docs/CONFIGURATION.md");
        let from = page.find("## SOURCE and who asks").unwrap();
        let page = &page[from..page.find("## `akvfs sync").unwrap()];
        let command = <Args as ClapArgs>::augment_args(clap::Command::new("mount"));
        let mut count = 0;
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let Some(name) = arg.get_long() else { continue };
            let first = |line: &str| line.split(" | ").next().unwrap_or_default().to_owned();
            let exactly = |cell: &str| {
                cell.split(['`', ' ']).any(|part| part.strip_prefix("--") == Some(name))
            };
            let row = page.lines().find(|line| line.starts_with('|') && exactly(&first(line)));
            let row = row.unwrap_or_else(|| panic!("--{name} is not in docs/CONFIGURATION.md"));
            if let Some(variable) = arg.get_env() {
                assert!(
                    row.contains(&format!("`{}`", variable.to_str().unwrap())),
                    "--{name}: {row}"
                );
            }
            if let ([default], true) = (arg.get_default_values(), arg.get_action().takes_values()) {
                let default = default.to_str().unwrap();
                assert!(row.contains(&format!("| `{default}` |")), "--{name}, {default}: {row}");
            }
            count += 1;
        }
        assert!(count > 18, "{count}");
    }
}
