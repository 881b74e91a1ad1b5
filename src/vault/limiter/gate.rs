//! The state of one vault's limiter: events and time go in, permits come out.
//!
//! Nothing here sleeps, sends or reads a clock: every event carries its [`Moment`], and
//! [`Gate::next`] tells when to call [`Gate::tick`]. Whoever waits holds the receiving end of a
//! channel; a permit is the [`Pass`] that comes through it, and must be reported back.
//!
//! A *try* is one HTTP request; a *request* is what a caller asked for and may take several tries.

mod outage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::error::{Code, Error, Hop, Result};
use crate::fair::FairQueue;
use crate::patience::Patience;
use crate::vault::ask::Urgency;

use super::Moment;
use super::hold::{Asker, Holds, refusal};
use super::pace::Pace;
use super::rules::{AFTER_OUTAGE, BUSY, COLD, GROWTH, MAX_WAITING, MOST, Rules};
use outage::Outage;

/// What a request wants, and what it has been through.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) what: Arc<str>,
    pub(super) group: Arc<str>,
    pub(super) urgency: Urgency,
    pub(super) asker: Asker,
    pub(super) patience: Arc<Patience>,
    pub(super) story: Story,
}

/// What a request has been through.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    /// Tells requests apart.
    pub(super) request: u64,
    /// Tries that count: those that an outage swallowed do not.
    pub(super) tries: u32,
    /// Failures of the vault that the request has seen: its own, and of probes while it waited.
    pub(super) failures: u32,
    /// When it saw the first.
    pub(super) since: Option<Instant>,
    /// Its own last error.
    pub(super) last: Option<Error>,
}

/// What a waiter is told.
#[derive(Debug)]
pub(super) enum Verdict {
    /// One try may be sent.
    Go(Pass),
    /// Waiting is no use.
    Refused(Error),
}

/// A permit for one try.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) id: u64,
    /// Failures that the request saw while it waited, and since when.
    pub(super) seen: u32,
    pub(super) since: Option<Instant>,
    pub(super) signal: oneshot::Receiver<Signal>,
}

/// What the holder of a permit is told while the try hangs.
#[derive(Debug)]
pub(super) enum Signal {
    /// Send another try as the vault's probe; the old one may still be answered.
    Again(Pass),
    /// The vault answers others again: ask anew. The permit is gone.
    GiveUp,
}

/// How a try ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Any answer below 500 but 429.
    Answered,
    /// 429, perhaps with a time to stay away.
    Throttled(Option<Duration>),
    /// 5xx.
    Busy(Error),
    /// The connection was refused or broke, or the name could not be resolved.
    Broken(Error),
    /// No answer within the try's own limit.
    Silent,
    /// Something that waiting does not mend: a certificate, a fault on this machine.
    Other(Error),
    /// Nobody waits for it any more.
    Dropped,
}

#[derive(Debug)]
struct Waiter {
    wish: Wish,
    asked: Instant,
    /// The gate's count of failures when the waiter came.
    failures_before: u32,
    tell: Option<oneshot::Sender<Verdict>>,
}

