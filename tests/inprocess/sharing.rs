//! One request for many callers: who joins, how old what is given may be, what a refusal does, and what
//! stays while the vault cannot be asked.

use std::time::Duration;

use akvfs::class::ObjectKind;
use akvfs::emulator::{Seed, Service, Trouble, Verb, Where};
use futures_util::future::join_all;
use tonic::Code;

use crate::canary;
use crate::seeds::{self, ONE};
use crate::world::{Call, World, eventually, secret};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn pods(call: &Call, count: usize) -> Vec<Call> {
    let pod = |number: usize| {
        let mut call = call.clone();
        call.target = format!("/var/lib/kubelet/pods/{number}/volumes/kubernetes.io~csi/v/mount");
        call.set("csi.storage.k8s.io/pod.uid", &format!("uid-{number}"));
        call
    };
    (0..count).map(pod).collect()
}

fn asked(world: &World) -> u64 {
    world.control.counters().vault_requests
}

fn vault() -> Where {
    Where::service(Service::Vault)
}

async fn content(world: &World, call: &Call) -> Vec<u8> {
    world.mount(call).await.unwrap().files.remove(0).contents
}

async fn code(world: &World, call: &Call) -> Code {
    world.mount(call).await.unwrap_err().code()
}

/// The table of the budgets: ten requests for a thousand values.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pods_with_ten_objects_are_ten_requests() {
    let world = World::start(seeds::many(10)).await;
    world.control.always(vault(), Trouble::Delay(Duration::from_millis(20)));
    let pods = pods(&world.call_for(10), 100);
    for response in join_all(pods.iter().map(|pod| world.mount(pod))).await {
        assert_eq!(response.unwrap().files.len(), 10);
    }
    let counters = world.control.counters();
    assert_eq!((counters.vault_requests, counters.token_requests), (10, 1));
    // They look for rotations: nothing is old enough to be asked for. A value is held for 45 to 60 s.
    world.control.reset_log();
    world.clock.advance(40 * SECOND);
    join_all(pods.iter().map(|pod| world.mount(pod))).await;
    assert_eq!(asked(&world), 0);
    world.clock.advance(21 * SECOND);
    join_all(pods.iter().map(|pod| world.mount(pod))).await;
    assert_eq!(asked(&world), 10);
}

/// What was fetched together is asked for again at different times, or nodes that started together would
/// ask together for hours: none before three quarters of the age, all of it after the age.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_were_fetched_together_are_not_asked_for_together_again() {
    const OBJECTS: usize = 50;
    let world = World::start(seeds::many(OBJECTS)).await;
    let entries: Vec<String> = (0..OBJECTS).map(|n| secret(&seeds::nth(n))).collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let call = world.call(&entries);
    world.mount(&call).await.unwrap();
    world.control.reset_log();
    world.clock.advance(40 * SECOND);
    world.mount(&call).await.unwrap();
    assert_eq!(asked(&world), 0);
    world.clock.advance(12 * SECOND);
    world.mount(&call).await.unwrap();
    // Each of them with a chance of about a half.
    let early = asked(&world);
    assert!(0 < early && early < OBJECTS as u64, "{early}");
    world.clock.advance(9 * SECOND);
    world.mount(&call).await.unwrap();
    assert_eq!(asked(&world), OBJECTS as u64, "the others, and none twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_starts_after_a_rotation_gets_the_new_value_and_one_that_runs_a_little_later() {
    let world = World::start(seeds::one()).await;
    let pods = pods(&world.call(&[&secret(ONE)]), 3);
    let old = content(&world, &pods[0]).await;
    let new = canary::value("rotated");
    world.control.set_secret(world.emulator.vault_name(), ONE, new.as_str()).unwrap();
    assert_eq!(content(&world, &pods[1]).await, old, "at most five seconds old");
    world.clock.advance(6 * SECOND);
    assert_eq!(content(&world, &pods[0]).await, old, "a running pod is looked after each minute");
    assert_eq!(content(&world, &pods[2]).await, new.as_bytes());
    assert_eq!(content(&world, &pods[0]).await, new.as_bytes(), "what is known is given");
    assert_eq!(asked(&world), 2);
}

