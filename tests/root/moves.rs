//! Names that lead elsewhere, or nowhere: hosts move, old addresses die, vaults are mistyped.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use akvfs::class::{Claim, ObjectKind, ObjectName, Tenant, VaultName, Version};
use akvfs::clock::Clock;
use akvfs::cloud::Endpoints;
use akvfs::emulator::{Config, Emulator, Names, Seed};
use akvfs::fetch::{Access, Demand, Fetch, ObjectRef, Origin};
use akvfs::http::{self, Http, Pool, Retry};
use akvfs::vault::VaultRef;
use akvfs::{Code, Error, Hop, Secret};
use tokio::runtime::Runtime;

use crate::canary;
use crate::relay::Relay;
use crate::support::run;

const OLD: &str = "10.9.0.1";
const NEW: &str = "10.9.0.2";

/// The services, with our connections found by the namespace's own names.
struct Site {
    runtime: Runtime,
    emulator: Emulator,
    fetch: Fetch,
    clock: Clock,
    dir: tempfile::TempDir,
}

impl Site {
    fn new(http2: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hosts"), "127.0.0.1 localhost\n").unwrap();
        run("mount", &["--bind", dir.path().join("hosts").to_str().unwrap(), "/etc/hosts"]);
        let seed = Seed::default().secret("secret1", &[&canary::value("moved")]);
        let https = "127.0.0.1:443".parse().unwrap();
        let config = Config { seed, https, http2, names: Names::AzurePublic, ..Config::default() };
        let runtime = Runtime::new().unwrap();
        let emulator = runtime.block_on(Emulator::start(config)).unwrap();
        let clock = Clock::adjustable();
        let pause = Duration::from_micros(100);
        let retry = Retry { tries: 4, pause, longest: Duration::from_secs(60) };
        let options = http::Options { retry, clock: clock.clone(), ..http::Options::default() };
        let root = Some(emulator.ca_pem().to_owned());
        let endpoints = Endpoints { extra_root: root, ..Endpoints::azure() };
        let fetch = Fetch::new(Http::with(endpoints, options)).unwrap();
        Self { runtime, emulator, fetch, clock, dir }
    }

    /// Where Entra and the vault are from now on.
    fn move_to(&self, address: &str) {
        let names = "login.microsoftonline.com akvfs-dev.vault.azure.net";
        let text = format!("127.0.0.1 localhost\n{address} {names}\n");
        std::fs::write(self.dir.path().join("hosts"), text).unwrap();
    }

    /// Reads a secret as the n-th client, whose token nobody has yet.
    fn read(&self, n: usize, vault: &str) -> Result<(), Error> {
        let client_id = format!("5e1f0000-0000-4000-8000-{n:012}");
        let client_secret = Secret::from("dev-only-client-secret");
        let control = self.emulator.control();
        control.add_client(&client_id, Some(client_secret.clone()), &[]);
        let tenant = Tenant::parse(self.emulator.tenant()).unwrap();
        let claim = Claim::ServicePrincipal { tenant, client_id, client_secret };
        let cloud = Endpoints::azure().cloud("AzurePublicCloud").unwrap();
        let vault = VaultRef { cloud, name: VaultName::parse(vault).unwrap() };
        let object = ObjectRef {
            kind: ObjectKind::Secret,
            name: ObjectName::parse("secret1").unwrap(),
            version: Version::Latest,
        };
        let access = Access::new(self.fetch.clone(), claim, vault);
        let deadline = Instant::now() + Duration::from_secs(60);
        self.runtime.block_on(access.get(object, Demand::FIRST, deadline)).map(drop)
    }
}

