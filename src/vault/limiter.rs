//! How much is asked of a vault: one limiter for all mounts of the process.
//!
//! Each vault has a [`Gate`](gate::Gate), and each try of a request needs a permit from it:
//!
//! - **Limit.** 1 to 64 tries in flight. The first one ever goes alone (the others then find its
//!   connection); a 429 halves the limit, answers raise it. Refreshes hold at most half.
//! - **Pace.** A 429 also sets a pace in requests per second ([`pace`]).
//! - **Holds.** A `Retry-After` keeps the identity that got it away from this vault for that long,
//!   on the process's clock. Others go on. Whoever cannot wait so long is told at once.
//! - **Turns.** Who waits takes turns by group; a pause holds no permit.
//! - **Outages.** A try without an answer for 2 s, or a connection that fails, while nothing else is
//!   answered, stops the crowd: one probe at a time looks whether the vault is back, everybody else
//!   waits. The first answer lets all go on, and tries that hang still are sent again.
//!
//! How long a request goes on: answers that may pass (408, 429, 5xx, a time-out of a try) are tried four
//! times, with pauses. In an outage these numbers mean nothing, so there a request goes by what it sees:
//! of a vault that *fails* (refused connections, resets, DNS, 5xx) it gives up after four failures of
//! probes, its own or others', when about as much time has passed as four tries would have taken (9 s):
//! kubelet is to hear of it. A vault that *hangs* is waited for until the deadline: that is the case
//! where patience pays.
//!
//! The gate is a plain state machine; [`door`] puts it behind a lock and gives it a timer.

mod door;
mod gate;
mod hold;
mod pace;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::clock::Clock;
use crate::error::{Code, Error, Hop, Result};
use crate::http::{Retry, is_transient};
use crate::identity::ProvenIdentity;
use crate::telemetry::metrics;

use super::ask::Ask;
use door::{Door, Permit, Visit};
use gate::{Outcome, Pass, Signal, Story, Wish};
use hold::Asker;
use rules::Rules;

/// Most vaults with a gate.
const MAX_VAULTS: usize = 1024;

/// Two readings of the time: real for input and output, the process's clock for pauses that a service
/// asked for.
#[derive(Clone, Copy, Debug)]
struct Moment {
    real: Instant,
    clock: Instant,
}

impl Moment {
    fn now(clock: &Clock) -> Self {
        Self { real: Instant::now(), clock: clock.now() }
    }

    #[cfg(test)]
    fn at(instant: Instant) -> Self {
        Self { real: instant, clock: instant }
    }
}

/// What is asked of a vault, for whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// The vault's URL.
    pub(super) vault: &'a str,
    /// Whose token is sent; none with the request for a challenge.
    pub(super) identity: Option<&'a ProvenIdentity>,
    /// `GET URL`, for errors.
    pub(super) what: &'a str,
    pub(super) ask: &'a Ask,
}

/// The gates of all vaults. Clones share them.
#[derive(Clone)]
pub(super) struct Limiter(Arc<Inner>);

struct Inner {
    clock: Clock,
    rules: Rules,
    doors: Mutex<HashMap<String, (Arc<Door>, Instant)>>,
    requests: AtomicU64,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}

impl Limiter {
    pub(super) fn new(clock: Clock, retry: Retry) -> Self {
        Self::with(clock, Rules::new(retry))
    }

