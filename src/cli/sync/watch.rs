//! The process that stays: it writes each new generation, and keeps the files through everything else.
//!
//! The user's program hears of a change first, the log and stdout after it. At the start it runs
//! whatever was written: an earlier process may have ended between its write and its run, or another
//! one may have written, so what has changed since the last run is not known.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc::Receiver, oneshot};
use tokio_util::sync::CancellationToken;

use super::on_change::OnChange;
use super::report::Report;
use super::target::Target;
use super::{first, names};
use crate::delivery::files::Written;
use crate::error::{Error, Result};
use crate::view::{Announcement, Layout, ObjectStatus};

/// What is missing later is waited for so long at a time.
const FILL: Duration = Duration::from_secs(30);

/// Why the files are looked at.
enum Why {
    /// The view has something new.
    Announced(Announcement),
    /// Somebody has asked for a refresh, and waits.
    Asked(oneshot::Sender<()>),
    Time,
}

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
            let shown = view.shown().unwrap_or_default();
            all.extend(shown.iter().map(|file| file.path().to_owned()));
            on_change.changed(all);
        }
        self.report(&written);
        let mut refresher = tokio::spawn(view.clone().keep_fresh(self.interval));
        let mut restores = self.first.restore.listen();
        let mut behind = false;
        loop {
            let why = tokio::select! {
                Some(announced) = announcements.recv() => Why::Announced(announced),
                Some(done) = restores.recv() => Why::Asked(done),
                // It looks for ever.
                _ = &mut refresher => return Err(Error::task_failed()),
                () = tokio::time::sleep(self.interval) => Why::Time,
                () = stop.cancelled() => break,
            };
            // What could not be fetched or written before is tried again now and then. In an atomic
            // generation that is the last version of a history that has grown: it comes along. In a
            // flat directory nobody waits for another's file.
            let fills = match &why {
                Why::Announced(_) => self.target.layout() == Layout::Atomic,
                Why::Asked(_) => false,
                Why::Time => true,
            };
            // Without these nothing could be written.
            let fills = fills || view.status().objects.iter().any(|object| object.let_go);
            tokio::select! {
                () = self.fill(), if fills => {}
                () = stop.cancelled(), if fills => break,
                else => {}
            }
            // Nothing is written when nothing differs; what somebody else has changed or removed does.
            behind = !self.write(behind, matches!(why, Why::Announced(_))).await;
            // A new name of a whole vault comes without its value. Nobody else has waited for it.
            let new = matches!(why, Why::Announced(_)) && !fills && self.is_new();
            tokio::select! {
                () = self.fill(), if new => behind = !self.write(behind, false).await,
                () = stop.cancelled(), if new => break,
                else => {}
            }
            match why {
                // Whoever refreshed may have gone.
                Why::Announced(Announcement { shown, .. }) => drop(shown.send(())),
                Why::Asked(done) => drop(done.send(())),
                Why::Time => {}
            }
        }
        refresher.abort();
        view.close();
        if let Some(on_change) = self.on_change {
            on_change.end().await;
        }
        Ok(())
    }

    /// Whether there is something whose value nobody has asked for yet.
    fn is_new(&self) -> bool {
        let objects = self.first.view.status().objects;
        objects.iter().any(|object| first::is_missing(object) && object.failure.is_none())
    }

    /// Fetches what has no value: of a vault what was refused at the start, and what a history got.
    async fn fill(&self) {
        let missing = |object: &ObjectStatus| object.let_go || first::is_missing(object);
        if self.first.view.status().objects.iter().any(missing) {
            // The status says of each why it is missing, and so did the log.
            let _ = self.first.view.fill_all(Instant::now() + FILL).await;
        }
    }

    /// Whether the directory shows what the view has now. A failure is told once, and that nothing had
    /// to be written when something is new.
    async fn write(&self, failed_before: bool, new: bool) -> bool {
        let problem = &self.first.problem;
        match self.target.write(&self.first.view).await {
            Ok(written) => {
                problem.set(None);
                if let Some(on_change) = &self.on_change
                    && !written.is_empty()
                {
                    on_change.changed(names(&written));
                }
                if new || !written.is_empty() {
                    self.report(&written);
                }
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
