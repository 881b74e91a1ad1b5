//! Renders of the chart: the golden files, which `scripts/chart` compares with what Helm makes.

use serde_json::{Value, json};

use super::{CONTAINER, Fact, NAME, daemonset, documents, exactly, facts, of_kind, parsed};

fn golden(name: &str) -> Vec<Value> {
    documents(&format!("charts/tests/golden/{name}.yaml"))
}

/// The facts, with what the chart has more of when it is installed as `csi` in kube-system.
fn facts_of_the_chart(os: &str) -> Vec<Fact> {
    let labels = json!({
        "app": NAME,
        "app.kubernetes.io/name": NAME,
        "app.kubernetes.io/instance": "csi",
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
        "helm.sh/chart": concat!("akvfs-", env!("CARGO_PKG_VERSION")),
    });
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}});
    let mut facts = facts(os);
    for (place, value) in &mut facts {
        match place.as_str() {
            "/metadata/name" => *value = json!(format!("csi-{}", value.as_str().unwrap())),
            "/metadata/labels" => *value = labels.clone(),
            "/spec/template/metadata" => *value = json!({"labels": labels}),
            "/spec/updateStrategy" => *value = rolling.clone(),
            _ => {}
        }
    }
    facts.push(("/metadata/namespace".into(), json!("kube-system")));
    // The Go provider's chart never passes it, so that `metricsAddr` moves the declared port only.
    facts.push((format!("{CONTAINER}/args/5"), json!("--prometheus-port=8898")));
    facts
}

fn contains(document: &Value, facts: &[(&str, Value)]) {
    for (place, expected) in facts {
        let found = document.pointer(place).unwrap_or(&Value::Null);
        assert_eq!(found, expected, "{place}");
    }
}

#[test]
fn the_chart_renders_the_same_by_default() {
    let default = golden("default");
    assert_eq!(default.len(), 2);
    exactly(daemonset(&default, "linux"), &facts_of_the_chart("linux"));
    let windows = golden("windows");
    assert_eq!(windows.len(), 3);
    assert_eq!(daemonset(&windows, "linux"), daemonset(&default, "linux"));
    exactly(daemonset(&windows, "windows"), &facts_of_the_chart("windows"));
    for documents in [&default, &windows] {
        let account = &of_kind(documents, "ServiceAccount")[0];
        assert_eq!(account["metadata"]["name"], NAME);
        assert_eq!(account["metadata"]["namespace"], "kube-system");
    }
    assert_eq!(golden("only-windows").len(), 2);
    daemonset(&golden("only-windows"), "windows");
}

#[test]
fn the_go_charts_defaults_render_as_ours() {
    let mut upstream = golden("upstream");
    for set in upstream.iter_mut().filter(|document| document["kind"] == "DaemonSet") {
        let ours = json!(concat!("localhost/akvfs:v", env!("CARGO_PKG_VERSION")));
        *set.pointer_mut(&format!("{CONTAINER}/image")).unwrap() = ours;
    }
    assert_eq!(upstream, golden("default"));
    assert_eq!(golden("psp-without-the-api"), golden("default"));
}

#[test]
fn each_value_of_the_chart_reaches_its_place() {
    let render = golden("everything");
    assert!(of_kind(&render, "ServiceAccount").is_empty(), "rbac.install is false");
    let both = [
        ("/spec/updateStrategy", json!({"type": "OnDelete"})),
        ("/spec/template/spec/imagePullSecrets", json!([{"name": "pull"}])),
        ("/spec/template/metadata/labels/app", json!(NAME)),
        ("/spec/template/spec/serviceAccountName", json!(NAME)),
        ("/spec/template/spec/containers/0/livenessProbe/httpGet/path", json!("/alive")),
        ("/spec/template/spec/containers/0/readinessProbe/httpGet/path", json!("/alive")),
        ("/spec/template/spec/containers/0/ports/0/containerPort", json!(9898)),
        ("/spec/template/spec/volumes/2/name", json!("pods")),
        ("/spec/template/spec/volumes/3/name", json!("cloud")),
    ];
    let linux = daemonset(&render, "linux");
    contains(&linux, &both);
    contains(
        &linux,
        &[
            ("/metadata/name", json!("azure-files")),
            ("/spec/template/metadata/labels/team", json!("blue")),
            ("/spec/template/metadata/annotations", json!({"note": "true"})),
            ("/spec/template/spec/nodeSelector/pool", json!("secrets")),
            ("/spec/template/spec/tolerations/0/key", json!("only")),
            ("/spec/template/spec/priorityClassName", json!("system-node-critical")),
            ("/spec/template/spec/dnsPolicy", Value::Null),
            ("/spec/template/spec/volumes/0/hostPath/path", json!("/data/providers")),
            ("/spec/template/spec/containers/0/image", json!("registry.example/akvfs:v9.9.9")),
            ("/spec/template/spec/containers/0/imagePullPolicy", json!("Always")),
            ("/spec/template/spec/containers/0/livenessProbe/httpGet/port", json!(18989)),
            ("/spec/template/spec/containers/0/readinessProbe/httpGet/port", json!(18989)),
            ("/spec/template/spec/containers/0/resources/requests/memory", json!("2Mi")),
            (
                "/spec/template/spec/containers/0/volumeMounts/3/mountPath",
                json!("/etc/kubernetes/clouds"),
            ),
        ],
    );
    let windows = daemonset(&render, "windows");
    contains(&windows, &both);
    contains(
        &windows,
        &[
            ("/metadata/name", json!("azure-files-windows")),
            ("/spec/template/metadata/labels/team", json!("red")),
            ("/spec/template/spec/nodeSelector/pool", json!("windows")),
            ("/spec/template/spec/tolerations", Value::Null),
            ("/spec/template/spec/priorityClassName", json!("high")),
            ("/spec/template/spec/volumes/0/hostPath/path", json!(r"D:\providers")),
            (
                "/spec/template/spec/containers/0/image",
                json!("registry.example/akvfs-windows:v9.9.9"),
            ),
            ("/spec/template/spec/containers/0/livenessProbe/httpGet/port", json!(28989)),
        ],
    );
    contains(
        &daemonset(&golden("openshift"), "linux"),
        &[
            ("/spec/template/spec/containers/0/securityContext/privileged", json!(true)),
            (
                "/spec/template/spec/containers/0/securityContext/allowPrivilegeEscalation",
                Value::Null,
            ),
            (
                "/spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem",
                json!(true),
            ),
        ],
    );
}

