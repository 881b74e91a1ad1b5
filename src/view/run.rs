//! A refresh that runs, for its looks and for those who wait for it.
//!
//! A run has no limit of its own: each look has one, and the run ends when everything was looked at.
//! Only a vault that does not answer ends it early: once as much time was spent in vain as all looks
//! that run at the same time may take, nothing more is asked in this run, and the next one begins with
//! what is left. So an outage costs two limits of a look at most, however much there is to look at.
//!
//! How long somebody waits for a run is his own matter. When his time is over he is told what is known
//! by then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Limits;
use super::refresh::{Refreshed, failed};
use crate::error::{Code, Error};

/// Looks whose questions end with a caller's time say why a moment later.
const MOMENT: Duration = Duration::from_secs(1);

/// One run at a time, what the last one came to, and how far the running one is.
#[derive(Default)]
pub(super) struct Runs {
    /// Somebody has asked for one: it lists whatever was listed a moment ago.
    pub(super) lists: AtomicBool,
    pub(super) begun: AtomicU64,
    pub(super) last: tokio::sync::Mutex<(u64, Refreshed)>,
    /// The unit that the next one begins with.
    pub(super) first: AtomicUsize,
    pub(super) progress: watch::Sender<Progress>,
}

/// How long somebody waits: for his turn, and then again for the run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Endless,
    /// For both together.
    Until(Instant),
    /// For each of them.
    Each(Duration),
}

impl Patience {
    /// When it ends for what begins now.
    pub(super) fn end(self) -> Option<Instant> {
        match self {
            Self::Endless => None,
            Self::Until(end) => Some(end),
            Self::Each(time) => Instant::now().checked_add(time),
        }
    }
}

/// What is known of a run.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) number: u64,
    all: usize,
    looked: usize,
    failures: Vec<Error>,
    /// Looks that go on after the time of whoever began the run, and why they had no answer by then.
    open: BTreeMap<usize, Option<Error>>,
    /// What it came to, while that is being shown.
    found: Option<Refreshed>,
}

impl Progress {
    /// What a caller is told whose time ends now. `before` is the last run that had begun when he came.
    fn so_far(&self, before: u64) -> Refreshed {
        let wait = "wait: it goes on; akvfs status has the state";
        let (all, looked) = (self.all, self.looked);
        if self.number <= before {
            let what =
                format!("another refresh is still running, {looked} of {all} objects are done");
            return failed(Error::new(Code::TimedOut, what).fix(wait));
        }
        if let Some(found) = &self.found {
            let what = "what was found is not shown yet";
            let mut done = found.clone();
            done.failures.push(Error::new(Code::TimedOut, what).fix(wait));
            return done;
        }
        let reasons: Vec<_> = self.open.values().flatten().cloned().collect();
        let checked = looked + reasons.len();
        let mut failures = [self.failures.clone(), reasons].concat();
        let left = all.saturating_sub(checked);
        if left > 0 {
            let what =
                format!("not everything was looked at in time: {left} of {all} objects are left");
            failures.push(Error::new(Code::TimedOut, what).fix(wait));
        }
        Refreshed { checked, changed: Vec::new(), failures }
    }
}

impl Runs {
    /// What is known at the end of a caller's time; looks whose questions end with it say why.
    pub(super) async fn so_far(&self, before: u64) -> Refreshed {
        let mut progress = self.progress.subscribe();
        let all_said = progress.wait_for(|progress| {
            progress.number <= before || progress.open.values().all(Option::is_some)
        });
        let _ = tokio::time::timeout(MOMENT, all_said).await;
        self.progress.borrow().so_far(before)
    }

    /// A look has ended.
    pub(super) fn looked(&self, unit: usize, failure: Option<&Error>) {
        self.progress.send_modify(|progress| {
            progress.looked += 1;
            progress.open.remove(&unit);
            progress.failures.extend(failure.cloned());
        });
    }

    /// All looks have ended, and this is to be shown.
    pub(super) fn found(&self, found: &Refreshed) {
        self.progress.send_modify(|progress| progress.found = Some(found.clone()));
    }
}

/// What the looks of a run share.
pub(super) struct Run<'a> {
    progress: &'a watch::Sender<Progress>,
    /// When whoever began it does not wait any longer.
    callers_end: Option<Instant>,
    /// Time that looks have spent without an answer.
    in_vain: Mutex<Duration>,
    most_in_vain: Duration,
}

impl<'a> Run<'a> {
    pub(super) fn begin(
        runs: &'a Runs,
        number: u64,
        units: usize,
        callers_end: Option<Instant>,
        limits: &Limits,
    ) -> Self {
        let progress = Progress { number, all: units, ..Progress::default() };
        runs.progress.send_replace(progress);
        let looks = u32::try_from(limits.looks()).unwrap_or(u32::MAX);
        let most_in_vain = limits.look_limit.saturating_mul(looks);
        Self { progress: &runs.progress, callers_end, in_vain: Mutex::default(), most_in_vain }
    }

    /// When the caller wants to know why this look, which begins now, has no answer; if that is before
    /// its own end.
    pub(super) fn callers_end(&self, unit: usize, now: Instant, own: Instant) -> Option<Instant> {
        let end = self.callers_end.filter(|end| now < *end && *end < own)?;
        self.progress.send_modify(|progress| {
            progress.open.insert(unit, None);
        });
        Some(end)
    }

    /// Why it had no answer when the caller's time ended.
    pub(super) fn explain(&self, unit: usize, error: &Error) {
        self.progress.send_modify(|progress| {
            progress.open.insert(unit, Some(error.clone()));
        });
    }

    /// A look has taken so long, and the vault has not answered.
    pub(super) fn was_in_vain(&self, time: Duration) {
        *self.in_vain.lock().unwrap_or_else(PoisonError::into_inner) += time;
    }

    /// Whether nothing more is to be asked.
    pub(super) fn gave_up(&self) -> bool {
        *self.in_vain.lock().unwrap_or_else(PoisonError::into_inner) >= self.most_in_vain
    }
}
