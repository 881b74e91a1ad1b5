//! docs/RESILIENCE.md, cell by cell: what each fault does to a pod that starts, to a pod that runs, and
//! to a tree that looks for new versions.
//!
//! Every cell begins alike: a value was read and is shown, it was rotated since, and what is known of it
//! is too old. Then the fault begins. Pauses between tries are a hundredth of those in the field; what
//! goes by the clock (a Retry-After, ages, ends of tokens) goes by one that runs twenty times as fast.

use std::sync::Arc;
use std::time::{Duration, Instant};

use akvfs::class::{Claim, FilePath, ObjectKind, ObjectName, ObjectSpec, Tenant, VaultName};
use akvfs::clock::Clock;
use akvfs::emulator::{Seed, Service, Trouble, Where};
use akvfs::fetch::{Access, Fetch};
use akvfs::http::{self, Http, Retry};
use akvfs::render;
use akvfs::vault::VaultRef;
use akvfs::view::{Layout, Limits, NodeId, Plan, Refreshed, View};
use serde_json::Value;
use tonic::Code;

use crate::canary;
use crate::seeds::ONE;
use crate::world::{Call, World, secret};

/// A hundredth of the pauses in the field.
const PAUSE: Duration = Duration::from_millis(8);
/// A caller who does not wait for ever.
const PATIENT: Duration = Duration::from_secs(20);
const HURRIED: Duration = Duration::from_secs(3);

/// What comes of an operation.
enum Outcome {
    /// It succeeds, with the rotated value.
    New,
    /// It succeeds with what is shown already; a tree says why.
    Kept,
    /// The caller is told this; what is mounted is not touched.
    Told(Code, &'static str),
}
use Outcome::{Kept, New, Told};

/// A value that is shown, and its successor in the vault.
struct Stage {
    world: World,
    /// The clock of Entra, IMDS and the vaults.
    services: Clock,
    running: Call,
    tree: Arc<View>,
    old: Vec<u8>,
    new: Vec<u8>,
    patience: Duration,
    /// Makes the clock run fast until dropped.
    _ticker: tokio_util::task::AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Who {
    Principal,
    Machine,
}

impl Stage {
    async fn set(who: Who, patience: Duration) -> Self {
        let (clock, services) = (Clock::adjustable(), Clock::adjustable());
        let (old, new) = (canary::value("old"), canary::value("new"));
        let seed = Seed::default().secret(ONE, &[&old]);
        let retry = Retry { tries: 4, pause: PAUSE, longest: Duration::from_secs(60) };
        let options = http::Options { retry, clock, ..http::Options::default() };
        let world = World::with_options(seed, options.clone(), services.clone()).await;
        let mut running = world.call(&[&secret(ONE)]);
        if who == Who::Machine {
            running.secrets = Value::Null;
            running.set("useVMManagedIdentity", "true");
        }
        let tree = tree(&world, options.clone(), who);
        world.mount(&running).await.unwrap();
        fill(&tree).await;
        let (old, new) = (old.as_bytes().to_vec(), new.as_bytes().to_vec());
        let text = String::from_utf8(new.clone()).unwrap();
        world.control.set_secret(world.emulator.vault_name(), ONE, text.as_str()).unwrap();
        let minute = Duration::from_secs(61);
        options.clock.advance(minute);
        services.advance(minute);
        world.control.reset_log();
        let theirs = services.clone();
        let ticker = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                options.clock.advance(Duration::from_millis(95));
                theirs.advance(Duration::from_millis(95));
            }
        }));
        Self { world, services, running, tree, old, new, patience, _ticker: ticker }
    }

    /// A pod that starts.
    async fn first_mount(&self, expected: Outcome) {
        let mut call = self.running.clone();
        call.target = "/var/lib/kubelet/pods/new/volumes/kubernetes.io~csi/v/mount".to_owned();
        call.set("csi.storage.k8s.io/pod.uid", "new");
        self.mount(&call, expected).await;
    }

    /// A pod that runs; the driver looks for rotations.
    async fn republish(&self, expected: Outcome) {
        self.mount(&self.running, expected).await;
    }

    async fn mount(&self, call: &Call, expected: Outcome) {
        let outcome = self.world.mount_within(call, self.patience).await;
        let expected = match expected {
            New => &self.new,
            Kept => &self.old,
            Told(code, text) => {
                let status = outcome.map(|_| ()).unwrap_err();
                assert_eq!(status.code(), code, "{status}");
                assert!(status.message().contains(text), "{status}");
                return;
            }
        };
        let files = outcome.unwrap().files;
        assert!(files[0].contents == *expected, "another value");
    }

    /// A tree looks for new versions.
    async fn refresh(&self, expected: Outcome) {
        let patience = self.patience.min(Duration::from_secs(10));
        let Refreshed { failures, .. } = self.tree.refresh(Instant::now() + patience).await;
        let shown = shown(&self.tree);
        match expected {
            New => assert!(failures.is_empty() && shown == self.new, "{failures:?}"),
            Kept => assert!(failures.len() == 1 && shown == self.old, "{failures:?}"),
            Told(_, text) => {
                assert_eq!(failures.len(), 1);
                assert!(failures[0].to_string().contains(text), "{failures:?}");
                assert_eq!(shown, self.old);
            }
        }
    }

    fn vault(&self, trouble: Trouble) {
        self.world.control.always(Where::service(Service::Vault), trouble);
    }

    fn vault_times(&self, times: u32, trouble: Trouble) {
        self.world.control.times(times, Where::service(Service::Vault), trouble);
    }

    /// The vault is in trouble for so long.
    fn vault_for(&self, time: Duration, trouble: Trouble) {
        self.vault(trouble);
        let control = self.world.control.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            control.clear_faults();
        });
    }

    /// The token service is in trouble, and no token is held any more.
    fn tokens(&self, service: Service, trouble: Trouble) {
        self.world.control.always(Where::service(service), trouble);
        self.world.clock.advance(Duration::from_secs(3600));
    }
}

