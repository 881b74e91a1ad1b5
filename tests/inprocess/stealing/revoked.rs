//! What is left of a value after a refusal, and what callers learn of each other from refusals.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use akvfs::class::ObjectKind;
use akvfs::emulator::{Seed, Service, Trouble, Verb, Where, WorkloadToken};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use tonic::Code;

use super::forgeries::refused_twice;
use super::holds;
use crate::canary;
use crate::isolation::everybody;
use crate::seeds::ONE;
use crate::world::{Call, World, array, eventually, new_fetch, secret};

const PRIVATE: &str = "very-private-name";
const OWN: &str = "own-name";
const SECOND: Duration = Duration::from_secs(1);
/// For vaults that never answer: nothing is to be had by waiting.
const HASTE: Duration = Duration::from_millis(2000);

fn vault() -> Where {
    Where::service(Service::Vault)
}

fn at(call: &Call, target: &str) -> Call {
    let mut call = call.clone();
    call.target = target.to_owned();
    call
}

/// What happens, what a Mount says then, and how to do it.
type Revocation = (&'static str, Code, fn(&World));

const REVOCATIONS: [Revocation; 3] = [
    ("deleted", Code::NotFound, |world| {
        world.control.delete(world.emulator.vault_name(), ObjectKind::Secret, ONE).unwrap();
    }),
    ("disabled", Code::PermissionDenied, |world| {
        let vault = world.emulator.vault_name();
        world.control.enable(vault, ObjectKind::Secret, ONE, "", false).unwrap();
    }),
    ("forbidden", Code::PermissionDenied, |world| {
        let client = world.emulator.service_principal().0.to_owned();
        world.control.permit(&client, ObjectKind::Secret, Verb::Get, false).unwrap();
    }),
];

/// An outage right after does not bring it back: to the pod that was told, to another that runs, to one
/// that starts and would take stale values.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_refusal_is_final_whatever_the_vault_does_next() {
    let troubles = [Trouble::Status(503), Trouble::Hang, Trouble::CutBody, Trouble::Firewall];
    let cases = REVOCATIONS.iter().flat_map(|revocation| {
        troubles.iter().map(move |trouble| after_a_confirmed_refusal(revocation, trouble))
    });
    let attempts: usize = join_all(cases).await.into_iter().sum();
    println!("after a confirmed refusal: attempts {attempts}, leaks 0");
}

async fn after_a_confirmed_refusal(revocation: &Revocation, trouble: &Trouble) -> usize {
    let (what, code, revoke) = revocation;
    let value = canary::value(ONE);
    let world = World::start(Seed::default().secret(ONE, &[&value])).await;
    let mut call = world.call(&[&secret(ONE)]);
    call.set("maxStale", "24h");
    for target in ["/told", "/runs"] {
        assert!(holds(&world.mount(&at(&call, target)).await, &value));
    }
    revoke(&world);
    world.clock.advance(61 * SECOND);
    assert_eq!(refused_twice(&world, &at(&call, "/told")).await, *code, "{what}");
    world.control.always(vault(), trouble.clone());
    let mut attempts = 0;
    for _ in 0..3 {
        let pods = ["/told", "/runs", "/starts"].map(|target| at(&call, target));
        for outcome in join_all(pods.iter().map(|pod| world.mount_within(pod, HASTE))).await {
            assert!(outcome.is_err() && !holds(&outcome, &value), "{what}, {trouble:?}");
            attempts += 1;
        }
        world.clock.advance(20 * SECOND);
    }
    attempts
}

/// A version that was asked for by its id is another key, but goes with what is known of its object.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_refusal_of_an_object_is_one_of_its_versions_too() {
    for (what, code, revoke) in [REVOCATIONS[0], REVOCATIONS[2]] {
        let value = canary::value(ONE);
        let world = World::start(Seed::default().secret(ONE, &[&value])).await;
        let vault_name = world.emulator.vault_name();
        let version = world.control.versions(vault_name, ObjectKind::Secret, ONE).remove(0);
        let mut latest = world.call(&[&secret(ONE)]);
        latest.set("maxStale", "24h");
        let mut named = latest.clone();
        let entry = format!("{}\nobjectVersion: {version}", secret(ONE));
        named.set("objects", &array(&[&entry])).target = "/named".to_owned();
        for call in [&latest, &named] {
            assert!(holds(&world.mount(call).await, &value));
        }
        revoke(&world);
        world.clock.advance(61 * SECOND);
        assert_eq!(refused_twice(&world, &latest).await, code, "{what}");
        world.control.always(vault(), Trouble::Status(503));
        for target in ["/named", "/starts"] {
            let outcome = world.mount(&at(&named, target)).await;
            assert!(!holds(&outcome, &value), "{what}: {target}");
        }
    }
}

