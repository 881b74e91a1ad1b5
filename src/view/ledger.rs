//! What is known of each object beyond what is shown: the last failure, the vault's last good word, and
//! every content that is held of it, so that all of them can be let go of at once.
//!
//! Failures belong to a planned object; all else belongs to its *unit*: the object itself, or the first
//! one of its history, since one object of the vault is behind all of a history.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::slot::Content;
use crate::clock::Clock;
use crate::error::{Code, Error};

/// A failed fetch or check.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// Why.
    pub error: Error,
}

/// One instant by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

impl Moment {
    pub(super) fn now(clock: &Clock) -> Self {
        Self { instant: clock.now(), wall: clock.wall() }
    }
}

pub(super) struct Ledger(Mutex<Vec<Entry>>);

#[derive(Clone, Default)]
struct Entry {
    failure: Option<Failure>,
    /// When the vault was asked for its last positive answer.
    checked: Option<Moment>,
    /// Since when it cannot be asked.
    stale: Option<SystemTime>,
    /// The last refresh did not ask about it, because the vault did not answer about others.
    passed_over: bool,
    /// How often the vault took something back.
    refusals: u64,
    contents: Vec<Weak<Content>>,
}

/// What status tells of an object.
#[derive(Clone, Default)]
pub(super) struct Known {
    pub(super) failure: Option<Failure>,
    pub(super) checked: Option<SystemTime>,
    pub(super) stale: Option<SystemTime>,
}

impl Ledger {
    pub(super) fn new(objects: usize) -> Self {
        Self(Mutex::new(vec![Entry::default(); objects]))
    }

    /// Nothing is wrong with the object any more.
    pub(super) fn worked(&self, object: usize) {
        self.change(object, |entry| entry.failure = None);
    }

    /// Keeps the failure, and logs it when it is not what the object failed with before. `consequence`
    /// says what becomes of the object's files.
    pub(super) fn failed(&self, object: usize, error: &Error, now: SystemTime, consequence: &str) {
        let failure = Failure { at: now, error: error.clone() };
        let before = self.change(object, |entry| entry.failure.replace(failure)).flatten();
        if before.is_some_and(|before| before.error.code() == error.code()) {
            return;
        }
        let code = error.code().as_str();
        match error.code() {
            // Nobody but the operator can mend these, and new mounts fail by now.
            Code::Unauthenticated | Code::IdentityUnavailable | Code::PolicyDenied => {
                tracing::error!(code, "{error}{consequence}");
            }
            _ => tracing::warn!(code, "{error}{consequence}"),
        }
    }

    /// The vault has given the object, asked at that moment. Whether it could not be asked before.
    pub(super) fn answered(&self, unit: usize, asked: Moment) -> bool {
        self.change(unit, |entry| {
            entry.checked_at(asked);
            entry.passed_over = false;
            entry.stale.take().is_some()
        })
        .unwrap_or_default()
    }

    /// The vault can be asked about the object, whatever it says.
    pub(super) fn reached(&self, unit: usize) {
        self.change(unit, |entry| (entry.stale, entry.passed_over) = (None, false));
    }

    /// The vault cannot be asked about the object. Whether its last positive answer is older than so
    /// long.
    pub(super) fn unanswered(&self, unit: usize, now: Moment, most: Duration) -> bool {
        self.change(unit, |entry| {
            entry.stale.get_or_insert(now.wall);
            entry.passed_over = false;
            entry.is_overdue(now, most)
        })
        .unwrap_or_default()
    }

    /// The vault was not asked about the object, because it did not answer about others. Whether its
    /// last positive answer is older than so long; only then that makes the object stale.
    pub(super) fn passed_over(&self, unit: usize, now: Moment, most: Duration) -> bool {
        self.change(unit, |entry| {
            entry.passed_over = true;
            let overdue = entry.is_overdue(now, most);
            if overdue {
                entry.stale.get_or_insert(now.wall);
            }
            overdue
        })
        .unwrap_or_default()
    }

    /// When the first of the objects that are stale or were passed over, except these, has been so for
    /// as long as it may.
    pub(super) fn patience_ends(
        &self,
        most: Duration,
        except: impl Fn(usize) -> bool,
    ) -> Option<Instant> {
        let waits = |entry: &Entry| entry.stale.is_some() || entry.passed_over;
        let end = |entry: &Entry| entry.checked?.instant.checked_add(most);
        let ends = |(unit, entry): (usize, &Entry)| Some((unit, end(entry)?));
        let waiting: Vec<_> = {
            let entries = self.entries();
            entries.iter().enumerate().filter(|(_, entry)| waits(entry)).filter_map(ends).collect()
        };
        // Whoever says which has locks of its own.
        let waiting = waiting.into_iter().filter(|(unit, _)| !except(*unit));
        waiting.map(|(_, end)| end).min()
    }

