//! Every identity of a pod, fifty mounts each, at once, through one real provider.

use std::collections::{BTreeMap, BTreeSet};

use akvfs::csi::client;
use akvfs::csi::proto::MountRequest;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::emulator::{POD_IDENTITY, SYSTEM_IDENTITY, USER_IDENTITY, WorkloadToken};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::azure::Azure;
use crate::canary;

const EACH: usize = 50;

/// What the pods of one identity ask with, and the client that the vault must see.
struct Mode {
    name: &'static str,
    client: String,
    class: Vec<(&'static str, String)>,
    secrets: Value,
}

fn modes(azure: &Azure) -> Vec<Mode> {
    let (client_id, secret) = azure.emulator.service_principal();
    let managed = |name, id: &str, client: &str| Mode {
        name,
        client: client.to_owned(),
        class: vec![
            ("useVMManagedIdentity", "true".to_owned()),
            ("userAssignedIdentityID", id.to_owned()),
        ],
        secrets: Value::Null,
    };
    vec![
        Mode {
            name: "principal",
            client: client_id.to_owned(),
            class: vec![],
            secrets: json!({"clientid": client_id, "clientsecret": secret.expose_str().unwrap()}),
        },
        Mode {
            name: "workload",
            client: azure.emulator.workload_client_id().to_owned(),
            class: vec![("clientID", azure.emulator.workload_client_id().to_owned())],
            secrets: Value::Null,
        },
        Mode {
            name: "pod",
            client: POD_IDENTITY.to_owned(),
            class: vec![("usePodIdentity", "true".to_owned())],
            secrets: Value::Null,
        },
        managed("system", "", SYSTEM_IDENTITY),
        managed("user", USER_IDENTITY, USER_IDENTITY),
    ]
}

/// The request of one pod: its own name, its own token, its own target.
fn request(azure: &Azure, mode: &Mode, number: usize) -> MountRequest {
    let pod = format!("{}-{number}", mode.name);
    let token = azure.emulator.workload_token(&WorkloadToken::default()).unwrap();
    canary::note("service account token", token.expose());
    let mut attributes: BTreeMap<String, String> =
        mode.class.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    for (key, value) in [
        ("csi.storage.k8s.io/pod.name", pod.as_str()),
        ("csi.storage.k8s.io/pod.namespace", "default"),
        ("csi.storage.k8s.io/pod.uid", pod.as_str()),
        ("keyvaultName", "akvfs-dev"),
        ("tenantID", azure.emulator.tenant()),
    ] {
        attributes.insert(key.to_owned(), value.to_owned());
    }
    let objects =
        format!("array:\n  - |\n    objectName: for-{}\n    objectType: secret\n", mode.name);
    attributes.insert("objects".to_owned(), objects);
    let tokens = json!({"api://AzureADTokenExchange": {"token": token.expose_str().unwrap()}});
    attributes.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens.to_string());
    MountRequest {
        attributes: json!(attributes).to_string(),
        secrets: mode.secrets.to_string(),
        target_path: format!("/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/v/mount"),
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    }
}

network_test! {
    fn every_identity_works_beside_the_others_and_none_uses_anothers_token() {
        let azure = Azure::new();
        let control = azure.emulator.control();
        let modes = modes(&azure);
        let mut values = BTreeMap::new();
        for mode in &modes {
            let value = canary::value(mode.name);
            control.set_secret("akvfs-dev", &format!("for-{}", mode.name), value.as_str()).unwrap();
            values.insert(mode.name, value);
        }
        for number in 0..EACH {
            control.assign_pod("default", &format!("pod-{number}"), POD_IDENTITY);
        }
        let provider = azure.provider_with(&[]);
        let requests: Vec<_> = (0..EACH)
            .flat_map(|number| modes.iter().map(move |mode| (mode, number)))
            .map(|(mode, number)| (mode.name, request(&azure, mode, number)))
            .collect();
        azure.runtime.block_on(async {
            let channel = client::connect(provider.socket.clone()).await.unwrap();
            let calls = requests.into_iter().map(|(name, request)| {
                let mut driver = CsiDriverProviderClient::new(channel.clone());
                async move { (name, driver.mount(request).await) }
            });
            for (name, outcome) in join_all(calls).await {
                let response = outcome.unwrap_or_else(|status| panic!("{name}: {status}")).into_inner();
                assert_eq!(response.files[0].contents, values[name].as_bytes(), "{name}");
            }
        });
        // Each object was read for its own identity's client and for nobody else's.
        let records = control.requests();
        for mode in &modes {
            let path = format!("/secrets/for-{}/", mode.name);
            let readers: Vec<_> = records.iter().filter(|record| record.path == path).collect();
            // One request for all of them; only pods with an identity of their own share nothing.
            let requests = if mode.name == "pod" { EACH } else { 1 };
            assert_eq!(readers.len(), requests, "{}", mode.name);
            let clients: BTreeSet<_> = readers.iter().map(|record| record.client.as_deref()).collect();
            assert_eq!(clients, [Some(mode.client.as_str())].into(), "{}", mode.name);
        }
        // One token for equal inputs; one for each assertion, and for each pod by NMI.
        let tokens = control.counters().tokens;
        let expected =
            [("managed", 2), ("pod", EACH as u64), ("service-principal", 1), ("workload", EACH as u64)];
        assert_eq!(tokens, expected.into());
    }
}
