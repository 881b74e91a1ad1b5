//! Identity modes of pods, through the real server.

use akvfs::emulator::{POD_IDENTITY, Seed};
use serde_json::Value;
use tonic::Code;

use crate::canary;
use crate::seeds::{ONE, one};
use crate::world::{Call, World, secret};

/// A pod-identity call of this pod; `clientID` has no meaning in this mode.
pub fn pod_call(world: &World, name: &str, uid: &str) -> Call {
    let mut call = world.call(&[&secret(ONE)]);
    call.secrets = Value::Null;
    call.set("usePodIdentity", "true").set("clientID", "ignored");
    call.set("csi.storage.k8s.io/pod.name", name).set("csi.storage.k8s.io/pod.uid", uid);
    call
}

/// As kubelet does it: the Mount is repeated until the identity is assigned.
#[tokio::test]
async fn pod_identity_mounts_once_nmi_knows_the_pod() {
    let value = canary::value(ONE);
    let world = World::start(Seed::default().secret(ONE, &[&value])).await;
    world.control.assign_pod("default", "app-0", POD_IDENTITY);
    world.control.refuse_pods(2);
    let call = pod_call(&world, "app-0", "u1");
    for _ in 0..2 {
        let status = world.mount(&call).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        let text = "nmi response failed with status code: 404";
        assert!(status.message().contains(text), "{status}");
        assert!(!status.message().contains("no azure identity"), "the body: {status}");
    }
    // Refused means asked once: whoever repeats is kubelet.
    assert_eq!(world.control.counters().token_requests, 2);
    let response = world.mount(&call).await.unwrap();
    assert_eq!(response.files[0].contents, value.as_bytes());
    // Again, and by now without NMI.
    world.mount(&call).await.unwrap();
    let counters = world.control.counters();
    assert_eq!(counters.token_requests, 3);
    assert_eq!(counters.tokens.into_iter().collect::<Vec<_>>(), [("pod", 1)]);
}

/// Neither another pod nor a later one of the same name gets anything of the first.
#[tokio::test]
async fn two_pods_never_share() {
    let world = World::start(one()).await;
    world.control.assign_pod("default", "app-0", "00000000-0000-4000-8000-0000000000a0");
    world.mount(&pod_call(&world, "app-0", "u1")).await.unwrap();
    let status = world.mount(&pod_call(&world, "app-1", "u2")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    world.control.refuse_pods(1);
    let status = world.mount(&pod_call(&world, "app-0", "u3")).await.unwrap_err();
    assert!(status.message().contains("status code: 404"), "{status}");
    let mut elsewhere = pod_call(&world, "app-0", "u1");
    elsewhere.set("csi.storage.k8s.io/pod.namespace", "other");
    assert!(world.mount(&elsewhere).await.is_err());
    assert_eq!(world.control.counters().all_reads(), 1);
}

#[tokio::test]
async fn a_pod_that_kubelet_does_not_vouch_for_is_not_asked_about() {
    let world = World::start(one()).await;
    for (name, uid) in [("app-0", ""), ("app-0\r\npodns: other", "u"), ("a b", "u")] {
        let status = world.mount(&pod_call(&world, name, uid)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let text = "failed to build auth config for mode PodIdentity: ";
        assert!(status.message().contains(text), "{status}");
    }
    assert_eq!(world.control.counters().token_requests, 0);
}
