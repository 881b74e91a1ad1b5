//! The proofs of the process by their keys, with what is under way for them.
//!
//! Pure bookkeeping under one lock that is never held across a wait: who gets a proof at once, who
//! waits for which flight, who begins one, and what a flight's outcome means for the proof at hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result, printable};
use crate::http::jitter;
use crate::process;

use super::flight::{Flight, Outcome};
use super::inputs::Service;
use super::proof::{Proof, ProofKey};

/// Most proofs kept; the least recently used goes first.
pub(super) const MAX_PROOFS: usize = 4096;
/// The pause after the first renewal that failed, doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(super) struct Table {
    entries: HashMap<ProofKey, Entry>,
    /// Whether somebody drops ended proofs now and then.
    pub(super) swept: bool,
}

struct Entry {
    proof: Option<Proof>,
    flight: Option<Arc<Flight>>,
    used: Instant,
    renewal: Renewal,
}

/// How renewals of the proof at hand went.
#[derive(Default)]
struct Renewal {
    failures: u32,
    not_before: Option<Instant>,
    /// What was logged last.
    trouble: Option<Code>,
}

/// What a caller does.
pub(super) enum Found {
    /// Takes it.
    Proof(Proof),
    /// Takes it, and starts the flight that renews it.
    Renew(Proof, Arc<Flight>),
    /// Waits.
    Join(Arc<Flight>),
    /// Starts the flight, and waits.
    Begin(Arc<Flight>),
}

/// Who asks the table, and when.
pub(super) struct Caller<'a> {
    pub(super) service: Service,
    /// The proof that a vault did not accept from this caller.
    pub(super) refused: Option<&'a Proof>,
    pub(super) deadline: Instant,
    /// By the clock.
    pub(super) now: Instant,
}

impl Table {
    /// Finds or begins. `may_renew` takes a place for a renewal, and says until when it may last.
    pub(super) fn find(
        &mut self,
        key: &ProofKey,
        caller: &Caller<'_>,
        may_renew: impl FnOnce() -> Option<Instant>,
    ) -> Found {
        if self.entries.len() >= MAX_PROOFS && !self.entries.contains_key(key) {
            self.evict();
        }
        let entry = self.entries.entry(*key).or_insert_with(|| Entry {
            proof: None,
            flight: None,
            used: caller.now,
            renewal: Renewal::default(),
        });
        entry.used = caller.now;
        if let (Some(refused), Some(proof)) = (caller.refused, &entry.proof)
            && refused.same_as(proof)
        {
            if proof.is_fresh() {
                // Another one would be refused too; the caller sees that there is none.
                return Found::Proof(proof.clone());
            }
            entry.proof = None;
        }
        entry.proof.take_if(|proof| !proof.is_live());
        if let Some(proof) = &entry.proof {
            let proof = proof.clone();
            let rests = entry.renewal.not_before.is_some_and(|then| caller.now < then);
            if proof.is_to_be_renewed()
                && entry.flight.is_none()
                && !rests
                && let Some(until) = may_renew()
            {
                let flight = Arc::new(Flight::new(caller.service, until));
                entry.flight = Some(flight.clone());
                return Found::Renew(proof, flight);
            }
            return Found::Proof(proof);
        }
        // One that everybody has given up is about to end.
        entry.flight.take_if(|flight| flight.patience.deadline() <= Instant::now());
        if let Some(flight) = &entry.flight {
            flight.patience.extend(caller.deadline);
            return Found::Join(flight.clone());
        }
        let flight = Arc::new(Flight::new(caller.service, caller.deadline));
        entry.flight = Some(flight.clone());
        Found::Begin(flight)
    }

    /// Takes a flight's result in. `refused`: the error says that the evidence is not accepted.
    pub(super) fn land(
        &mut self,
        key: &ProofKey,
        flight: &Arc<Flight>,
        result: Result<Proof>,
        refused: bool,
        now: Instant,
    ) -> Outcome {
        let own = |entry: &&mut Entry| {
            entry.flight.as_ref().is_some_and(|current| Arc::ptr_eq(current, flight))
        };
        let failed = |error: Error| Outcome::Failed(error, flight.bound());
        // Dropped meanwhile, since there were too many.
        let Some(entry) = self.entries.get_mut(key).filter(own) else {
            return result.map_or_else(failed, Outcome::Proved);
        };
        entry.flight = None;
        // What is renewed; nothing where the flight is the first, or the proof ended meanwhile.
        let renewed = entry.proof.as_ref();
        let outcome = match result {
            Ok(proof) if renewed.is_some_and(|old| old.identity() != proof.identity()) => {
                tracing::warn!(mode = proof.identity().mode.as_str(), "the identity has changed");
                entry.proof = None;
                Outcome::Anew
            }
            Ok(proof) => {
                if entry.renewal.trouble.is_some() {
                    tracing::info!(mode = proof.identity().mode.as_str(), "a token was renewed");
                }
                entry.renewal = Renewal::default();
                entry.proof = Some(proof.clone());
                Outcome::Proved(proof)
            }
            Err(error) => {
                if let Some(proof) = renewed {
                    if entry.renewal.failed(&error, now) {
                        log(proof, &error, refused);
                    }
                    entry.proof.take_if(|_| refused);
                }
                failed(error)
            }
        };
        if entry.proof.is_none() {
            self.entries.remove(key);
        }
        outcome
    }