    fn with(clock: Clock, rules: Rules) -> Self {
        let (doors, requests) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { clock, rules, doors, requests }))
    }

    /// Until when (real time) nothing is sent for this identity, because the vault asked for that.
    #[cfg(test)]
    fn held(&self, vault: &str, identity: &ProvenIdentity) -> Option<Instant> {
        let door = self.known(vault)?;
        let asker = Some(Arc::new(identity.clone()));
        door.with(|gate, now| gate.held(now, &asker).map(|left| now.real + left))
    }

    /// The error for somebody who stops waiting for `what` while its vault is in an outage.
    pub(super) fn trouble(&self, vault: &str, what: &str) -> Option<Error> {
        self.known(vault)?.with(|gate, _| gate.trouble(what))
    }

    /// Runs `attempt` until it is answered, fails for good, or nobody waits any more. Each try gets the
    /// time by which it must have ended.
    pub(super) async fn run<T, F>(
        &self,
        request: Request<'_>,
        mut attempt: impl FnMut(Instant) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let visit = self.enter(request.vault)?;
        let mut crossing = Crossing {
            rules: self.0.rules,
            what: request.what,
            ask: request.ask,
            asker: request.identity.map(|identity| Arc::new(identity.clone())),
            door: visit.door(),
            timeouts: 0,
            story: Story {
                request: self.0.requests.fetch_add(1, Ordering::Relaxed),
                ..Story::default()
            },
        };
        loop {
            let pass = crossing.pass().await?;
            if let Some(result) = crossing.fly(pass, &mut attempt).await {
                return result;
            }
        }
    }

    fn known(&self, vault: &str) -> Option<Arc<Door>> {
        let doors = self.0.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.get(&vault.to_ascii_lowercase()).map(|(door, _)| door.clone())
    }

    /// The vault's door, with this request counted as one of its visitors.
    fn enter(&self, vault: &str) -> Result<Visit> {
        let key = vault.to_ascii_lowercase();
        let mut doors = self.0.doors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((door, used)) = doors.get_mut(&key) {
            *used = Instant::now();
            return Ok(Visit::begin(door));
        }
        if doors.len() >= MAX_VAULTS {
            let idle = doors.iter().filter(|(_, (door, _))| door.with(|gate, _| gate.is_idle()));
            let oldest = idle.min_by_key(|(_, (_, used))| *used).map(|(vault, _)| vault.clone());
            let Some(oldest) = oldest else {
                let text = format!("{vault}: more than {MAX_VAULTS} vaults are being asked");
                return Err(Error::new(Code::TooLarge, text).at(Hop::Vault).hurried());
            };
            doors.remove(&oldest);
        }
        let door = Door::new(self.0.clock.clone(), self.0.rules);
        let visit = Visit::begin(&door);
        doors.insert(key, (door, Instant::now()));
        Ok(visit)
    }
}

/// One request on its way.
struct Crossing<'a> {
    rules: Rules,
    what: &'a str,
    ask: &'a Ask,
    asker: Asker,
    door: &'a Arc<Door>,
    /// Tries that took too long; each makes the next one's limit longer.
    timeouts: usize,
    story: Story,
}

/// A try under way.
struct Flight<F> {
    permit: Permit,
    work: Pin<Box<F>>,
}

