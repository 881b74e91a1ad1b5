//! One record per OPEN, written before the reader gets its file.
//!
//! With an audit every OPEN, allowed or refused, goes through one thread: it reads what /proc tells of
//! the caller (who waits in the kernel meanwhile), writes the record, then answers. So neither a session
//! thread nor a task waits for a disk. What cannot be written is counted, and the OPEN goes on as it would
//! have; where the audit is required it fails with EIO instead. A sink that hangs holds nobody for longer
//! than a few seconds, and while it hangs nobody new at all.

mod caller;
mod record;
mod sink;
mod tally;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuser::Errno;
use tokio::runtime::Handle;
use tokio::sync::Notify;

pub use sink::Sink;
pub use tally::Tally;

use super::opening::{Answers, Opening, Outcome, Refusal, Who};
use crate::error::{Code, Error, Result, printable};
use record::{Facts, Record};

/// OPENs that wait for their record.
const QUEUE: usize = 1024;
/// Longest wait for one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody has waited for so long.
const LOOK: Duration = Duration::from_secs(1);

/// How the opens of a mount are recorded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to.
    pub sink: Sink,
    /// Whether an open whose record cannot be written fails. Else it is counted only.
    pub required: bool,
}

/// Opens the sink and starts the thread, which ends with the [`Audit`].
pub(super) fn start(
    options: &Options,
    mount: &Path,
    answers: Answers,
    runtime: &Handle,
) -> Result<Audit> {
    if let Sink::File(file) = &options.sink {
        refuse_below(mount, file, "audit")?;
    }
    let sink = sink::Opened::open(&options.sink)?;
    let tally = Tally::new(sink.description(), options.required, runtime.clone());
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        work: Condvar::new(),
        busy: Notify::new(),
        answers,
        tally: Arc::new(tally),
        mount: mount.to_string_lossy().into_owned(),
        knows_callers: caller::readable(),
    });
    let worker = shared.clone();
    let thread = std::thread::Builder::new().name("akvfs-audit".to_owned());
    thread.spawn(move || worker.work(sink)).map_err(|error| {
        Error::new(Code::Local, format!("threads cannot be started: {}", error.kind()))
    })?;
    runtime.spawn(shared.clone().watch());
    Ok(Audit(Auditor(shared)))
}

/// Records that go below the mount would wait for themselves, and what is logged there is seen by nobody.
pub(crate) fn refuse_below(mount: &Path, file: &Path, what: &str) -> Result<()> {
    let absolute = std::path::absolute(file).ok();
    let parent = absolute.and_then(|file| file.parent()?.canonicalize().ok());
    if !parent.is_some_and(|parent| parent.starts_with(mount)) {
        return Ok(());
    }
    let file = printable(&file.to_string_lossy(), 256);
    let what = format!("the {what} file {file} is where the tree is to be");
    Err(Error::new(Code::PlaceRefused, what).fix("name a file elsewhere"))
}

/// A running audit. Dropping it ends it.
pub(super) struct Audit(Auditor);

impl Audit {
    pub(super) fn auditor(&self) -> Auditor {
        self.0.clone()
    }

    pub(super) fn tally(&self) -> Arc<Tally> {
        self.0.0.tally.clone()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let shared = &self.0.0;
        shared.state().closed = true;
        shared.work.notify_all();
        shared.busy.notify_one();
    }
}

/// The way to the audit's thread.
#[derive(Clone)]
pub(super) struct Auditor(Arc<Shared>);

impl Auditor {
    /// Takes over the answer. Never blocks.
    pub(super) fn submit(&self, opening: Opening, outcome: Outcome) {
        let shared = &self.0;
        let mut state = shared.state();
        let why = if state.closed {
            "the mount has ended"
        } else if state.stuck {
            "the last record is still being written"
        } else if state.queue.len() >= QUEUE {
            "too many opens wait for their record"
        } else {
            state.queue.push_back(Waiting { opening, outcome, since: Instant::now() });
            let watched = std::mem::replace(&mut state.watched, true);
            drop(state);
            shared.work.notify_one();
            if !watched {
                shared.busy.notify_one();
            }
            return;
        };
        drop(state);
        shared.unrecorded(opening, outcome, why);
    }
}

