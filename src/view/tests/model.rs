//! A reference model: what may be seen of a view, whatever the vault does and whoever reads.
//!
//! A history is a list of operations on a vault in memory ([`vault`]) and on a view of it. [`world`]
//! carries them out and keeps, beside the view, a model that knows only the answers that the vault has
//! given and when. After every operation the two must agree.
//!
//! The answers are those of an origin: a refusal is one that was confirmed, and a question that gets no
//! answer gets an error in the end.

mod history;
mod vault;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::testing::scale;
use world::World;

/// Histories in CI; the longest has so many operations.
const HISTORIES: u32 = 1_000;
const LONGEST: usize = 60;

/// How the vault fails: that says nothing about the object.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Throttled,
    Unavailable,
    TimedOut,
    Firewall,
    Identity,
}

/// Objects are numbers, taken modulo how many there are; so is all else that is chosen.
#[derive(Clone, Debug)]
enum Op {
    Rotate(usize),
    Delete(usize),
    Restore(usize),
    /// The newest version, or an older one.
    Disable(usize, usize),
    Enable(usize),
    Forbid(usize),
    /// May be listed, and not be read.
    ForbidReading(usize),
    Allow(usize),
    Fail(usize, Failure),
    Mend(usize),
    Outage(Failure),
    Over,
    /// Answers to new questions wait until they are delivered.
    Slow(usize),
    Quick(usize),
    /// In any order.
    Deliver(usize),
    /// As an error, after all.
    Lose(usize),
    /// What waits for its answer has waited for too long.
    Late,
    Hours(u64),
    /// Opens a file, and keeps it open.
    Open(usize),
    /// The same by a node that somebody remembers.
    OpenOld(usize),
    /// The same by an empty one, and the vault is slow for this once.
    OpenLate(usize),
    Release(usize),
    LookUp(usize),
    List,
    FillAll,
    Refresh,
}

#[derive(Clone, Copy, Debug)]
enum Objects {
    Plain,
    SeparateFiles,
    History,
}

/// How a refresh looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    /// At everything at once, and with patience.
    Together,
    /// At one after the other, and at no more when one has no answer.
    OneByOne,
}

/// How much may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// For about half of everything.
    Little,
}

fn op() -> impl Strategy<Value = Op> {
    let failure = prop_oneof![
        Just(Failure::Throttled),
        Just(Failure::Unavailable),
        Just(Failure::TimedOut),
        Just(Failure::Firewall),
        Just(Failure::Identity),
    ];
    let any = 0..12_usize;
    prop_oneof![
        8 => any.clone().prop_map(Op::Rotate),
        2 => any.clone().prop_map(Op::Delete),
        3 => any.clone().prop_map(Op::Restore),
        2 => (any.clone(), any.clone()).prop_map(|(object, which)| Op::Disable(object, which)),
        3 => any.clone().prop_map(Op::Enable),
        2 => any.clone().prop_map(Op::Forbid),
        1 => any.clone().prop_map(Op::ForbidReading),
        3 => any.clone().prop_map(Op::Allow),
        2 => (any.clone(), failure.clone()).prop_map(|(object, failure)| Op::Fail(object, failure)),
        3 => any.clone().prop_map(Op::Mend),
        1 => failure.prop_map(Op::Outage),
        3 => Just(Op::Over),
        4 => any.clone().prop_map(Op::Slow),
        4 => any.clone().prop_map(Op::Quick),
        10 => any.clone().prop_map(Op::Deliver),
        1 => any.clone().prop_map(Op::Lose),
        2 => Just(Op::Late),
        2 => (0..30_u64).prop_map(Op::Hours),
        10 => any.clone().prop_map(Op::Open),
        6 => any.clone().prop_map(Op::OpenOld),
        4 => any.clone().prop_map(Op::OpenLate),
        4 => any.clone().prop_map(Op::Release),
        4 => any.clone().prop_map(Op::LookUp),
        2 => Just(Op::List),
        1 => Just(Op::FillAll),
        16 => Just(Op::Refresh),
    ]
}