impl Crossing<'_> {
    /// Waits for a permit.
    async fn pass(&mut self) -> Result<Pass> {
        let wish = Wish {
            what: Arc::from(self.what),
            group: self.ask.group.clone(),
            urgency: self.ask.urgency,
            asker: self.asker.clone(),
            patience: self.ask.patience.clone(),
            story: self.story.clone(),
        };
        let pass = self.door.pass(wish).await?;
        (self.story.failures, self.story.since) = (pass.seen, pass.since);
        Ok(pass)
    }

    /// Sends a try, and others beside it while it hangs; nothing when the request has to ask for a
    /// permit again.
    async fn fly<T, F>(
        &mut self,
        pass: Pass,
        attempt: &mut impl FnMut(Instant) -> F,
    ) -> Option<Result<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut newest = self.launch(pass, attempt);
        // The oldest try that hangs: with a slow vault it is the one that will be answered.
        let mut hanging: Option<Flight<F>> = None;
        let patience = self.ask.patience.clone();
        loop {
            let older = async {
                match &mut hanging {
                    Some(flight) => flight.work.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                result = older => {
                    if let Some(flight) = hanging.take() {
                        flight.permit.report(self.outcome(&result));
                    }
                    if !matches!(&result, Err(error) if is_transient(error)) {
                        return Some(result.map_err(|error| error.tried(self.story.tries + 1, "")));
                    }
                    self.timeouts += usize::from(is_silent(&result));
                }
                result = newest.work.as_mut() => {
                    drop(hanging);
                    let outage = newest.permit.report(self.outcome(&result));
                    return match result {
                        Ok(value) => Some(Ok(value)),
                        Err(error) => self.failed(error, outage).await.map(Err),
                    };
                }
                signal = newest.permit.signal() => match signal {
                    Signal::Again(pass) => {
                        let flight = std::mem::replace(&mut newest, self.launch(pass, attempt));
                        hanging.get_or_insert(flight);
                    }
                    Signal::GiveUp => return None,
                },
                () = patience.ended() => {
                    return Some(Err(self.door.too_late(self.what, &self.story)));
                }
            }
        }
    }

    fn launch<T, F>(&self, pass: Pass, attempt: &mut impl FnMut(Instant) -> F) -> Flight<F>
    where
        F: Future<Output = Result<T>>,
    {
        let permit = Permit::new(self.door, pass);
        let limit = Instant::now() + self.rules.limit(self.timeouts);
        Flight { permit, work: Box::pin(attempt(limit)) }
    }

    /// What follows from a failed try: the error that ends the request, or nothing when it asks again.
    async fn failed(&mut self, error: Error, outage: bool) -> Option<Error> {
        let (story, retry) = (&mut self.story, self.rules.retry);
        if !is_transient(&error) {
            return Some(error.tried(story.tries + 1, ""));
        }
        if error.status().is_none() && error.code() == Code::TimedOut {
            self.timeouts += 1;
            if outage {
                return None;
            }
        }
        story.tries += 1;
        story.failures += 1;
        let since = *story.since.get_or_insert_with(Instant::now);
        story.last = Some(error.clone());
        if outage {
            // The pauses are those between the vault's probes.
            let enough = story.failures >= retry.tries && since.elapsed() >= self.rules.span();
            return enough.then(|| error.tried(story.tries, ""));
        }
        if story.tries >= retry.tries {
            return Some(error.tried(story.tries, ""));
        }
        match error.wait() {
            Some(wait) if wait > retry.longest => {
                let why = format!("asked to wait {} s, which is too long", wait.as_secs());
                Some(error.tried(story.tries, &why))
            }
            // The gate holds the identity, and tells whoever cannot wait so long.
            Some(_) if matches!(error.status(), Some(429 | 500..)) => None,
            Some(wait) => {
                let why = format!("asked to wait {wait:.0?}, more time than is left");
                self.pause(error, wait, &why).await
            }
            None => {
                let pause = retry.pause_after(story.tries);
                self.pause(error, pause, "no time is left for another").await
            }
        }
    }

    /// Waits without a permit; an error when nobody waits so long.
    async fn pause(&self, error: Error, pause: std::time::Duration, why: &str) -> Option<Error> {
        let (patience, tries) = (&self.ask.patience, self.story.tries);
        let until = Instant::now() + pause;
        tracing::debug!(tries, ?pause, err = %error, "trying again");
        let told = error.tried(tries, why).hurried();
        if patience.deadline() <= until {
            return Some(told);
        }
        patience.pauses(until, told);
        tokio::time::sleep_until(until.into()).await;
        patience.resumes();
        None
    }

    /// What a try's result says about the vault.
    fn outcome<T>(&self, result: &Result<T>) -> Outcome {
        let Err(error) = result else { return Outcome::Answered };
        match error.status() {
            Some(429) => {
                metrics::vault_throttled();
                Outcome::Throttled(error.wait())
            }
            Some(500..) => Outcome::Busy(self.without_what(error)),
            Some(_) => Outcome::Answered,
            None if is_silent(result) => Outcome::Silent,
            None if is_transient(error) => Outcome::Broken(self.without_what(error)),
            None if error.code() == Code::BadAnswer && error.hop() == Some(Hop::Vault) => {
                Outcome::Answered
            }
            None => Outcome::Other(self.without_what(error)),
        }
    }

    /// The error for those who asked for something else: other pods' objects are not theirs to know, and
    /// what a service says may name them.
    fn without_what(&self, error: &Error) -> Error {
        let text = match error.status() {
            Some(status) => format!("RESPONSE {status}"),
            None => {
                let message = error.message();
                let rest = message.strip_prefix(self.what).unwrap_or(message);
                rest.trim_start_matches([':', ' ']).to_owned()
            }
        };
        let mut other = Error::new(error.code(), text);
        if let Some(hop) = error.hop() {
            other = other.at(hop);
        }
        if let Some(status) = error.status() {
            other = other.answered(status, None).retry_after(error.wait());
        }
        match error.likely_fix() {
            Some(fix) => other.fix(fix),
            None => other,
        }
    }
}

/// Whether a try ended without an answer.
fn is_silent<T>(result: &Result<T>) -> bool {
    matches!(result, Err(error) if error.status().is_none() && error.code() == Code::TimedOut)
}
