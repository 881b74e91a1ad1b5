//! Pods whose volumes the provider writes (`mountMode: write`): each is published, published again after a
//! rotation and once more without one, and unpublished.

use std::ops::Range;
use std::path::{Path, PathBuf};

use akvfs::csi::client;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use futures_util::{StreamExt, stream};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tonic::transport::Channel;

use super::requests::{Call, Expected, Pod};
use super::{AT_ONCE, MOST, Round, VAULT};
use crate::azure::Azure;
use crate::canary;
use crate::support::scale;

/// Of each pod.
const MOUNTS: usize = 3;
/// Far more than live at the same time, so none meets itself.
const PODS: usize = 300;

/// The files are pages of the pods' tmpfs, and no memory of the provider: it may keep as little as of pods
/// whose files the driver writes.
pub fn write(azure: &Azure) {
    let value = canary::value("write");
    // Whole pods. What is remembered of a pod is there after the warm-up: the others are the same pods again.
    let (warm, count) = (MOUNTS * PODS, MOUNTS * PODS * scale());
    let growth = (count * 3 / 4).min(MOST);
    // Each republish looks.
    let flags = ["--max-stale=5s", "--mount-max-age=0s", "--refresh-max-age=0s"];
    let round = Round::new(azure, "write", &flags);
    let root = azure.path("kubelet");
    round.measure(warm, count, growth, |mounts: Range<usize>| {
        azure.runtime.block_on(async {
            let channel = client::connect(round.provider.socket.clone()).await.unwrap();
            let pods = stream::iter(mounts.start / MOUNTS..mounts.end / MOUNTS);
            let lives = pods.map(|number| live(azure, &channel, &root, &value, number % PODS));
            lives.buffer_unordered(AT_ONCE).collect::<()>().await;
        });
    });
}

/// All that happens to one pod's volume.
async fn live(azure: &Azure, channel: &Channel, root: &Path, value: &str, number: usize) {
    let name = format!("write-{number}");
    let set = |value: &str| {
        azure.emulator.control().set_secret(VAULT, &name, value).unwrap();
    };
    let (id, secret) = azure.emulator.service_principal();
    let mut pod = Pod::new(azure, number, ["secret1".to_owned(), name.clone()]);
    pod.principal(id, secret.expose_str().unwrap()).set("mountMode", "write");
    let Call { mut request, expected } = pod.call(Expected::Written(2));
    request.target_path = request.target_path.replace("/var/lib/kubelet", root.to_str().unwrap());
    let target = PathBuf::from(&request.target_path);
    let publish = async || {
        let outcome = CsiDriverProviderClient::new(channel.clone()).mount(request.clone()).await;
        expected.check(outcome.map(tonic::Response::into_inner));
    };
    let shows = |value: &str| {
        assert!(std::fs::read(target.join(&name)).unwrap() == value.as_bytes(), "pod {number}");
    };

    let (old, new) = (format!("{value}/{number}/old"), format!("{value}/{number}/new"));
    set(&old);
    std::fs::create_dir_all(&target).unwrap();
    mount("tmpfs", &target, "tmpfs", MountFlags::empty(), None).unwrap();
    publish().await;
    shows(&old);
    set(&new);
    publish().await;
    shows(&new);
    publish().await;
    shows(&new);
    // As the driver unpublishes, at the first try: nobody holds anything of it.
    for entry in std::fs::read_dir(&target).unwrap() {
        let path = entry.unwrap().path();
        match std::fs::symlink_metadata(&path).unwrap().is_dir() {
            true => std::fs::remove_dir_all(&path).unwrap(),
            false => std::fs::remove_file(&path).unwrap(),
        }
    }
    unmount(&target, UnmountFlags::empty()).unwrap();
    std::fs::remove_dir(&target).unwrap();
}
