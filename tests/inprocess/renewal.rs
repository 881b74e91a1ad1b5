//! Tokens over the hours, through the real server.

use std::time::Duration;

use akvfs::clock::Clock;
use akvfs::emulator::{Service, Trouble, Where, WorkloadToken};

use crate::modes::pod_call;
use crate::seeds::{ONE, many, nth, one};
use crate::world::{World, eventually, secret};

const MINUTE: Duration = Duration::from_secs(60);

/// kubelet mounts again and again; tokens live an hour. Nobody waits for a new one, and none is asked
/// for twice.
#[tokio::test]
async fn a_day_of_republishing_asks_for_a_token_an_hour() {
    let clock = Clock::adjustable();
    let world = World::with_clocks(one(), clock.clone(), clock.clone()).await;
    let call = world.call(&[&secret(ONE)]);
    world.mount(&call).await.unwrap();
    let tokens = || world.control.counters().token_requests;
    for hour in 1..=24 {
        for _ in 0..2 {
            clock.advance(MINUTE * 27);
            world.mount(&call).await.unwrap();
            assert_eq!(tokens(), hour);
        }
        // The last minutes of its life.
        clock.advance(MINUTE * 2);
        world.mount(&call).await.unwrap();
        eventually("the token is renewed", || tokens() == hour + 1).await;
        world.mount(&call).await.unwrap();
        assert_eq!(tokens(), hour + 1);
    }
}

/// What is left of a service account token may be less than the usual margin.
#[tokio::test]
async fn a_mount_with_an_assertion_that_ends_soon_asks_once() {
    let world = World::start(many(20)).await;
    let entries: Vec<String> = (0..20).map(|number| secret(&nth(number))).collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let soon = WorkloadToken { lifetime: Some(MINUTE / 3), ..WorkloadToken::default() };
    let response = world.mount(&world.workload_call(&entries, &soon)).await.unwrap();
    assert_eq!(response.files.len(), 20);
    assert_eq!(world.control.counters().token_requests, 1);
}

/// A token service is down in the last minutes of a token: mounts with known identities go on.
#[tokio::test]
async fn mounts_go_on_while_a_renewal_fails() {
    let clock = Clock::adjustable();
    let world = World::with_clocks(one(), clock.clone(), clock.clone()).await;
    world.control.assign_pod("default", "app-0", "00000000-0000-4000-8000-0000000000a0");
    for (service, call) in [
        (Service::Entra, world.call(&[&secret(ONE)])),
        (Service::Nmi, pod_call(&world, "app-0", "u1")),
    ] {
        world.control.reset_log();
        world.mount(&call).await.unwrap();
        clock.advance(MINUTE * 56);
        world.control.always(Where::service(service), Trouble::Status(503));
        let tokens = || world.control.counters().token_requests;
        for _ in 0..3 {
            world.mount(&call).await.unwrap();
        }
        eventually("a renewal is tried", || tokens() > 1).await;
        world.mount(&call).await.unwrap();
        world.control.clear_faults();
        clock.advance(MINUTE * 5);
        world.mount(&call).await.unwrap();
    }
}
