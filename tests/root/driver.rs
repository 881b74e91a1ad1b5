//! A stand-in for the Secrets Store CSI Driver and the node around it: what it does to a target before
//! and after each call of the provider, step by step, with real mounts that really propagate.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use akvfs::csi::client;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::csi::proto::{MountRequest, MountResponse};
use serde_json::{Value, json};
use tonic::Status;

use crate::azure::{Azure, Provider};
use crate::support::{run, table};

/// How the provider's container sees the kubelet's pods directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pods {
    /// As `mountPropagation: HostToContainer` shows it.
    Shown,
    /// Mounted without propagation: what the driver mounts later is not there.
    NotPropagated,
}

/// A node: its pods directory is shared, as a real one is.
pub struct Node {
    pub azure: Azure,
    pub provider: Provider,
    root: PathBuf,
    /// `--rotation-poll-interval`; `None` without rotation.
    pub interval: Option<Duration>,
}

/// What a publish came to.
#[derive(Debug)]
pub enum Publish {
    /// The driver did not call the provider.
    Skipped,
    Called(Result<MountResponse, Status>),
}

impl Publish {
    #[track_caller]
    pub fn answered(self) -> MountResponse {
        match self {
            Publish::Called(Ok(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn refused(self) -> Status {
        match self {
            Publish::Called(Err(status)) => status,
            other => panic!("not refused: {}", matches!(other, Publish::Skipped)),
        }
    }
}

/// A pod's volume.
pub struct Volume {
    pub attributes: BTreeMap<String, String>,
    pub secrets: Value,
    pub target: PathBuf,
}

impl Node {
    pub fn new(azure: Azure, pods: Pods, flags: &[&str]) -> Self {
        let root = azure.path("kubelet");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        let shown = root.to_str().unwrap();
        run("mount", &["--bind", shown, shown]);
        run("mount", &["--make-shared", shown]);
        let propagation = match pods {
            Pods::Shown => "slave",
            Pods::NotPropagated => "private",
        };
        let socket = azure.path("azure.sock");
        // As the chart starts it: root without any capability.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", propagation, "--", "setpriv"]);
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
        let akvfs = azure.akvfs(&[&format!("--endpoint=unix://{}", socket.display()), "-v=5"]);
        command.arg(akvfs.get_program()).args(akvfs.get_args()).args(flags);
        command.env("SSL_CERT_FILE", azure.path("ca.pem"));
        let provider = Provider::start(command, socket);
        Self { azure, provider, root, interval: Some(Duration::ZERO) }
    }

    /// A volume of a new pod, whose class has these parameters.
    pub fn volume(&self, uid: &str, class: &[(&str, &str)]) -> Volume {
        let (client, secret) = self.azure.emulator.service_principal();
        let secrets = json!({"clientid": client, "clientsecret": secret.expose_str().unwrap()});
        let mut attributes = self.azure.attributes(&[("tenantID", self.azure.emulator.tenant())]);
        attributes.insert("csi.storage.k8s.io/pod.uid".to_owned(), uid.to_owned());
        attributes.extend(class.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        let target = self.root.join(format!("pods/{uid}/volumes/kubernetes.io~csi/secrets/mount"));
        Volume { attributes, secrets, target }
    }

    /// NodePublishVolume.
    pub fn publish(&self, volume: &Volume) -> Publish {
        let target = &volume.target;
        if let (Some(interval), Ok(found)) = (self.interval, std::fs::metadata(target))
            && SystemTime::now() < found.modified().unwrap() + interval
        {
            return Publish::Skipped;
        }
        let mounted = match std::fs::metadata(target) {
            Ok(found) => found.dev() != std::fs::metadata(target.parent().unwrap()).unwrap().dev(),
            Err(_) => {
                std::fs::DirBuilder::new().mode(0o750).recursive(true).create(target).unwrap();
                false
            }
        };
        if mounted {
            std::fs::read_dir(target).unwrap().for_each(|entry| drop(entry.unwrap()));
            if self.interval.is_none() {
                return Publish::Skipped;
            }
        } else {
            run("mount", &["-t", "tmpfs", "tmpfs", target.to_str().unwrap()]);
        }
        let outcome = self.call(volume);
        if outcome.is_err() && !mounted {
            // Once: what is left then is taken for a mount that has its files.
            rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty()).unwrap();
        }
        if let Ok(response) = &outcome {
            assert!(!response.object_version.is_empty(), "missing object versions");
        }
        Publish::Called(outcome)
    }

    /// The Mount call alone.
    pub fn call(&self, volume: &Volume) -> Result<MountResponse, Status> {
        let request = MountRequest {
            attributes: json!(volume.attributes).to_string(),
            secrets: volume.secrets.to_string(),
            target_path: volume.target.to_str().unwrap().to_owned(),
            permission: "420".to_owned(),
            current_object_version: Vec::new(),
        };
        self.azure.runtime.block_on(async {
            let channel = client::connect(self.provider.socket.clone()).await.unwrap();
            let answer = CsiDriverProviderClient::new(channel).mount(request).await;
            answer.map(tonic::Response::into_inner)
        })
    }

    /// NodeUnpublishVolume, at the first try, as pods are deleted without an error in the driver's log.
    pub fn unpublish(&self, volume: &Volume) {
        let target = &volume.target;
        for entry in std::fs::read_dir(target).unwrap() {
            let path = entry.unwrap().path();
            match std::fs::symlink_metadata(&path).unwrap().is_dir() {
                true => std::fs::remove_dir_all(&path).unwrap(),
                false => std::fs::remove_file(&path).unwrap(),
            }
        }
        run("umount", &[target.to_str().unwrap()]);
        std::fs::remove_dir(target).unwrap();
        assert!(table(target).is_empty());
    }
}

/// Everything a pod sees below its mount: path and bytes of files, without what begins with `..`.
pub fn files(mount: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, below: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(below).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if name.starts_with("..") {
                continue;
            }
            match path.is_dir() {
                true => walk(root, &path, found),
                false => drop(found.insert(name, std::fs::read(&path).unwrap())),
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(mount, mount, &mut found);
    found
}
