//! The process that stays: it writes each new generation, and keeps the files through everything else.
//!
//! The user's program hears of a change first, the log and stdout after it. At the start it runs
//! whatever was written: an earlier process may have ended between its write and its run, or another
//! one may have written, so what has changed since the last run is not known.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::on_change::OnChange;
use super::report::Report;
use super::target::Target;
use super::{first, names};
use crate::delivery::files::Written;
use crate::error::{Error, Result};
use crate::view::{Announcement, Layout};

/// What is missing later is waited for so long at a time.
const FILL: Duration = Duration::from_secs(30);

/// The process that stays.
pub(super) struct Watch {
    pub(super) target: Target,
    pub(super) on_change: Option<OnChange>,
    pub(super) first: first::Fetched,
    pub(super) interval: Duration,
    pub(super) json: bool,
    /// Nobody reads what is said on stdout, and that is told.
    pub(super) unheard: AtomicBool,
}

impl Watch {
    pub(super) async fn run(
        self,
        written: Written,
        mut announcements: Receiver<Announcement>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let view = &self.first.view;
        if let Some(on_change) = &self.on_change {
            let mut all = names(&written);
            all.extend(view.shown().iter().map(|file| file.path().to_owned()));
            on_change.changed(all);
        }
        self.report(&written);
        let mut refresher = tokio::spawn(view.clone().keep_fresh(self.interval));
        let mut behind = false;
        loop {
            let announced = tokio::select! {
                Some(announced) = announcements.recv() => Some(announced),
                // It looks for ever.
                _ = &mut refresher => return Err(Error::task_failed()),
                () = tokio::time::sleep(self.interval) => None,
                () = stop.cancelled() => break,
            };
            // What could not be fetched or written before is tried again now and then. In an atomic
            // generation that is the last version of a history that has grown: it comes along. In a
            // flat directory nobody waits for another's file.
            let fills = announced.is_none() || self.target.layout() == Layout::Atomic;
            let filled = tokio::select! {
                filled = self.fill(), if fills => filled,
                () = stop.cancelled(), if fills => break,
                else => false,
            };
            if announced.is_some() || behind || filled {
                behind = !self.write(behind).await;
            }
            if let Some(Announcement { shown, .. }) = announced {
                // Whoever refreshed may have gone.
                let _ = shown.send(());
            }
        }
        refresher.abort();
        view.close();
        if let Some(on_change) = self.on_change {
            on_change.end().await;
        }
        Ok(())
    }

    fn missing(&self) -> usize {
        let objects = self.first.view.status().objects;
        objects.iter().filter(|object| first::is_missing(object)).count()
    }

    /// Fetches what has no value: of a vault what was refused at the start, and what a history got.
    /// Says whether that brought something.
    async fn fill(&self) -> bool {
        let before = self.missing();
        if before == 0 {
            return false;
        }
        // The status says of each why it is missing, and so did the log.
        let deadline = Instant::now() + FILL;
        let _ = self.first.view.fill_all(deadline).await;
        self.missing() < before
    }

    /// Whether the directory shows what the view has now. A failure is told once.
    async fn write(&self, failed_before: bool) -> bool {
        let problem = &self.first.problem;
        match self.target.write(&self.first.view).await {
            Ok(written) => {
                problem.set(None);
                if let Some(on_change) = &self.on_change
                    && !written.is_empty()
                {
                    on_change.changed(names(&written));
                }
                self.report(&written);
                true
            }
            Err(error) => {
                let error = error.context("new versions are not written");
                if !failed_before {
                    tracing::error!(code = error.code().as_str(), "{error}");
                }
                problem.set(Some(error.to_string()));
                false
            }
        }
    }

    /// That nobody hears it is no reason to end.
    fn report(&self, written: &Written) {
        let Watch { target, first, json, .. } = self;
        let mut objects = first.view.status().objects;
        objects.retain(first::is_refused);
        let told = Report::new(&target.path, &first.view, written, &objects).tell(*json);
        match told {
            Ok(()) => self.unheard.store(false, Ordering::Relaxed),
            Err(error) if self.unheard.swap(true, Ordering::Relaxed) => drop(error),
            Err(error) => tracing::error!(
                code = error.code().as_str(),
                "{error}: what is written is not reported"
            ),
        }
    }
}