struct Waiting {
    opening: Opening,
    outcome: Outcome,
    since: Instant,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Waiting>,
    /// Whose record is being written.
    current: Option<Waiting>,
    /// The record that is being written takes so long that nobody waits for it any more.
    stuck: bool,
    /// Somebody looks after those who wait.
    watched: bool,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    busy: Notify,
    answers: Answers,
    tally: Arc<Tally>,
    mount: String,
    knows_callers: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: a record after the other.
    fn work(&self, mut sink: sink::Opened) {
        while let Some(record) = self.next() {
            let written = sink.write(&record);
            let done = {
                let mut state = self.state();
                state.stuck = false;
                state.current.take()
            };
            // Whoever has waited too long has an answer.
            let Some(Waiting { opening, outcome, .. }) = done else { continue };
            match written {
                Ok(()) => {
                    self.tally.written();
                    self.answers.give(opening, outcome);
                }
                Err(error) => {
                    let why = error.get_ref().map(ToString::to_string);
                    let why = why.unwrap_or_else(|| error.kind().to_string());
                    self.unrecorded(opening, outcome, &why);
                }
            }
        }
    }

    /// Waits for an OPEN, and makes its record.
    fn next(&self) -> Option<Record> {
        let mut state = self.state();
        loop {
            if let Some(waiting) = state.queue.pop_front() {
                let facts = self.facts(state.current.insert(waiting));
                drop(state);
                return Some(self.record(facts));
            }
            if state.closed {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn record(&self, facts: Facts) -> Record {
        let caller = match facts.thread {
            thread @ 1.. if self.knows_callers => caller::read(thread),
            _ => caller::Caller::default(),
        };
        Record::new(facts, caller)
    }

    fn facts(&self, waiting: &Waiting) -> Facts {
        let Waiting { opening, outcome, .. } = waiting;
        let view = &self.answers.view;
        // What failed late was fetched all the same.
        let known = view.slot(opening.id).ok();
        let slot = outcome.as_ref().ok().or(known.as_ref());
        let who = opening.who.as_ref();
        let latency = who.map_or(Duration::ZERO, |who| who.arrived.elapsed());
        Facts {
            mount: self.mount.clone(),
            file: view.path(opening.id),
            about: view.about(opening.id, slot.map(|slot| &**slot)),
            uid: who.map_or(0, |who| who.uid),
            gid: who.map_or(0, |who| who.gid),
            thread: who.map_or(0, |who| who.thread),
            request: opening.request,
            refused: outcome.as_ref().err().map(|refusal| (refusal.code, refusal.errno.code())),
            latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
            cache_hit: who.is_some_and(|who: &Who| who.cache_hit),
        }
    }

    /// Answers without a record.
    fn unrecorded(&self, opening: Opening, outcome: Outcome, why: &str) {
        let outcome = match outcome {
            Ok(_) if self.tally.required => {
                let cause = format!("no audit record can be written: {why}");
                Err(Refusal { errno: Errno::EIO, code: "not_audited", cause })
            }
            outcome => outcome,
        };
        self.tally.lost(why);
        self.answers.give(opening, outcome);
    }

    /// Answers whoever has waited too long, whatever the thread is doing.
    async fn watch(self: Arc<Self>) {
        loop {
            self.busy.notified().await;
            loop {
                tokio::time::sleep(LOOK).await;
                for Waiting { opening, outcome, .. } in self.late() {
                    self.unrecorded(opening, outcome, "the sink does not take records");
                }
                let mut state = self.state();
                if state.current.is_none() && state.queue.is_empty() {
                    state.watched = false;
                    if state.closed {
                        return;
                    }
                    break;
                }
            }
        }
    }

    fn late(&self) -> Vec<Waiting> {
        let mut state = self.state();
        let late = |waiting: &Waiting| waiting.since.elapsed() >= PATIENCE;
        let mut all: Vec<Waiting> =
            state.current.take_if(|waiting| late(waiting)).into_iter().collect();
        if !all.is_empty() {
            // Those behind it would wait for the same.
            state.stuck = true;
            all.extend(state.queue.drain(..));
        }
        while state.queue.front().is_some_and(late) {
            all.extend(state.queue.pop_front());
        }
        all
    }
}