#[test]
fn a_provider_that_writes_sees_the_pods_directory_and_no_other_does() {
    let write = golden("write");
    for (os, directory, propagation) in [
        ("linux", "/var/lib/kubelet/pods", json!("HostToContainer")),
        ("windows", r"C:\var\lib\kubelet\pods", Value::Null),
    ] {
        let mut mount = json!({"name": "pods", "mountPath": directory});
        if propagation != Value::Null {
            mount["mountPropagation"] = propagation;
        }
        let volume = json!({"name": "pods", "hostPath": {"path": directory, "type": "Directory"}});
        contains(
            &daemonset(&write, os),
            &[
                ("/spec/template/spec/containers/0/args/6", json!("--mount-mode=write")),
                ("/spec/template/spec/containers/0/volumeMounts/2", mount),
                ("/spec/template/spec/volumes/2", volume),
            ],
        );
    }
    let text = golden("default").iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains("lib/kubelet"), "not shown unless asked for");
}

#[test]
fn names_follow_the_go_charts_rule() {
    for (render, name, app) in [
        ("default", "csi-csi-secrets-store-provider-azure", NAME),
        ("name", "csi-vault", "vault"),
        ("release-name", NAME, NAME),
        ("everything", "azure-files", NAME),
    ] {
        let set = daemonset(&golden(render), "linux");
        contains(&set, &[("/metadata/name", json!(name)), ("/metadata/labels/app", json!(app))]);
        contains(&set, &[("/spec/selector/matchLabels", json!({"app": app}))]);
    }
}

#[test]
fn a_policy_a_proxy_and_a_pod_security_policy_are_rendered_when_asked_for() {
    for (render, text) in
        [("policy", "some:\n- mapping"), ("policy-text", "# kept\nsome: [text]\n")]
    {
        let render = golden(render);
        let map = &of_kind(&render, "ConfigMap")[0];
        assert_eq!(map["data"]["policy.yaml"], text);
        let set = daemonset(&render, "linux");
        let volume = json!({"name": "policy", "configMap": {"name": map["metadata"]["name"]}});
        contains(&set, &[("/spec/template/spec/volumes/2", volume)]);
        contains(
            &set,
            &[
                ("/spec/template/spec/containers/0/volumeMounts/2/mountPath", json!("/etc/akvfs")),
                (
                    "/spec/template/spec/containers/0/args/6",
                    json!("--policy=/etc/akvfs/policy.yaml"),
                ),
            ],
        );
    }
    let arc = golden("arc");
    let secrets = of_kind(&arc, "Secret");
    assert_eq!(secrets[0]["stringData"]["HTTPS_PROXY"], "http://proxy.example:3128");
    for os in ["linux", "windows"] {
        let from = json!([{"secretRef": {"name": secrets[0]["metadata"]["name"]}}]);
        contains(&daemonset(&arc, os), &[("/spec/template/spec/containers/0/envFrom", from)]);
    }
    let secret = json!({"secretName": secrets[1]["metadata"]["name"]});
    contains(
        &daemonset(&arc, "linux"),
        &[("/spec/template/spec/volumes/2", json!({"name": "proxy-cert", "secret": secret}))],
    );
    let psp = golden("psp");
    let policy = &of_kind(&psp, "PodSecurityPolicy")[0];
    assert_eq!(policy["spec"]["privileged"], false);
    assert_eq!(
        of_kind(&psp, "Role")[0]["rules"][0]["resourceNames"][0],
        policy["metadata"]["name"]
    );
    assert_eq!(of_kind(&psp, "RoleBinding")[0]["subjects"][0]["name"], NAME);
}

#[test]
fn the_provider_takes_every_argument_list() {
    for set in of_kind(&golden("arc"), "DaemonSet") {
        assert!(parsed(&set).log_format_json);
    }
    for os in ["linux", "windows"] {
        let args = parsed(&daemonset(&golden("everything"), os));
        assert!(!args.construct_pem_chain && args.write_cert_and_key_in_separate_files);
        assert!(args.log_format_json && args.v == 5 && args.healthz_path == "/alive");
        assert!(args.policy.is_none());
        let ages = [args.mount_max_age, args.refresh_max_age, args.max_stale];
        assert_eq!(ages.map(|age| age.as_secs()), [300, 600, 5400], "{os}");
        let policy = parsed(&daemonset(&golden("policy"), os)).policy.unwrap();
        assert!(policy.to_str().unwrap().ends_with("policy.yaml"), "{os}");
    }
}

#[test]
fn the_charts_versions_are_the_binarys() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = &documents("charts/akvfs/Chart.yaml")[0];
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    let values = &documents("charts/akvfs/values.yaml")[0];
    for os in ["linux", "windows"] {
        assert_eq!(values[os]["image"]["tag"], format!("v{version}"));
    }
}
