//! `akvfs refresh`: look for new versions now, and say what came of it.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::control;
use crate::control::wire::{Outcome, RefreshReport, Request};
use crate::error::{Code, Error, Result, printable};

use super::served::{device, find, resolve};
use super::{note, say};

/// Look for new versions of a mount or sync now
///
/// Prints the files that changed. The exit code is 0 when every object was looked at, changed or not, and
/// what changed is shown.
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    /// Where it is
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let directory = resolve(&args.dir).await?;
    let device = device(&directory).await;
    let peer = find(&directory, device.as_deref()).await?;
    let directory = directory.to_string_lossy().into_owned();
    let answer = control::ask(&peer, &Request::refresh(directory, device)).await?;
    let report = match answer.outcome {
        Outcome::Refreshed(report) => report,
        Outcome::Error(problem) => {
            return Err(Error::new(Code::Local, printable(&problem.message, 1024)));
        }
        Outcome::Served(_) | Outcome::Unmounted { .. } => {
            return Err(Error::new(Code::BadAnswer, "the process answered another question"));
        }
    };
    tell(&report, args.json)?;
    match report.failures.len() {
        0 => Ok(()),
        1 => Err(Error::new(Code::Local, "not everything could be refreshed: 1 failure")),
        count => {
            let what = format!("not everything could be refreshed: {count} failures");
            Err(Error::new(Code::Local, what))
        }
    }
}

fn tell(report: &RefreshReport, json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string(report)
            .map_err(|_| Error::new(Code::Internal, "the report cannot be written as JSON"))?;
        return say(&format!("{text}\n"));
    }
    for failure in &report.failures {
        note(&printable(&failure.message, 1024));
    }
    let changed = report.changed.iter().map(|file| printable(file, 4096) + "\n");
    say(&changed.collect::<String>())?;
    if report.omitted > 0 {
        note(&format!("and {} more", report.omitted));
    }
    if report.changed.is_empty() {
        let known = if report.failures.is_empty() { ", nothing is new" } else { "" };
        note(&format!("{} objects looked at{known}", report.checked));
    }
    Ok(())
}
