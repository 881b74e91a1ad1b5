//! Manifests and chart of deploy/ against the facts of the Go provider's: whoever replaces it must
//! find the same names, probes, ports and limits.

mod chart;
mod examples;

use std::path::{Path, PathBuf};

use akvfs::config::ProviderArgs;
use clap::{Args, FromArgMatches};
use serde::Deserialize;
use serde_json::{Value, json};

const NAME: &str = "csi-secrets-store-provider-azure";
const POD: &str = "/spec/template/spec";
const CONTAINER: &str = "/spec/template/spec/containers/0";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn documents(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(deploy().join(path)).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|e| panic!("{path}: {e}")));
    documents.filter(|document| !document.is_null()).collect()
}

/// The documents of one kind.
fn of_kind(documents: &[Value], kind: &str) -> Vec<Value> {
    documents.iter().filter(|document| document["kind"] == kind).cloned().collect()
}

/// The DaemonSet for the nodes of one system.
fn daemonset(documents: &[Value], os: &str) -> Value {
    let selector = format!("{POD}/nodeSelector/kubernetes.io~1os");
    let mut found = of_kind(documents, "DaemonSet");
    found.retain(|set| set.pointer(&selector) == Some(&json!(os)));
    assert_eq!(found.len(), 1, "{os}");
    found.remove(0)
}

/// Where a DaemonSet has what.
type Fact = (String, Value);

/// What the Go provider's manifests say, and, from `automountServiceAccountToken` on, what ours say
/// beyond that.
fn facts(os: &str) -> Vec<Fact> {
    let linux = os == "linux";
    let choose = |on_linux: Value, on_windows: Value| if linux { on_linux } else { on_windows };
    let probe = json!({"path": "/healthz", "port": 8989});
    let limits =
        choose(json!({"cpu": "50m", "memory": "100Mi"}), json!({"cpu": "100m", "memory": "200Mi"}));
    let endpoint = choose(
        json!("--endpoint=unix:///provider/azure.sock"),
        json!(r"--endpoint=unix://C:\provider\azure.sock"),
    );
    let mut facts = vec![
        ("/apiVersion".into(), json!("apps/v1")),
        ("/kind".into(), json!("DaemonSet")),
        ("/metadata/name".into(), choose(json!(NAME), json!(format!("{NAME}-windows")))),
        ("/metadata/labels".into(), json!({"app": NAME})),
        ("/spec/updateStrategy".into(), json!({"type": "RollingUpdate"})),
        ("/spec/selector".into(), json!({"matchLabels": {"app": NAME}})),
        ("/spec/template/metadata".into(), json!({"labels": {"app": NAME}})),
    ];
    let mut pod = |field: &str, value: Value| facts.push((format!("{POD}/{field}"), value));
    pod("serviceAccountName", json!(NAME));
    pod("nodeSelector", json!({"kubernetes.io/os": os}));
    pod("tolerations", json!([{"operator": "Exists"}]));
    let virtual_nodes = json!({"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]});
    let required = json!({"nodeSelectorTerms": [{"matchExpressions": [virtual_nodes]}]});
    let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": required});
    pod("affinity", json!({"nodeAffinity": affinity}));
    let host_path = choose(
        json!({"path": "/var/run/secrets-store-csi-providers"}),
        json!({"path": r"C:\k\secrets-store-csi-providers", "type": "DirectoryOrCreate"}),
    );
    pod("volumes/0", json!({"name": "providervol", "hostPath": host_path}));
    if linux {
        pod("hostNetwork", json!(true));
        // Of the chart; the Go provider's manifest lacks it, and with it identity binding.
        pod("dnsPolicy", json!("ClusterFirstWithHostNet"));
    }
    let mut container =
        |field: &str, value: Value| facts.push((format!("{CONTAINER}/{field}"), value));
    container("name", json!("provider-azure-installer"));
    container("image", json!(concat!("localhost/akvfs:v", env!("CARGO_PKG_VERSION"))));
    container("imagePullPolicy", json!("IfNotPresent"));
    container("args/0", endpoint);
    container("args/1", json!("--construct-pem-chain=true"));
    container("args/2", json!("--healthz-port=8989"));
    container("args/3", json!("--healthz-path=/healthz"));
    container("args/4", json!("--healthz-timeout=5s"));
    container("livenessProbe/httpGet", probe.clone());
    container("livenessProbe/failureThreshold", json!(3));
    container("livenessProbe/initialDelaySeconds", json!(5));
    container("livenessProbe/timeoutSeconds", json!(10));
    container("livenessProbe/periodSeconds", json!(30));
    container("resources", json!({"requests": limits, "limits": limits}));
    container("ports", json!([{"containerPort": 8898, "name": "metrics", "protocol": "TCP"}]));
    let directory = choose(json!("/provider"), json!(r"C:\provider"));
    container("volumeMounts/0", json!({"name": "providervol", "mountPath": directory}));
    if linux {
        container("securityContext/allowPrivilegeEscalation", json!(false));
        container("securityContext/readOnlyRootFilesystem", json!(true));
        container("securityContext/runAsUser", json!(0));
        container("securityContext/capabilities", json!({"drop": ["ALL"]}));
        container("securityContext/seccompProfile", json!({"type": "RuntimeDefault"}));
    }
    container(
        "readinessProbe",
        json!({"httpGet": probe, "timeoutSeconds": 10, "periodSeconds": 10}),
    );
    let accounts = "/var/run/secrets/kubernetes.io/serviceaccount";
    container(
        "volumeMounts/1",
        json!({"name": "cluster-ca", "mountPath": accounts, "readOnly": true}),
    );
    let ca = json!({"name": "kube-root-ca.crt", "optional": true});
    facts.push((format!("{POD}/volumes/1"), json!({"name": "cluster-ca", "configMap": ca})));
    facts.push((format!("{POD}/automountServiceAccountToken"), json!(false)));
    facts
}

/// Checks each fact, and that there is nothing beside them.
fn exactly(mut document: Value, facts: &[Fact]) {
    for (place, expected) in facts {
        let found = document.pointer_mut(place).unwrap_or_else(|| panic!("no {place}"));
        assert_eq!(found, expected, "{place}");
        *found = Value::Null;
    }
    fn empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.iter().all(empty),
            Value::Object(fields) => fields.values().all(empty),
            _ => false,
        }
    }
    assert!(empty(&document), "not among the facts: {document:#}");
}

#[test]
fn the_manifests_have_the_facts_of_the_go_providers_and_nothing_else() {
    for (file, os) in [("linux.yaml", "linux"), ("../windows/windows.yaml", "windows")] {
        let documents = documents(file);
        assert_eq!(documents.len(), 2, "{file}");
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME}});
        assert_eq!(documents[0], account, "{file}");
        exactly(daemonset(&documents, os), &facts(os));
    }
}

/// What a container's arguments come to.
fn parsed(set: &Value) -> ProviderArgs {
    let args = set.pointer(&format!("{CONTAINER}/args")).unwrap().as_array().unwrap();
    let args = args.iter().map(|arg| arg.as_str().unwrap());
    let command = ProviderArgs::augment_args(clap::Command::new("akvfs").no_binary_name(true));
    ProviderArgs::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
}

#[test]
fn the_provider_takes_the_argument_lists() {
    for file in ["linux.yaml", "../windows/windows.yaml"] {
        for set in of_kind(&documents(file), "DaemonSet") {
            let args = parsed(&set);
            assert_eq!(args.healthz_port, 8989);
            assert!(args.construct_pem_chain && args.endpoint.ends_with("azure.sock"));
        }
    }
}
