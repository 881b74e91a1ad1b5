//! How many connections are opened, what is noticed of dead ones, and how many stay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use akvfs::class::{Claim, ObjectKind, ObjectName, Tenant, VaultName, Version};
use akvfs::clock::Clock;
use akvfs::cloud::Endpoints;
use akvfs::emulator::{Config, Control, Emulator, Seed, Service, Trouble, Where};
use akvfs::fetch::{Access, Demand, Fetch, ObjectRef, Origin};
use akvfs::http::{self, Http, Pool};
use akvfs::render;
use akvfs::vault::VaultRef;
use akvfs::{Error, Secret};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::relay::Relay;
use crate::seeds::{ONE, one};
use crate::world::{World, eventually, new_fetch, quick, secret};

/// The services and our connections to them, without a provider around.
struct Site {
    emulator: Emulator,
    control: Control,
    fetch: Fetch,
    clock: Clock,
}

impl Site {
    async fn new(config: Config, pool: Pool) -> Self {
        Self::with(config, pool, |_| {}).await
    }

    async fn with(config: Config, pool: Pool, change: impl FnOnce(&mut Endpoints)) -> Self {
        let emulator = Emulator::start(config).await.unwrap();
        let mut endpoints = emulator.endpoints();
        change(&mut endpoints);
        let clock = Clock::adjustable();
        let options = http::Options { pool, clock: clock.clone(), ..quick() };
        let fetch = new_fetch(Http::with(endpoints, options));
        Self { control: emulator.control(), emulator, fetch, clock }
    }

