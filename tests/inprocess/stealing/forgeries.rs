//! What looks like the owner of a value and is not: every forgery against every kind of owner, in every
//! state that his value and his proof can be in.
//!
//! In the vault only the owner may read, so whoever is proved as somebody else gets a refusal of his own.
//! The rest is kept apart by what the provider knows.

use std::time::Duration;

use akvfs::Secret;
use akvfs::class::ObjectKind;
use akvfs::csi::proto::{MountRequest, MountResponse};
use akvfs::emulator::{Seed, Service, Trouble, Verb, Where, WorkloadToken};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::Status;

use super::{Tally, holds};
use crate::canary;
use crate::isolation::{CALLERS, everybody};
use crate::modes::{binding_call, bound};
use crate::world::{Call, World, array, eventually, secret};

/// Proved like anybody else, and allowed nothing.
const NOBODY: &str = "0b0d1e50-0000-4000-8000-0000000000cc";
const NEVER: &str = "00000000-0000-4000-8000-000000000000";
const OTHER_TENANT: &str = "11111111-2222-4333-8444-555555555555";
const PATIENCE: Duration = Duration::from_secs(10);
/// For vaults that never answer: nothing is to be had by waiting.
const HASTE: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Nobody has read the value yet.
    Cold,
    /// It is held, its owner's proof is live, and the vault answers.
    Held,
    /// The same, and the vault answers 503.
    Outage,
    /// The same, and the vault never answers.
    Hang,
    /// The same, and answers break off.
    Cut,
    /// The same, and no token service answers either.
    NoTokens,
    /// Held, with an outage after the owner's proof has ended.
    Ended,
    /// The owner's request for it is under way.
    InFlight,
    /// It was held, and its owner was refused since; then an outage.
    Revoked,
}

const STATES: [State; 9] = [
    State::Cold,
    State::Held,
    State::Outage,
    State::Hang,
    State::Cut,
    State::NoTokens,
    State::Ended,
    State::InFlight,
    State::Revoked,
];

impl State {
    /// Whether the vault would answer a caller who is proved.
    fn vault_answers(self) -> bool {
        matches!(self, Self::Cold | Self::Held | Self::InFlight)
    }

    fn vault_trouble(self) -> Option<Trouble> {
        match self {
            Self::Cold | Self::Held => None,
            Self::Outage | Self::NoTokens | Self::Ended | Self::Revoked => {
                Some(Trouble::Status(503))
            }
            Self::Hang => Some(Trouble::Hang),
            Self::Cut => Some(Trouble::CutBody),
            Self::InFlight => Some(Trouble::Delay(Duration::from_millis(400))),
        }
    }
}

/// A forged Mount, as the driver would send it.
struct Forgery {
    what: String,
    request: MountRequest,
}

/// Collects the forgeries against one owner.
struct Forger<'a> {
    world: &'a World,
    owner: &'a Call,
    found: Vec<Forgery>,
}

