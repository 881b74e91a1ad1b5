//! Log lines of the real binary: what alerts and queries written for the Go provider look for.

use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::csi::proto::{MountRequest, VersionRequest};
use serde_json::Value;

use crate::binary::Provider;
use crate::world::eventually;

const MOUNT: &str = "/v1alpha1.CSIDriverProvider/Mount";

/// A call that works and one that does not.
async fn calls(provider: &Provider) {
    let mut driver = CsiDriverProviderClient::new(provider.channel().await);
    driver.version(VersionRequest::default()).await.unwrap();
    let mut request = tonic::Request::new(MountRequest {
        attributes:
            r#"{"csi.storage.k8s.io/pod.name":"app-0","csi.storage.k8s.io/pod.namespace":"shop"}"#
                .to_owned(),
        secrets: "{}".to_owned(),
        target_path: "/t".to_owned(),
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    });
    request.set_timeout(std::time::Duration::from_secs(120));
    driver.mount(request).await.unwrap_err();
}

/// U72, as text.
#[tokio::test(flavor = "multi_thread")]
async fn text_lines_are_klogs() {
    for (flags, loud) in [(&["-v=5"][..], true), (&["-v", "0"][..], false)] {
        let provider = Provider::start("logs-text", flags).await;
        calls(&provider).await;
        let log = provider.log();
        let failed = log.lines().find(|line| line.contains("failed to process mount request"));
        let failed = failed.unwrap_or_else(|| panic!("{log}"));
        // E1122 10:12:14.239798   15607 csi.rs:60] "..."
        let (header, rest) = failed.split_once("] ").unwrap();
        let header: Vec<_> = header.split_whitespace().collect();
        let [date, time, pid, place] = header[..] else { panic!("{failed}") };
        assert!(date.starts_with('E') && date.len() == 5 && time.len() == 15, "{failed}");
        assert_eq!(pid, provider.process.id().to_string());
        assert!(place.starts_with("csi.rs:"), "{failed}");
        assert!(
            rest.starts_with("\"failed to process mount request\" err=\"failed to mount"),
            "{rest}"
        );
        assert!(rest.contains(" pod=\"shop/app-0\""), "{rest}");
        for what in [
            format!("\"request\" method=\"{MOUNT}\" deadline=\"120s\""),
            "\"response\" method=\"/v1alpha1.CSIDriverProvider/Version\" duration=".to_owned(),
            " code=\"OK\"".to_owned(),
            " code=\"InvalidArgument\" message=\"failed to mount".to_owned(),
        ] {
            assert_eq!(log.contains(&what), loud, "{what} in\n{log}");
        }
    }
    let provider = Provider::start("logs-bare", &["-skip_headers"]).await;
    assert!(provider.log().lines().all(|line| line.starts_with('"')), "{}", provider.log());
}

/// The same as JSON, at each verbosity, and the level raised and lowered while it runs.
#[tokio::test(flavor = "multi_thread")]
async fn json_lines_have_klogs_keys_and_honour_verbosity() {
    let provider = Provider::start("logs-json", &["-log-format-json", "--v=0"]).await;
    let lines = || -> Vec<Value> {
        provider.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let responses = || lines().iter().filter(|line| line["msg"] == "response").count();
    calls(&provider).await;
    assert_eq!(responses(), 0);
    let failed = lines().into_iter().find(|line| line["msg"] == "failed to process mount request");
    let failed = failed.unwrap();
    assert!(failed["ts"].as_f64().unwrap() > 1.7e12, "{failed}");
    assert!(failed["caller"].as_str().unwrap().starts_with("src/csi.rs:"), "{failed}");
    assert_eq!((&failed["v"], &failed["pod"]), (&0.into(), &"shop/app-0".into()));
    assert!(failed["err"].as_str().unwrap().starts_with("failed to mount objects, error: "));

    let verbosity = |level: i64| {
        lines().iter().any(|line| line["msg"] == "log verbosity" && line["verbosity"] == level)
    };
    for level in [2, 5] {
        provider.process.signal("USR1");
        eventually("the log is louder", || verbosity(level)).await;
    }
    calls(&provider).await;
    assert_eq!(responses(), 2);
    let response = lines().into_iter().find(|line| line["msg"] == "response").unwrap();
    assert_eq!((&response["v"], &response["code"]), (&5.into(), &"OK".into()), "{response}");
    for _ in [2, 0] {
        let said = lines().len();
        provider.process.signal("USR2");
        eventually("the log is quieter", || lines().len() > said).await;
    }
    calls(&provider).await;
    assert_eq!(responses(), 2);
}