/// A flat tree of the one object, over a fetch of its own as on a VM.
fn tree(world: &World, options: http::Options, who: Who) -> Arc<View> {
    let emulator = &world.emulator;
    let fetch = Fetch::new(Http::with(emulator.endpoints(), options)).unwrap();
    let (client_id, client_secret) = emulator.service_principal();
    let claim = match who {
        Who::Principal => Claim::ServicePrincipal {
            tenant: Tenant::parse(emulator.tenant()).unwrap(),
            client_id: client_id.to_owned(),
            client_secret,
        },
        Who::Machine => Claim::Managed { client_id: None },
    };
    let name = VaultName::parse(emulator.vault_name()).unwrap();
    let access = Access::new(fetch, claim, VaultRef { cloud: emulator.cloud(), name });
    let object = ObjectSpec::newest(
        0,
        ObjectKind::Secret,
        ObjectName::parse(ONE).unwrap(),
        FilePath::parse(ONE).unwrap(),
        0o400,
    );
    let plan = Plan::new(vec![object], Layout::Flat).unwrap();
    View::new(plan, Arc::new(access), render::Options::default(), Limits::default())
}

fn file(tree: &View) -> NodeId {
    tree.lookup(NodeId::ROOT, ONE).unwrap().unwrap().id
}

async fn fill(tree: &Arc<View>) {
    let slot = tree.slot(file(tree)).unwrap();
    tree.fill(&slot, Instant::now() + PATIENT).await.unwrap();
}

fn shown(tree: &View) -> Vec<u8> {
    tree.read(file(tree), |bytes| bytes.expose().to_vec()).unwrap()
}

