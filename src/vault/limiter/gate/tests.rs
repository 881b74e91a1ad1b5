//! Every rule by value: events and moments in, verdicts out; nothing sleeps.

mod random;
mod simulation;

use std::time::Duration;

use super::*;
use crate::http::Retry;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A gate, the time, and those who wait at it.
pub(super) struct World {
    pub(super) gate: Gate,
    pub(super) now: Moment,
    begun: Instant,
    requests: u64,
}

pub(super) type Ticket = oneshot::Receiver<Verdict>;

impl World {
    pub(super) fn new() -> Self {
        let begun = Instant::now();
        let gate = Gate::new(Rules::new(Retry::default()));
        Self { gate, now: Moment::at(begun), begun, requests: 0 }
    }

    /// Past the first answer.
    fn warm() -> Self {
        let mut world = Self::new();
        let mut ticket = world.first("");
        let pass = go(&mut ticket);
        world.report(pass, Outcome::Answered);
        world
    }

    pub(super) fn wish(&mut self, urgency: Urgency, group: &str, asker: u8) -> Wish {
        self.requests += 1;
        Wish {
            what: Arc::from("GET x"),
            group: Arc::from(group),
            urgency,
            asker: identity(asker),
            patience: Arc::new(Patience::new(self.begun + 600 * SECOND)),
            story: Story { request: self.requests, ..Story::default() },
        }
    }

    pub(super) fn ask(&mut self, wish: Wish) -> Ticket {
        self.gate.ask(self.now, wish).unwrap()
    }

    fn first(&mut self, group: &str) -> Ticket {
        let wish = self.wish(Urgency::First, group, 0);
        self.ask(wish)
    }

    fn firsts(&mut self, count: usize) -> Vec<Ticket> {
        (0..count).map(|_| self.first("")).collect()
    }

    pub(super) fn report(&mut self, pass: Pass, outcome: Outcome) {
        self.gate.report(self.now, pass.id, outcome);
    }

    /// Time passes, with a tick whenever the gate wants one.
    pub(super) fn pass_time(&mut self, by: Duration) {
        let end = self.now.real + by;
        for _ in 0..100_000 {
            let left = end - self.now.real;
            let step = self.gate.next(self.now).map_or(left, |next| next.min(left));
            self.now.real += step;
            self.now.clock += step;
            self.gate.tick(self.now);
            if self.now.real >= end {
                return;
            }
        }
        panic!("the gate wants ticks for ever");
    }
}

pub(super) fn identity(number: u8) -> Asker {
    Some(Arc::new(super::super::tests::identity(&number.to_string())))
}

fn go(ticket: &mut Ticket) -> Pass {
    match ticket.try_recv() {
        Ok(Verdict::Go(pass)) => pass,
        other => panic!("{other:?}"),
    }
}

