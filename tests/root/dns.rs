//! The DNS row of docs/RESILIENCE.md: the vault's name is gone, for the real binary's mounts and for a
//! tree. Connections that live need no name, so they are broken first.

use std::path::Path;
use std::time::Duration;

use akvfs::csi::client;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::csi::proto::{MountRequest, MountResponse};
use akvfs::emulator::{Config, Service, Trouble, Where};
use serde_json::json;
use tonic::Status;

use crate::azure::{Azure, Provider, secret_file};
use crate::canary;
use crate::support::eventually;

const TENANT: &str = "7e7a7700-0000-4000-8000-00000000dead";
const OBJECTS: &str = "array:\n  - |\n    objectName: secret1\n    objectType: secret\n";
const HOSTS: &str = "/etc/hosts";
const VAULT: &str = "akvfs-dev.vault.azure.net";

/// Takes the vault's name away, with every connection to it.
fn lose_the_name(azure: &Azure) {
    let hosts = std::fs::read_to_string(HOSTS).unwrap();
    std::fs::write(HOSTS, hosts.replace(VAULT, "")).unwrap();
    azure.emulator.control().always(Where::service(Service::Vault), Trouble::CutBody);
}

/// A cut answer is the end of its connection with HTTP/1.1 alone.
fn one_request_a_connection(config: &mut Config) {
    config.http2 = false;
}

fn give_it_back(azure: &Azure) {
    std::fs::write(HOSTS, format!("127.0.0.1 localhost login.microsoftonline.com {VAULT}\n"))
        .unwrap();
    azure.emulator.control().clear_faults();
}

fn mount(azure: &Azure, provider: &Provider, pod: &str) -> Result<MountResponse, Status> {
    let class = [("usePodIdentity", "false"), ("tenantID", TENANT), ("objects", OBJECTS)];
    let mut attributes = azure.attributes(&class);
    attributes.insert("objects".to_owned(), OBJECTS.to_owned());
    attributes.insert("csi.storage.k8s.io/pod.uid".to_owned(), pod.to_owned());
    let (client_id, client_secret) = azure.emulator.service_principal();
    let request = MountRequest {
        attributes: json!(attributes).to_string(),
        secrets: json!({
            "clientid": client_id, "clientsecret": client_secret.expose_str().unwrap()
        })
        .to_string(),
        target_path: format!("/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/v/mount"),
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    };
    azure.runtime.block_on(async {
        let channel = client::connect(provider.socket.clone()).await.unwrap();
        let outcome = CsiDriverProviderClient::new(channel).mount(request).await;
        outcome.map(tonic::Response::into_inner)
    })
}

network_test! {
    fn a_name_that_is_gone_is_named_to_pods_that_start_and_pods_that_run_go_on() {
        let azure = Azure::with(one_request_a_connection);
        let provider = azure.provider_with(&["--mount-max-age=0s", "--refresh-max-age=0s"]);
        let before = mount(&azure, &provider, "runs").unwrap().files.remove(0).contents;
        assert_eq!(before, azure.value.as_bytes());
        let new = canary::value("rotated");
        azure.emulator.control().set_secret("akvfs-dev", "secret1", new.as_str()).unwrap();
        lose_the_name(&azure);
        let kept = mount(&azure, &provider, "runs").unwrap().files.remove(0).contents;
        assert_eq!(kept, before);
        let status = mount(&azure, &provider, "starts").unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal, "{status}");
        assert!(status.message().contains("the name cannot be resolved"), "{status}");
        give_it_back(&azure);
        let started = mount(&azure, &provider, "starts").unwrap().files.remove(0).contents;
        assert_eq!(started, new.as_bytes());
        eventually("the running pod sees the rotation", || {
            mount(&azure, &provider, "runs").unwrap().files[0].contents == new.as_bytes()
        });
    }
}

network_test! {
    fn a_tree_keeps_its_values_while_the_name_is_gone() {
        let azure = Azure::with(one_request_a_connection);
        let (client_id, client_secret) = azure.emulator.service_principal();
        let secrets = azure.path("principal");
        std::fs::create_dir(&secrets).unwrap();
        secret_file(&secrets.join("clientid"), client_id.as_bytes());
        secret_file(&secrets.join("clientsecret"), client_secret.expose());
        let dir = azure.path("mnt");
        std::fs::create_dir(&dir).unwrap();
        let vault = format!("https://{VAULT}/secrets");
        let args = ["mount", "-f", "--refresh-interval=1s", "--tenant-id", TENANT, "--secrets-file"];
        let mut tree = azure
            .akvfs(&args)
            .args([secrets.as_os_str(), vault.as_ref(), dir.as_os_str()])
            .stderr(canary::emitted("tree-stderr"))
            .spawn()
            .unwrap();
        let file = dir.join("secrets/secret1");
        eventually("the tree", || file.exists());
        let read = |file: &Path| std::fs::read(file).unwrap();
        assert_eq!(read(&file), azure.value.as_bytes());
        let new = canary::value("rotated");
        azure.emulator.control().set_secret("akvfs-dev", "secret1", new.as_str()).unwrap();
        lose_the_name(&azure);
        let begun = std::time::Instant::now();
        // Several looks for new versions.
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(read(&file), azure.value.as_bytes());
            std::thread::sleep(Duration::from_millis(100));
        }
        give_it_back(&azure);
        eventually("the rotation is shown", || read(&file) == new.as_bytes());
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&tree), rustix::process::Signal::TERM
        ).unwrap();
        assert!(tree.wait().unwrap().success());
    }
}