/// A fault, and the cells of its row.
macro_rules! row {
    ($fault:ident, $who:expr, $patience:expr, $begin:expr, $first:expr, $republish:expr, $refresh:expr) => {
        mod $fault {
            use super::*;

            async fn stage() -> Stage {
                let stage = Stage::set($who, $patience).await;
                let begin: fn(&Stage) = $begin;
                begin(&stage);
                stage
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn first_mount() {
                stage().await.first_mount($first).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn republish() {
                stage().await.republish($republish).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn refresh() {
                stage().await.refresh($refresh).await;
            }
        }
    };
}

use Who::{Machine, Principal};

row!(
    throttled_with_retry_after,
    Principal,
    PATIENT,
    |stage| stage.vault_times(1, Trouble::Throttle(Some(1))),
    New,
    New,
    New
);
row!(
    throttled_for_longer_than_anybody_waits,
    Principal,
    PATIENT,
    |stage| stage.vault(Trouble::Throttle(Some(3600))),
    Told(Code::Internal, "RESPONSE 429, ERROR CODE: Throttled"),
    Kept,
    Kept
);
row!(
    throttled_without_retry_after,
    Principal,
    PATIENT,
    |stage| stage.vault_times(2, Trouble::Throttle(None)),
    New,
    New,
    New
);
row!(
    throttled_all_the_time,
    Principal,
    PATIENT,
    |stage| stage.vault(Trouble::Throttle(None)),
    Told(Code::Internal, "(4 tries)"),
    Kept,
    Kept
);
row!(
    unavailable_for_5_s,
    Principal,
    PATIENT,
    |stage| stage.vault_for(Duration::from_millis(50), Trouble::Status(503)),
    New,
    New,
    New
);
row!(
    unavailable,
    Principal,
    PATIENT,
    |stage| stage.vault(Trouble::Status(503)),
    Told(Code::Internal, "RESPONSE 503"),
    Kept,
    Kept
);
row!(
    hangs_for_2500_ms,
    Principal,
    PATIENT,
    |stage| stage.vault_for(Duration::from_millis(2500), Trouble::Hang),
    New,
    New,
    New
);
row!(
    hangs,
    Principal,
    HURRIED,
    |stage| stage.vault(Trouble::Hang),
    Told(Code::Internal, "no answer"),
    Kept,
    Kept
);
row!(cut_once, Principal, PATIENT, |stage| stage.vault_times(1, Trouble::CutBody), New, New, New);
row!(
    cut,
    Principal,
    PATIENT,
    |stage| stage.vault(Trouble::CutBody),
    Told(Code::Internal, "the connection broke"),
    Kept,
    Kept
);
row!(
    slow_body,
    Principal,
    PATIENT,
    |stage| stage.vault(Trouble::SlowBody(Duration::from_millis(100))),
    New,
    New,
    New
);
row!(
    too_slow_body,
    Principal,
    HURRIED,
    |stage| stage.vault(Trouble::SlowBody(Duration::from_secs(2))),
    Told(Code::Internal, "no answer"),
    Kept,
    Kept
);
row!(
    firewall,
    Principal,
    PATIENT,
    |stage| stage.vault(Trouble::Firewall),
    Told(Code::PermissionDenied, "network rules"),
    Kept,
    Kept
);
row!(
    something_else_answers,
    Principal,
    PATIENT,
    |stage| stage.vault(Trouble::Answer {
        status: 200,
        content_type: "text/html".to_owned(),
        body: "<html>please log in</html>".to_owned(),
    }),
    Told(Code::Internal, "a body that is not the vault's"),
    Kept,
    Kept
);
row!(
    entra_down_with_a_token_held,
    Principal,
    PATIENT,
    |stage| stage.world.control.always(Where::service(Service::Entra), Trouble::Status(503)),
    New,
    New,
    New
);
row!(
    entra_unavailable,
    Principal,
    PATIENT,
    |stage| stage.tokens(Service::Entra, Trouble::Status(503)),
    Told(Code::Internal, "Entra refused the token request: RESPONSE 503"),
    Told(Code::Internal, "Entra refused the token request: RESPONSE 503"),
    Told(Code::Internal, "Entra refused the token request: RESPONSE 503")
);
row!(
    entra_hangs,
    Principal,
    HURRIED,
    |stage| stage.tokens(Service::Entra, Trouble::Hang),
    Told(Code::Internal, "Entra gave no token before the deadline"),
    Told(Code::Internal, "Entra gave no token before the deadline"),
    Told(Code::Internal, "Entra gave no token before the deadline")
);
row!(
    imds_down_with_a_token_held,
    Machine,
    PATIENT,
    |stage| stage.world.control.always(Where::service(Service::Imds), Trouble::Status(500)),
    New,
    New,
    New
);
row!(
    imds_unavailable,
    Machine,
    PATIENT,
    |stage| stage.tokens(Service::Imds, Trouble::Status(500)),
    Told(Code::Internal, "/metadata/identity/oauth2/token: RESPONSE 500 (4 tries)"),
    Told(Code::Internal, "/metadata/identity/oauth2/token: RESPONSE 500 (4 tries)"),
    Told(Code::Internal, "/metadata/identity/oauth2/token: RESPONSE 500 (4 tries)")
);
row!(
    imds_hangs,
    Machine,
    HURRIED,
    |stage| stage.tokens(Service::Imds, Trouble::Hang),
    Told(Code::FailedPrecondition, "IMDS"),
    Told(Code::FailedPrecondition, "IMDS"),
    Told(Code::FailedPrecondition, "IMDS")
);
row!(
    clock_of_the_node_is_ahead,
    Principal,
    PATIENT,
    |stage| stage.world.clock.advance(Duration::from_secs(12 * 3600)),
    New,
    New,
    New
);
row!(
    clock_of_the_node_is_behind,
    Principal,
    PATIENT,
    |stage| stage.services.advance(Duration::from_secs(12 * 3600)),
    New,
    New,
    New
);
row!(
    clock_of_a_machine_is_ahead,
    Machine,
    PATIENT,
    |stage| stage.world.clock.advance(Duration::from_secs(12 * 3600)),
    New,
    New,
    New
);

/// The page and these tests have the same rows.
#[test]
fn the_page_has_a_row_for_each_fault() {
    let page = include_str!("../../docs/RESILIENCE.md");
    let cells =
        |line: &str| line.split('|').nth(2).map(|cell| cell.trim().trim_matches('`').to_owned());
    let rows = page.lines().filter(|line| line.starts_with("| ")).filter_map(cells);
    let told: Vec<_> = rows.filter(|row| row != "Test" && !row.starts_with("tests/")).collect();
    let tests = include_str!("resilience.rs").split("\nrow!(").skip(1);
    let tested: Vec<_> = tests.filter_map(|row| row.trim().split(',').next()).collect();
    assert_eq!(told, tested);
}
