//! `akvfs sync`: a source as plain files, once or for as long as the process runs.
//!
//! Once: everything is fetched, then everything is written, or nothing. With `--watch` the process
//! stays: it looks for new versions as a mount does, writes each new generation, and keeps the files
//! as they are while the vault cannot be asked. What happens after a change is a program of the user's
//! ([`on_change`]). The files stay when the process ends.

mod first;
mod on_change;
mod report;
mod target;
mod watch;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::delivery::files::{self, Place, Written};
use crate::error::{Error, Result};
use crate::fetch::Ages;
use crate::view::Layout;
use crate::{config, process};

use super::note;
use super::source::{LayoutArg, SourceArgs};
use on_change::{OnChange, Program};
use report::Report;
use target::Target;
use watch::Watch;

/// Write a source as plain files, once or for ever
///
/// Without --watch: everything that the source names is written, or nothing is and the exit code says so.
/// The files stay when the process ends, however it ends.
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Where to write; made if it is not there, and nobody else may write in it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Stay, look for new versions and write them
    #[arg(long)]
    watch: bool,
    /// With --watch: when the first fetch fails, try again until it works, instead of ending
    #[arg(long, requires = "watch")]
    retry: bool,
    /// atomic: all files change together, behind the link ..data; flat: each on its own. Of a class atomic (on Windows flat), of a vault flat
    #[arg(long, value_name = "LAYOUT", env = "AKVFS_LAYOUT")]
    layout: Option<LayoutArg>,
    /// Whom the files belong to, as numbers; this process's own if not given
    #[arg(long, value_name = "UID:GID", value_parser = owner, env = "AKVFS_OWNER")]
    owner: Option<files::Owner>,
    /// With --watch: how often to look for new versions
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = config::duration, env = "AKVFS_REFRESH_INTERVAL")]
    refresh_interval: Duration,
    /// With --watch: how long after the vault's last answer files stay while it cannot be asked
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = config::duration, env = "AKVFS_MAX_STALE")]
    max_stale: Duration,
    /// Longest wait until everything is fetched for the first time
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = config::duration, env = "AKVFS_FETCH_TIMEOUT")]
    fetch_timeout: Duration,
    /// Program to run after files have changed, and with --watch once at the start: an absolute path, no shell; its arguments come last, after --
    #[arg(long, value_name = "PROGRAM")]
    on_change: Option<PathBuf>,
    /// Longest run of that program, which is then killed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = config::duration, env = "AKVFS_ON_CHANGE_TIMEOUT")]
    on_change_timeout: Duration,
    /// Print what was done as JSON, a line for each write
    #[arg(long)]
    json: bool,
    /// Arguments of the --on-change program
    #[arg(last = true, value_name = "ARG", requires = "on_change")]
    on_change_args: Vec<std::ffi::OsString>,
}

fn owner(text: &str) -> std::result::Result<files::Owner, String> {
    let numbers = text.split_once(':').and_then(|(uid, gid)| {
        // The highest number means "leave it as it is" to the system.
        let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
        Some(files::Owner { uid: number(uid)?, gid: number(gid)? })
    });
    numbers.ok_or_else(|| "expected two numbers, UID:GID, such as 1000:1000".to_owned())
}

pub(super) async fn run(args: Args) -> Result<()> {
    args.check()?;
    let program = match &args.on_change {
        Some(path) => Some(Program::new(path, &args.on_change_args, args.on_change_timeout)?),
        None => None,
    };
    let stop = process::stop_token()?;
    // Who looks for new versions here is one view: it wants the vault's answer, whoever asked before.
    let ages = Ages { refresh: Duration::ZERO, max_stale: args.max_stale, ..Ages::default() };
    let opened = tokio::select! {
        opened = args.source.open(ages) => opened?,
        () = stop.cancelled() => return first::stop_asked(args.watch),
    };
    for notice in &opened.notices {
        note(&format!("note: {notice}"));
    }
    let layout = args.layout.map_or_else(|| opened.natural_layout(), Layout::from);
    // Before anything is fetched: a directory that may not be written is told at once.
    let options = files::Options { layout, place: Place::Directory, owner: args.owner };
    let target = Target::open(args.dir.clone(), options).await?;
    let attempt = first::Attempt {
        opened: &opened,
        layout,
        timeout: args.fetch_timeout,
        max_stale: args.max_stale,
        watch: args.watch,
        retry: args.retry,
        longest_pause: args.refresh_interval,
    };
    let first = match attempt.run(&target.path, &stop).await {
        // Asked to stop: that is no failure of a process that stays.
        Err(_) if args.watch && stop.is_cancelled() => return Ok(()),
        first => first?,
    };
    // From here on no generation is missed.
    let announcements = first.view.subscribe();
    let written = target.write(&first.view).await?;
    if args.watch {
        let on_change = program.map(|program| OnChange::start(program, target.path.clone()));
        let (interval, json) = (args.refresh_interval, args.json);
        let unheard = AtomicBool::new(false);
        let watch = Watch { target, on_change, first, interval, json, unheard };
        return watch.run(written, announcements, &stop).await;
    }
    let report = Report::new(&target.path, &first.view, &written, &first.refused);
    let told = report.tell(args.json);
    // The next run would find nothing to do: whether or not this one was heard, the program is.
    let ran = match program {
        Some(program) if !written.is_empty() => {
            program.run_until(&stop, &target.path, &names(&written)).await
        }
        _ => Ok(()),
    };
    first.refusals()?;
    ran?;
    told
}

impl Args {
    fn check(&self) -> Result<()> {
        if self.refresh_interval < Duration::from_secs(1) {
            return Err(Error::class("--refresh-interval is too short")
                .fix("look for new versions at most once a second"));
        }
        if self.fetch_timeout.is_zero() || self.on_change_timeout.is_zero() {
            return Err(Error::class("--fetch-timeout or --on-change-timeout is no time at all"));
        }
        let all =
            [self.refresh_interval, self.fetch_timeout, self.max_stale, self.on_change_timeout];
        if all.iter().any(|time| *time > config::LONGEST) {
            return Err(Error::class("a duration is longer than a year"));
        }
        Ok(())
    }
}

fn names(written: &Written) -> Vec<String> {
    let all = written.added.iter().chain(&written.changed).chain(&written.removed);
    all.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_two_numbers() {
        assert_eq!(owner("0:65534"), Ok(files::Owner { uid: 0, gid: 65534 }));
        for bad in ["", "1", "1:", ":1", "a:b", "1:2:3", "-1:0", "4294967295:0", "root:root"] {
            assert!(owner(bad).is_err(), "{bad}");
        }
    }
}
