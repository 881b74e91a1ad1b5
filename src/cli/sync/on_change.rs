//! The user's program that runs after files have changed.
//!
//! It is started as it is, with no shell in between. It gets the environment of akvfs less its
//! credentials and options, and two variables more: `AKVFS_DIRECTORY`, and `AKVFS_CHANGED_FILES` with a
//! path in each line (not set when that would be longer than 64 KiB). It never gets a value. One runs at
//! a time: what changes meanwhile is one more run afterwards. One that runs too long is killed with its
//! children. That it failed is told, and changes nothing else.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Result, printable};
use crate::process;

const MAX_NAMES: usize = 64 * 1024;
/// When akvfs ends, a run gets this long.
const GOODBYE: Duration = Duration::from_secs(5);

/// What to run.
pub(super) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    limit: Duration,
}

impl Program {
    pub(super) fn new(path: &Path, args: &[OsString], limit: Duration) -> Result<Self> {
        let shown = printable(&path.to_string_lossy(), 256);
        if !path.is_absolute() {
            return Err(Error::class(format!("--on-change {shown} is not an absolute path"))
                .fix("it is started without a shell; write /bin/sh -- -c '...' for one"));
        }
        if !path.is_file() {
            return Err(Error::class(format!("--on-change {shown} is not a program")));
        }
        Ok(Self { path: path.to_owned(), args: args.to_vec(), limit })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started, failed, or ran too long.
    pub(super) async fn run(&self, directory: &Path, changed: &[String]) -> Result<()> {
        let shown = printable(&self.path.to_string_lossy(), 256);
        let failed = |what: String| Error::new(Code::Local, format!("--on-change {shown} {what}"));
        let mut command = Command::from(process::stranger(&self.path));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AKVFS_") {
                command.env_remove(name);
            }
        }
        command.args(&self.args).env("AKVFS_DIRECTORY", directory);
        let names = changed.join("\n");
        if names.len() <= MAX_NAMES {
            command.env("AKVFS_CHANGED_FILES", names);
        }
        // What akvfs prints on stdout is for scripts.
        command.stdin(Stdio::null()).stdout(std::io::stderr()).stderr(Stdio::inherit());
        let mut running = process::spawn_group(&mut command)
            .map_err(|error| failed(format!("cannot be started: {}", error.kind())))?;
        let ended = tokio::time::timeout(self.limit, running.child.wait()).await;
        let status = ended
            .map_err(|_| failed(format!("ran longer than {:?} and was killed", self.limit)))?
            .map_err(|error| failed(format!("is lost: {}", error.kind())))?;
        // `exit status: 1`, `signal: 15 (SIGTERM)`
        if status.success() { Ok(()) } else { Err(failed(format!("failed with {status}"))) }
    }
}

impl Program {
    /// Runs it to its end; once akvfs is asked to stop, it gets a little longer and is killed then.
    ///
    /// # Errors
    /// As of [`Program::run`], or it was killed.
    pub(super) async fn run_until(
        &self,
        stop: &CancellationToken,
        directory: &Path,
        changed: &[String],
    ) -> Result<()> {
        let mut running = std::pin::pin!(self.run(directory, changed));
        tokio::select! {
            ended = &mut running => return ended,
            () = stop.cancelled() => {}
        }
        let ended = tokio::time::timeout(GOODBYE, running).await;
        ended.unwrap_or_else(|_| {
            let what = "stopped while the --on-change program ran, which was killed; the files are written";
            Err(Error::new(Code::Draining, what))
        })
    }
}

/// Runs the program after changes.
pub(super) struct OnChange {
    changed: Arc<Mutex<BTreeSet<String>>>,
    wake: Arc<Notify>,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl OnChange {
    pub(super) fn start(program: Program, directory: PathBuf) -> Self {
        let changed = Arc::new(Mutex::new(BTreeSet::new()));
        let wake = Arc::new(Notify::new());
        let ending = CancellationToken::new();
        let task = tokio::spawn({
            let (changed, wake, ending) = (changed.clone(), wake.clone(), ending.clone());
            async move {
                loop {
                    tokio::select! {
                        // What was written is told before the end.
                        biased;
                        () = wake.notified() => {}
                        () = ending.cancelled() => return,
                    }
                    let names = std::mem::take(
                        &mut *changed.lock().unwrap_or_else(PoisonError::into_inner),
                    );
                    let names: Vec<String> = names.into_iter().collect();
                    if let Err(error) = program.run(&directory, &names).await {
                        tracing::warn!("{error}");
                    }
                }
            }
        });
        Self { changed, wake, ending, task }
    }

    /// Files have changed. The names in wait are bounded: they are those of the view.
    pub(super) fn changed(&self, names: Vec<String>) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
        self.wake.notify_one();
    }

    /// Waits shortly for a run; then it is killed.
    pub(super) async fn end(mut self) {
        self.ending.cancel();
        if tokio::time::timeout(GOODBYE, &mut self.task).await.is_err() {
            tracing::warn!("the --on-change program still runs, and is killed");
            self.task.abort();
            let _ = (&mut self.task).await;
        }
    }
}

#[cfg(all(test, unix))]
mod tests;