    /// To be compared by [`Ledger::admit`].
    pub(super) fn refusals(&self, unit: usize) -> u64 {
        self.entries().get(unit).map_or(0, |entry| entry.refusals)
    }

    /// The vault has given what there was no room for; not if something was taken back since `seen`.
    pub(super) fn gave(&self, unit: usize, seen: u64, asked: Moment) {
        self.change(unit, |entry| {
            if entry.refusals == seen {
                entry.checked_at(asked);
            }
        });
    }

    /// Takes up what was fetched; not if something was taken back since `seen`: an answer on its way must
    /// not bring back what the vault has refused in the meantime.
    pub(super) fn admit(
        &self,
        unit: usize,
        content: &Arc<Content>,
        seen: u64,
        asked: Moment,
    ) -> bool {
        self.change(unit, |entry| {
            if entry.refusals != seen {
                return false;
            }
            entry.checked_at(asked);
            entry.contents.retain(|content| content.strong_count() > 0);
            entry.contents.push(Arc::downgrade(content));
            true
        })
        .unwrap_or_default()
    }

    /// Contents that are held of a unit, in whatever birth.
    pub(super) fn held(&self, unit: usize, which: impl Fn(&Content) -> bool) -> Vec<Arc<Content>> {
        let contents = self.entries().get(unit).map(|entry| entry.contents.clone());
        let held = contents.into_iter().flatten().filter_map(|content| content.upgrade());
        held.filter(|content| !content.is_withdrawn() && which(content)).collect()
    }

    /// Everything that is held of anything.
    pub(super) fn contents(&self) -> Vec<Arc<Content>> {
        let entries = self.entries();
        let contents = entries.iter().flat_map(|entry| &entry.contents);
        contents.filter_map(Weak::upgrade).collect()
    }

    /// Lets go of the bytes of these contents, wherever they are.
    pub(super) fn withdraw(&self, unit: usize, code: Code, which: impl Fn(&Content) -> bool) {
        self.change(unit, |entry| entry.refusals += 1);
        self.held(unit, which).iter().for_each(|content| content.withdraw(code));
    }

    /// Whether the last positive answer is older than so long.
    pub(super) fn is_overdue(&self, unit: usize, now: Moment, most: Duration) -> bool {
        self.change(unit, |entry| entry.is_overdue(now, most)).unwrap_or_default()
    }

    /// Lets go of everything that is held of the unit, if its last positive answer is older than so long
    /// by now. Then nothing is stale any more.
    pub(super) fn withdraw_overdue(&self, unit: usize, now: Moment, most: Duration, code: Code) {
        // At once: an answer that has come meanwhile counts, and one that comes later is asked for again.
        let overdue = self.change(unit, |entry| {
            let overdue = entry.is_overdue(now, most);
            if overdue {
                (entry.stale, entry.passed_over) = (None, false);
                entry.refusals += 1;
            }
            overdue.then(|| std::mem::take(&mut entry.contents))
        });
        let contents = overdue.flatten().into_iter().flatten();
        contents.filter_map(|content| content.upgrade()).for_each(|one| one.withdraw(code));
    }

    /// Of an object and its unit.
    pub(super) fn known(&self, object: usize, unit: usize) -> Known {
        let entries = self.entries();
        let Some(of_unit) = entries.get(unit) else { return Known::default() };
        let own = entries.get(object).and_then(|entry| entry.failure.clone());
        Known {
            failure: own.or_else(|| of_unit.failure.clone()),
            checked: of_unit.checked.map(|checked| checked.wall),
            stale: of_unit.stale,
        }
    }

    fn change<T>(&self, index: usize, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.entries().get_mut(index).map(change)
    }

    /// Room for so many objects.
    pub(super) fn grow(&self, objects: usize) {
        let mut entries = self.entries();
        let more = objects.max(entries.len());
        entries.resize_with(more, Entry::default);
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_overdue(&self, now: Moment, most: Duration) -> bool {
        let age = |checked: Moment| now.instant.saturating_duration_since(checked.instant);
        self.checked.is_some_and(|checked| age(checked) >= most)
    }

    fn checked_at(&mut self, asked: Moment) {
        if self.checked.is_none_or(|checked| checked.instant < asked.instant) {
            self.checked = Some(asked);
        }
    }
}
