//! `/metrics` of the real binary.

use std::sync::Arc;

use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use tokio::sync::Semaphore;

use crate::binary::{Provider, custom_cloud, http_get};
use crate::world::{Call, call_of, secret};
use crate::{canary, seeds};

const COMMON: &str =
    r#"os_type="linux",provider="azure",service_name="csi-secrets-store-provider-azure""#;

/// The samples, without comments.
fn scrape(provider: &Provider) -> String {
    let answer = http_get(provider.metrics, "/metrics");
    canary::record("metrics", &answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// The value of one sample.
fn sample(text: &str, series: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_the_go_providers_names_and_labels() {
    let dir = tempfile::tempdir().unwrap();
    let emulator = custom_cloud(dir.path()).await;
    let (ca, file) = (dir.path().join("ca.pem"), dir.path().join("cloud.json"));
    for (names, name) in [("false", ""), ("true", seeds::ONE)] {
        let names = format!("--metrics-object-names={names}");
        let flags = ["--cloud-env-dir", dir.path().to_str().unwrap(), &names];
        let provider = Provider::start_with("metrics", &flags, &[("SSL_CERT_FILE", &ca)]).await;
        let mut driver = CsiDriverProviderClient::new(provider.channel().await);
        let call = |name: &str| {
            let mut call: Call = call_of(&emulator, &[&secret(name)]);
            call.set("cloudName", "AzureStackCloud");
            call.set("cloudEnvFileName", file.to_str().unwrap());
            call.request()
        };
        driver.mount(call(seeds::ONE)).await.unwrap();
        driver.mount(call("missing")).await.unwrap_err();
        http_get(provider.healthz, "/healthz");

        let text = scrape(&provider);
        let keyvault = |name: &str, error: &str| {
            let labels = format!(r#"object_type="secret",object_name="{name}",error="{error}""#);
            sample(&text, &format!("keyvault_request_count{{{COMMON},{labels}}}"))
        };
        assert_eq!(keyvault(name, ""), 1);
        assert_eq!(keyvault("", "not_found"), 1);
        for (method, code, message) in [
            ("v1alpha1.CSIDriverProvider/Mount", "OK", ""),
            ("v1alpha1.CSIDriverProvider/Mount", "NotFound", "not_found"),
            ("grpc.health.v1.Health/Check", "OK", ""),
        ] {
            let labels =
                format!(r#"grpc_method="/{method}",grpc_code="{code}",grpc_message="{message}""#);
            assert_eq!(sample(&text, &format!("grpc_request_count{{{COMMON},{labels}}}")), 1);
            let highest = format!(r#"grpc_request_bucket{{{COMMON},{labels},le="+Inf"}}"#);
            assert_eq!(sample(&text, &highest), 1);
        }
        let tokens = r#"akvfs_token_requests_total{mode="service-principal",result="ok"}"#;
        assert!(sample(&text, tokens) >= 1);
        assert_eq!(sample(&text, "akvfs_mounts_in_flight"), 0);
        for idle in ["vault_requests_waiting", "vaults_in_outage", "vault_throttled_total"] {
            assert_eq!(sample(&text, &format!("akvfs_{idle}")), 0);
        }
        assert!(text.contains("akvfs_build_info{version=\"v"), "{text}");
        assert!(text.contains("# TYPE keyvault_request histogram\n"), "{text}");
        for path in ["/", "/metrics/", "/debug/pprof/"] {
            assert!(http_get(provider.metrics, path).starts_with("HTTP/1.1 404"), "{path}");
        }
    }
}

/// Texts of errors are anybody's to choose; the labels are not.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_distinct_refusals_leave_the_text_small() {
    let provider = Provider::start("many-refusals", &[]).await;
    let driver = CsiDriverProviderClient::new(provider.channel().await);
    let places = Arc::new(Semaphore::new(64));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..10_000 {
        let place = places.clone().acquire_owned().await.unwrap();
        let mut driver = driver.clone();
        calls.spawn(async move {
            let _place = place;
            let request = akvfs::csi::proto::MountRequest {
                attributes: format!(
                    r#"{{"csi.storage.k8s.io/pod.name":"p","csi.storage.k8s.io/pod.namespace":"n",
                        "usePodIdentity":"text {number}"}}"#
                ),
                secrets: "{}".to_owned(),
                target_path: format!("/targets/{number}"),
                permission: "420".to_owned(),
                current_object_version: Vec::new(),
            };
            let status = driver.mount(request).await.unwrap_err();
            assert!(status.message().contains(&format!("\"text {number}\"")), "{status}");
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    let text = scrape(&provider);
    let labels = r#"grpc_method="/v1alpha1.CSIDriverProvider/Mount",grpc_code="InvalidArgument",grpc_message="class_invalid""#;
    assert_eq!(sample(&text, &format!("grpc_request_count{{{COMMON},{labels}}}")), 10_000);
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
}
