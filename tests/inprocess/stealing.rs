//! Everybody tries to get what everybody else has: in every state that a held value can be in, and by
//! every way to look like its owner. The tests count attempts and leaks.
//!
//! A leak is the owner's value anywhere in what the attacker was answered: files, names, versions, or the
//! text of a refusal.

use std::time::Duration;

use akvfs::class::ObjectKind;
use akvfs::csi::proto::MountResponse;
use akvfs::emulator::{BINDING_CLIENT, Seed, Service, Trouble, Verb, Where, WorkloadToken};
use tonic::Status;

use crate::canary;
use crate::isolation::{CALLERS, everybody};
use crate::modes::pod_call;
use crate::world::{Call, World, array, eventually, secret};

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

/// Whether the value is anywhere in the answer.
fn holds(outcome: &Result<MountResponse, Status>, value: &str) -> bool {
    let within = |bytes: &[u8]| bytes.windows(value.len()).any(|part| part == value.as_bytes());
    match outcome {
        Ok(response) => response.files.iter().any(|file| within(&file.contents)),
        Err(status) => within(format!("{status:?} {status}").as_bytes()),
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

/// What looks like the owner and is not: each forgery, with the name of what is wrong.
fn forgeries(world: &World, owner: &Call, principal: &Call) -> Vec<(&'static str, Call)> {
    let workload = |token: WorkloadToken| world.workload_call(&[], &token);
    let changed = |call: &Call, key: &str, value: &str| {
        let mut call = call.clone();
        call.set(key, value);
        call
    };
    let file = world.dir.path().join("elsewhere.json");
    let vault_host = world.emulator.vault_url();
    let suffix = vault_host.split_once('.').unwrap().1.to_owned();
    let cloud = serde_json::json!({
        "name": "AzureStackCloud",
        "activeDirectoryEndpoint": "https://login.elsewhere.akvfs.test/",
        "keyVaultEndpoint": format!("https://{suffix}"),
        "keyVaultDNSSuffix": suffix,
        "resourceIdentifiers": {"keyVault": format!("https://{suffix}")},
    });
    std::fs::write(&file, cloud.to_string()).unwrap();
    let elsewhere = |call: &Call| {
        let mut call = changed(call, "cloudName", "AzureStackCloud");
        call.set("cloudEnvFileName", file.to_str().unwrap());
        call
    };
    let mut wrong = principal.clone();
    wrong.secrets["clientsecret"] = canary::value("wrong client secret").into();
    let mut borrowed = principal.clone();
    borrowed.secrets["clientid"] = BINDING_CLIENT.into();
    let mut never = principal.clone();
    never.secrets = serde_json::Value::Null;
    never
        .set("useVMManagedIdentity", "true")
        .set("userAssignedIdentityID", "00000000-0000-4000-8000-000000000000");
    let other_tenant = "11111111-2222-4333-8444-555555555555";
    vec![
        ("the assertion with another client id", changed(owner, "clientID", BINDING_CLIENT)),
        ("the assertion in another tenant", changed(owner, "tenantID", other_tenant)),
        ("the assertion at another authority", elsewhere(owner)),
        ("the assertion as identity binding", changed(owner, "useAzureTokenProxy", "true")),
        (
            "another service account's assertion",
            workload(WorkloadToken { service_account: "other".to_owned(), ..Default::default() }),
        ),
        (
            "another namespace's assertion",
            workload(WorkloadToken { namespace: "other".to_owned(), ..Default::default() }),
        ),
        ("a forged assertion", workload(WorkloadToken { forged: true, ..Default::default() })),
        ("an expired assertion", workload(WorkloadToken { lifetime: None, ..Default::default() })),
        (
            "an assertion of another cluster",
            workload(WorkloadToken { issuer: "https://evil".to_owned(), ..Default::default() }),
        ),
        ("a wrong secret", wrong),
        ("the secret with another client id", borrowed),
        ("the secret in another tenant", changed(principal, "tenantID", other_tenant)),
        ("the secret at another authority", elsewhere(principal)),
        ("an identity that was never assigned", never),
        ("a pod of another namespace", {
            let mut call = pod_call(world, "app-0", "u0");
            call.set("csi.storage.k8s.io/pod.namespace", "other");
            call
        }),
        ("a pod that was never assigned", pod_call(world, "app-7", "u0")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_looks_like_the_owner_gets_his_value() {
    let mut tally = Tally::default();
    for outage in [false, true] {
        let value = canary::value("owned");
        let world = World::start(Seed::default().secret("owned", &[&value])).await;
        world.control.assign_pod("default", "app-0", akvfs::emulator::POD_IDENTITY);
        let objects = array(&[&secret("owned")]);
        let mut owners = [
            world.workload_call(&[], &WorkloadToken::default()),
            world.call(&[]),
            pod_call(&world, "app-0", "u0"),
        ];
        for owner in &mut owners {
            owner.set("objects", &objects).set("maxStale", "24h");
            assert!(holds(&world.mount(owner).await, &value));
        }
        if outage {
            world.control.always(Where::service(Service::Vault), Trouble::Status(503));
        }
        let mut attacks = forgeries(&world, &owners[0], &owners[1]);
        if outage {
            // A later pod of the same name is the same to NMI, but not to us.
            attacks.push(("a reused pod name", pod_call(&world, "app-0", "u1")));
        }
        for (what, mut attack) in attacks {
            attack.set("objects", &objects).set("maxStale", "24h");
            for target in ["/new", &owners[0].target] {
                attack.target = target.to_owned();
                let outcome = world.mount_within(&attack, LIMIT).await;
                assert!(outcome.is_err(), "{what}");
                tally.count(format!("{what}, outage: {outage}"), &value, &outcome);
            }
        }
        for owner in &owners {
            assert!(holds(&world.mount(owner).await, &value), "the owners still get it");
        }
    }
    println!("attempts {}, leaks {}", tally.attempts, tally.leaks.len());
    assert_eq!(tally.attempts, 66);
    assert_eq!(tally.leaks, Vec::<String>::new());
}

/// A crowd in random order, with revocations and outages in between, by a fixed seed. Whoever is answered
/// with a value was allowed to read it at most as long ago as values may be held.
#[tokio::test(flavor = "multi_thread")]
async fn a_random_crowd_never_sees_what_was_taken_from_it() {
    const STEPS: usize = 300;
    let value = canary::value("crowd");
    let world = World::start(Seed::default().secret("crowd", &[&value])).await;
    let callers = everybody(&world);
    let objects = array(&[&secret("crowd")]);
    // xorshift: random enough, and the same each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut taken: Vec<Option<std::time::Instant>> = vec![None; CALLERS];
    let (mut attempts, mut given) = (0, 0);
    for _ in 0..STEPS {
        let caller = random(CALLERS);
        match random(8) {
            0 => {
                let allow = taken[caller].is_some();
                world
                    .control
                    .permit(callers[caller].0, ObjectKind::Secret, Verb::Get, allow)
                    .unwrap();
                taken[caller] = (!allow).then(|| world.clock.now());
            }
            1 => world.clock.advance(Duration::from_secs(random(40) as u64)),
            2 => world.control.always(Where::service(Service::Vault), Trouble::Status(503)),
            3 => world.control.clear_faults(),
            _ => {
                let mut call = callers[caller].1.clone();
                call.set("objects", &objects);
                call.target = format!("/{caller}-{}", random(3));
                let outcome = world.mount_within(&call, Duration::from_secs(4)).await;
                attempts += 1;
                if holds(&outcome, &value) {
                    given += 1;
                    // A running pod's value may outlive the revocation while the vault cannot tell.
                    if let Some(since) = taken[caller] {
                        let held = world.clock.now() - since;
                        assert!(held <= Duration::from_secs(24 * 3600), "{held:?}");
                    }
                }
            }
        }
    }
    println!("attempts {attempts}, given {given}");
    assert!(given > 20 && attempts > given);
    // The vault answers: whoever was refused gets nothing after the second look, whatever he had.
    world.control.clear_faults();
    for (caller, taken) in taken.iter().enumerate() {
        world
            .control
            .permit(callers[caller].0, ObjectKind::Secret, Verb::Get, taken.is_none())
            .unwrap();
    }
    for round in 0..2 {
        world.later();
        for (caller, taken) in taken.iter().enumerate() {
            let mut call = callers[caller].1.clone();
            call.set("objects", &objects);
            call.target = format!("/{caller}-0");
            let (outcome, ()) = tokio::join!(world.mount(&call), async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                world.clock.advance(Duration::from_secs(6));
            });
            assert_eq!(holds(&outcome, &value), taken.is_none(), "round {round}, {caller}");
        }
    }
}