impl Waiter {
    fn is_gone(&self) -> bool {
        self.tell.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn told(&mut self, verdict: Verdict) {
        // Whoever has gone meanwhile needs no answer.
        let _ = self.tell.take().map(|tell| tell.send(verdict));
    }
}

#[derive(Debug)]
struct Flight {
    request: u64,
    urgency: Urgency,
    asker: Asker,
    sent: Instant,
    /// Whether it was looked at when it had hung for [`Rules::stall`].
    judged: bool,
    signal: Option<oneshot::Sender<Signal>>,
}

/// One vault.
#[derive(Debug)]
pub(super) struct Gate {
    rules: Rules,
    /// Requests that are somewhere between their first wish and their end.
    present: usize,
    /// Whether there was any answer: before that one try goes alone, so that the others find its
    /// connection.
    warm: bool,
    limit: f64,
    /// Up to here the limit grows fast.
    threshold: f64,
    /// The last try sent before the limit was lowered; those up to it do not lower it again.
    lowered: u64,
    pace: Pace,
    queue: FairQueue<Arc<str>, Waiter>,
    /// Waiters in the queue that have gone away.
    gone: usize,
    /// Tries without an outcome, in the order they were sent.
    flights: BTreeMap<u64, Flight>,
    last_id: u64,
    /// When the last answer came that shows a working vault.
    answered: Option<Instant>,
    /// The last try sent before that; what hangs or breaks among those up to it has company that works.
    answered_up_to: u64,
    /// Requests with 5xx answers since.
    busy: Vec<u64>,
    holds: Holds,
    outage: Option<Outage>,
    /// Failures of probes (and those that began outages), ever.
    failures: u32,
}

impl Gate {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            present: 0,
            warm: false,
            limit: MOST,
            threshold: MOST,
            lowered: 0,
            pace: Pace::default(),
            queue: FairQueue::new(),
            gone: 0,
            flights: BTreeMap::new(),
            last_id: 0,
            answered: None,
            answered_up_to: 0,
            busy: Vec::new(),
            holds: Holds::default(),
            outage: None,
            failures: 0,
        }
    }

    /// A request begins.
    pub(super) fn enter(&mut self) {
        self.present += 1;
    }

    /// A request has ended. An outage that nobody waits for is forgotten: the next request goes at once,
    /// and alone.
    pub(super) fn leave(&mut self) {
        self.present = self.present.saturating_sub(1);
        if self.present == 0 && self.outage.take().is_some() {
            self.warm = false;
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.present == 0
    }

    pub(super) fn in_outage(&self) -> bool {
        self.outage.is_some()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() - self.gone
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// How long an identity is still held.
    #[cfg(test)]
    pub(super) fn held(&self, now: Moment, asker: &Asker) -> Option<Duration> {
        self.holds.left(asker, now)
    }

    /// Asks for a permit for one try.
    pub(super) fn ask(&mut self, now: Moment, wish: Wish) -> Result<oneshot::Receiver<Verdict>> {
        if self.waiting() >= MAX_WAITING {
            let text =
                format!("{}: more than {MAX_WAITING} requests wait for this vault", wish.what);
            return Err(Error::new(Code::TooLarge, text).at(Hop::Vault).hurried());
        }
        if self.flights.is_empty() && self.answered.is_some_and(|at| at + COLD < now.real) {
            self.warm = false;
        }
        if let Some(left) = self.holds.left(&wish.asker, now) {
            told_of_hold(&wish, now, left)?;
        }
        let (tell, receiver) = oneshot::channel();
        let (asked, failures_before) = (now.real, self.failures);
        let group = wish.group.clone();
        self.queue.push(group, Waiter { wish, asked, failures_before, tell: Some(tell) });
        self.settle(now);
        Ok(receiver)
    }

    /// A waiter has gone away without a verdict.
    pub(super) fn left(&mut self) {
        self.gone += 1;
        if self.gone * 2 > self.queue.len() {
            self.sweep(|_| true);
        }
    }

    /// A try has ended.
    pub(super) fn report(&mut self, now: Moment, id: u64, outcome: Outcome) {
        // A try that was given up says nothing new.
        let Some(flight) = self.flights.remove(&id) else { return };
        let probed = self.outage.as_mut().is_some_and(|outage| outage.ended(id));
        match outcome {
            Outcome::Answered => {
                self.heard(now);
                let (fast, slow) = GROWTH;
                let growth = if self.limit < self.threshold { fast } else { slow };
                self.limit = (self.limit + growth).min(MOST);
                self.pace.accepted(now.real, id <= self.lowered);
            }
            Outcome::Throttled(wait) => {
                self.heard(now);
                if id > self.lowered {
                    self.limit = (self.limit / 2.0).max(1.0);
                    self.threshold = self.limit;
                    self.lowered = self.last_id;
                    self.pace.throttled(now.real);
                }
                self.hold(now, &flight.asker, wait);
            }
            Outcome::Busy(error) => {
                self.warm = true;
                if !self.busy.contains(&flight.request) {
                    self.busy.push(flight.request);
                }
                self.hold(now, &flight.asker, error.wait());
                self.failed(now, error, probed, self.busy.len() >= BUSY);
                self.busy.truncate(BUSY);
            }
            Outcome::Broken(error) => {
                self.failed(now, error, probed, id > self.answered_up_to);
            }
            Outcome::Other(error) => self.failed(now, error, probed, false),
            Outcome::Silent | Outcome::Dropped => {
                if let Some(outage) = self.outage.as_mut().filter(|_| probed) {
                    outage.later(now.real);
                }
            }
        }
        self.settle(now);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Moment) {
        self.settle(now);
    }

    /// How long until time alone changes something.
    pub(super) fn next(&self, now: Moment) -> Option<Duration> {
        let until = |at: Instant| at.saturating_duration_since(now.real);
        let unjudged = self.flights.values().filter(|flight| !flight.judged);
        let stall = unjudged.map(|flight| until(flight.sent + self.rules.stall)).min();
        let waiting = self.waiting() > 0;
        let (probe, pace) = match &self.outage {
            Some(outage) => (outage.next_probe().map(until), None),
            None => (None, self.pace.ready_at(now.real).filter(|_| waiting).map(until)),
        };
        let hold = self.holds.next_end(now).filter(|_| waiting);
        // What was due before now has been done, or waits for something else.
        [stall, probe, pace, hold].into_iter().flatten().filter(|left| !left.is_zero()).min()
    }

    /// The last failure of a vault in an outage, for whoever has stopped waiting.
    pub(super) fn trouble(&self, what: &str) -> Option<Error> {
        let last = self.outage.as_ref()?.last();
        let waits = "no answer before the deadline; akvfs waits for the vault to come back";
        Some(last.clone().context(format!("{what}: {waits}; last failure")).hurried())
    }

    fn allowed(&self) -> usize {
        if self.warm { self.limit as usize } else { 1 }
    }

    /// Does what is due.
    fn settle(&mut self, now: Moment) {
        self.judge(now);
        loop {
            let probing = match &self.outage {
                Some(outage) if outage.is_due(now.real) => true,
                Some(_) => return,
                None if self.flights.len() < self.allowed()
                    && self.pace.ready_at(now.real).is_none() =>
                {
                    false
                }
                None => return,
            };
            let refreshes =
                self.flights.values().filter(|flight| flight.urgency == Urgency::Refresh).count();
            // A probe is one request for all of them, whatever it is for.
            let refresh = probing || refreshes < (self.allowed() / 2).max(1);
            let holds = &self.holds;
            let next = self.queue.take(|_, waiter| {
                waiter.is_gone()
                    || ((refresh || waiter.wish.urgency == Urgency::First)
                        && holds.left(&waiter.wish.asker, now).is_none())
            });
            match next {
                Some(waiter) if waiter.is_gone() => self.gone = self.gone.saturating_sub(1),
                Some(waiter) => self.go(now, waiter, probing),
                None if probing => return self.again(now),
                None => return,
            }
        }
    }

    /// A waiter gets its permit.
    fn go(&mut self, now: Moment, mut waiter: Waiter, probing: bool) {
        let (seen, since) = self.seen_by(&waiter);
        let wish = &waiter.wish;
        let (id, signal) =
            self.depart(now, wish.story.request, wish.urgency, wish.asker.clone(), probing);
        waiter.told(Verdict::Go(Pass { id, seen, since, signal }));
    }

    /// A hanging try's request sends another one as the probe, since nobody else waits.
    fn again(&mut self, now: Moment) {
        let stalled = self.flights.values_mut().find(|flight| {
            flight.judged
                && flight.signal.as_ref().is_some_and(|signal| !signal.is_closed())
                && self.holds.left(&flight.asker, now).is_none()
        });
        let Some(flight) = stalled else { return };
        let Some(tell) = flight.signal.take() else { return };
        let (request, urgency, asker) = (flight.request, flight.urgency, flight.asker.clone());
        let (id, signal) = self.depart(now, request, urgency, asker, true);
        // The other end was there a moment ago, and is closed only while the gate is locked.
        let _ = tell.send(Signal::Again(Pass { id, seen: 0, since: None, signal }));
    }

    fn depart(
        &mut self,
        now: Moment,
        request: u64,
        urgency: Urgency,
        asker: Asker,
        probing: bool,
    ) -> (u64, oneshot::Receiver<Signal>) {
        self.last_id += 1;
        let (signal, receiver) = oneshot::channel();
        let (sent, signal) = (now.real, Some(signal));
        let flight = Flight { request, urgency, asker, sent, judged: false, signal };
        self.flights.insert(self.last_id, flight);
        self.pace.sent(now.real);
        if let Some(outage) = self.outage.as_mut().filter(|_| probing) {
            outage.probes(self.last_id);
        }
        (self.last_id, receiver)
    }

    /// Looks at tries that have hung for [`Rules::stall`]: the vault is in an outage if nothing was
    /// answered since.
    fn judge(&mut self, now: Moment) {
        let stalled = self
            .flights
            .iter_mut()
            .filter(|(_, flight)| !flight.judged && flight.sent + self.rules.stall <= now.real);
        let mut silent = false;
        for (id, flight) in stalled {
            flight.judged = true;
            match &mut self.outage {
                Some(outage) => outage.stalled(*id, now.real),
                None => silent |= *id > self.answered_up_to,
            }
        }
        if silent {
            let text = format!("no answer within {:.0?}", self.rules.stall);
            let error = Error::new(Code::TimedOut, text)
                .at(Hop::Vault)
                .fix("check that the node may reach this host, and the service's health");
            self.outage = Some(Outage::hangs(&self.rules, now.real, error));
        }
    }

    /// A failure that may begin an outage or make one longer.
    fn failed(&mut self, now: Moment, error: Error, probed: bool, grave: bool) {
        match &mut self.outage {
            Some(outage) if probed => {
                outage.failed(now.real, error);
                self.failures += 1;
                self.refuse_the_patient(now);
            }
            Some(outage) => outage.also(error),
            None if grave => {
                self.outage = Some(Outage::fails(&self.rules, now.real, error));
                self.failures += 1;
            }
            None => {}
        }
    }

    /// The vault works. The end of an outage, if there was one: what hangs will not be answered any
    /// more and is asked anew.
    fn heard(&mut self, now: Moment) {
        self.warm = true;
        self.answered = Some(now.real);
        self.answered_up_to = self.last_id;
        self.busy.clear();
        if self.outage.take().is_none() {
            return;
        }
        self.limit = AFTER_OUTAGE;
        self.lowered = self.last_id;
        let stall = self.rules.stall;
        self.flights.retain(|_, flight| {
            let fresh = flight.sent + stall > now.real;
            if !fresh {
                let _ = flight.signal.take().map(|signal| signal.send(Signal::GiveUp));
            }
            fresh
        });
    }

    /// The vault may have asked an identity to stay away.
    fn hold(&mut self, now: Moment, asker: &Asker, wait: Option<Duration>) {
        let Some(wait) = wait.filter(|wait| !wait.is_zero()) else { return };
        self.holds.hold(asker, now, wait.min(self.rules.retry.longest));
        let Some(left) = self.holds.left(asker, now) else { return };
        self.sweep(|waiter| {
            if waiter.wish.asker != *asker {
                return true;
            }
            let told = told_of_hold(&waiter.wish, now, left);
            let waits = told.is_ok();
            let _ = told.map_err(|error| waiter.told(Verdict::Refused(error)));
            waits
        });
    }

    /// Whoever has seen the vault fail as often and as long as his own tries would have taken hears of it.
    fn refuse_the_patient(&mut self, now: Moment) {
        let Some(last) = self.outage.as_ref().map(|outage| outage.last().clone()) else { return };
        let (rules, failures) = (self.rules, self.failures);
        let began = self.outage.as_ref().map(Outage::began);
        self.sweep(|waiter| {
            let (seen, since) = waiter.seen(failures, began);
            let long = since.is_some_and(|since| now.real >= since + rules.span());
            let enough = seen >= rules.retry.tries && long;
            if enough {
                let story = &waiter.wish.story;
                let why = format!("saw {seen} failures of the vault");
                let error = last.clone().context(&waiter.wish.what).tried(story.tries, &why);
                waiter.told(Verdict::Refused(error));
            }
            !enough
        });
    }

    fn seen_by(&self, waiter: &Waiter) -> (u32, Option<Instant>) {
        waiter.seen(self.failures, self.outage.as_ref().map(Outage::began))
    }

    /// Keeps the waiters that `keep` keeps and that have not gone away.
    fn sweep(&mut self, mut keep: impl FnMut(&mut Waiter) -> bool) {
        self.queue.retain(|waiter| !waiter.is_gone() && keep(waiter));
        self.gone = 0;
    }
}

impl Waiter {
    /// How many failures its request has seen by now, and since when.
    fn seen(&self, failures: u32, outage_began: Option<Instant>) -> (u32, Option<Instant>) {
        let story = &self.wish.story;
        let awaited = outage_began.map(|began| began.max(self.asked));
        (story.failures + (failures - self.failures_before), story.since.or(awaited))
    }
}

/// Tells the request's callers how long nothing happens; an error when none of them can wait so long.
fn told_of_hold(wish: &Wish, now: Moment, left: Duration) -> Result<()> {
    let error = refusal(&wish.what, wish.story.tries, wish.story.last.as_ref(), left);
    let until = now.real + left;
    if wish.patience.deadline() <= until {
        return Err(error);
    }
    wish.patience.pauses(until, error);
    Ok(())
}
