//! The first fetch of everything: all of it, or an error. The view's log names each object that failed.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::class::{ObjectKind, ObjectName, Version};
use crate::cli::note;
use crate::cli::source::{Opened, serve_status};
use crate::control::{self, wire::Kind};
use crate::error::{Code, Error, Result};
use crate::fetch::{self, Demand, ObjectRef};
use crate::jitter;
use crate::view::{Layout, Limits, ObjectStatus, View};

/// Before a second try; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(200);
/// Before a file of an earlier run goes, the vault is asked a second time: as for what is shown.
const CONFIRM: Duration = Duration::from_secs(5);
/// Files of an earlier run that are asked about at the same time.
const AT_A_TIME: usize = 16;

/// How the first fetch goes on.
pub(super) struct Attempt<'a> {
    pub(super) opened: &'a Opened,
    pub(super) layout: Layout,
    pub(super) max_stale: Duration,
    pub(super) timeout: Duration,
    /// The process stays: it has a control socket as soon as there is something to tell.
    pub(super) watch: bool,
    /// Try again until it works.
    pub(super) retry: bool,
    pub(super) longest_pause: Duration,
}

/// A view with everything in it that there is.
pub(super) struct Fetched {
    pub(super) view: Arc<View>,
    /// What the vault refuses, of a whole vault in the flat layout: there is no file of it.
    pub(super) refused: Vec<ObjectStatus>,
    pub(super) problem: control::Problem,
    pub(super) restore: control::Restore,
    _control: Option<control::Serving>,
}

impl Fetched {
    /// The error of a command that ends, when not everything could be written.
    pub(super) fn refusals(&self) -> Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let (failed, all) = (self.refused.len(), self.view.status().objects.len());
        let what = format!("{failed} of {all} objects have no file");
        Err(Error::new(Code::Local, what)
            .fix("give this identity access, or list what you want in a class"))
    }
}

impl Attempt<'_> {
    pub(super) async fn run(&self, directory: &Path, stop: &CancellationToken) -> Result<Fetched> {
        let mut pause = FIRST_PAUSE;
        let mut said = None;
        let mut fetched = None;
        loop {
            let tried = tokio::select! {
                tried = self.once(directory, &mut fetched) => tried,
                () = stop.cancelled() => return Err(stopped()),
            };
            let error = match (tried, fetched.take()) {
                (Ok(refused), Some(fetched)) => return Ok(Fetched { refused, ..fetched }),
                (Ok(_), None) => return Err(Error::task_failed()),
                (Err(error), again) => {
                    fetched = again;
                    error
                }
            };
            // What the user has to write differently is not waited for.
            if !self.retry || error.code() == Code::ClassInvalid {
                return Err(error);
            }
            if said.replace(error.code()) != Some(error.code()) {
                note(&format!("trying again, since {error}"));
            }
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(jitter::between(0.75, 1.0))) => {}
                () = stop.cancelled() => return Err(stopped()),
            }
            pause = (pause * 2).min(self.longest_pause.max(FIRST_PAUSE));
        }
    }

    /// One try. What was fetched before is not fetched again.
    async fn once(
        &self,
        directory: &Path,
        fetched: &mut Option<Fetched>,
    ) -> Result<Vec<ObjectStatus>> {
        let deadline = Instant::now() + self.timeout;
        if fetched.is_none() {
            let limits = Limits { max_stale: self.max_stale, ..Limits::default() };
            let view = self.opened.whole_view(self.layout, limits, deadline).await?;
            self.keep_earlier(&view, directory, deadline).await?;
            let entry = self.opened.entry(Kind::Sync, directory, &view);
            let (problem, restore) = (entry.problem.clone(), entry.restore.clone());
            let control = if self.watch { serve_status(entry) } else { None };
            let refused = Vec::new();
            *fetched = Some(Fetched { view, refused, problem, restore, _control: control });
        }
        let Some(Fetched { view, .. }) = fetched else { return Err(Error::task_failed()) };
        let mut error = match fill(view, deadline).await {
            Ok(()) => return Ok(Vec::new()),
            Err(error) => error,
        };
        // Of a class all is wanted. Of a vault, what this identity may have.
        let parts = self.opened.is_listing() && self.layout == Layout::Flat;
        if parts && let Some(missing) = refused_only(view) {
            if !have_files(missing.clone(), directory).await {
                return Ok(missing);
            }
            tokio::time::sleep(CONFIRM).await;
            error = match fill(view, deadline.max(Instant::now() + CONFIRM)).await {
                Ok(()) => return Ok(Vec::new()),
                Err(error) => error,
            };
            if let Some(missing) = refused_only(view) {
                return Ok(missing);
            }
        }
        let objects = view.status().objects;
        let missing = objects.iter().filter(|object| is_missing(object)).count();
        let all = objects.len();
        let what = format!("{missing} of {all} objects cannot be fetched, so nothing is written");
        Err(error.context(what))
    }
}

