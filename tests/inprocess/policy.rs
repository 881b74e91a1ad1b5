//! The operator's policy, through the real socket: refused before anything is asked of anybody.

use std::time::Duration;

use akvfs::app;
use akvfs::cloud::CloudSource;
use akvfs::csi::client;
use akvfs::csi::mount::Mounter;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::delivery::response;
use akvfs::emulator::{Config, Emulator, Service, Trouble, USER_IDENTITY, Where, WorkloadToken};
use akvfs::fetch::{self, Ages, Fetch};
use akvfs::http::Http;
use akvfs::policy::PolicyFile;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::seeds::{self, ONE};
use crate::world::{Call, World, call_of, secret};

/// A provider with a policy.
struct Site {
    emulator: Emulator,
    channel: Channel,
    dir: tempfile::TempDir,
}

impl Site {
    async fn new(policy: &str) -> Self {
        crate::canary::capture_logs();
        let seed = seeds::one();
        let emulator = Emulator::start(Config { seed, ..Config::default() }).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let endpoints = emulator.endpoints();
        let clouds =
            CloudSource::new(endpoints.clone(), "AzurePublicCloud", dir.path().to_owned()).unwrap();
        let options = response::Options::default();
        let file = dir.path().join("policy.yaml");
        std::fs::write(&file, policy).unwrap();
        let ages = Ages { first: Duration::ZERO, refresh: Duration::ZERO, ..Ages::default() };
        let held = fetch::Options { ages, ..fetch::Options::default() };
        let fetch = Fetch::with(Http::new(endpoints), held).unwrap();
        let mounter =
            Mounter::new(fetch, clouds, options).with_policy(PolicyFile::open(file).unwrap());
        let socket = dir.path().join("azure.sock");
        app::serve_csi(mounter, socket.clone(), CancellationToken::new()).unwrap();
        let channel = client::connect(socket).await.unwrap();
        Self { emulator, channel, dir }
    }

    async fn mount(&self, call: &Call) -> Result<usize, Status> {
        let mut driver = CsiDriverProviderClient::new(self.channel.clone());
        driver.mount(call.request()).await.map(|response| response.into_inner().files.len())
    }

    /// Refused, with nothing asked of anybody.
    async fn refused(&self, call: &Call, text: &str) {
        let before = self.emulator.control().requests().len();
        let status = self.mount(call).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        let prefix = "failed to mount objects, error: refused by the operator's policy: ";
        assert!(status.message().starts_with(prefix), "{status}");
        assert!(status.message().contains(text), "{status}");
        assert_eq!(self.emulator.control().requests().len(), before, "{status}");
    }
}

const TEAMS: &str = r#"
default: deny
rules:
- name: team a
  match: {namespaces: [team-a], serviceAccounts: [app]}
  allow:
    identityModes: [service-principal, managed]
    vmClientIds: [system]
    vaults: [akvfs-*]
- name: small
  match: {namespaces: [small]}
  allow: {identityModes: [service-principal], vaults: ["*"], maxResponseBytes: 1KiB}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_rule_and_costs_no_request() {
    let site = Site::new(TEAMS).await;
    let base = call_of(&site.emulator, &[&secret(ONE)]);
    site.refused(&base, "no rule matches namespace \"default\", service account \"app\"").await;
    let namespace = "csi.storage.k8s.io/pod.namespace";
    let mut ours = base.clone();
    ours.set(namespace, "team-a");
    assert_eq!(site.mount(&ours).await.unwrap(), 1);
    let mut vault = ours.clone();
    vault.set("keyvaultName", "other-vault");
    site.refused(&vault, "rule \"team a\" does not allow the vault \"other-vault\" (vaults)").await;
    let mut managed = ours.clone();
    managed.set("useVMManagedIdentity", "true");
    assert_eq!(site.mount(&managed).await.unwrap(), 1);
    managed.set("userAssignedIdentityID", USER_IDENTITY);
    site.refused(&managed, "(vmClientIds)").await;
    let mut account = ours.clone();
    account.set("csi.storage.k8s.io/serviceAccount.name", "other");
    site.refused(&account, "service account \"other\"").await;
    // A workload's token proves much, but not that the operator wants it used.
    let world = World::start(seeds::one()).await;
    let mut workload = world.workload_call(&[&secret(ONE)], &WorkloadToken::default());
    workload.set(namespace, "team-a");
    site.refused(&workload, "the identity mode workload (identityModes)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_lower_the_limit_of_a_response() {
    let site = Site::new(TEAMS).await;
    let mut call = call_of(&site.emulator, &[&secret(ONE)]);
    call.set("csi.storage.k8s.io/pod.namespace", "small");
    assert_eq!(site.mount(&call).await.unwrap(), 1);
    let control = site.emulator.control();
    control.set_secret(site.emulator.vault_name(), ONE, "x".repeat(1024).as_str()).unwrap();
    let status = site.mount(&call).await.unwrap_err();
    assert!(status.message().contains("larger than"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_policy_counts_from_the_next_mount_on() {
    let site = Site::new("default: allow").await;
    let call = call_of(&site.emulator, &[&secret(ONE)]);
    assert_eq!(site.mount(&call).await.unwrap(), 1);
    let policy = site.dir.path().join("policy.yaml");
    std::fs::write(&policy, "default: deny").unwrap();
    site.refused(&call, "the default is deny").await;
    // Broken: the one before stays.
    std::fs::write(&policy, "default: allow\nrule: []").unwrap();
    site.refused(&call, "the default is deny").await;
    std::fs::write(&policy, "default: allow").unwrap();
    assert_eq!(site.mount(&call).await.unwrap(), 1);
}

/// Before anything is bound, as every wrong flag.
#[test]
fn a_policy_that_is_wrong_at_start_exits_64_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, policy) = (dir.path().join("azure.sock"), dir.path().join("policy.yaml"));
    for (text, place) in [
        (None, "cannot read the policy"),
        (Some("default: deny\nrules:\n- a: ["), "line "),
        (
            Some("default: deny\nrules: [{name: r, match: {}, allow: all}]"),
            "rules[0] (\"r\").match",
        ),
    ] {
        if let Some(text) = text {
            std::fs::write(&policy, text).unwrap();
        }
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_akvfs"))
            .arg(format!("--endpoint=unix://{}", socket.display()))
            .args(["--healthz-port=0", "--prometheus-port=0", "-policy", policy.to_str().unwrap()])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(place) && said.contains("policy.yaml"), "{said}");
        assert!(!socket.exists());
    }
}

/// The operator's word on how stale values may be, over the class's.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_forbid_stale_values() {
    let site = Site::new(
        "default: deny\nrules:\n- name: fresh\n  match: {namespaces: [fresh]}\n  \
         allow: {identityModes: [service-principal], vaults: ['*'], maxStale: 0s}\n- name: rest\n  \
         match: {namespaces: ['*']}\n  allow: all\n",
    )
    .await;
    for (namespace, keeps) in [("default", true), ("fresh", false)] {
        let control = site.emulator.control();
        let mut call = call_of(&site.emulator, &[&secret(ONE)]);
        call.set("csi.storage.k8s.io/pod.namespace", namespace).set("maxStale", "24h");
        call.target = format!("/{namespace}");
        assert_eq!(site.mount(&call).await.unwrap(), 1);
        control.always(Where::service(Service::Vault), Trouble::Firewall);
        assert_eq!(site.mount(&call).await.is_ok(), keeps, "{namespace}");
        control.clear_faults();
    }
}