fn follows_a_move(http2: bool) {
    canary::capture_logs();
    run("ip", &["link", "set", "lo", "up"]);
    for address in [OLD, NEW] {
        run("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"]);
    }
    let site = Site::new(http2);
    let to = "127.0.0.1:443".parse().unwrap();
    let [old, new] =
        [OLD, NEW].map(|address| Relay::start(format!("{address}:443").parse().unwrap(), to));
    let seen = || (old.accepted(), new.accepted());
    let vault = "akvfs-dev";
    site.move_to(OLD);
    site.read(0, vault).unwrap();
    assert_eq!(seen(), (2, 0));

    // What works is used on, for a while.
    site.move_to(NEW);
    site.read(1, vault).unwrap();
    assert_eq!(seen(), (2, 0));
    site.clock.advance(Pool::default().renewal);
    site.read(2, vault).unwrap();
    assert_eq!(seen(), (2, 2));

    // What was closed is not: the next connection asks for the address anew.
    site.move_to(OLD);
    new.close();
    site.read(3, vault).unwrap();
    assert_eq!(seen(), (4, 2));

    // Neither is what has gone without a word.
    site.move_to(NEW);
    run("ip", &["address", "del", &format!("{OLD}/32"), "dev", "lo"]);
    site.read(4, vault).unwrap();
    assert_eq!(seen().0, 4);
    assert!(seen().1 >= 4, "{:?}", seen());
}

network_test! {
    fn a_host_that_moves_is_followed_over_http2() {
        follows_a_move(true);
    }
}

network_test! {
    fn a_host_that_moves_is_followed_over_http1() {
        follows_a_move(false);
    }
}

/// The namespace's resolver: it knows no name, and has no answer for those that begin with "broken".
#[derive(Clone, Default)]
struct Resolver(Arc<Mutex<Vec<String>>>);

impl Resolver {
    fn start(dir: &Path) -> Self {
        for (name, text) in [
            ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
            ("nsswitch.conf", "hosts: files dns\n"),
        ] {
            std::fs::write(dir.join(name), text).unwrap();
            let file = dir.join(name);
            run("mount", &["--bind", file.to_str().unwrap(), &format!("/etc/{name}")]);
        }
        let resolver = Self::default();
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        let asked = resolver.0.clone();
        // Ends with the process, which is the test's own.
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let query = &mut packet[..length];
                let first = usize::from(query[12]);
                let label = String::from_utf8_lossy(&query[13..13 + first]).into_owned();
                // "No such name", or "server failure".
                let code = if label.starts_with("broken") { 2 } else { 3 };
                (query[2], query[3]) = (0x81, 0x80 | code);
                asked.lock().unwrap().push(label);
                let _ = socket.send_to(query, from);
            }
        });
        resolver
    }

    /// How often a name was asked for; one look-up asks for both kinds of address.
    fn asked(&self, label: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|asked| *asked == label).count()
    }
}

network_test! {
    fn a_name_that_does_not_exist_is_reported_at_once_and_a_broken_resolver_is_asked_again() {
        canary::capture_logs();
        run("ip", &["link", "set", "lo", "up"]);
        let site = Site::new(true);
        site.move_to("127.0.0.1");
        let resolver = Resolver::start(site.dir.path());

        let typo = site.read(0, "akvfs-devv").unwrap_err();
        assert_eq!((typo.code(), typo.hop()), (Code::Unavailable, Some(Hop::Dns)));
        let text = typo.to_string();
        for part in ["akvfs-devv.vault.azure.net", "there is no such name", "check the vault"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("tries"), "{text}");
        assert_eq!(resolver.asked("akvfs-devv"), 4, "two look-ups");
        // The next object of the same mount waits for no second one.
        site.read(1, "akvfs-devv").unwrap_err();
        assert_eq!(resolver.asked("akvfs-devv"), 6);

        let broken = site.read(0, "broken-vault").unwrap_err();
        assert_eq!((broken.code(), broken.hop()), (Code::Unavailable, Some(Hop::Dns)));
        let text = broken.to_string();
        assert!(text.contains("cannot be resolved") && text.contains("tries"), "{text}");
        assert!(resolver.asked("broken-vault") >= 8);
    }
}
