//! Thousands of Mounts through the real provider, refused and good ones: memory, descriptors and
//! threads return to where they were.
//!
//! Each round has a provider of its own. Some Mounts warm it up first, so that what stays for ever (the
//! program's pages, the allocator's, one connection to each service) is there before the first look.
//! Then come the Mounts that count, none equal to another, and then the round waits until what is kept
//! for a while has gone: threads that idle (10 s), values (`--max-stale` here), proofs (with their
//! tokens), and the sweepers that look for these each 30 s.
//!
//! Numbers are of CI; `AKVFS_TEST_SCALE` multiplies them. `scripts/soak` runs ten times as many, and
//! prints the figures.

mod figures;
mod requests;
mod write;

use std::ops::Range;
use std::time::{Duration, Instant};

use akvfs::csi::client;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::emulator::WorkloadToken;
use futures_util::{StreamExt, stream};

use crate::azure::{Azure, Provider};
use crate::canary;
use crate::support::{run, scale};
pub use figures::{Figures, Row};
use requests::{Call, Expected, Pod, Strangers, VAULT};

/// Mounts under way.
const AT_ONCE: usize = 32;
/// What is kept for a while is gone by then: sweeps come each 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections that wait for their next use, for longer than a test can wait: how many were needed at the
/// same moment differs with what else the machine does.
const IDLE: usize = 8;

/// KiB that Mounts may leave, however many they are.
const MOST: usize = 2048;

/// One round: a provider, and how much it held when it was warm.
struct Round<'a> {
    azure: &'a Azure,
    name: &'static str,
    provider: Provider,
    /// Before the first Mount.
    threads: usize,
}

impl<'a> Round<'a> {
    fn new(azure: &'a Azure, name: &'static str, flags: &[&str]) -> Self {
        let socket = azure.path(&format!("{name}.sock"));
        let endpoint = format!("--endpoint=unix://{}", socket.display());
        let mut command = azure.akvfs(&[&endpoint, "--healthz-port=0", "--prometheus-port=0"]);
        command.args(flags);
        let provider = Provider::start(command, socket);
        let threads = Figures::of(provider.pid()).threads;
        Self { azure, name, provider, threads }
    }

    /// Sends the Mounts of these numbers, and looks what comes of each.
    fn mount(&self, numbers: Range<usize>, call: impl Fn(usize) -> Call) {
        self.azure.runtime.block_on(async {
            let channel = client::connect(self.provider.socket.clone()).await.unwrap();
            let calls = stream::iter(numbers).map(|number| {
                let (mut driver, call) =
                    (CsiDriverProviderClient::new(channel.clone()), call(number));
                async move {
                    let outcome = driver.mount(call.request).await;
                    call.expected.check(outcome.map(tonic::Response::into_inner));
                }
            });
            calls.buffer_unordered(AT_ONCE).collect::<()>().await;
        });
    }

    /// Warms up with the first Mounts, and then sends `count` others: in the end no more than `growth`
    /// KiB of memory are there that were not there before, and nothing else. Returns how much more was
    /// resident at the peak than when it was warm.
    fn run(&self, warm: usize, count: usize, growth: usize, call: impl Fn(usize) -> Call) -> usize {
        self.measure(warm, count, growth, |numbers| self.mount(numbers, &call))
    }

