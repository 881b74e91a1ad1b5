//! Identities: which inputs a mode needs, and what is said without them.

use akvfs::cloud::Endpoints;
use akvfs::emulator::{BINDING_CLIENT, Emulator, POD_IDENTITY, Seed, Service, WorkloadToken};
use serde_json::{Value, json};

use crate::canary;
use crate::seeds::{self, ONE, PLAIN};
use crate::support::{paths, wrong_class};
use crate::world::{Call, World, secret};

const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

#[tokio::test(flavor = "multi_thread")]
async fn u64_workload_tokens_that_are_none() {
    let world = World::start(seeds::one()).await;
    let good = world.workload_call(&[&secret(ONE)], &WorkloadToken::default());
    for (tokens, text) in [
        ("", "service account tokens not found"),
        ("invalid", "failed to unmarshal service account tokens"),
        (r#"{"aud":{"token":"x"}}"#, "token for audience api://AzureADTokenExchange not found"),
        (
            r#"{"api://AzureADTokenExchange":{"token":7}}"#,
            "failed to unmarshal service account tokens",
        ),
    ] {
        let mut call = good.clone();
        call.set(TOKENS, tokens);
        let text = format!(
            "failed to build auth config for mode None: failed to parse workload identity tokens, \
             error: {text}"
        );
        wrong_class(&world, &call, &text).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u65_the_right_one_of_two_tokens() {
    let world = World::start(seeds::one()).await;
    let mut call = world.workload_call(&[&secret(ONE)], &WorkloadToken::default());
    let mut tokens: Value = serde_json::from_str(&call.attributes[TOKENS]).unwrap();
    tokens["aud1"] = json!({"token": "x", "expirationTimestamp": "2030-01-01T00:00:00Z"});
    call.set(TOKENS, &tokens.to_string());
    assert_eq!(paths(&world.mount(&call).await.unwrap()), [ONE]);
    let requests = world.control.requests();
    let reader = requests.iter().find(|request| request.path.starts_with("/secrets/")).unwrap();
    assert_eq!(reader.client.as_deref(), Some(world.emulator.workload_client_id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn u66_a_workload_token_is_none_for_identity_binding() {
    let world = World::start(seeds::one()).await;
    let mut call = world.workload_call(&[&secret(ONE)], &WorkloadToken::default());
    call.set("useAzureTokenProxy", "true");
    let text = "failed to parse service account token for identity binding";
    wrong_class(&world, &call, text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u67_a_service_principals_secret() {
    let world = World::start(seeds::one()).await;
    let good = world.call(&[&secret(ONE)]);
    let (id, word) = (good.secrets["clientid"].clone(), good.secrets["clientsecret"].clone());
    for (secrets, text) in [
        (Value::Null, "failed to get credentials, nodePublishSecretRef secret is not set"),
        (json!({"clientid": id}), "could not find clientsecret in secrets"),
        (json!({"clientsecret": word}), "could not find clientid in secrets"),
    ] {
        let mut call = good.clone();
        call.secrets = secrets;
        wrong_class(&world, &call, text).await;
    }
    assert_eq!(paths(&world.mount(&good).await.unwrap()), [ONE]);
}

/// A call by identity binding, with a token of the emulated cluster.
fn binding(world: &World) -> Call {
    let token = WorkloadToken {
        audience: "api://AKSIdentityBinding".to_owned(),
        ..WorkloadToken::default()
    };
    let audience = token.audience.clone();
    let token = world.emulator.workload_token(&token).unwrap();
    canary::note("service account token", token.expose());
    let tokens = json!({ audience: { "token": token.expose_str().unwrap() } });
    let mut call = world.call(&[&secret(ONE)]);
    call.secrets = Value::Null;
    call.set("useAzureTokenProxy", "true").set("clientID", BINDING_CLIENT);
    call.set(TOKENS, &tokens.to_string());
    call
}

#[tokio::test(flavor = "multi_thread")]
async fn u68_identity_binding_without_what_it_needs() {
    let world = World::start(seeds::one()).await;
    let good = binding(&world);
    let mut nobody = good.clone();
    nobody.set("clientID", "");
    wrong_class(&world, &nobody, "clientID is required for identity binding").await;
    let mut tokenless = good.clone();
    tokenless.set(TOKENS, "");
    let text = "service account tokens are required for identity binding";
    wrong_class(&world, &tokenless, text).await;
    assert_eq!(paths(&world.mount(&good).await.unwrap()), [ONE]);
}

/// The emulated cluster has the first id whose answer is known; its token proxy is behind that name
/// alone.
#[tokio::test(flavor = "multi_thread")]
async fn u77_the_tls_name_of_a_clusters_token_proxy() {
    let name = "aeaf29ip1hi5q38ebc3u4daum81u0unk52t5bg50j25234fmuj78g.ests.aks";
    for (sni, works) in [("", true), (name, true), ("kubernetes.default.svc.cluster.local", false)]
    {
        let change = |_: &Emulator, endpoints: &mut Endpoints| {
            endpoints.token_proxy.as_mut().unwrap().sni = sni.to_owned()
        };
        let fetch = crate::world::new_fetch;
        let world = World::with_endpoints(seeds::one(), change, fetch).await;
        let mounted = world.mount(&binding(&world)).await;
        assert_eq!(mounted.is_ok(), works, "{sni}: {:?}", mounted.err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e11_workload_identity_and_identity_binding_of_one_pod() {
    let world = World::start(seeds::one()).await;
    let mut workload = world.workload_call(&[&secret(ONE)], &WorkloadToken::default());
    let mut binding = binding(&world);
    workload.target.push_str("/workload");
    binding.target.push_str("/binding");
    // kubelet sends both tokens with each of the volumes.
    let mut tokens: Value = serde_json::from_str(&workload.attributes[TOKENS]).unwrap();
    let other: Value = serde_json::from_str(&binding.attributes[TOKENS]).unwrap();
    tokens.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    for call in [&mut workload, &mut binding] {
        call.set(TOKENS, &tokens.to_string());
    }
    let (first, second) = tokio::join!(world.mount(&workload), world.mount(&binding));
    assert_eq!(first.unwrap().files, second.unwrap().files);
    let tokens: Vec<_> = world.control.counters().tokens.into_iter().collect();
    assert_eq!(tokens, [("binding", 1), ("workload", 1)]);
}

/// A pod-identity class of a pod that NMI knows.
fn pod_identity(world: &World, objects: &[&str]) -> Call {
    world.control.assign_pod("default", "app-0", POD_IDENTITY);
    let mut call = world.call(objects);
    call.secrets = Value::Null;
    call.set("usePodIdentity", "true");
    call
}

/// Upstream asks for a workload's token, which this mode has no use for.
#[tokio::test(flavor = "multi_thread")]
async fn p17_a_client_id_beside_pod_identity_means_nothing() {
    let world = World::start(seeds::one()).await;
    let mut call = pod_identity(&world, &[&secret(ONE)]);
    call.set("clientID", "left-over");
    assert_eq!(paths(&world.mount(&call).await.unwrap()), [ONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_three_types_by_pod_identity() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let entries = [
        &secret(PLAIN),
        "objectName: key1\nobjectType: key",
        "objectName: pemcert1\nobjectType: cert",
    ];
    let call = pod_identity(&world, &entries);
    assert_eq!(world.mount(&call).await.unwrap().files.len(), 3);
    let counters = world.control.counters();
    assert_eq!((counters.vault_requests, counters.token_requests), (3, 1));
}

/// Token requests to an AD FS, by path, of two mounts of one class.
async fn ad_fs(tenant: &str) -> Vec<String> {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    call.set("tenantID", tenant);
    for _ in 0..2 {
        assert_eq!(paths(&world.mount(&call).await.unwrap()), [ONE]);
    }
    let requests = world.control.requests().into_iter();
    requests
        .filter(|request| request.service == Service::Entra)
        .map(|request| request.path)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_an_ad_fs_is_asked_once_for_two_mounts() {
    assert_eq!(ad_fs("adfs").await, ["/adfs/oauth2/token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p27_the_tenant_of_an_ad_fs_in_upper_case() {
    assert_eq!(ad_fs("ADFS").await, ["/adfs/oauth2/token"]);
}