#[test]
fn a_view_shows_what_the_model_says() {
    let kind = prop_oneof![
        2 => Just(Objects::Plain),
        1 => Just(Objects::SeparateFiles),
        1 => Just(Objects::History),
    ];
    compare(HISTORIES, kind, Looks::Together);
}

#[test]
fn so_it_does_when_a_refresh_passes_things_over() {
    let kind = prop_oneof![Just(Objects::Plain), Just(Objects::SeparateFiles)];
    compare(HISTORIES / 2, kind, Looks::OneByOne);
}

fn compare(cases: u32, kind: impl Strategy<Value = Objects>, looks: Looks) {
    let layout = prop_oneof![Just(Layout::Atomic), Just(Layout::Flat)];
    let room = prop_oneof![Just(Room::Enough), Just(Room::Little)];
    let histories = (layout, kind, room, prop::collection::vec(op(), 1..LONGEST));
    let config = Config { cases: cases * scale(), failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&histories, |(layout, kind, room, ops)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(layout, kind, looks, room).await;
            for op in &ops {
                world.does(op).await;
            }
            world.ends().await;
        });
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}

/// Found by chance: a history that went and came back between two looks of the model.
#[tokio::test]
async fn a_history_goes_and_comes_back_at_once() {
    let mut world = World::new(Layout::Flat, Objects::History, Looks::Together, Room::Enough).await;
    let before = [Op::Rotate(2), Op::Refresh, Op::Slow(2), Op::Rotate(2), Op::Refresh];
    let opens = [Op::Deliver(0), Op::OpenOld(10), Op::Open(2), Op::Hours(25), Op::Deliver(1)];
    let fails = [Op::Refresh, Op::Deliver(0), Op::Fail(2, Failure::Throttled), Op::Refresh];
    for op in before.iter().chain(&opens).chain(&fails).chain(&[Op::Deliver(0)]) {
        world.does(op).await;
    }
    world.ends().await;
}

/// Found by chance: an answer to an open of an old node, while nobody has opened the present one.
#[tokio::test]
async fn what_nobody_has_opened_stays_when_its_old_bytes_go() {
    let mut world = World::new(Layout::Atomic, Objects::Plain, Looks::Together, Room::Enough).await;
    let opens = [Op::Open(0), Op::OpenLate(1), Op::OpenLate(8), Op::Deliver(0), Op::Hours(25)];
    let outage = [Op::Outage(Failure::Throttled), Op::Refresh, Op::Deliver(0), Op::Refresh];
    for op in opens.iter().chain(&outage) {
        world.does(op).await;
    }
    world.ends().await;
    let mut world = World::new(Layout::Atomic, Objects::Plain, Looks::OneByOne, Room::Enough).await;
    for op in opens.iter().chain(&outage) {
        world.does(op).await;
    }
    world.ends().await;
}

/// Found by chance: an open that joined the fetch of somebody who lets go of nothing that is shown.
#[tokio::test]
async fn an_open_makes_room_whoever_began_to_fetch() {
    let mut world = World::new(Layout::Flat, Objects::History, Looks::Together, Room::Little).await;
    for op in [Op::Slow(0), Op::Rotate(2), Op::FillAll, Op::Refresh, Op::OpenOld(5)] {
        world.does(&op).await;
    }
    world.ends().await;
}

/// Found by chance: two births of one version, opened at the same time.
#[tokio::test]
async fn what_another_birth_got_back_needs_no_second_room() {
    let mut world =
        World::new(Layout::Atomic, Objects::SeparateFiles, Looks::Together, Room::Little).await;
    let opens = [Op::OpenLate(8), Op::OpenOld(7), Op::Release(0), Op::Release(0)];
    for op in [Op::Delete(0), Op::Refresh].iter().chain(&opens) {
        world.does(op).await;
    }
    world.ends().await;
}
