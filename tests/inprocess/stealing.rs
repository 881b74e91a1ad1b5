//! Everybody tries to get what everybody else has: in every state that a held value can be in, and by
//! every way to look like its owner. The tests count attempts and leaks.
//!
//! A leak is the owner's value anywhere in what the attacker was answered: files, names, versions, or the
//! text of a refusal.

mod crowd;
mod forgeries;
mod revoked;

use std::time::Duration;

use akvfs::class::ObjectKind;
use akvfs::csi::proto::MountResponse;
use akvfs::emulator::{Seed, Service, Trouble, Verb, Where};
use prost::Message;
use tonic::Status;

use crate::canary;
use crate::isolation::{CALLERS, everybody};
use crate::world::{World, array, eventually, secret};

/// In which state the owner's value is when the others ask for it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Nobody has read it yet.
    Cold,
    /// The provider holds it.
    Held,
    /// The provider holds it, and the vault answers 503; stale values are welcome to the attacker.
    Outage,
    /// The same, and the vault cuts its answers off.
    Cut,
    /// The provider holds it, and no token service answers.
    NoTokens,
    /// The provider holds it, its owner's proof has ended, and the vault answers 503.
    Ended,
    /// The owner's request is under way.
    InFlight,
    /// It was deleted, which the provider knows.
    Deleted,
}

const STATES: [State; 8] = [
    State::Cold,
    State::Held,
    State::Outage,
    State::Cut,
    State::NoTokens,
    State::Ended,
    State::InFlight,
    State::Deleted,
];

#[derive(Default)]
struct Tally {
    attempts: usize,
    leaks: Vec<String>,
}

impl Tally {
    fn count(&mut self, what: String, value: &str, outcome: &Result<MountResponse, Status>) {
        self.attempts += 1;
        if holds(outcome, value) {
            self.leaks.push(what);
        }
    }
}

/// Whether the value is anywhere in the answer: in the bytes of the whole message, or of the refusal.
fn holds(outcome: &Result<MountResponse, Status>, value: &str) -> bool {
    let within = |bytes: &[u8]| bytes.windows(value.len()).any(|part| part == value.as_bytes());
    match outcome {
        Ok(response) => within(&response.encode_to_vec()),
        Err(status) => {
            within(status.message().as_bytes())
                || within(status.details())
                || within(format!("{status:?}").as_bytes())
        }
    }
}

fn name(owner: usize, attacker: usize) -> String {
    format!("of-{owner}-for-{attacker}")
}

/// Every identity against every other, in this state.
async fn everybody_against_everybody(state: State) -> Tally {
    let pairs: Vec<_> = (0..CALLERS)
        .flat_map(|owner| (0..CALLERS).map(move |attacker| (owner, attacker)))
        .filter(|(owner, attacker)| owner != attacker)
        .collect();
    let values: Vec<_> = pairs.iter().map(|(a, b)| canary::value(&name(*a, *b))).collect();
    let seed = pairs
        .iter()
        .zip(&values)
        .fold(Seed::default(), |seed, ((a, b), value)| seed.secret(&name(*a, *b), &[value]));
    let world = World::start(seed).await;
    let callers = everybody(&world);
    let control = &world.control;
    let vault = Where::service(Service::Vault);
    let mut tally = Tally::default();
    let call = |caller: usize, (owner, attacker): (usize, usize)| {
        let mut call = callers[caller].1.clone();
        let objects = array(&[&secret(&name(owner, attacker))]);
        call.set("objects", &objects).set("maxStale", "24h");
        call.target = format!("/{caller}");
        call
    };
    let read_by_owner = async |pair: (usize, usize), value: &str| {
        let read = world.mount(&call(pair.0, pair)).await;
        assert!(holds(&read, value), "the owner reads it, and that is noticed: {read:?}");
    };
    if state == State::Ended {
        for (pair, value) in pairs.iter().zip(&values) {
            read_by_owner(*pair, value).await;
        }
        world.clock.advance(Duration::from_secs(2 * 3600));
    }
    for ((owner, attacker), value) in pairs.into_iter().zip(&values) {
        let pair = (owner, attacker);
        let (owns, steals) = (call(owner, pair), call(attacker, pair));
        let permit = |allow| {
            control.permit(callers[attacker].0, ObjectKind::Secret, Verb::Get, allow).unwrap();
        };
        // As far as the attacker was ever proved, it was before.
        permit(true);
        if !matches!(state, State::Cold | State::InFlight | State::Ended) {
            read_by_owner(pair, value).await;
        }
        match state {
            // Otherwise only what is held keeps them apart.
            State::Cold | State::Held | State::InFlight => permit(false),
            State::Outage | State::Ended => control.always(vault.clone(), Trouble::Status(503)),
            State::Cut => control.always(vault.clone(), Trouble::CutBody),
            State::NoTokens => {
                for service in [Service::Entra, Service::Imds, Service::Nmi] {
                    control.always(Where::service(service), Trouble::Status(503));
                }
                control.always(vault.clone(), Trouble::Status(503));
            }
            State::Deleted => {
                let vault = world.emulator.vault_name();
                control.delete(vault, ObjectKind::Secret, &name(owner, attacker)).unwrap();
                world.clock.advance(Duration::from_secs(6));
                let mut starts = owns.clone();
                starts.target = "/starts".to_owned();
                assert!(world.mount(&starts).await.is_err());
                control.always(Where::service(Service::Vault), Trouble::Status(503));
            }
        }
        let what = format!("{state:?}: {} of {}", callers[attacker].0, callers[owner].0);
        if state == State::InFlight {
            control.always(vault.clone(), Trouble::Delay(Duration::from_millis(60)));
            let before = control.counters().vault_requests;
            let (read, stolen) = tokio::join!(world.mount(&owns), async {
                eventually("the owner's request", || control.counters().vault_requests > before)
                    .await;
                world.mount(&steals).await
            });
            assert!(holds(&read, value));
            tally.count(what, value, &stolen);
        } else {
            tally.count(what.clone(), value, &world.mount_within(&steals, LIMIT).await);
            // At the owner's own target, as if it were a rotation of his.
            let mut there = steals.clone();
            there.target = owns.target.clone();
            tally.count(what, value, &world.mount_within(&there, LIMIT).await);
        }
        control.clear_faults();
        permit(true);
    }
    tally
}

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_what_another_identity_read_in_any_state() {
    let tallies = futures_util::future::join_all(STATES.map(everybody_against_everybody)).await;
    let attempts: usize = tallies.iter().map(|tally| tally.attempts).sum();
    let leaks: Vec<_> = tallies.into_iter().flat_map(|tally| tally.leaks).collect();
    println!("attempts {attempts}, leaks {}", leaks.len());
    assert_eq!(attempts, CALLERS * (CALLERS - 1) * (2 * STATES.len() - 1));
    assert_eq!(leaks, Vec::<String>::new());
}
