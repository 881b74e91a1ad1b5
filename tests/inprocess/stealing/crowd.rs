//! A crowd in random order, by a fixed seed: nine identities with fifty Mounts each under way, and between
//! them revocations, grants and outages. Everything that happened is written down with its times, and
//! judged afterwards.
//!
//! Who may see what at which time:
//!
//! - without outages, a Mount may be answered with the value if its identity had the permission at some
//!   moment between its beginning, less the greatest age of what is given, and its end;
//! - with outages, a running pod keeps what it has until the vault has said no twice. So a value may be
//!   given unless a republish was refused before this Mount began, and nothing was allowed since that
//!   was asked for;
//! - a pod that starts never sees a value after any refusal, unless something was allowed since.
//!
//! The clock runs fast, so that ages, second looks and ends of tokens happen all the time.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use akvfs::class::ObjectKind;
use akvfs::emulator::{Seed, Service, Trouble, Verb, Where};
use futures_util::future::join_all;

use super::holds;
use crate::canary;
use crate::isolation::{CALLERS, everybody};
use crate::world::{World, array, secret};

/// Mounts of one identity that are under way together.
const MOUNTS: usize = 50;
/// Targets of one identity: few enough to be republished, many enough to start.
const TARGETS: usize = 20;
/// Bursts of Mounts of everybody.
const BURSTS: usize = 3;
/// What the clock moves on in each step of its own.
const STEP: Duration = Duration::from_millis(700);
const FIRST_AGE: Duration = Duration::from_secs(5);
const AGE: Duration = Duration::from_secs(60);

/// xorshift: random enough, and the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Value,
    Refused,
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Mount {
    caller: usize,
    /// Whether the target was certainly not published before.
    starts: bool,
    /// Whether it was certainly published with this very content.
    republishes: bool,
    begun: Instant,
    ended: Instant,
    answer: Answer,
}

/// A permission that changed at some moment in this time.
#[derive(Clone, Copy, Debug)]
struct Change {
    caller: usize,
    allow: bool,
    before: Instant,
    after: Instant,
}

#[derive(Default)]
struct Record {
    mounts: Vec<Mount>,
    changes: Vec<Change>,
}

impl Record {
    /// Whether the caller may have had the permission at some moment of this time.
    fn allowed_within(&self, caller: usize, from: Instant, to: Instant) -> bool {
        // Everybody begins with it.
        let mut since = None;
        for change in self.changes.iter().filter(|change| change.caller == caller) {
            match change.allow {
                true => since = Some(change.before),
                false => {
                    let begins = since.is_none_or(|since| since <= to);
                    if begins && change.after >= from {
                        return true;
                    }
                    since = Some(to + Duration::from_secs(1));
                }
            }
        }
        since.is_none_or(|since| since <= to)
    }

    /// Whether a refusal that came before this Mount began still stands: nothing was allowed since it was
    /// asked for. (A refusal may be remembered for a moment after the permission has come back.)
    fn refused_before(&self, mount: &Mount, counts: impl Fn(&Mount) -> bool) -> bool {
        self.mounts.iter().any(|earlier| {
            earlier.caller == mount.caller
                && earlier.answer == Answer::Refused
                && earlier.ended < mount.begun
                && counts(earlier)
                && !self.allowed_within(mount.caller, earlier.begun, mount.ended)
        })
    }

    /// What was given to somebody who may not have it.
    fn leaks(&self, outages: bool) -> Vec<String> {
        let mut leaks = Vec::new();
        for mount in self.mounts.iter().filter(|mount| mount.answer == Answer::Value) {
            let age = if mount.starts { FIRST_AGE } else { AGE };
            let from = mount.begun.checked_sub(age).unwrap();
            if !outages && !self.allowed_within(mount.caller, from, mount.ended) {
                leaks.push(format!("older than may be: {mount:?}"));
            }
            if self.refused_before(mount, |earlier| earlier.republishes) {
                leaks.push(format!("after a confirmed refusal: {mount:?}"));
            }
            if mount.starts && self.refused_before(mount, |_| true) {
                leaks.push(format!("starts after a refusal: {mount:?}"));
            }
        }
        leaks
    }
}

