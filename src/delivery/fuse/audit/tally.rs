//! What became of the records: for `akvfs status` and the log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// The log has the last word that records are lost.
    stands: bool,
}

impl Problem {
    /// Whether the log is told.
    fn arises(&mut self, why: &str, now: Instant) -> bool {
        self.now = Some(why.to_owned());
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < PAUSE) {
            return false;
        }
        self.told = Some(now);
        self.stands = true;
        true
    }

    /// Whether the log is told.
    fn ends(&mut self) -> bool {
        self.now = None;
        std::mem::take(&mut self.stands)
    }
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
        self.locked().now.clone()
    }

    pub(super) fn written(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
        // A sink that works has no need of the lock.
        if self.failing.swap(false, Ordering::Relaxed) && self.locked().ends() {
            let lost = self.missing();
            self.log(move || tracing::warn!(lost, "audit records are written again"));
        }
    }

    pub(super) fn lost(&self, why: &str) {
        let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
        let mut problem = self.locked();
        self.failing.store(true, Ordering::Relaxed);
        let told = problem.arises(why, Instant::now());
        drop(problem);
        if !told {
            return;
        }
        let (why, sink, required) = (why.to_owned(), self.sink.clone(), self.required);
        self.log(move || {
            let opens = if required { "opens fail" } else { "opens go on" };
            tracing::warn!(sink, lost, "audit records cannot be written, {opens}: {why}");
        });
    }

    fn locked(&self) -> MutexGuard<'_, Problem> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On a thread of its own: the log may be read by whoever does not read the records.
    fn log(&self, line: impl FnOnce() + Send + 'static) {
        drop(self.runtime.spawn_blocking(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_works_now_and_then_does_not_fill_the_log() {
        let (mut problem, now) = (Problem::default(), Instant::now());
        assert!(!problem.ends());
        assert!(problem.arises("full", now));
        assert!(problem.ends() && problem.now.is_none());
        for _ in 0..3 {
            assert!(!problem.arises("full", now + PAUSE / 2));
            assert_eq!(problem.now.as_deref(), Some("full"));
            assert!(!problem.ends());
        }
        assert!(problem.arises("full", now + PAUSE));
        assert!(!problem.arises("full", now + PAUSE));
        assert!(problem.ends() && !problem.ends());
    }
}
