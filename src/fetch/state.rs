//! What is known of one value key, and what follows from it. Pure: times and outcomes go in.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, Shared};

use crate::budget::Reserved;
use crate::class::Version;
use crate::error::{Code, Error, Result};
use crate::identity::Proof;
use crate::patience::Patience;
use crate::telemetry::metrics::Ongoing;
use crate::vault::Urgency;

use super::{Ages, Demand};

/// So long after a failure nobody else who has a value waits for the source.
const AGAIN: Duration = Duration::from_secs(10);
/// A refusal that may be a moment's (a role that is just being changed, an object that is being
/// replaced) is believed when it is seen again after so long.
pub(super) const CONFIRM: Duration = Duration::from_secs(5);

/// A request that runs, for everybody who wants its outcome.
pub(super) struct Flight<V> {
    /// Whose token it carries: a refused token concerns nobody else.
    pub(super) proof: Proof,
    pub(super) patience: Arc<Patience>,
    pub(super) outcome: Shared<BoxFuture<'static, Result<Arc<V>>>>,
}

/// The vault's last positive answer.
struct Good<V> {
    value: Arc<V>,
    /// When it was asked for, which is not later than what it says.
    asked: Instant,
    /// How old it may be for whoever looks for a newer one: its own part of [`Ages::refresh`].
    refresh: Duration,
    _held: Reserved,
}

/// The vault's last word, if that is no.
struct Refusal {
    first: Instant,
    /// When it was asked for last, and when that was answered.
    asked: Instant,
    at: Instant,
    error: Error,
    _held: Option<Reserved>,
}

pub(super) struct State<V> {
    good: Option<Good<V>>,
    /// Apart: few keys have one.
    refusal: Option<Box<Refusal>>,
    flight: Option<Arc<Flight<V>>>,
    /// The second look at a refusal.
    confirming: Option<Arc<Flight<V>>>,
    /// The source fails while a good value is held.
    stale: Option<Ongoing>,
    /// When somebody last went without an answer of the source.
    failed: Option<Instant>,
    /// Not to be forgotten before.
    keep_until: Instant,
}

/// What a value or a refusal that lands is held with.
pub(super) struct Hold {
    pub(super) room: Reserved,
    /// How old it may become for whoever looks for a newer one.
    pub(super) refresh: Duration,
}

/// What a caller does next.
pub(super) enum Step<V> {
    Known(Arc<V>),
    /// The vault could not be asked a moment ago.
    Stale(Arc<V>),
    Refused(Error),
    /// Wait for it. Whether this caller started it.
    Wait(Arc<Flight<V>>, bool),
}

/// What to do after a flight has landed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Landed {
    Done,
    /// A value that was good is refused: look again after [`CONFIRM`].
    Confirm,
    /// The value is held on to although the source fails, from now on.
    TurnedStale,
    /// The source works again.
    Recovered,
    /// A value that was good is refused for certain, and wiped.
    Wiped,
}