/// Another identity, vault or list of objects at a known target is a first publish.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_class_is_a_first_publish() {
    let world = World::start(seeds::many(2)).await;
    let mut call = world.call(&[&secret(&seeds::nth(0))]);
    world.mount(&call).await.unwrap();
    world.clock.advance(6 * SECOND);
    world.mount(&call).await.unwrap();
    assert_eq!(asked(&world), 1);
    call.set("objects", &crate::world::array(&[&secret(&seeds::nth(0)), &secret(&seeds::nth(1))]));
    world.mount(&call).await.unwrap();
    assert_eq!(asked(&world), 3);
}

/// A vault that hangs is asked a second time, and then answers what it was asked first.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_as_old_as_the_try_that_it_answers() {
    let world = World::start(seeds::one()).await;
    world.control.always(vault(), Trouble::Delay(Duration::from_millis(2500)));
    let pods = pods(&world.call(&[&secret(ONE)]), 2);
    world.mount(&pods[0]).await.unwrap();
    assert_eq!(asked(&world), 2);
    world.control.clear_faults();
    world.clock.advance(Duration::from_millis(3500));
    world.mount(&pods[1]).await.unwrap();
    assert_eq!(asked(&world), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_fails_nobody_who_joined() {
    let world = World::start(seeds::one()).await;
    world.control.always(vault(), Trouble::Delay(Duration::from_millis(1500)));
    let pods = pods(&world.call(&[&secret(ONE)]), 2);
    let impatient = world.mount_within(&pods[0], Duration::from_millis(600));
    let patient = async {
        eventually("the first one asks", || asked(&world) == 1).await;
        world.mount(&pods[1]).await
    };
    let (left, served) = tokio::join!(impatient, patient);
    assert!(left.is_err());
    assert_eq!(served.unwrap().files.len(), 1);
    assert_eq!(asked(&world), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_remembered_for_five_seconds() {
    let world = World::start(Seed::default()).await;
    let pods = pods(&world.call(&[&secret("missing")]), 20);
    for pod in &pods {
        assert_eq!(code(&world, pod).await, Code::NotFound);
    }
    assert_eq!(asked(&world), 1);
    let value = canary::value("created");
    world.control.set_secret(world.emulator.vault_name(), "missing", value.as_str()).unwrap();
    world.clock.advance(6 * SECOND);
    assert_eq!(content(&world, &pods[0]).await, value.as_bytes());
}

/// Whoever starts is told at once; whoever runs only when it is seen twice, five seconds apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_told_after_a_second_look_and_the_value_is_gone() {
    type Revoke = fn(&World);
    let client = |world: &World| world.emulator.service_principal().0.to_owned();
    let cases: [(Revoke, Code); 3] = [
        (
            |world| {
                world.control.delete(world.emulator.vault_name(), ObjectKind::Secret, ONE).unwrap()
            },
            Code::NotFound,
        ),
        (
            |world| {
                let vault = world.emulator.vault_name();
                world.control.enable(vault, ObjectKind::Secret, ONE, "", false).unwrap();
            },
            Code::PermissionDenied,
        ),
        (|_| {}, Code::PermissionDenied),
    ];
    for (number, (revoke, expected)) in cases.into_iter().enumerate() {
        let world = World::start(seeds::one()).await;
        let pods = pods(&world.call(&[&secret(ONE)]), 2);
        content(&world, &pods[0]).await;
        revoke(&world);
        if number == 2 {
            world.control.permit(&client(&world), ObjectKind::Secret, Verb::Get, false).unwrap();
        }
        world.clock.advance(61 * SECOND);
        let running = world.mount(&pods[0]);
        let starting = async {
            eventually("the vault has refused", || asked(&world) == 2).await;
            // Not before the second look, however long the first caller waits.
            let starting = code(&world, &pods[1]).await;
            assert_eq!(asked(&world), 2);
            world.clock.advance(5 * SECOND);
            starting
        };
        let (running, starting) = tokio::join!(running, starting);
        assert_eq!(starting, expected);
        assert_eq!(running.unwrap_err().code(), expected);
        assert_eq!(asked(&world), 3);
        // An outage does not bring it back.
        world.control.always(vault(), Trouble::Status(503));
        world.later();
        assert_eq!(code(&world, &pods[0]).await, Code::Internal);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_was_a_moments_changes_nothing() {
    let world = World::start(seeds::one()).await;
    let call = world.call(&[&secret(ONE)]);
    let value = content(&world, &call).await;
    world.later();
    world.control.times(1, vault(), Trouble::Status(404));
    let (again, ()) = tokio::join!(content(&world, &call), async {
        eventually("the vault has refused", || asked(&world) == 2).await;
        world.clock.advance(5 * SECOND);
    });
    assert_eq!(again, value);
    assert_eq!(asked(&world), 3);
}

/// Rotations go on through an outage, and pods that start are told of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_stays_through_an_outage_and_for_a_bounded_time() {
    for trouble in [
        Trouble::Status(503),
        Trouble::Throttle(None),
        Trouble::Firewall,
        Trouble::CutBody,
        Trouble::Answer {
            status: 200,
            content_type: "text/html".to_owned(),
            body: "<html>proxy</html>".to_owned(),
        },
    ] {
        let world = World::start(seeds::one()).await;
        let pods = pods(&world.call(&[&secret(ONE)]), 2);
        let value = content(&world, &pods[0]).await;
        world.later();
        world.control.always(vault(), trouble.clone());
        assert_eq!(content(&world, &pods[0]).await, value, "{trouble:?}");
        assert!(world.mount(&pods[1]).await.is_err(), "{trouble:?}: a pod that starts");
        world.control.clear_faults();
        assert_eq!(content(&world, &pods[0]).await, value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_values_end_after_a_day_or_what_the_class_says() {
    for (max_stale, last, over) in [("", 23 * HOUR, 2 * HOUR), ("2h", HOUR, 2 * HOUR)] {
        let world = World::start(seeds::one()).await;
        let mut call = world.call(&[&secret(ONE)]);
        call.set("maxStale", max_stale);
        let value = content(&world, &call).await;
        world.control.always(vault(), Trouble::Status(503));
        // The driver looks for rotations all the time.
        let mut passed = Duration::ZERO;
        while passed < last {
            world.clock.advance(HOUR / 2);
            passed += HOUR / 2;
            assert_eq!(content(&world, &call).await, value, "{max_stale} {passed:?}");
        }
        world.clock.advance(over);
        assert_eq!(code(&world, &call).await, Code::Internal, "{max_stale}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_may_let_its_pods_start_with_stale_values() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    call.set("maxStale", "4h");
    let pods = pods(&call, 2);
    let value = content(&world, &pods[0]).await;
    world.control.always(vault(), Trouble::Status(503));
    // Nobody looked for rotations meanwhile.
    world.clock.advance(3 * HOUR);
    assert_eq!(content(&world, &pods[1]).await, value);
    world.clock.advance(2 * HOUR);
    assert_eq!(code(&world, &pods[1]).await, Code::Internal);
    // Not with an identity that nobody has proved.
    let mut stranger = pods[1].clone();
    stranger.secrets["clientsecret"] = canary::value("wrong client secret").into();
    assert_eq!(code(&world, &stranger).await, Code::PermissionDenied);
    for wrong in ["soon", "-1h", "5"] {
        call.set("maxStale", wrong);
        assert_eq!(code(&world, &call).await, Code::InvalidArgument, "{wrong}");
    }
}

/// A token that the vault does not take is its owner's matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_renewed_and_fails_nobody_else() {
    let world = World::start(seeds::one()).await;
    let pods = pods(&world.call(&[&secret(ONE)]), 50);
    content(&world, &pods[0]).await;
    world.later();
    world.control.revoke_tokens(world.emulator.service_principal().0).unwrap();
    // Not a fresh token any more.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    world.control.reset_log();
    for response in join_all(pods.iter().map(|pod| world.mount(pod))).await {
        response.unwrap();
    }
    let counters = world.control.counters();
    assert_eq!((counters.vault_requests, counters.token_requests), (2, 1));
}

/// A list of versions is shared like a value.
#[tokio::test(flavor = "multi_thread")]
async fn histories_share_their_lists() {
    let values = [canary::value("v1"), canary::value("v2")];
    let world = World::start(Seed::default().secret(ONE, &[&values[0], &values[1]])).await;
    let entry = format!("{}\nobjectVersionHistory: 5", secret(ONE));
    let pods = pods(&world.call(&[&entry]), 30);
    for response in join_all(pods.iter().map(|pod| world.mount(pod))).await {
        assert_eq!(response.unwrap().files.len(), 2);
    }
    assert_eq!((world.control.counters().lists, asked(&world)), (1, 3));
}

/// By the clock, from the revocation to the first Mount that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_noticed_within_twice_the_age_and_a_second_look() {
    const AGE: u64 = 60;
    type Revoke = fn(&World);
    let revocations: [(&str, Revoke); 3] = [
        ("deleted", |world| {
            world.control.delete(world.emulator.vault_name(), ObjectKind::Secret, ONE).unwrap();
        }),
        ("disabled", |world| {
            let vault = world.emulator.vault_name();
            world.control.enable(vault, ObjectKind::Secret, ONE, "", false).unwrap();
        }),
        ("forbidden", |world| {
            let client = world.emulator.service_principal().0.to_owned();
            world.control.permit(&client, ObjectKind::Secret, Verb::Get, false).unwrap();
        }),
    ];
    for (what, revoke) in revocations {
        for interval in [10, AGE, 2 * AGE] {
            let world = World::start(seeds::one()).await;
            let call = world.call(&[&secret(ONE)]);
            content(&world, &call).await;
            revoke(&world);
            let mut passed = 0;
            loop {
                world.clock.advance(Duration::from_secs(interval));
                passed += interval;
                let before = asked(&world);
                let (outcome, ()) = tokio::join!(world.mount(&call), async {
                    let refused = || asked(&world) > before;
                    // Only a request that was made needs its second look.
                    let looked = tokio::time::timeout(SECOND / 2, async {
                        while !refused() {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                    });
                    if looked.await.is_ok() {
                        // The answer is on its way.
                        eventually("it is answered", || world.control.counters().in_flight == 0)
                            .await;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        world.clock.advance(5 * SECOND);
                        passed += 5;
                    }
                });
                if outcome.is_err() {
                    break;
                }
                assert!(passed < 10 * AGE, "{what}, looked for every {interval} s: never noticed");
            }
            println!("{what}, looked for every {interval} s: noticed after {passed} s");
            assert!(passed <= 2 * AGE + 5, "{what}, every {interval} s: {passed} s");
        }
    }
}

/// A vault that cannot give everything within one try gives the rest to the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_mount_that_failed_goes_on_where_it_ended() {
    let world = World::start(seeds::many(10)).await;
    let call = world.call_for(10);
    let last = vault().path(&format!("/secrets/{}/", seeds::nth(9)));
    world.control.always(last, Trouble::Status(503));
    assert!(world.mount(&call).await.is_err());
    world.control.clear_faults();
    world.control.reset_log();
    // kubelet's next try, a minute later: nine values are older than a new pod's may be.
    world.clock.advance(60 * SECOND);
    assert_eq!(world.mount(&call).await.unwrap().files.len(), 10);
    assert_eq!(asked(&world), 1);
    // Another pod that starts now is another matter.
    let other = pods(&call, 1).remove(0);
    world.mount(&other).await.unwrap();
    assert_eq!(asked(&world), 10);
}