impl Forger<'_> {
    fn add(&mut self, what: &str, call: &Call) {
        self.add_raw(what, call.request());
        // At the owner's own target, as if it were a republish of his.
        let mut there = call.clone();
        there.target = self.owner.target.clone();
        self.add_raw(&format!("{what}, at his target"), there.request());
    }

    fn add_raw(&mut self, what: &str, request: MountRequest) {
        self.found.push(Forgery { what: what.to_owned(), request });
    }

    /// The owner's request with something changed.
    fn but(&mut self, what: &str, change: impl FnOnce(&mut Call)) {
        let mut call = self.owner.clone();
        call.target = "/forged".to_owned();
        change(&mut call);
        self.add(what, &call);
    }

    /// In a cloud of its own.
    fn cloud(&mut self, what: &str, authority: &str, suffix: &str) {
        let file = cloud_file(self.world, &what.replace(' ', "-"), authority, suffix);
        self.but(what, |call| in_cloud(call, &file));
    }

    fn of_any_owner(&mut self, asks: bool) {
        let world = self.world;
        self.but("no credentials at all", |call| {
            call.secrets = Value::Null;
            call.set("csi.storage.k8s.io/serviceAccount.tokens", "{}");
            call.set("usePodIdentity", "false").set("useVMManagedIdentity", "false");
            call.set("useAzureTokenProxy", "false");
        });
        let suffix = suffix(world);
        let authority = world.emulator.cloud().authority;
        // Only Entra is asked at the authority; the others are the owner, whom a vault that answers
        // then answers himself.
        if !asks {
            self.cloud("another authority", "https://login.elsewhere.akvfs.test/", &suffix);
            self.cloud("another port", "https://login.akvfs.test:1/", &suffix);
        }
        self.cloud("another suffix", &authority, "elsewhere.akvfs.test");
        self.cloud("a suffix that begins alike", &authority, &format!("{suffix}.evil.test"));
        let vault = world.emulator.vault_name().to_owned();
        for (what, name) in [
            ("a vault name with a path", format!("{vault}/../{vault}")),
            ("a vault name with a host", format!("{vault}.{suffix}/x")),
            ("a vault name with a user", format!("x@{vault}")),
        ] {
            self.but(what, |call| {
                call.set("keyvaultName", &name);
            });
        }
        self.but("an identity that was never assigned", |call| {
            call.secrets = Value::Null;
            call.set("usePodIdentity", "false").set("useVMManagedIdentity", "true");
            call.set("useAzureTokenProxy", "false").set("userAssignedIdentityID", NEVER);
        });
    }

    /// Somebody who is proved, and whose class and attributes speak of the owner.
    fn of_a_stranger(&mut self) {
        let mut stranger = self.world.call(&[]);
        stranger.secrets = json!({"clientid": NOBODY, "clientsecret": "nobody-dev-only"});
        stranger.set("objects", &self.owner.attributes["objects"]).set("maxStale", "24h");
        stranger.target = "/stranger".to_owned();
        self.add("a stranger", &stranger);
        for (key, value) in self.owner.attributes.clone() {
            if matches!(key.as_str(), "objects" | "keyvaultName" | "maxStale" | "tenantID") {
                continue;
            }
            // The class's own parameters cannot have kubelet's keys; any other spelling they can.
            for spelling in [key.to_uppercase(), format!(" {key} "), format!("{key}\0")] {
                let mut call = stranger.clone();
                call.set(&spelling, &value);
                self.add(&format!("a stranger with the owner's {spelling:?}"), &call);
            }
        }
        // The same keys twice, the stranger's last.
        let both = |first: &Call, last: &Call| {
            let (first, last) =
                (json!(first.attributes).to_string(), json!(last.attributes).to_string());
            format!("{},{}", first.trim_end_matches('}'), last.trim_start_matches('{'))
        };
        let mut last = stranger.clone();
        for mode in ["usePodIdentity", "useVMManagedIdentity", "useAzureTokenProxy"] {
            last.set(mode, "false");
        }
        last.set("clientID", "").set("csi.storage.k8s.io/serviceAccount.tokens", "");
        let attributes = both(self.owner, &last);
        self.add_raw("the owner's keys first", MountRequest { attributes, ..stranger.request() });
        let secrets = match &self.owner.secrets {
            Value::Object(owned) if owned.contains_key("clientid") => {
                format!(
                    "{{\"clientid\":{},\"clientid\":\"{NOBODY}\",\"clientsecret\":\"nobody-dev-only\"}}",
                    owned["clientid"]
                )
            }
            _ => format!(
                "{{\"clientsecret\":\"x\",\"clientid\":\"{NOBODY}\",\"clientsecret\":\"nobody-dev-only\"}}"
            ),
        };
        self.add_raw("the owner's secrets first", MountRequest { secrets, ..stranger.request() });
    }

    fn of_a_secret(&mut self, others: &[Call]) {
        let owned = self.owner.secrets.clone();
        let client = owned["clientid"].clone();
        self.but("a wrong secret", |call| {
            call.secrets = json!({"clientid": client, "clientsecret": canary::value("wrong")});
        });
        self.but("a stranger's secret", |call| {
            call.secrets = json!({"clientid": client, "clientsecret": "nobody-dev-only"});
        });
        self.but("another tenant", |call| {
            call.set("tenantID", OTHER_TENANT);
        });
        self.but("a stranger's client id with the owner's secret", |call| {
            call.secrets["clientid"] = NOBODY.into();
        });
        for other in others.iter().map(|other| &other.secrets).filter(|s| s.is_object()) {
            let mut mixed = other.clone();
            if mixed["clientid"] == client || mixed["clientid"].is_null() {
                continue;
            }
            mixed["clientid"] = client.clone();
            self.but("another principal's credential", |call| call.secrets = mixed);
        }
        self.but("the secret as a certificate", |call| {
            if let Some(secret) = owned.get("clientsecret") {
                call.secrets = json!({"clientid": client, "clientcertificate": secret});
            } else {
                call.secrets["clientcertificate"] = "-----BEGIN CERTIFICATE-----".into();
            }
        });
    }

    fn of_an_assertion(&mut self, binding: bool) {
        let world = self.world;
        let token = || if binding { bound() } else { WorkloadToken::default() };
        let call = |token: WorkloadToken| {
            if binding { binding_call(world, &token) } else { world.workload_call(&[], &token) }
        };
        let forged = |token: WorkloadToken| {
            call(token).attributes["csi.storage.k8s.io/serviceAccount.tokens"].clone()
        };
        for (what, tokens) in [
            (
                "another service account's assertion",
                forged(WorkloadToken { service_account: "thief".to_owned(), ..token() }),
            ),
            (
                "another namespace's assertion",
                forged(WorkloadToken { namespace: "thief".to_owned(), ..token() }),
            ),
            (
                "an assertion with a forged signature",
                forged(WorkloadToken { forged: true, ..token() }),
            ),
            ("an expired assertion", forged(WorkloadToken { lifetime: None, ..token() })),
            (
                "an assertion of another cluster",
                forged(WorkloadToken { issuer: "https://thief".to_owned(), ..token() }),
            ),
        ] {
            self.but(what, |call| {
                call.set("csi.storage.k8s.io/serviceAccount.tokens", &tokens);
            });
        }
        // The payload says the owner's `sub`; the signature is that of another token.
        let other = forged(WorkloadToken { service_account: "thief".to_owned(), ..token() });
        let own = self.owner.attributes["csi.storage.k8s.io/serviceAccount.tokens"].clone();
        let spliced = splice(&own, &other);
        self.but("the owner's sub with another signature", |call| {
            call.set("csi.storage.k8s.io/serviceAccount.tokens", &spliced);
        });
        let spliced = splice(&other, &own);
        self.but("another sub with the owner's signature", |call| {
            call.set("csi.storage.k8s.io/serviceAccount.tokens", &spliced);
        });
        self.but("the assertion with another client id", |call| {
            call.set("clientID", NOBODY);
        });
        self.but("the assertion in another tenant", |call| {
            call.set("tenantID", OTHER_TENANT);
        });
        self.but("the assertion by another mode", |call| {
            call.set("useAzureTokenProxy", if binding { "false" } else { "true" });
        });
        // Secrets are the pod author's: a token there is none.
        self.but("the assertion among the secrets", |call| {
            let tokens = call.attributes.remove("csi.storage.k8s.io/serviceAccount.tokens");
            call.secrets = json!({"csi.storage.k8s.io/serviceAccount.tokens": tokens});
        });
    }

    /// `asks`: the vault would answer, and NMI means the very same identity.
    fn of_a_pod(&mut self, owner_name: &str, asks: bool) {
        let uid = self.owner.attributes["csi.storage.k8s.io/pod.uid"].clone();
        self.but("a pod that was never assigned", |call| {
            call.set("csi.storage.k8s.io/pod.name", "app-77");
        });
        self.but("the same name and uid in another namespace", |call| {
            call.set("csi.storage.k8s.io/pod.namespace", "thief");
        });
        self.but("the same name and uid in a namespace that has an identity", |call| {
            call.set("csi.storage.k8s.io/pod.namespace", "assigned");
        });
        self.but("no uid", |call| {
            call.set("csi.storage.k8s.io/pod.uid", "");
        });
        for name in [format!("{owner_name}\r\npodns: x"), format!("{owner_name} x"), "*".to_owned()]
        {
            self.but("a name with more in it", |call| {
                call.set("csi.storage.k8s.io/pod.name", &name);
            });
        }
        if !asks {
            // To NMI they are the owner, so with a vault that answers they read it themselves.
            self.but("a reused name", |call| {
                call.set("csi.storage.k8s.io/pod.uid", &format!("{uid}-later"));
            });
            self.but("a reused name with a uid in another case", |call| {
                call.set("csi.storage.k8s.io/pod.uid", &uid.to_uppercase());
            });
            self.but("the same name and uid in a namespace with the same identity", |call| {
                call.set("csi.storage.k8s.io/pod.namespace", "twin");
            });
        }
    }
}