    /// Drops ended proofs. Says whether there is anything left.
    pub(super) fn sweep(&mut self) -> bool {
        self.entries.retain(|_, entry| {
            entry.proof.take_if(|proof| !proof.is_live());
            entry.proof.is_some() || entry.flight.is_some()
        });
        if self.entries.capacity() > 4 * self.entries.len().max(16) {
            self.entries.shrink_to_fit();
            process::give_back_memory();
        }
        !self.entries.is_empty()
    }

    /// Drops ended proofs, and then the least recently used ones, down to seven eighths. Flights go on
    /// for those who wait.
    fn evict(&mut self) {
        self.sweep();
        let target = MAX_PROOFS - MAX_PROOFS / 8;
        let surplus = self.entries.len().saturating_sub(target);
        let mut ages: Vec<_> = self
            .entries
            .iter()
            .map(|(key, entry)| (entry.flight.is_some(), entry.used, *key))
            .collect();
        ages.sort_unstable_by_key(|(busy, used, _)| (*busy, *used));
        for (_, _, key) in ages.into_iter().take(surplus) {
            self.entries.remove(&key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Renewal {
    /// A renewal failed: the next one comes after a pause. Says whether it is something new.
    fn failed(&mut self, error: &Error, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let factor = 2_u32.saturating_pow(self.failures - 1);
        let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE).mul_f64(jitter());
        self.not_before = Some(now + pause);
        self.trouble.replace(error.code()) != Some(error.code())
    }
}

fn log(proof: &Proof, error: &Error, refused: bool) {
    let identity = proof.identity();
    let (mode, client_id) = (identity.mode.as_str(), printable(&identity.client_id, 64));
    let what = match refused {
        true => "an identity is no longer accepted",
        false => "a token could not be renewed; the present one is used as long as it lasts",
    };
    tracing::warn!(mode, client_id, err = %error, "{what}");
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use ring::hmac;

    use crate::clock::Clock;
    use crate::cloud::Cloud;
    use crate::identity::Token;
    use crate::identity::inputs::Inputs;
    use crate::identity::proof::{Mode, ProofKeyInput, ProvenIdentity};
    use crate::secret::Secret;

    use super::*;

    fn cloud() -> Cloud {
        Cloud {
            name: "AzurePublicCloud".to_owned(),
            authority: "https://e".to_owned(),
            vault_suffix: "vault.azure.net".to_owned(),
            resource: "https://vault.azure.net".to_owned(),
            named: true,
        }
    }

    fn key(number: usize) -> ProofKey {
        let inputs = Inputs::Managed { client_id: Some(number.to_string()) };
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, b"test");
        ProofKeyInput::new(&inputs, &cloud(), "scope").key(&hmac)
    }

    fn proof(clock: &Clock, expires: SystemTime) -> Proof {
        let identity = ProvenIdentity::new(Mode::Managed, &cloud(), "", "c");
        let bearer = Secret::from("t");
        Proof::new(identity, None, "scope", Token { bearer, expires }, clock)
    }

    #[test]
    fn the_least_recently_used_proofs_go_first_and_flights_last() {
        let (mut table, clock) = (Table::default(), Clock::adjustable());
        let begun = clock.now();
        let hour = Duration::from_secs(3600);
        let expires = clock.wall() + hour;
        let find = |table: &mut Table, number: usize, second: u64| {
            let now = begun + Duration::from_secs(second);
            let service = Service::Machine;
            let caller = Caller { service, refused: None, deadline: Instant::now() + hour, now };
            table.find(&key(number), &caller, || None)
        };
        // The oldest is under way for ever.
        assert!(matches!(find(&mut table, 0, 0), Found::Begin(_)));
        for number in 1..MAX_PROOFS {
            let Found::Begin(flight) = find(&mut table, number, 1) else { panic!() };
            let proof = proof(&clock, expires);
            table.land(&key(number), &flight, Ok(proof), false, begun);
        }
        assert!(matches!(find(&mut table, 1, 2), Found::Proof(_)));
        assert_eq!(table.len(), MAX_PROOFS);
        assert!(matches!(find(&mut table, MAX_PROOFS, 3), Found::Begin(_)));
        assert_eq!(table.len(), MAX_PROOFS - MAX_PROOFS / 8 + 1);
        assert!(matches!(find(&mut table, 0, 4), Found::Join(_)));
        assert!(matches!(find(&mut table, 1, 4), Found::Proof(_)));
        for number in MAX_PROOFS..3 * MAX_PROOFS {
            find(&mut table, number, 5);
            assert!(table.len() <= MAX_PROOFS);
        }
    }

    #[test]
    fn pauses_between_failing_renewals_grow_and_the_same_trouble_is_told_once() {
        let (mut renewal, now) = (Renewal::default(), Instant::now());
        let mut fails = |code| {
            let news = renewal.failed(&Error::new(code, "x"), now);
            let pause = renewal.not_before.unwrap() - now;
            (news, pause.as_secs_f64())
        };
        for (code, news, seconds) in [
            (Code::Unavailable, true, 30.0),
            (Code::Unavailable, false, 60.0),
            (Code::TimedOut, true, 120.0),
            (Code::TimedOut, false, 240.0),
            (Code::TimedOut, false, 300.0),
            (Code::TimedOut, false, 300.0),
        ] {
            let (told, pause) = fails(code);
            assert_eq!(told, news);
            assert!((0.79 * seconds..=1.31 * seconds).contains(&pause), "{pause}");
        }
    }
}
