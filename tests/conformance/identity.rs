//! Identities: which inputs a mode needs, and what is said without them.

use akvfs::emulator::WorkloadToken;
use serde_json::{Value, json};

use crate::seeds::{self, ONE};
use crate::support::{paths, wrong_class};
use crate::world::{World, secret};

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
