//! `akvfs refresh`: look for new versions now, and say what came of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::control::wire::{Answer, Outcome, RefreshReport, Request};
use crate::control::{self, Peer};
use crate::error::{Code, Error, Result, printable};

use super::{note, say};

/// A directory whose process hangs may never be resolved.
const PATIENCE: Duration = Duration::from_secs(5);

/// Look for new versions of a mount or sync now
///
/// Prints the files that changed. The exit code is 0 when every object was looked at, changed or not.
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
    let peer = find(&directory).await?;
    let answer = control::ask(&peer, &Request::refresh(directory)).await?;
    let report = match answer.outcome {
        Outcome::Refreshed(report) => report,
        Outcome::Error(problem) => {
            return Err(Error::new(Code::Local, printable(&problem.message, 1024)));
        }
        Outcome::Served(_) => {
            return Err(Error::new(Code::BadAnswer, "the process answered another question"));
        }
    };
    tell(&report, args.json)?;
    match report.failures.len() {
        0 => Ok(()),
        1 => Err(Error::new(Code::Local, "1 object could not be refreshed")),
        count => Err(Error::new(Code::Local, format!("{count} objects could not be refreshed"))),
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
        note(&format!("{} objects looked at, nothing is new", report.checked));
    }
    Ok(())
}

/// As the serving process knows it: without symbolic links. Whether something is there does not matter.
async fn resolve(dir: &Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        let dir = printable(&dir.to_string_lossy(), 256);
        Error::new(Code::Local, format!("cannot find {dir}: {}", error.kind()))
    };
    let absolute = std::path::absolute(dir).map_err(failed)?;
    let wanted = absolute.clone();
    let task = tokio::task::spawn_blocking(move || wanted.canonicalize());
    let resolved = match tokio::time::timeout(PATIENCE, task).await {
        Ok(Ok(Ok(resolved))) => resolved,
        Ok(Ok(Err(error))) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(failed(error));
        }
        // A mount that hangs or is dead: its name may do.
        _ => absolute,
    };
    Ok(resolved.to_string_lossy().into_owned())
}

/// The process that serves the directory.
async fn find(directory: &str) -> Result<Peer> {
    let asked = control::ask_all(&Request::status()).await?;
    let serves = |answer: &Answer| match &answer.outcome {
        Outcome::Served(served) => served.iter().any(|one| one.directory == directory),
        _ => false,
    };
    let found = asked.answers.into_iter().filter(|(_, answer)| serves(answer));
    // Root sees everybody's, and anybody may say to serve anything.
    if let Some((peer, _)) = found.min_by_key(|(peer, _)| !peer.is_own()) {
        return Ok(peer);
    }
    let directory = printable(directory, 4096);
    if asked.silent.is_empty() {
        let what = format!("no akvfs mount or sync --watch that you may ask serves {directory}");
        return Err(Error::new(Code::NotFound, what).fix("akvfs status lists them"));
    }
    let silent: Vec<&str> = asked.silent.iter().map(|silent| silent.socket.as_str()).collect();
    let what =
        format!("{directory} is served by nobody who answers; silent: {}", silent.join(", "));
    Err(Error::new(Code::Unavailable, what))
}