async fn crowd(seed: u64, outages: bool, bursts: usize) -> Record {
    let value = canary::value("crowd");
    let world = World::start(Seed::default().secret("crowd", &[&value])).await;
    let callers = everybody(&world);
    let objects = array(&[&secret("crowd")]);
    let record = Mutex::new(Record::default());
    // Published for certain, and published perhaps.
    let (published, touched) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    // Assertions last an hour, whatever else the crowd does.
    let run = async {
        let mut random = Random(seed);
        for burst in 0..bursts {
            let mut order: Vec<_> =
                (0..CALLERS * MOUNTS).map(|number| (random.below(1 << 20), number)).collect();
            order.sort_unstable();
            let pauses = order.iter().map(|_| random.below(250)).collect::<Vec<_>>();
            let mounts = order.iter().zip(pauses).map(|((_, number), pause)| {
                let caller = number % CALLERS;
                let mut call = callers[caller].1.clone();
                // Sometimes a new pod, else one that may be there already.
                let target = match number % 3 {
                    0 => format!("/{caller}/{burst}-{number}"),
                    _ => format!("/{caller}/{}", number / CALLERS % TARGETS),
                };
                call.target = target.clone();
                call.set("objects", &objects);
                if outages && number % 2 == 0 {
                    call.set("maxStale", "24h");
                }
                let (world, value, record) = (&world, &value, &record);
                let (published, touched) = (&published, &touched);
                async move {
                    tokio::time::sleep(Duration::from_millis(pause as u64)).await;
                    let starts = touched.lock().unwrap().insert(target.clone());
                    let republishes = published.lock().unwrap().contains(&target);
                    let begun = world.clock.now();
                    let outcome = world.mount_within(&call, Duration::from_secs(30)).await;
                    let ended = world.clock.now();
                    let answer = match &outcome {
                        outcome if holds(outcome, value) => Answer::Value,
                        // A firewall says nothing about who may read.
                        Err(status) if status.message().contains("Firewall") => Answer::Other,
                        Err(status) if status.code() == tonic::Code::PermissionDenied => {
                            Answer::Refused
                        }
                        _ => Answer::Other,
                    };
                    if answer == Answer::Value {
                        published.lock().unwrap().insert(target);
                    }
                    let mount = Mount { caller, starts, republishes, begun, ended, answer };
                    record.lock().unwrap().mounts.push(mount);
                }
            });
            join_all(mounts).await;
        }
    };
    let trouble = async {
        let mut random = Random(seed ^ 0xffff);
        let mut allowed = [true; CALLERS];
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let caller = random.below(CALLERS);
            match random.below(4) {
                0 | 1 => {
                    let allow = !allowed[caller];
                    allowed[caller] = allow;
                    let before = world.clock.now();
                    let client = callers[caller].0;
                    world.control.permit(client, ObjectKind::Secret, Verb::Get, allow).unwrap();
                    let after = world.clock.now();
                    record.lock().unwrap().changes.push(Change { caller, allow, before, after });
                }
                2 if outages => {
                    let troubles = [Trouble::Status(503), Trouble::CutBody, Trouble::Firewall];
                    let trouble = troubles[random.below(3)].clone();
                    world.control.always(Where::service(Service::Vault), trouble);
                }
                _ => world.control.clear_faults(),
            }
        }
    };
    let time = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            world.clock.advance(STEP);
        }
    };
    tokio::select! {
        () = run => {}
        never = async { tokio::join!(trouble, time) } => { let ((), ()) = never; }
    }
    record.into_inner().unwrap()
}

/// How much more than usual is to be done.
fn scale() -> usize {
    std::env::var("AKVFS_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

async fn judged(outages: bool) {
    for round in 0..scale() as u64 {
        let seed = 0x9e37_79b9_7f4a_7c15 + 2 * round + u64::from(outages);
        let record = crowd(seed, outages, BURSTS).await;
        let count = |answer| record.mounts.iter().filter(|mount| mount.answer == answer).count();
        let leaks = record.leaks(outages);
        let (attempts, given, refused) =
            (record.mounts.len(), count(Answer::Value), count(Answer::Refused));
        let changes = record.changes.len();
        println!(
            "crowd {seed:x}, outages: {outages}: attempts {attempts}, given {given}, \
             refused {refused}, changes {changes}, leaks {}",
            leaks.len()
        );
        assert_eq!(attempts, BURSTS * CALLERS * MOUNTS);
        assert!(given > attempts / 20 && refused > attempts / 20 && changes > 20);
        assert!(leaks.is_empty(), "{:#?}", &leaks[..leaks.len().min(3)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_sees_nothing_older_than_may_be_given() {
    judged(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_sees_nothing_after_a_refusal_whatever_the_outages() {
    judged(true).await;
}

/// The judge itself: what he takes for a leak, and what not.
#[test]
fn the_judge_finds_what_nobody_may_see() {
    let begin = Instant::now() + Duration::from_secs(1000);
    let at = |seconds| begin + Duration::from_secs(seconds);
    let mount = |begun: u64, ended: u64, starts: bool, answer: Answer| Mount {
        caller: 0,
        starts,
        republishes: !starts,
        begun: at(begun),
        ended: at(ended),
        answer,
    };
    let change = |allow: bool, second: u64| Change {
        caller: 0,
        allow,
        before: at(second),
        after: at(second),
    };
    let leaks = |mounts: &[Mount], changes: &[Change], outages: bool| {
        Record { mounts: mounts.to_vec(), changes: changes.to_vec() }.leaks(outages).len()
    };
    let value = |begun, ended, starts| mount(begun, ended, starts, Answer::Value);
    let no = |begun, ended, starts| mount(begun, ended, starts, Answer::Refused);
    let taken = [change(false, 100)];
    assert_eq!(leaks(&[value(159, 160, false)], &taken, false), 0);
    assert_eq!(leaks(&[value(161, 162, false)], &taken, false), 1);
    assert_eq!(leaks(&[value(161, 162, false)], &taken, true), 0);
    assert_eq!(leaks(&[value(104, 105, true)], &taken, false), 0);
    assert_eq!(leaks(&[value(106, 107, true)], &taken, false), 1);
    let back = [change(false, 100), change(true, 200), change(false, 300)];
    assert_eq!(leaks(&[value(180, 190, false)], &back, false), 1);
    assert_eq!(leaks(&[value(180, 201, false)], &back, false), 0);
    assert_eq!(leaks(&[value(380, 390, false)], &back, false), 1);
    for outages in [false, true] {
        assert_eq!(leaks(&[no(101, 102, false), value(103, 104, false)], &taken, outages), 1);
        assert_eq!(leaks(&[no(101, 102, true), value(103, 104, false)], &taken, outages), 0);
        assert_eq!(leaks(&[no(101, 102, true), value(103, 104, true)], &taken, outages), 1);
        assert_eq!(leaks(&[no(101, 103, false), value(102, 104, false)], &taken, outages), 0);
    }
    assert_eq!(leaks(&[no(101, 102, false), value(203, 204, false)], &back, true), 0);
    assert_eq!(leaks(&[no(201, 202, false), value(203, 204, false)], &back, true), 0);
    assert_eq!(leaks(&[no(301, 302, false), value(303, 304, false)], &back, true), 1);
}
