//! A vault that does not answer is left alone for a while.
//!
//! An open that gets no answer costs its caller the whole deadline, and the tree a place among its fetches
//! that others need. When the fetches of three different objects in a row had no answer in time, opens of
//! what has to be fetched fail at once for half a minute. Then one open goes through as a probe. Any answer
//! of the vault ends it, whoever asked: one that was too late for its open, or one to a refresh.
//!
//! The vault's limiter knows outages as well, and lets one request at a time find out when they end; but
//! there whoever asks waits as patiently as he likes. This is about how long a program hangs in `open`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Hop, Result};
use crate::fetch::is_refusal;

/// So many objects in a row.
const SILENT: usize = 3;
/// How long the vault is left alone.
const PAUSE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    /// Objects that had no answer since the last answer. At most [`SILENT`].
    silent: Vec<usize>,
    /// When the next probe may go.
    until: Option<Instant>,
    /// The object that is asked for to find out.
    probe: Option<usize>,
}

/// Leave to ask the vault; to be told how it ended.
pub(super) struct Leave<'a> {
    breaker: &'a Breaker,
    object: usize,
    probes: bool,
}

impl Breaker {
    /// Leave to fetch an object for an open.
    ///
    /// # Errors
    /// The vault is left alone.
    pub(super) fn ask(&self, object: usize, now: Instant) -> Result<Leave<'_>> {
        let mut state = self.state();
        let Some(until) = state.until else {
            return Ok(Leave { breaker: self, object, probes: false });
        };
        if now < until || state.probe.is_some() {
            return Err(left_alone(until.saturating_duration_since(now)));
        }
        state.probe = Some(object);
        Ok(Leave { breaker: self, object, probes: true })
    }

    /// The vault has answered. Whether it was left alone.
    pub(super) fn answered(&self) -> bool {
        std::mem::take(&mut *self.state()).until.is_some()
    }

    /// Until when it is left alone.
    pub(super) fn until(&self) -> Option<Instant> {
        self.state().until
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leave<'_> {
    /// The open has failed. Whether the vault is left alone from now on.
    pub(super) fn failed(self, error: &Error, now: Instant) -> bool {
        match error.code() {
            Code::TimedOut => self.silent(now),
            // What is gone altogether has not come back either.
            Code::Unavailable if self.probes => self.silent(now),
            _ => false,
        }
    }

    fn silent(&self, now: Instant) -> bool {
        let mut state = self.breaker.state();
        if !state.silent.contains(&self.object) && state.silent.len() < SILENT {
            state.silent.push(self.object);
        }
        let opens = state.until.is_none() && state.silent.len() == SILENT;
        // An answer may have come meanwhile; then this is no probe any more.
        if opens || self.probes && state.probe == Some(self.object) {
            state.until = Some(now + PAUSE);
            state.probe = None;
        }
        opens
    }
}

impl Drop for Leave<'_> {
    /// Nothing was found out, or what was is told: the next one may try.
    fn drop(&mut self) {
        let mut state = self.breaker.state();
        if self.probes && state.probe == Some(self.object) {
            state.probe = None;
        }
    }
}

/// Whether an outcome shows that the vault answers. One that says that it cannot is no answer.
pub(super) fn hears<T>(outcome: &Result<T>) -> bool {
    let Err(error) = outcome else { return true };
    let elsewhere = error.hop().is_some_and(|hop| hop != Hop::Vault);
    let answered = !elsewhere && error.status().is_some_and(|status| status < 500);
    answered || is_refusal(error) || matches!(error.code(), Code::Throttled)
}

fn left_alone(left: Duration) -> Error {
    let what = match left.as_secs() {
        0 => "the vault did not answer, and is just being asked again".to_owned(),
        left => format!("the vault did not answer; it is asked again in {} s", left + 1),
    };
    Error::new(Code::TimedOut, what)
        .fix("check the vault's health and that this machine may reach it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn is_left_alone(breaker: &Breaker, now: Instant) -> bool {
        breaker.ask(9, now).is_err()
    }

    #[test]
    fn three_objects_in_a_row_and_half_a_minute() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let late = Error::new(Code::TimedOut, "late");
        let silent = |object, at| breaker.ask(object, at).unwrap().failed(&late, at);
        assert!(!silent(1, now) && !silent(1, now) && !silent(1, now) && !silent(2, now));
        assert!(!breaker.answered());
        let down = Error::new(Code::Unavailable, "down");
        assert!((0..9).all(|object| !breaker.ask(object, now).unwrap().failed(&down, now)));
        assert!(!silent(1, now) && !silent(2, now) && !is_left_alone(&breaker, now));
        assert!(silent(3, now));
        let almost = now + PAUSE - SECOND;
        assert!(is_left_alone(&breaker, now) && is_left_alone(&breaker, almost));
        assert_eq!(breaker.until(), Some(now + PAUSE));
        // One goes through, and no other beside it.
        let probe = breaker.ask(4, now + PAUSE).unwrap();
        let said = breaker.ask(5, now + PAUSE).err().unwrap();
        assert!(said.message().ends_with("just being asked again"), "{said}");
        assert!(!probe.failed(&Error::new(Code::Unavailable, "down"), now + PAUSE + SECOND));
        assert!(is_left_alone(&breaker, now + PAUSE * 2));
        let again = now + PAUSE * 2 + SECOND;
        drop(breaker.ask(4, again).unwrap());
        let probe = breaker.ask(4, again).unwrap();
        assert!(breaker.answered() && !breaker.answered());
        // It was not about this any more.
        assert!(!probe.failed(&late, again) && !is_left_alone(&breaker, again));
    }

    #[test]
    fn what_the_vault_answers_counts_and_what_others_say_does_not() {
        let error = |code, hop, status| -> Result<()> {
            Err(Error::new(code, "no").at(hop).answered(status, None))
        };
        assert!(hears(&Ok(())));
        assert!(hears(&error(Code::Unauthenticated, Hop::Vault, 401)));
        assert!(hears(&error(Code::BadContent, Hop::Vault, 400)));
        assert!(hears(&error(Code::Throttled, Hop::Vault, 429)));
        assert!(!hears(&error(Code::Unavailable, Hop::Vault, 503)));
        assert!(!hears(&error(Code::Unauthenticated, Hop::Entra, 401)));
        assert!(!hears(&error(Code::Unavailable, Hop::Proxy, 407)));
        assert!(!hears::<()>(&Err(Error::new(Code::TimedOut, "late"))));
    }
}