    /// Reads a secret of a vault as the n-th of many service principals.
    async fn read(&self, n: usize, vault: &str) -> Result<(), Error> {
        let client_id = format!("5e1f0000-0000-4000-8000-{n:012}");
        let client_secret = Secret::from("dev-only-client-secret");
        self.control.add_client(&client_id, Some(client_secret.clone()), &[]);
        let tenant = Tenant::parse(self.emulator.tenant()).unwrap();
        let claim = Claim::ServicePrincipal { tenant, client_id, client_secret };
        let name = VaultName::parse(vault).unwrap();
        let vault = VaultRef { cloud: self.emulator.cloud(), name };
        let object = ObjectRef {
            kind: ObjectKind::Secret,
            name: ObjectName::parse(ONE).unwrap(),
            version: Version::Latest,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let access = Access::new(self.fetch.clone(), claim, vault);
        access.get(object, Demand::FIRST, deadline).await.map(drop)
    }

    fn handshakes(&self) -> (u64, u64) {
        let counters = self.control.counters();
        (counters.handshakes, counters.resumed)
    }
}

fn config(http2: bool) -> Config {
    Config { seed: one(), http2, ..Config::default() }
}

/// A mount an identity, one after another: Entra, the vault and IMDS see one connection each.
#[tokio::test]
async fn mounts_find_the_connections_of_earlier_ones() {
    for http2 in [true, false] {
        let options = http::Options { clock: Clock::adjustable(), ..quick() };
        let render = render::Options::default();
        let world = World::started(config(http2), options, |_, _| {}, new_fetch, render).await;
        for n in 0..50 {
            let mut call = world.call(&[&secret(ONE)]);
            call.target = call.target.replace("uid", &format!("uid-{n}"));
            match n % 10 {
                0 => {
                    call.set("useVMManagedIdentity", "true");
                    call.secrets = Value::Null;
                }
                n => {
                    let client = format!("5e1f0000-0000-4000-8000-{n:012}");
                    let password = format!("dev-only-client-secret-{n}");
                    world.control.add_client(&client, Some(password.as_str().into()), &[]);
                    call.secrets = json!({"clientid": client, "clientsecret": password});
                }
            }
            world.mount(&call).await.unwrap();
            // No value is young enough for the next one, and no connection too old.
            world.clock.advance(Duration::from_secs(6));
        }
        let counters = world.control.counters();
        assert_eq!(counters.vault_requests, 50);
        assert_eq!((counters.connections, counters.handshakes), (3, 2), "http2: {http2}");
        assert_eq!(counters.http2, if http2 { 2 } else { 0 });
        assert_eq!(counters.open_connections, 3);
    }
}

/// A storm of pods that nobody has a connection for yet.
#[tokio::test]
async fn a_hundred_first_requests_share_a_connection_where_the_host_speaks_http2() {
    let site = Site::new(config(true), Pool::default()).await;
    // As slow as across a network, so that they would all meet.
    let delay = Trouble::Delay(Duration::from_millis(20));
    for service in [Service::Entra, Service::Vault] {
        site.control.always(Where::service(service), delay.clone());
    }
    let reads = join_all((0..100).map(|n| site.read(n, site.emulator.vault_name()))).await;
    reads.into_iter().for_each(|read| read.unwrap());
    let counters = site.control.counters();
    assert_eq!((counters.token_requests, counters.connections, counters.http2), (100, 2, 2));

    // Also when the connections are renewed in the middle of work.
    site.clock.advance(Pool::default().renewal);
    let reads = join_all((100..200).map(|n| site.read(n, site.emulator.vault_name()))).await;
    reads.into_iter().for_each(|read| read.unwrap());
    assert_eq!(site.handshakes(), (4, 2), "and they resume the earlier sessions");
}

/// HTTP/1.1 takes a connection for each request under way.
#[tokio::test]
async fn without_http2_no_more_connections_are_opened_than_requests_meet() {
    let site = Site::new(config(false), Pool::default()).await;
    let reads = join_all((0..100).map(|n| site.read(n, site.emulator.vault_name()))).await;
    reads.into_iter().for_each(|read| read.unwrap());
    let counters = site.control.counters();
    assert_eq!(counters.http2, 0);
    // 64 at Entra and 64 at the vault are under way at once, and some are opened for nothing.
    assert!(counters.connections < 200, "{}", counters.connections);
    let most = 2 * Pool::default().per_host;
    eventually("few are kept", || site.control.counters().open_connections <= most).await;
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced_by_a_resumed_one() {
    for http2 in [true, false] {
        let site = Site::new(config(http2), Pool::default()).await;
        let vault = site.emulator.vault_name();
        site.read(0, vault).await.unwrap();
        assert_eq!(site.handshakes(), (2, 0));
        for n in 1..=5 {
            site.control.cut_connections();
            eventually("all are closed", || site.control.counters().open_connections == 0).await;
            site.read(n as usize, vault).await.unwrap();
            assert_eq!(site.handshakes(), (2 + 2 * n, 2 * n), "http2: {http2}");
        }
    }
}

/// A class may name any vault; what it opened is closed again.
#[tokio::test]
async fn connections_to_many_vaults_end_when_they_idle() {
    let names: Vec<String> = (0..200).map(|n| format!("vault-{n}")).collect();
    let value = crate::canary::value("many-vaults");
    let seed =
        names.iter().fold(Seed::default(), |seed, name| seed.vault(name).secret(ONE, &[&value]));
    let pool = Pool { idle: Duration::from_millis(500), ..Pool::default() };
    let site = Site::new(Config { seed, ..Config::default() }, pool).await;
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let reads = names.iter().map(|name| async {
        site.read(0, name).await.unwrap();
        most.fetch_max(site.control.counters().open_connections, Ordering::Relaxed);
    });
    join_all(reads).await;
    assert!(most.load(Ordering::Relaxed) > 1);
    assert!(site.control.counters().connections >= 201);
    eventually("they are closed", || site.control.counters().open_connections == 0).await;
}

/// Nothing is sent over a connection after its time, however busy it is.
#[tokio::test]
async fn connections_are_renewed_by_the_clock_and_after_a_refusal_by_the_firewall() {
    let site = Site::new(config(true), Pool::default()).await;
    let (vault, control) = (site.emulator.vault_name(), &site.control);
    let second = Duration::from_secs(1);
    site.read(0, vault).await.unwrap();
    site.clock.advance(Pool::default().renewal - second);
    site.read(1, vault).await.unwrap();
    assert_eq!(site.handshakes(), (2, 0));
    site.clock.advance(second);
    site.read(2, vault).await.unwrap();
    assert_eq!(site.handshakes(), (4, 2));
    eventually("the old ones are closed", || control.counters().open_connections == 2).await;

    // A vault that has moved may refuse whoever still comes to its old address.
    control.times(2, Where::service(Service::Vault), Trouble::Firewall);
    site.read(3, vault).await.unwrap_err();
    assert_eq!(site.handshakes(), (4, 2), "these are new enough");
    site.clock.advance(31 * second);
    site.read(4, vault).await.unwrap_err();
    site.read(5, vault).await.unwrap();
    assert_eq!(site.handshakes(), (6, 4));
}

/// The other end is gone, and nothing says so: neither the next request nor its tries may wait for it
/// until the end of their time.
#[tokio::test]
async fn a_dead_connection_is_replaced_while_a_request_waits_for_it() {
    let gone = async |http2: bool| {
        let mut relay = None;
        let site = Site::with(config(http2), Pool::default(), |endpoints| {
            let (_, to) = endpoints.resolve[0];
            // The port is a part of the names, so the relay differs by its address.
            let at = SocketAddr::new("127.0.0.2".parse().unwrap(), to.port());
            relay = Some(Relay::start(at, to));
            endpoints.resolve.iter_mut().filter(|(_, found)| *found == to).for_each(
                |(_, found)| {
                    *found = at;
                },
            );
        });
        let (site, relay) = (site.await, relay.unwrap());
        let vault = site.emulator.vault_name();
        site.read(0, vault).await.unwrap();
        assert_eq!((relay.accepted(), site.handshakes()), (2, (2, 0)));
        relay.freeze();
        site.clock.advance(Duration::from_secs(6));
        // HTTP/1.1 has no pings, so there only the vault's limiter helps, not with a token.
        let strangers = if http2 { 3 } else { 0 };
        let reads = join_all((0..=strangers).map(|n| site.read(n, vault))).await;
        reads.into_iter().for_each(|read| read.unwrap());
        let replaced = if http2 { 2 } else { 1 };
        assert_eq!(site.handshakes(), (2 + replaced, replaced), "http2: {http2}");
    };
    tokio::join!(gone(true), gone(false));
}