fn waits(ticket: &mut Ticket) -> bool {
    matches!(ticket.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

fn refused(ticket: &mut Ticket) -> Error {
    match ticket.try_recv() {
        Ok(Verdict::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn passes(tickets: &mut Vec<Ticket>) -> Vec<Pass> {
    let mut passes = Vec::new();
    tickets.retain_mut(|ticket| match ticket.try_recv() {
        Ok(Verdict::Go(pass)) => {
            passes.push(pass);
            false
        }
        Ok(other) => panic!("{other:?}"),
        Err(_) => true,
    });
    passes
}

fn broken() -> Outcome {
    Outcome::Broken(Error::new(Code::Unavailable, "cannot connect: refused").at(Hop::Connect))
}

fn busy() -> Outcome {
    Outcome::Busy(Error::new(Code::Unavailable, "RESPONSE 503").answered(503, None))
}

#[test]
fn one_goes_first_and_after_any_answer_the_crowd() {
    for outcome in [Outcome::Answered, busy()] {
        let mut world = World::new();
        let mut tickets = world.firsts(100);
        let mut first = passes(&mut tickets);
        assert_eq!(first.len(), 1);
        world.report(first.remove(0), outcome);
        assert_eq!(passes(&mut tickets).len(), 64);
    }
    // A connection that idled away is made anew by one.
    let mut world = World::warm();
    world.pass_time(COLD + SECOND);
    let mut tickets = world.firsts(10);
    assert_eq!(passes(&mut tickets).len(), 1);
}

#[test]
fn a_429_halves_once_for_those_in_flight_together_and_answers_add_back() {
    let mut world = World::warm();
    let mut tickets = world.firsts(64);
    let mut flying = passes(&mut tickets);
    for pass in flying.drain(..10) {
        world.report(pass, Outcome::Throttled(None));
    }
    assert_eq!(world.gate.allowed(), 32);
    world.pass_time(SECOND);
    let mut late = world.first("");
    assert!(waits(&mut late), "54 are in flight");
    for pass in flying.drain(..30) {
        world.report(pass, Outcome::Other(Error::new(Code::Local, "x")));
    }
    let late = go(&mut late);
    world.report(late, Outcome::Throttled(None));
    assert_eq!(world.gate.allowed(), 16, "sent after the last 429");
    let mut answers = 0;
    while world.gate.allowed() < 64 {
        while let Some(pass) = flying.pop() {
            world.report(pass, Outcome::Dropped);
        }
        world.pass_time(2 * SECOND);
        let pass = go(&mut world.first(""));
        world.report(pass, Outcome::Answered);
        answers += 1;
        assert!(answers < 300);
    }
    assert!(answers > 100, "{answers}: not at once");
    for _ in 0..20 {
        world.pass_time(2 * SECOND);
        let pass = go(&mut world.first(""));
        world.report(pass, Outcome::Throttled(None));
    }
    assert_eq!(world.gate.allowed(), 1, "never less");
}

#[test]
fn refreshes_hold_at_most_half() {
    let mut world = World::warm();
    let mut refreshes: Vec<_> = (0..64)
        .map(|_| {
            let wish = world.wish(Urgency::Refresh, "", 0);
            world.ask(wish)
        })
        .collect();
    let mut flying = passes(&mut refreshes);
    assert_eq!(flying.len(), 32);
    let mut firsts = world.firsts(40);
    let mut urgent = passes(&mut firsts);
    assert_eq!(urgent.len(), 32, "who waits for a value overtakes");
    world.report(urgent.remove(0), Outcome::Answered);
    assert_eq!((passes(&mut firsts).len(), passes(&mut refreshes).len()), (1, 0));
    world.report(flying.remove(0), Outcome::Answered);
    assert_eq!((passes(&mut firsts).len(), passes(&mut refreshes).len()), (0, 1));
    // With a limit of one a refresh may have it.
    let mut world = World::new();
    let wish = world.wish(Urgency::Refresh, "", 0);
    go(&mut world.ask(wish));
}

#[test]
fn groups_take_turns() {
    let mut world = World::new();
    let mut first = world.first("a");
    let mut crowd: Vec<_> = (0..63).map(|_| world.first("a")).collect();
    let mut other = world.first("b");
    let pass = go(&mut first);
    world.gate.limit = 2.0;
    world.report(pass, busy());
    assert_eq!(passes(&mut crowd).len(), 1);
    go(&mut other);
}

#[test]
fn the_queue_is_bounded_and_who_goes_away_frees_his_place() {
    let mut world = World::new();
    let mut flying = go(&mut world.first(""));
    let mut tickets = world.firsts(MAX_WAITING);
    let wish = world.wish(Urgency::First, "", 0);
    let full = world.gate.ask(world.now, wish.clone()).unwrap_err();
    assert_eq!(full.code(), Code::TooLarge);
    // As the shell does it: closed, and told.
    for mut ticket in tickets.drain(..MAX_WAITING - 1) {
        ticket.close();
        assert!(ticket.try_recv().is_err());
        world.gate.left();
    }
    assert_eq!(world.gate.waiting(), 1);
    assert!(world.gate.queue.len() <= 2, "{}", world.gate.queue.len());
    let mut last = world.ask(wish);
    for _ in 0..2 {
        world.report(flying, Outcome::Dropped);
        flying = match tickets.pop() {
            Some(mut ticket) => go(&mut ticket),
            None => go(&mut last),
        };
    }
    assert_eq!((world.gate.waiting(), world.gate.flights.len()), (0, 1));
}

#[test]
fn a_retry_after_holds_one_identity_on_the_clock() {
    let mut world = World::warm();
    let mut first = world.first("");
    let pass = go(&mut first);
    let mut early = world.wish(Urgency::First, "", 0);
    early.patience = Arc::new(Patience::new(world.now.real + 5 * SECOND));
    let (mut patient, other) =
        (world.wish(Urgency::First, "", 0), world.wish(Urgency::First, "", 1));
    patient.story.tries = 1;
    patient.story.last = Some(Error::new(Code::Throttled, "mine"));
    let patience = patient.patience.clone();
    world.gate.limit = 1.0;
    let [mut early, mut patient, mut other] = [early, patient, other].map(|wish| world.ask(wish));
    world.report(pass, Outcome::Throttled(Some(7 * SECOND)));
    assert_eq!(
        refused(&mut early).message(),
        "GET x: RESPONSE 429 to another request of this identity (0 tries; asked to wait 7s, more \
         time than is left)"
    );
    assert!(waits(&mut patient));
    let near =
        futures_util::FutureExt::now_or_never(patience.hopeless(world.now.real + 6 * SECOND));
    let near = near.unwrap();
    assert!(near.is_hurried());
    assert_eq!(near.message(), "mine (1 try; asked to wait 7s, more time than is left)");
    let far = patience.hopeless(world.now.real + 8 * SECOND);
    assert!(futures_util::FutureExt::now_or_never(far).is_none());
    // Who comes later is told the same; another identity goes on, at the vault's pace.
    world.pass_time(SECOND);
    let mut late = world.wish(Urgency::First, "", 0);
    late.patience = Arc::new(Patience::new(world.now.real + 5 * SECOND));
    let late = world.gate.ask(world.now, late).unwrap_err();
    assert!(late.is_hurried() && late.message().contains("asked to wait 6s"), "{late}");
    assert_eq!((late.code(), late.status()), (Code::Throttled, Some(429)));
    let pass = go(&mut other);
    world.report(pass, Outcome::Answered);
    assert_eq!(world.gate.held(world.now, &identity(0)), Some(6 * SECOND));
    // The clock alone ends it.
    world.now.clock += 6 * SECOND;
    world.gate.tick(world.now);
    world.pass_time(SECOND);
    go(&mut patient);
    assert_eq!(world.gate.held(world.now, &identity(0)), None);
}

#[test]
fn a_hold_lasts_a_minute_at_most() {
    let mut world = World::warm();
    let pass = go(&mut world.first(""));
    world.report(pass, Outcome::Throttled(Some(3600 * SECOND)));
    assert_eq!(world.gate.held(world.now, &identity(0)), Some(60 * SECOND));
}

#[test]
fn a_silent_vault_is_probed_by_one_at_a_time() {
    let mut world = World::warm();
    let mut tickets = world.firsts(100);
    let mut hung = passes(&mut tickets);
    assert_eq!(hung.len(), 64);
    world.pass_time(2 * SECOND - MILLI);
    assert!(!world.gate.in_outage());
    world.pass_time(MILLI);
    assert!(world.gate.in_outage());
    let mut probes = passes(&mut tickets);
    assert_eq!(probes.len(), 1, "beyond the limit");
    world.pass_time(2 * SECOND - MILLI);
    assert!(passes(&mut tickets).is_empty());
    world.pass_time(MILLI);
    probes.extend(passes(&mut tickets));
    assert_eq!(probes.len(), 2, "the first one hangs too");
    let told = world.gate.trouble("GET y").unwrap();
    assert_eq!(
        told.message(),
        "GET y: no answer before the deadline; akvfs waits for the vault to come back; last \
         failure: no answer within 2s"
    );
    // Back: what hangs is given up, and the queue flows.
    let probe = probes.pop().unwrap();
    world.report(probe, Outcome::Answered);
    assert!(!world.gate.in_outage());
    assert_eq!(world.gate.trouble("GET y").map(|error| error.to_string()), None);
    for pass in hung.iter_mut().chain(&mut probes) {
        assert!(matches!(pass.signal.try_recv(), Ok(Signal::GiveUp)));
    }
    assert_eq!(passes(&mut tickets).len(), AFTER_OUTAGE as usize + 1);
    // An answer to what was given up says nothing.
    world.report(hung.pop().unwrap(), Outcome::Throttled(None));
    assert_eq!(world.gate.allowed(), AFTER_OUTAGE as usize + 1);
}

#[test]
fn a_slow_answer_beside_others_is_no_outage() {
    let mut world = World::warm();
    let mut tickets = world.firsts(2);
    let mut flying = passes(&mut tickets);
    world.pass_time(SECOND);
    world.report(flying.pop().unwrap(), Outcome::Answered);
    world.pass_time(3 * SECOND);
    assert!(!world.gate.in_outage());
    world.report(flying.pop().unwrap(), broken());
    assert!(!world.gate.in_outage());
}

#[test]
fn a_request_that_hangs_alone_is_its_own_probe() {
    let mut world = World::warm();
    let mut pass = go(&mut world.first(""));
    let mut sent = 1;
    for _ in 0..3 {
        world.pass_time(2 * SECOND);
        let Ok(Signal::Again(next)) = pass.signal.try_recv() else { panic!("{sent}") };
        pass = next;
        sent += 1;
    }
    assert_eq!(world.gate.flights.len(), sent);
    world.report(pass, Outcome::Answered);
    assert!(!world.gate.in_outage());
    assert!(world.gate.flights.is_empty());
}

#[test]
fn refused_connections_are_probed_with_growing_pauses_and_given_up() {
    let mut world = World::warm();
    let mut waiting = world.firsts(80);
    let flying = passes(&mut waiting);
    assert_eq!(flying.len(), 64);
    for pass in flying {
        world.report(pass, broken());
    }
    assert!(world.gate.in_outage());
    let begun = world.now.real;
    let mut probes = Vec::new();
    while world.now.real < begun + 20 * SECOND {
        world.pass_time(MILLI * 10);
        let mut done = Vec::new();
        waiting.retain_mut(|ticket| match ticket.try_recv() {
            Ok(Verdict::Go(pass)) => {
                done.push(pass);
                false
            }
            Ok(Verdict::Refused(error)) => {
                let took = world.now.real - begun;
                assert!(took > 8 * SECOND && took < 13 * SECOND, "{took:?}");
                let text = error.message();
                let begins = text.starts_with("GET x: cannot connect: refused (0 tries; saw ");
                assert!(begins && text.ends_with(" failures of the vault)"), "{text}");
                assert_eq!(error.hop(), Some(Hop::Connect));
                false
            }
            Err(_) => true,
        });
        assert!(done.len() <= 1);
        for pass in done {
            probes.push(world.now.real - begun);
            world.report(pass, broken());
        }
    }
    assert!(waiting.is_empty(), "all have heard of it");
    assert!((5..=10).contains(&probes.len()), "{probes:?}");
    assert!(probes[0] < 400 * MILLI, "{probes:?}");
    assert!(probes.windows(2).all(|two| two[1] - two[0] < 3 * SECOND), "{probes:?}");
}

#[test]
fn four_requests_with_5xx_are_an_outage_and_four_tries_of_one_are_not() {
    let mut world = World::warm();
    for _ in 0..6 {
        let mut wish = world.wish(Urgency::First, "", 0);
        wish.story.request = 7;
        let pass = go(&mut world.ask(wish));
        world.report(pass, busy());
    }
    assert!(!world.gate.in_outage());
    for n in 0..3 {
        assert!(!world.gate.in_outage(), "{n}");
        let pass = go(&mut world.first(""));
        world.report(pass, busy());
    }
    assert!(world.gate.in_outage());
    // A 5xx does not end it, a 404 or a 429 does.
    for last in [Outcome::Answered, Outcome::Throttled(None)] {
        world.gate.outage =
            Some(Outage::hangs(&world.gate.rules, world.now.real, Error::new(Code::TimedOut, "x")));
        let mut ticket = world.first("");
        let pass = go(&mut ticket);
        world.report(pass, busy());
        assert!(world.gate.in_outage());
        let mut ticket = world.first("");
        world.pass_time(SECOND);
        let pass = go(&mut ticket);
        world.report(pass, last);
        assert!(!world.gate.in_outage());
        assert!(world.gate.allowed() >= AFTER_OUTAGE as usize);
    }
}

#[test]
fn an_outage_that_nobody_waits_for_is_forgotten() {
    let mut world = World::warm();
    world.gate.enter();
    let pass = go(&mut world.first(""));
    world.report(pass, broken());
    assert!(world.gate.in_outage() && !world.gate.is_idle());
    world.gate.leave();
    assert!(!world.gate.in_outage() && world.gate.is_idle());
    let mut tickets = world.firsts(2);
    assert_eq!(passes(&mut tickets).len(), 1, "at once, and alone");
}

#[test]
fn a_certificate_fault_is_no_outage_but_a_failed_probe() {
    let mut world = World::warm();
    let fault = || Outcome::Other(Error::new(Code::Unavailable, "TLS failed").at(Hop::Tls));
    let pass = go(&mut world.first(""));
    world.report(pass, fault());
    assert!(!world.gate.in_outage());
    let pass = go(&mut world.first(""));
    world.report(pass, broken());
    let mut ticket = world.first("");
    world.pass_time(SECOND);
    let pass = go(&mut ticket);
    let before = world.gate.failures;
    world.report(pass, fault());
    assert!(world.gate.in_outage());
    assert_eq!(world.gate.failures, before + 1);
}