/// A refusal that was seen once keeps what runs, and starts nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_an_outage_leaves_unconfirmed_starts_nobody() {
    for (what, code, revoke) in REVOCATIONS {
        let value = canary::value(ONE);
        let world = World::start(Seed::default().secret(ONE, &[&value])).await;
        let mut call = world.call(&[&secret(ONE)]);
        call.set("maxStale", "24h");
        assert!(holds(&world.mount(&at(&call, "/runs")).await, &value));
        revoke(&world);
        world.clock.advance(61 * SECOND);
        // A pod that starts sees the first refusal, and waits for no second look.
        assert!(world.mount(&at(&call, "/starts")).await.is_err(), "{what}");
        world.control.always(vault(), Trouble::Status(503));
        world.clock.advance(20 * SECOND);
        assert!(world.mount(&at(&call, "/another")).await.is_err(), "{what}");
        assert!(
            holds(&world.mount(&at(&call, "/runs")).await, &value),
            "{what}: it keeps what it has"
        );
        assert!(world.mount(&at(&call, "/starts")).await.is_err(), "{what}");
        world.control.clear_faults();
        world.clock.advance(20 * SECOND);
        assert_eq!(refused_twice(&world, &at(&call, "/runs")).await, code, "{what}");
        world.control.always(vault(), Trouble::Status(503));
        assert!(world.mount(&at(&call, "/runs")).await.is_err(), "{what}");
    }
}

/// One who is refused refuses nobody else: neither by what is remembered, nor by a request under way, nor
/// by credentials that were wrong.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_is_refused_another_may_have() {
    let value = canary::value(ONE);
    let world = World::start(Seed::default().secret(ONE, &[&value])).await;
    let mut callers = everybody(&world);
    let objects = array(&[&secret(ONE)]);
    for (number, (client, call)) in callers.iter_mut().enumerate() {
        call.set("objects", &objects);
        call.target = format!("/{number}");
        world.control.permit(client, ObjectKind::Secret, Verb::Get, number % 2 == 1).unwrap();
    }
    for delay in [0, 100] {
        world.later();
        world.control.always(vault(), Trouble::Delay(Duration::from_millis(delay)));
        for _ in 0..3 {
            let outcomes = join_all(callers.iter().map(|(_, call)| world.mount(call))).await;
            for (number, outcome) in outcomes.iter().enumerate() {
                assert_eq!(holds(outcome, &value), number % 2 == 1, "{number}: {outcome:?}");
            }
        }
    }
    world.control.clear_faults();
    // Wrong secrets for a client id do nothing to who has the right one.
    let owner = at(&world.call(&[&secret(ONE)]), "/owner");
    world.control.permit(callers[0].0, ObjectKind::Secret, Verb::Get, true).unwrap();
    world.later();
    let wrong = (0..20).map(|_| {
        let mut call = owner.clone();
        call.secrets["clientsecret"] = canary::value("wrong").into();
        call
    });
    let wrong: Vec<_> = wrong.collect();
    let (outcomes, owned) =
        tokio::join!(join_all(wrong.iter().map(|call| world.mount(call))), world.mount(&owner),);
    assert!(outcomes.iter().all(|outcome| {
        outcome.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied)
    }));
    assert!(holds(&owned, &value));
}

/// The state of a vault or of a token service is told to everybody; what others asked it for, and as whom,
/// to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_is_shared_names_nobody_elses_objects() {
    let page = Trouble::Answer {
        status: 502,
        content_type: "text/html".to_owned(),
        body: format!("<html>{PRIVATE}</html>"),
    };
    let troubles = [
        (Service::Vault, Trouble::Status(503)),
        (Service::Vault, Trouble::Hang),
        (Service::Vault, Trouble::CutBody),
        (Service::Vault, Trouble::Throttle(Some(30))),
        (Service::Vault, Trouble::Throttle(None)),
        (Service::Vault, Trouble::Firewall),
        (Service::Vault, page.clone()),
        (Service::Vault, Trouble::Redirect(format!("https://x.test/{PRIVATE}"))),
        (Service::Entra, Trouble::Status(503)),
        (Service::Entra, Trouble::Hang),
        (Service::Entra, Trouble::CutBody),
        (Service::Entra, Trouble::Throttle(Some(30))),
        (Service::Entra, page),
    ];
    let cases = troubles.iter().map(|(service, trouble)| in_trouble(*service, trouble));
    // A few at a time: whoever has to share the machine with all of them gives up before he has asked.
    let (told, failed) = stream::iter(cases)
        .buffer_unordered(4)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .fold((0, 0), |(told, failed), (more, worse)| (told + more, failed + worse));
    println!("shared errors: {failed} of {told} mounts failed, none tells of another's");
    assert!(failed > told / 2);
}