impl<V> State<V> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            good: None,
            refusal: None,
            flight: None,
            confirming: None,
            stale: None,
            failed: None,
            keep_until: now,
        }
    }

    /// Looks whether the demand is met by what is known; else joins the request that runs, or starts one.
    pub(super) fn step(
        &mut self,
        now: Instant,
        demand: Demand,
        ages: Ages,
        start: impl FnOnce() -> Arc<Flight<V>>,
    ) -> Step<V> {
        let max_age = |good: &Good<V>| match demand.urgency {
            Urgency::First => ages.first,
            Urgency::Refresh => good.refresh,
        };
        if let (Some(good), None) = (&self.good, &self.refusal)
            && (now.saturating_duration_since(good.asked) <= max_age(good)
                || demand.since.is_some_and(|since| good.asked >= since))
        {
            return Step::Known(good.value.clone());
        }
        if let Some(refusal) = &self.refusal {
            match (&self.confirming, demand.urgency) {
                // Whoever shows the value goes on until the second look.
                (Some(second), Urgency::Refresh) => {
                    return Step::Wait(second.clone(), false);
                }
                _ if now < refusal.at + ages.refused => {
                    return Step::Refused(refusal.error.clone());
                }
                _ => {}
            }
        }
        // One caller finds out whether the vault is back; the others need not wait with him.
        let fails = |at: Instant| now.saturating_duration_since(at) < AGAIN;
        if demand.urgency == Urgency::Refresh
            && self.failed.is_some_and(fails)
            && let Some(good) = self.held_for(now, demand)
        {
            return Step::Stale(good.value.clone());
        }
        let mut started = false;
        let flight = self.flight.get_or_insert_with(|| {
            started = true;
            start()
        });
        Step::Wait(flight.clone(), started)
    }

    /// The last good value, for a demand that takes it although the source fails.
    pub(super) fn last_good(
        &mut self,
        now: Instant,
        demand: Demand,
        error: &Error,
    ) -> Option<Arc<V>> {
        if !source_failed(error) {
            return None;
        }
        self.failed = Some(now);
        self.held_for(now, demand).map(|good| good.value.clone())
    }

    /// Whether there would be a last good value for the demand.
    pub(super) fn has_last_good(&self, now: Instant, demand: Demand) -> bool {
        self.held_for(now, demand).is_some()
    }

    fn held_for(&self, now: Instant, demand: Demand) -> Option<&Good<V>> {
        // A refusal that was seen once is nothing that somebody new starts with.
        if demand.urgency == Urgency::First && self.refusal.is_some() {
            return None;
        }
        let young = |good: &&Good<V>| {
            !demand.max_stale.is_zero()
                && now.saturating_duration_since(good.asked) <= demand.max_stale
        };
        self.good.as_ref().filter(young)
    }

    /// Takes a flight's outcome.
    pub(super) fn land(
        &mut self,
        now: Instant,
        asked: Instant,
        outcome: &Result<Arc<V>>,
        held: Option<Hold>,
        second: bool,
    ) -> Landed {
        if second {
            self.confirming = None;
        } else {
            self.flight = None;
        }
        // A slow answer to an old question does not replace a newer one.
        let newest = self.good.as_ref().is_none_or(|good| good.asked <= asked)
            && self.refusal.as_ref().is_none_or(|refusal| refusal.asked <= asked);
        match outcome {
            Ok(value) => {
                if newest {
                    // Without room it is not kept.
                    self.good = held.map(|Hold { room, refresh }| Good {
                        value: value.clone(),
                        asked,
                        refresh,
                        _held: room,
                    });
                    self.refusal = None;
                    self.failed = None;
                    if self.stale.take().is_some() {
                        return Landed::Recovered;
                    }
                }
                Landed::Done
            }
            Err(error) if is_refusal(error) && !newest => Landed::Done,
            Err(error) if is_refusal(error) => {
                let first = self.refusal.as_ref().map_or(asked, |refusal| refusal.first);
                // Without room it is not kept either. But a value stays only until the second look, which
                // must find the first.
                self.refusal = (held.is_some() || self.good.is_some()).then(|| {
                    let (error, _held) = (error.clone(), held.map(|held| held.room));
                    Box::new(Refusal { first, asked, at: now, error, _held })
                });
                if self.good.is_some() && asked.saturating_duration_since(first) < CONFIRM {
                    return match self.confirming {
                        None => Landed::Confirm,
                        Some(_) => Landed::Done,
                    };
                }
                match self.wipe() {
                    true => Landed::Wiped,
                    false => Landed::Done,
                }
            }
            Err(error) => {
                if self.good.is_some() && self.stale.is_none() && source_failed(error) {
                    self.stale = Some(Ongoing::stale_value());
                    return Landed::TurnedStale;
                }
                Landed::Done
            }
        }
    }

    /// Lets go of the value; whether there was one.
    pub(super) fn wipe(&mut self) -> bool {
        self.stale = None;
        self.good.take().is_some()
    }

    /// Whether a second look at a refusal is under way.
    pub(super) fn looks_again(&self) -> bool {
        self.confirming.is_some()
    }

    pub(super) fn confirm(&mut self, second: Arc<Flight<V>>) {
        self.confirming = Some(second);
    }

    /// Whoever asked may ask again until then.
    pub(super) fn keep_until(&mut self, then: Instant) {
        self.keep_until = self.keep_until.max(then);
    }

    /// Whether nothing is lost without this entry.
    pub(super) fn is_idle(&self, now: Instant, ages: Ages) -> bool {
        let useful = self.good.as_ref().is_some_and(|good| {
            now < self.keep_until && now.saturating_duration_since(good.asked) <= ages.max_stale
        });
        let remembered =
            self.refusal.as_ref().is_some_and(|refusal| now < refusal.at + ages.refused);
        !useful && !remembered && !self.is_busy()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.flight.is_some() || self.confirming.is_some()
    }
}

/// The vault has answered: not there, disabled, or not for this identity.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(error.code(), Code::NotFound | Code::Disabled | Code::Forbidden)
        && !error.is_firewall()
}

/// Whether a refusal of one version is one of every version of the object.
pub(super) fn is_of_all_versions(error: &Error, version: &Version) -> bool {
    match error.code() {
        // There are permissions for objects, and none for versions.
        Code::Forbidden => true,
        Code::NotFound => *version == Version::Latest,
        _ => false,
    }
}

/// The vault could not be asked, or not asked properly; that says nothing about the value.
fn source_failed(error: &Error) -> bool {
    match error.code() {
        Code::Throttled
        | Code::Unavailable
        | Code::TimedOut
        | Code::BadAnswer
        | Code::TooLarge
        | Code::Internal => true,
        Code::Forbidden => error.is_firewall(),
        _ => false,
    }
}
