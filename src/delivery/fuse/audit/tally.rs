//! What became of the records: for `akvfs status` and the log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// The log says at most so often that records are lost.
const PAUSE: Duration = Duration::from_secs(60);

/// Counts the records of a mount.
#[derive(Debug)]
pub struct Tally {
    /// Where records go, for people.
    pub sink: String,
    /// Whether opens without a record fail.
    pub required: bool,
    written: AtomicU64,
    lost: AtomicU64,
    problem: Mutex<Problem>,
    failing: AtomicBool,
    runtime: Handle,
}

#[derive(Debug, Default)]
struct Problem {
    /// Until the next record that is written.
    now: Option<String>,
    told: Option<Instant>,
}

impl Tally {
    pub(super) fn new(sink: String, required: bool, runtime: Handle) -> Self {
        Self {
            sink,
            required,
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            problem: Mutex::default(),
            failing: AtomicBool::new(false),
            runtime,
        }
    }

    /// Records that are written.
    pub fn records(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Records that could not be written in time: their opens went on without, or failed.
    pub fn missing(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Why records cannot be written now.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).now.clone()
    }

    pub(super) fn written(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
        if self.failing.swap(false, Ordering::Relaxed) {
            self.problem.lock().unwrap_or_else(PoisonError::into_inner).now = None;
            let lost = self.missing();
            self.log(move || tracing::warn!(lost, "audit records are written again"));
        }
    }

    pub(super) fn lost(&self, why: &str) {
        let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        self.failing.store(true, Ordering::Relaxed);
        problem.now = Some(why.to_owned());
        if problem.told.is_some_and(|told| told.elapsed() < PAUSE) {
            return;
        }
        problem.told = Some(Instant::now());
        drop(problem);
        let (why, sink, required) = (why.to_owned(), self.sink.clone(), self.required);
        self.log(move || {
            let opens = if required { "opens fail" } else { "opens go on" };
            tracing::warn!(sink, lost, "audit records cannot be written, {opens}: {why}");
        });
    }

    /// On a thread of its own: the log may be read by whoever does not read the records.
    fn log(&self, line: impl FnOnce() + Send + 'static) {
        drop(self.runtime.spawn_blocking(line));
    }
}