/// How many others mounted beside the victim, and how many of them failed.
async fn in_trouble(service: Service, trouble: &Trouble) -> (usize, usize) {
    let (mut told, mut failed) = (0, 0);
    let values = [canary::value(PRIVATE), canary::value(OWN)];
    let seed = Seed::default().secret(PRIVATE, &[&values[0]]).secret(OWN, &[&values[1]]);
    let world = World::start(seed).await;
    let callers = everybody(&world);
    let at_entra = service == Service::Entra;
    world.control.always(Where::service(service), trouble.clone());
    let ask = |caller: usize, name: &str| {
        let mut call = at(&callers[caller].1, &format!("/{caller}/{name}"));
        call.set("objects", &array(&[&secret(name)]));
        call
    };
    // The first of them is the victim. The others come with him, and after him.
    let count = if at_entra { 4 } else { callers.len() };
    let victim = ask(0, PRIVATE);
    let others: Vec<_> = (1..count).map(|caller| ask(caller, OWN)).collect();
    for round in 0..2 {
        let before = world.control.requests().len();
        let gone = AtomicBool::new(false);
        let victims = async {
            let _ = world.mount_within(&victim, HASTE).await;
            gone.store(true, Ordering::Relaxed);
        };
        let (_, outcomes) = tokio::join!(victims, async {
            // Later he may be told without one; and on a busy machine his time may be over before.
            let asked = || {
                round > 0 || gone.load(Ordering::Relaxed) || world.control.requests().len() > before
            };
            eventually("the victim's request", asked).await;
            join_all(others.iter().map(|call| world.mount_within(call, HASTE))).await
        });
        for outcome in outcomes {
            told += 1;
            let Err(status) = outcome else { continue };
            failed += 1;
            let text = format!("{status:?}");
            assert!(text.contains(OWN), "{service:?} {trouble:?}: {text}");
            for private in [PRIVATE, callers[0].0] {
                assert!(!text.contains(private), "{service:?} {trouble:?}: {text}");
            }
        }
    }
    (told, failed)
}

/// What was asked for while a proof was live may still be answered when it has just ended; nothing later is.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_ends_while_its_owner_waits_opens_nothing_more() {
    let value = canary::value(ONE);
    let world = World::start(Seed::default().secret(ONE, &[&value])).await;
    let long = world.workload_call(&[&secret(ONE)], &WorkloadToken::default());
    let lifetime = Some(Duration::from_secs(600));
    let short = WorkloadToken { lifetime, ..WorkloadToken::default() };
    let short = at(&world.workload_call(&[&secret(ONE)], &short), "/short");
    for call in [&long, &short] {
        assert!(holds(&world.mount(call).await, &value));
    }
    world.later();
    world.control.always(vault(), Trouble::Delay(Duration::from_millis(500)));
    let before = world.control.counters().vault_requests;
    let (first, ()) = tokio::join!(world.mount(&long), async {
        eventually("the request", || world.control.counters().vault_requests > before).await;
        let (_, ()) = tokio::join!(world.mount(&short), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            world.clock.advance(700 * SECOND);
        });
    });
    assert!(holds(&first, &value));
    world.control.clear_faults();
    for outage in [false, true] {
        if outage {
            world.control.always(vault(), Trouble::Status(503));
        }
        assert!(holds(&world.mount(&long).await, &value), "outage: {outage}");
        for target in ["/short", "/new", &long.target] {
            let mut call = at(&short, target);
            call.set("maxStale", "24h");
            let status = world.mount(&call).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "outage: {outage}, {status}");
        }
    }
}

/// The same where no request arrives at all, so that what is said of it is our own text.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fails_names_nobody_elses_objects() {
    let world = World::with_endpoints(
        Seed::default(),
        |emulator, endpoints| {
            let vault = emulator.vault_url();
            let host = vault.trim_start_matches("https://").split([':', '/']).next().unwrap();
            let (_, to) = endpoints.resolve[0];
            // Nobody listens there.
            let nowhere = SocketAddr::new("127.0.0.3".parse().unwrap(), to.port());
            endpoints.resolve.insert(0, (host.to_owned(), nowhere));
        },
        new_fetch,
    )
    .await;
    let callers = everybody(&world);
    let asks: Vec<_> = callers
        .iter()
        .enumerate()
        .map(|(number, (_, call))| {
            let mut call = at(call, &format!("/{number}"));
            call.set("objects", &array(&[&secret(&format!("{OWN}-{number}-{PRIVATE}"))]));
            call
        })
        .collect();
    for _ in 0..2 {
        let outcomes = join_all(asks.iter().map(|call| world.mount_within(call, HASTE))).await;
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let text = format!("{:?}", outcome.unwrap_err());
            assert!(text.contains(&format!("{OWN}-{number}-")), "{text}");
            for other in (0..callers.len()).filter(|other| *other != number) {
                assert!(!text.contains(&format!("{OWN}-{other}-")), "{number}: {text}");
            }
        }
    }
}