    /// The same for Mounts that are sent in another way.
    fn measure(
        &self,
        warm: usize,
        count: usize,
        growth: usize,
        mount: impl Fn(Range<usize>),
    ) -> usize {
        let name = self.name;
        mount(0..warm);
        let before = Figures::of(self.provider.pid());
        let begun = Instant::now();
        mount(warm..warm + count);
        let seconds = begun.elapsed().as_secs_f64();
        let busy = Figures::of(self.provider.pid());
        let end = Instant::now() + PATIENCE;
        loop {
            let after = Figures::of(self.provider.pid());
            let back = after.threads <= self.threads
                && after.descriptors <= before.descriptors + IDLE
                && after.anonymous <= before.anonymous + growth;
            if back {
                // The kernel brings the peak up to date now and then.
                let more = after.peak.saturating_sub(before.rss);
                Row { round: name, mounts: count, seconds, before, after }.tell();
                return more;
            }
            assert!(
                Instant::now() < end,
                "{name}: not as before after {PATIENCE:?}\nbefore: {before:?}, {} threads at the \
                 start\nthen:   {busy:?}\nafter:  {after:?}\n{growth} KiB may stay",
                self.threads
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// All of them at the same time in CI, since they wait most of the time; else one after the other.
/// `AKVFS_SOAK_ROUND` names the only one that is wanted.
fn run_all(rounds: &[(&str, &(dyn Fn() + Sync))]) {
    let only = std::env::var("AKVFS_SOAK_ROUND").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let rounds: Vec<_> = rounds.iter().filter(|(name, _)| wanted(name)).collect();
    assert!(!rounds.is_empty(), "no round is called {only:?}");
    std::thread::scope(|scope| {
        for (_, round) in rounds {
            let running = scope.spawn(round);
            if scale() > 1 {
                running.join().unwrap();
            }
        }
    });
}

network_test! {
    fn thousands_of_mounts_leave_nothing_behind() {
        let azure = Azure::new();
        // Names that lead nowhere are to take no longer than they must: nobody answers there.
        let resolver = azure.path("resolv.conf");
        std::fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        run("mount", &["--bind", resolver.to_str().unwrap(), "/etc/resolv.conf"]);
        // Proofs end in three quarters of that.
        azure.emulator.control().set_token_lifetime(Duration::from_secs(12));
        let strangers = Strangers::new(&azure);
        run_all(&[
            ("refused", &|| refused(&azure, &strangers)),
            ("good", &|| good(&azure)),
            ("identities", &|| identities(&azure)),
            ("classes", &|| classes(&azure)),
            ("large", &|| large(&azure)),
            ("write", &|| write::write(&azure)),
        ]);
    }
}

fn refused(azure: &Azure, strangers: &Strangers<'_>) {
    let count = 1_000 * scale();
    // Less than if each left 1 KiB.
    let growth = (count * 3 / 4).min(MOST);
    Round::new(azure, "refused", &[]).run(1_000, count, growth, |number| strangers.call(number));
}

fn good(azure: &Azure) {
    let (id, secret) = azure.emulator.service_principal();
    let secret = secret.expose_str().unwrap();
    let count = 1_000 * scale();
    let growth = (count * 3 / 4).min(MOST);
    Round::new(azure, "good", &["--max-stale=5s"]).run(1_000, count, growth, |number| {
        Pod::new(azure, number, ["secret1".to_owned()])
            .principal(id, secret)
            .call(Expected::Files(1, azure.value.clone()))
    });
}

fn identities(azure: &Azure) {
    let secret = canary::value("client-secret");
    let token = azure.emulator.workload_token(&WorkloadToken::default()).unwrap();
    canary::note("service account token", token.expose());
    let token = token.expose_str().unwrap();
    // They take no time, and fewer could not be told from chance. Each is 2 KiB: a token, a value.
    let (warm, count) = (500, (100 * scale()).max(1_000));
    let growth = (count * 3 / 2).min(MOST);
    for number in 0..warm + count {
        let secret = format!("{secret}/{number}").into();
        let client = requests::client(number);
        azure.emulator.control().add_client(&client, Some(secret), &[("default", "app")]);
    }
    Round::new(azure, "identities", &["--max-stale=5s"]).run(warm, count, growth, |number| {
        let mut pod = Pod::new(azure, number, ["secret1".to_owned()]);
        let client = requests::client(number);
        match number % 2 {
            0 => pod.principal(&client, &format!("{secret}/{number}")),
            _ => pod.workload(&client, token),
        };
        pod.call(Expected::Files(1, azure.value.clone()))
    });
}

/// KiB that the values of [`classes`] may take, more of which come than that: `--max-held-bytes`, which
/// is as much as by default when there are ten times as many as in CI.
fn held() -> usize {
    48 * 1024 * scale() / 10
}

/// KiB that may be resident besides: code that ran for the first time, buffers of connections, and holes.
const BESIDES: usize = 8 * 1024;

/// Objects of one class.
const OBJECTS: usize = 500;

fn classes(azure: &Azure) {
    let (id, secret) = azure.emulator.service_principal();
    let secret = secret.expose_str().unwrap();
    let value = canary::value("many");
    let name = |class: usize, object: usize| format!("class-{class}-{object}");
    let (warm, count) = (2, 20 * scale());
    // Holes that the values leave behind in the allocator; those of one tenth are twice as large.
    let growth = 6 * 1024;
    for class in 0..warm + count {
        for object in 0..OBJECTS {
            let (name, control) = (name(class, object), azure.emulator.control());
            control.set_secret("akvfs-dev", &name, format!("{value}/{name}")).unwrap();
        }
    }
    let most = format!("--max-held-bytes={}", held() * 1024);
    let round = Round::new(azure, "classes", &["--max-stale=5s", &most]);
    let more = round.run(warm, count, growth, |class| {
        let last = format!("{value}/{}", name(class, OBJECTS - 1));
        let names = (0..OBJECTS).map(|object| name(class, object));
        Pod::new(azure, class, names).principal(id, secret).call(Expected::Files(OBJECTS, last))
    });
    // What is counted is no less than what is taken: keys and their values, and Mounts under way.
    let (held, most) = (held(), held() + BESIDES);
    assert!(more <= most, "{more} KiB at the peak above what it was, {held} KiB may be held");
}

/// The same of [`large`]: responses until they are sent, and answers of the vault that are being read. With
/// the program itself and what may be held by default it stays below the chart's limit of 100 MiB.
const LARGE_BESIDES: usize = 28 * 1024;

/// Objects of one class of [`large`].
const LARGE_OBJECTS: usize = 100;

/// Classes of large values, half as many again as may be held.
fn large(azure: &Azure) {
    let (id, secret) = azure.emulator.service_principal();
    let secret = secret.expose_str().unwrap();
    let mut value = canary::value("large");
    value.push_str(&"x".repeat(24_000));
    let name = |class: usize, object: usize| format!("large-{class}-{object}");
    let (warm, count) = (1, 4 * scale());
    for class in 0..warm + count {
        for object in 0..LARGE_OBJECTS {
            let control = azure.emulator.control();
            control.set_secret("akvfs-dev", &name(class, object), value.clone()).unwrap();
        }
    }
    let most = format!("--max-held-bytes={}", held() * 1024);
    let round = Round::new(azure, "large", &["--max-stale=5s", &most]);
    let more = round.run(warm, count, 6 * 1024, |class| {
        let names = (0..LARGE_OBJECTS).map(|object| name(class, object));
        let files = Expected::Files(LARGE_OBJECTS, value.clone());
        Pod::new(azure, class, names).principal(id, secret).call(files)
    });
    let (held, most) = (held(), held() + LARGE_BESIDES);
    assert!(more <= most, "{more} KiB at the peak above what it was, {held} KiB may be held");
}