impl Attempt<'_> {
    /// Of a whole vault: files of an earlier run whose names the vault does not list. They go when the
    /// vault refuses their objects, too, and twice: a list alone takes nothing away.
    async fn keep_earlier(
        &self,
        view: &Arc<View>,
        directory: &Path,
        deadline: Instant,
    ) -> Result<()> {
        let mut doubtful = unlisted(self.opened.collections(), view, directory).await;
        for pause in [Duration::ZERO, CONFIRM] {
            if doubtful.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            let limit = deadline.max(Instant::now() + CONFIRM);
            let mut answers = stream::iter(std::mem::take(&mut doubtful))
                .map(|object| async move {
                    let asked = self.opened.origin.get(object.clone(), Demand::FIRST, limit).await;
                    (object, asked)
                })
                .buffer_unordered(AT_A_TIME);
            while let Some((object, answer)) = answers.next().await {
                match answer {
                    Ok(_) => view.add_name(object.kind, &object.name)?,
                    Err(error) if fetch::is_refusal(&error) => doubtful.push(object),
                    Err(error) => {
                        let (kind, name) = (object.kind.as_str(), &object.name);
                        let what = format!("whether {kind} {name} is still there cannot be told");
                        return Err(error.context(what));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Objects that have a file in their collection's folder, and are not in the view.
async fn unlisted(kinds: &[ObjectKind], view: &View, directory: &Path) -> Vec<ObjectRef> {
    let known: HashSet<(ObjectKind, String)> =
        view.status().objects.into_iter().map(|object| (object.kind, object.name)).collect();
    let (kinds, directory) = (kinds.to_vec(), directory.to_owned());
    let found = tokio::task::spawn_blocking(move || {
        let files = kinds.iter().flat_map(|kind| {
            let files = std::fs::read_dir(directory.join(kind.collection()));
            let files = files.into_iter().flatten().take(fetch::MAX_NAMES).flatten();
            files.filter_map(|file| Some((*kind, file.file_name().into_string().ok()?)))
        });
        let unknown = files.filter(|file| !known.contains(file));
        let objects = unknown.filter_map(|(kind, name)| {
            let name = ObjectName::parse(&name).ok()?;
            Some(ObjectRef { kind, name, version: Version::Latest })
        });
        objects.collect()
    });
    found.await.unwrap_or_default()
}

/// Whether there should be a file of it.
pub(super) fn is_missing(object: &ObjectStatus) -> bool {
    object.version.is_none() && object.withdrawn.is_none()
}

/// Whether the vault has said that there is nothing to show.
pub(super) fn is_refused(object: &ObjectStatus) -> bool {
    is_missing(object)
        && object.failure.as_ref().is_some_and(|failure| fetch::is_refusal(&failure.error))
}

/// What is missing, when the vault refuses each of these and gives something else.
fn refused_only(view: &View) -> Option<Vec<ObjectStatus>> {
    let objects = view.status().objects;
    let all = objects.len();
    let missing: Vec<_> = objects.into_iter().filter(is_missing).collect();
    (missing.len() < all && missing.iter().all(is_refused)).then_some(missing)
}

/// Whether one of the objects has a file, of an earlier run.
async fn have_files(objects: Vec<ObjectStatus>, directory: &Path) -> bool {
    let directory = directory.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let mut files = objects.iter().flat_map(|object| &object.files);
        files.any(|file| directory.join(file).symlink_metadata().is_ok())
    });
    // Not known is a yes: that costs a pause.
    found.await.unwrap_or(true)
}

async fn fill(view: &Arc<View>, deadline: Instant) -> Result<()> {
    let _progress = Progress::of(view);
    view.fill_all(deadline).await
}

/// Asked to stop before anything was done: that is no failure of a process that stays.
pub(super) fn stop_asked(watch: bool) -> Result<()> {
    if watch { Ok(()) } else { Err(stopped()) }
}

fn stopped() -> Error {
    Error::new(Code::Draining, "stopped before everything was fetched; nothing is written")
}

/// A counter on the terminal, while it lives.
struct Progress(Option<tokio::task::JoinHandle<()>>);

impl Progress {
    fn of(view: &Arc<View>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let view = view.clone();
        Self(Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(REDRAW).await;
                let objects = view.status().objects;
                let there = objects.iter().filter(|object| object.version.is_some()).count();
                let _ = write!(std::io::stderr(), "\rfetched {there} of {} ", objects.len());
            }
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
