//! Which code a failing Mount gets: never one that kubelet holds for "not final", never half an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use akvfs::class::ObjectKind;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::emulator::{Seed, Service, Trouble, Verb, Where, WorkloadToken};
use akvfs::error::Result;
use akvfs::fetch::{ObjectRef, Source};
use akvfs::identity::Proof;
use akvfs::vault::{Ask, Body, ObjectVersion, VaultRef};
use async_trait::async_trait;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::seeds::{self, ONE};
use crate::world::{World, eventually, secret};

/// kubelet and the driver take these for "may still succeed", and may start the pod on nothing.
const FORBIDDEN: [Code; 6] = [
    Code::Unavailable,
    Code::ResourceExhausted,
    Code::Aborted,
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::Unknown,
];

fn refused<T: std::fmt::Debug>(outcome: std::result::Result<T, Status>, code: Code) -> Status {
    let status = outcome.unwrap_err();
    assert!(!FORBIDDEN.contains(&status.code()), "{status}");
    assert_eq!(status.code(), code, "{status}");
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_hangs_is_answered_before_the_callers_deadline() {
    let world = World::start(seeds::one()).await;
    world.control.always(Where::service(Service::Vault), Trouble::Hang);
    let call = world.call(&[&secret(ONE)]);
    // 4 s leave the provider 2 s: had it not answered by itself, tonic would say Cancelled.
    let status = refused(world.mount_within(&call, Duration::from_secs(4)).await, Code::Internal);
    assert!(status.message().starts_with("failed to mount objects, error: "), "{status}");
    assert!(status.message().contains("deadline"), "{status}");
}

/// Requests that arrive while it hangs are never answered; whoever waits is served when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_hung_serves_every_mount_when_it_is_back() {
    let world = World::start(seeds::many(3)).await;
    world.control.always(Where::service(Service::Vault), Trouble::Hang);
    let mounts = futures_util::future::join_all((0..20).map(|n| {
        let mut call = world.call_for(3);
        call.target = format!("{}{n}", call.target);
        let world = &world;
        async move { world.mount(&call).await }
    }));
    let back = async {
        // The second request is the probe of a vault that has been silent for 2 s.
        let asked =
            || world.control.requests().iter().filter(|r| r.service == Service::Vault).count();
        eventually("the vault is probed", || asked() > 1).await;
        assert!(asked() < 10, "by one at a time");
        world.control.clear_faults();
    };
    let (outcomes, ()) = tokio::join!(mounts, back);
    for outcome in outcomes {
        assert_eq!(outcome.unwrap().files.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_changes_nothing_for_the_next() {
    let world = World::start(seeds::one()).await;
    let delay = Trouble::Delay(Duration::from_millis(300));
    world.control.always(Where::service(Service::Vault), delay);
    let call = world.call(&[&secret(ONE)]);
    let left = tokio::time::timeout(Duration::from_millis(50), world.mount(&call)).await;
    assert!(left.is_err(), "the caller was to leave before the answer");
    // The retry joins the running mount, or finds nothing left of it: an answer in any case.
    let response = world.mount(&call).await.unwrap();
    assert_eq!(response.files.len(), 1);
    eventually("the provider is idle", || world.control.counters().in_flight == 0).await;
}

/// A source that panics until told otherwise.
struct Panicking(AtomicBool);

#[async_trait]
impl Source for Panicking {
    async fn get(
        &self,
        _: &Proof,
        _: &VaultRef,
        object: &ObjectRef,
        _: &Ask,
    ) -> Result<ObjectVersion> {
        assert!(self.0.load(Ordering::SeqCst), "planned");
        Ok(ObjectVersion {
            kind: object.kind,
            name: object.name.to_string(),
            version: "1".to_owned(),
            created: None,
            expires: None,
            not_before: None,
            body: Body::Secret { value: "calm".into(), content_type: None, kid: None },
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_internal_error_of_one_call() {
    let source = Arc::new(Panicking(AtomicBool::new(false)));
    let world = World::with_source(seeds::one(), source.clone()).await;
    let call = world.call(&[&secret(ONE)]);
    let status = refused(world.mount(&call).await, Code::Internal);
    assert!(!status.message().contains("planned"), "a panic's text may quote values: {status}");
    source.0.store(true, Ordering::SeqCst);
    assert_eq!(world.mount(&call).await.unwrap().files[0].contents, b"calm");
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_and_outages_are_internal_and_say_what_the_service_answered() {
    let world = World::start(seeds::one()).await;
    let call = world.call(&[&secret(ONE)]);
    for (trouble, text) in [
        (Trouble::Throttle(None), "RESPONSE 429, ERROR CODE: Throttled"),
        (Trouble::Status(500), "RESPONSE 500"),
        (Trouble::Status(503), "RESPONSE 503"),
        (Trouble::CutBody, "connection broke"),
        (Trouble::Redirect("https://elsewhere.test/".to_owned()), "RESPONSE 302"),
        (
            Trouble::Answer {
                status: 200,
                content_type: "text/html".to_owned(),
                body: "<html>proxy</html>".to_owned(),
            },
            "body that is not the vault's",
        ),
    ] {
        world.control.clear_faults();
        world.control.always(Where::service(Service::Vault), trouble.clone());
        let status = refused(world.mount(&call).await, Code::Internal);
        assert!(status.message().contains(text), "{trouble:?}: {status}");
        assert!(
            status.message().contains("failed to get objectType:secret, objectName:one,"),
            "{status}"
        );
    }
    world.control.clear_faults();
    assert_eq!(world.mount(&call).await.unwrap().files.len(), 1);
}

/// Longer than anybody waits: the one who asked hears it, and the next one without asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_wants_an_hour_gets_a_minute_and_nobody_waits() {
    let world = World::start(seeds::one()).await;
    let call = world.call(&[&secret(ONE)]);
    world.control.always(Where::service(Service::Vault), Trouble::Throttle(Some(3600)));
    let status = refused(world.mount(&call).await, Code::Internal);
    assert!(status.message().contains("asked to wait 3600 s, which is too long"), "{status}");
    world.control.clear_faults();
    let status = refused(world.mount(&call).await, Code::Internal);
    assert!(status.message().contains("RESPONSE 429 to another request of this"), "{status}");
    assert!(status.message().contains("more time than is left"), "{status}");
    assert_eq!(world.control.counters().vault_requests, 1);
    // Another identity has a limit of its own.
    let other = world.workload_call(&[&secret(ONE)], &WorkloadToken::default());
    assert_eq!(world.mount(&other).await.unwrap().files.len(), 1);
}

/// P11: the vault's own pauses are kept, and all tries are told.
#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_vault_is_asked_four_times_at_the_pace_it_names() {
    let world = World::start(seeds::one()).await;
    let call = world.call(&[&secret(ONE)]);
    world.control.always(Where::service(Service::Vault), Trouble::Throttle(Some(1)));
    let begun = Instant::now();
    let status = refused(world.mount(&call).await, Code::Internal);
    assert!(begun.elapsed() >= Duration::from_secs(3), "three pauses of a second");
    assert!(status.message().contains("RESPONSE 429, ERROR CODE: Throttled"), "{status}");
    assert!(status.message().contains("(4 tries)"), "{status}");
    assert_eq!(world.control.counters().vault_requests, 4);

    // With 2 s, the provider has 1 s: too little for a pause of 1 s, so it is not begun. When the pause
    // after the fourth answer has not ended, the vault is not even asked.
    world.control.reset_log();
    let status = refused(world.mount_within(&call, Duration::from_secs(2)).await, Code::Internal);
    assert!(status.message().contains("more time than is left"), "{status}");
    assert!(world.control.counters().vault_requests <= 1);

    // P12: what is an answer is not asked for again.
    world.control.clear_faults();
    for status in [400, 401, 403, 404] {
        world.later();
        world.control.reset_log();
        world.control.times(1, Where::service(Service::Vault), Trouble::Status(status));
        assert!(world.mount(&call).await.is_err(), "{status}");
        assert_eq!(world.control.counters().vault_requests, 1, "{status}");
    }
    world.later();
    world.control.times(3, Where::service(Service::Vault), Trouble::Status(503));
    assert_eq!(world.mount(&call).await.unwrap().files.len(), 1, "the fourth try counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_service_has_its_codes_too() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    for (trouble, code) in [
        (Trouble::Status(503), Code::Internal),
        (Trouble::Throttle(None), Code::Internal),
        (Trouble::Status(400), Code::PermissionDenied),
    ] {
        world.control.clear_faults();
        world.control.always(Where::service(Service::Entra), trouble);
        let status = refused(world.mount(&call).await, code);
        assert!(status.message().contains("Entra"), "{status}");
        assert_eq!(status.message().contains("(4 tries)"), code == Code::Internal, "{status}");
    }
    world.control.clear_faults();
    world.control.always(Where::service(Service::Entra), Trouble::Hang);
    refused(world.mount_within(&call, Duration::from_secs(2)).await, Code::Internal);
    world.control.clear_faults();
    world.control.times(3, Where::service(Service::Entra), Trouble::Status(503));
    // Another target: on the same one it might join the call that is just ending.
    call.target.push('2');
    assert_eq!(world.mount(&call).await.unwrap().files.len(), 1, "the fourth try counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_vault_have_their_own_codes() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    for (entry, code, text) in [
        (secret("no-such-secret"), Code::NotFound, "SecretNotFound"),
        (secret(seeds::DISABLED), Code::PermissionDenied, "SecretDisabled"),
    ] {
        let status = refused(world.mount(&world.call(&[&entry])).await, code);
        assert!(status.message().contains(text), "{status}");
        assert!(status.message().contains("likely fix"), "{status}");
    }
    let (client, _) = world.emulator.service_principal();
    world.control.permit(client, ObjectKind::Secret, Verb::Get, false).unwrap();
    let status =
        refused(world.mount(&world.call(&[&secret(seeds::PLAIN)])).await, Code::PermissionDenied);
    assert!(status.message().contains("Forbidden"), "{status}");
}

/// Support asks for these ids, and the logs of the services know the caller by its name.
#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_request_and_requests_name_the_caller() {
    let world = World::start(seeds::one()).await;
    let missing = world.mount(&world.call(&[&secret("missing")])).await;
    let status = refused(missing, Code::NotFound);
    assert!(status.message().contains(" (request id 00000000-0000-4000-8000-"), "{status}");
    let mut call = world.call(&[&secret(ONE)]);
    call.secrets["clientsecret"] = "wrong".into();
    let status = refused(world.mount(&call).await, Code::PermissionDenied);
    for id in [" (trace id 00000000-0000-4000-8000-", ", correlation id 00000000-0000-4000-8000-"] {
        assert!(status.message().contains(id), "{status}");
    }
    let records = world.control.requests();
    for service in [Service::Entra, Service::Vault] {
        let mut agents =
            records.iter().filter(|r| r.service == service).map(|r| &r.agent).peekable();
        assert!(agents.peek().is_some(), "{service:?}");
        for agent in agents {
            let ends =
                agent.starts_with("csi-secrets-store/v") && agent.ends_with(" managedBy:tests");
            assert!(ends, "{service:?}: {agent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_object_of_many_leaves_no_half_answer() {
    let world = World::start(seeds::many(10)).await;
    let mut entries: Vec<String> = (0..10).map(|n| secret(&seeds::nth(n))).collect();
    entries.push(secret("missing"));
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let status = refused(world.mount(&world.call(&entries)).await, Code::NotFound);
    assert!(status.message().contains("objectName:missing"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_running_mounts_finish_and_health_says_so() {
    let world = World::start(seeds::one()).await;
    let health = || async {
        HealthClient::new(world.channel.clone())
            .check(HealthCheckRequest { service: String::new() })
            .await
    };
    let serving = health().await.unwrap().into_inner().status();
    assert_eq!(serving, ServingStatus::Serving);
    let delay = Trouble::Delay(Duration::from_millis(400));
    world.control.always(Where::vault(world.emulator.vault_name()), delay);
    let call = world.call(&[&secret(ONE)]);
    let (outcome, ()) = tokio::join!(world.mount(&call), async {
        eventually("the vault is being asked", || world.control.counters().all_reads() > 0).await;
        world.stop.cancel();
    });
    assert_eq!(outcome.unwrap().files.len(), 1);
    tokio::time::timeout(Duration::from_secs(10), world.server.ended()).await.unwrap().unwrap();
    // A successor may have put its own socket there already.
    assert!(world.dir.path().join("azure.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_cancelled_calls_does_not_take_the_others_with_it() {
    let world = World::start(seeds::one()).await;
    let delay = Trouble::Delay(Duration::from_millis(500));
    world.control.always(Where::service(Service::Vault), delay);
    let others: Vec<_> = (0..2000)
        .map(|number| {
            let mut call = world.call(&[&secret(ONE)]);
            call.target = format!("/others/{}", number % 200);
            let mut driver = CsiDriverProviderClient::new(world.channel.clone());
            tokio::spawn(async move {
                let limit = Duration::from_millis(number % 50);
                let _ = tokio::time::timeout(limit, driver.mount(call.request())).await;
            })
        })
        .collect();
    // On the same connection, as all calls of the driver are.
    assert_eq!(world.mount(&world.call(&[&secret(ONE)])).await.unwrap().files.len(), 1);
    for other in others {
        other.await.unwrap();
    }
}