/// A cloud that the operator has written down, with these addresses.
fn cloud_file(world: &World, name: &str, authority: &str, suffix: &str) -> String {
    let file = world.dir.path().join(format!("{name}.json"));
    let cloud = json!({
        "name": "AzureStackCloud",
        "activeDirectoryEndpoint": authority,
        "keyVaultEndpoint": format!("https://{suffix}"),
        "keyVaultDNSSuffix": suffix,
        "resourceIdentifiers": {"keyVault": format!("https://{suffix}")},
    });
    std::fs::write(&file, cloud.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

fn in_cloud(call: &mut Call, file: &str) {
    call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", file);
}

fn suffix(world: &World) -> String {
    let url = world.emulator.vault_url();
    url.split_once('.').unwrap().1.trim_end_matches('/').to_owned()
}

/// The signed part of the first assertion in `claims`, and the signature of the one in `signed`.
fn splice(claims: &str, signed: &str) -> String {
    let mut claims: Value = serde_json::from_str(claims).unwrap();
    let signed: Value = serde_json::from_str(signed).unwrap();
    let token = |all: &Value| {
        let token = &all.as_object().unwrap().values().next().unwrap()["token"];
        token.as_str().unwrap().to_owned()
    };
    let (body, _) =
        token(&claims).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let spliced = format!("{body}.{}", token(&signed).rsplit_once('.').unwrap().1);
    let audience = claims.as_object_mut().unwrap().values_mut().next().unwrap();
    audience["token"] = spliced.into();
    claims.to_string()
}

fn forgeries(world: &World, owners: &[Call], owner: usize, asks: bool) -> Vec<Forgery> {
    let mut forger = Forger { world, owner: &owners[owner], found: Vec::new() };
    forger.of_any_owner(asks && owner >= 4);
    forger.of_a_stranger();
    match owner {
        0 | 1 => forger.of_a_secret(owners),
        2..=4 => forger.of_an_assertion(owner == 4),
        5 | 6 => {}
        7 => forger.of_a_pod("app-0", asks),
        _ => forger.of_a_pod("app-1", asks),
    }
    forger.found
}

async fn all_forgeries(state: State) -> Tally {
    let name = |owner: usize| format!("of-{owner}");
    let values: Vec<_> = (0..CALLERS).map(|owner| canary::value(&name(owner))).collect();
    let seed = values
        .iter()
        .enumerate()
        .fold(Seed::default(), |seed, (owner, value)| seed.secret(&name(owner), &[value]));
    let world = World::start(seed).await;
    let callers = everybody(&world);
    let control = &world.control;
    control.add_client(NOBODY, Some(Secret::from("nobody-dev-only")), &[]);
    // A pod of that name elsewhere, which is allowed nothing.
    const ELSEWHERE: &str = "e15e0000-0000-4000-8000-0000000000dd";
    for (pod, owner) in [("app-0", 7), ("app-1", 8)] {
        control.assign_pod("assigned", pod, ELSEWHERE);
        control.assign_pod("twin", pod, callers[owner].0);
    }
    let permit = |client: &str, allow| {
        control.permit(client, ObjectKind::Secret, Verb::Get, allow).unwrap();
    };
    [NOBODY, ELSEWHERE]
        .into_iter()
        .chain(callers.iter().map(|(client, _)| *client))
        .for_each(|client| permit(client, false));
    let owners: Vec<Call> = callers
        .iter()
        .enumerate()
        .map(|(owner, (_, call))| {
            let mut call = call.clone();
            call.set("objects", &array(&[&secret(&name(owner))])).set("maxStale", "24h");
            call.target = format!("/of-{owner}");
            call
        })
        .collect();
    let vault = Where::service(Service::Vault);
    let services = [Service::Entra, Service::Imds, Service::Nmi];
    let mut tally = Tally::default();
    if state == State::Ended {
        // Together, since assertions end for ever.
        for (owner, value) in values.iter().enumerate() {
            permit(callers[owner].0, true);
            read_by(&world, &owners[owner], value).await;
            permit(callers[owner].0, false);
        }
        world.clock.advance(Duration::from_secs(2 * 3600));
    }
    for (owner, value) in values.iter().enumerate() {
        let (client, call) = (callers[owner].0, &owners[owner]);
        permit(client, true);
        if !matches!(state, State::Cold | State::InFlight | State::Ended) {
            read_by(&world, call, value).await;
        }
        match state {
            State::NoTokens => services.into_iter().for_each(|service| {
                control.always(Where::service(service), Trouble::Status(503));
            }),
            State::Revoked => {
                permit(client, false);
                world.clock.advance(Duration::from_secs(61));
                let code = refused_twice(&world, call).await;
                assert_eq!(code, tonic::Code::PermissionDenied);
            }
            _ => {}
        }
        if let Some(trouble) = state.vault_trouble() {
            control.always(vault.clone(), trouble);
        }
        let attacks = forgeries(&world, &owners, owner, state.vault_answers());
        let limit = if state == State::Hang { HASTE } else { PATIENCE };
        let attack = async |forgery: &Forgery| {
            (forgery.what.clone(), world.mount_raw(forgery.request.clone(), limit).await)
        };
        let read =
            async { if state == State::InFlight { Some(world.mount(call).await) } else { None } };
        let before = control.counters().vault_requests;
        let (read, outcomes) = tokio::join!(read, async {
            if state == State::InFlight {
                eventually("his request", || control.counters().vault_requests > before).await;
            }
            join_all(attacks.iter().map(attack)).await
        });
        assert!(read.is_none_or(|read| holds(&read, value)));
        for (what, outcome) in outcomes {
            tally.count(format!("{state:?}, owner {owner}: {what}"), value, &outcome);
            assert!(known_end(&outcome), "{state:?}, owner {owner}: {what}: {outcome:?}");
        }
        if state == State::Revoked {
            // The owner himself, at every target.
            for target in [call.target.as_str(), "/new"] {
                let mut himself = call.clone();
                himself.target = target.to_owned();
                tally.count("the refused owner".to_owned(), value, &world.mount(&himself).await);
            }
            permit(client, true);
        }
        control.clear_faults();
        world.later();
        if state != State::Ended {
            read_by(&world, call, value).await;
        }
        permit(client, false);
    }
    tally
}

/// The owner reads his value: what looks for leaks does find it.
async fn read_by(world: &World, owner: &Call, value: &str) {
    let read = world.mount(owner).await;
    assert!(holds(&read, value), "{read:?}");
}

/// Republishes until the refusal is confirmed by a second look.
pub(super) async fn refused_twice(world: &World, call: &Call) -> tonic::Code {
    let before = world.control.counters().vault_requests;
    let (outcome, ()) = tokio::join!(world.mount(call), async {
        eventually("the first look", || world.control.counters().vault_requests > before).await;
        // The answer may still be on its way, so the clock moves until the mount has ended.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            world.clock.advance(Duration::from_secs(1));
        }
    });
    outcome.unwrap_err().code()
}

/// No attack ends in a way that kubelet would take for "maybe".
fn known_end(outcome: &Result<MountResponse, Status>) -> bool {
    use tonic::Code::{FailedPrecondition, Internal, InvalidArgument, NotFound, PermissionDenied};
    match outcome {
        // Nothing can be asked for with success: only the owner may read.
        Ok(_) => false,
        Err(status) => [FailedPrecondition, Internal, InvalidArgument, NotFound, PermissionDenied]
            .contains(&status.code()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_looks_like_the_owner_gets_his_value_in_any_state() {
    let tallies = join_all(STATES.map(all_forgeries)).await;
    let attempts: usize = tallies.iter().map(|tally| tally.attempts).sum();
    let leaks: Vec<_> = tallies.into_iter().flat_map(|tally| tally.leaks).collect();
    println!("forgeries: attempts {attempts}, leaks {}", leaks.len());
    assert!(attempts > 4000, "{attempts}");
    assert_eq!(leaks, Vec::<String>::new());
}

/// Nobody but Entra knows an authority, so the others are proved in any cloud. The same vault's values
/// still have to be asked for in each.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_in_one_cloud_is_not_given_in_another() {
    let values = ["own", "also"].map(canary::value);
    let seed = Seed::default().secret("own", &[&values[0]]).secret("also", &[&values[1]]);
    let world = World::start(seed).await;
    let callers = everybody(&world);
    let vault = Where::service(Service::Vault);
    let authority = "https://login.elsewhere.akvfs.test";
    let file = cloud_file(&world, "elsewhere", authority, &suffix(&world));
    let mut tally = Tally::default();
    // Identity binding, and the machine's identities.
    for (number, (_, call)) in callers.iter().enumerate().take(7).skip(4) {
        let ask = |object: &str, elsewhere: bool| {
            let mut call = call.clone();
            call.set("objects", &array(&[&secret(object)])).set("maxStale", "24h");
            call.target = format!("/{number}/{object}/{elsewhere}");
            if elsewhere {
                in_cloud(&mut call, &file);
            }
            call
        };
        read_by(&world, &ask("own", false), &values[0]).await;
        // Proved here too, and what the vault wants a token for is known.
        read_by(&world, &ask("also", true), &values[1]).await;
        world.later();
        world.control.always(vault.clone(), Trouble::Status(503));
        for (object, elsewhere, value) in [("own", true, &values[0]), ("also", false, &values[1])] {
            let outcome = world.mount(&ask(object, elsewhere)).await;
            tally.count(format!("{number}: {object}"), value, &outcome);
        }
        read_by(&world, &ask("own", false), &values[0]).await;
        world.control.clear_faults();
    }
    println!("clouds: attempts {}, leaks {}", tally.attempts, tally.leaks.len());
    assert_eq!((tally.attempts, tally.leaks), (6, Vec::new()));
}
