//! Mount and Version: what is decoded, in which order things are checked, under which texts.

use std::time::Duration;

use akvfs::csi::proto::MountRequest;
use akvfs::csi::proto::VersionRequest;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::emulator::{Seed, Service, Trouble, Where, WorkloadToken};
use serde_json::Value;
use tonic::Code;

use crate::canary;
use crate::seeds::{self, ONE};
use crate::support::{paths, refusal, said, wrong_class};
use crate::world::{Call, World, array, secret};

const POD: &str = "csi.storage.k8s.io/pod.name";
const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";

/// A request of which one text was replaced, refused with this at the beginning.
async fn undecodable(change: impl FnOnce(&mut MountRequest), prefix: &str) {
    let world = World::start(seeds::one()).await;
    let mut request = world.call(&[&secret(ONE)]).request();
    change(&mut request);
    let outcome = world.mount_raw(request, Duration::from_secs(60)).await;
    let said = said(&outcome.unwrap_err(), Code::InvalidArgument);
    assert!(said.starts_with(prefix), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn u1_attributes_that_are_no_json() {
    let change = |request: &mut MountRequest| request.attributes.clear();
    undecodable(change, "failed to unmarshal attributes, error: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u2_secrets_that_are_no_json() {
    let change = |request: &mut MountRequest| {
        request.attributes = r#"{"keyvaultName":"kv"}"#.to_owned();
        request.secrets.clear();
    };
    undecodable(change, "failed to unmarshal secrets, error: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u3_a_permission_that_is_no_number() {
    let change = |request: &mut MountRequest| request.permission.clear();
    undecodable(change, "failed to unmarshal file permission, error: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u4_two_files_and_their_versions() {
    let (foo, bar) = (canary::value("foo"), canary::value("bar"));
    let world = World::start(Seed::default().secret("foo", &[&foo]).secret("bar", &[&bar])).await;
    let call = world.call(&[
        "objectName: foo\nobjectType: secret\nobjectAlias: foo.txt",
        "objectName: bar\nobjectType: secret\nobjectAlias: bar.txt",
    ]);
    let response = world.mount(&call).await.unwrap();
    assert_eq!(paths(&response), ["foo.txt", "bar.txt"]);
    assert!(response.files.iter().all(|file| file.mode == 420));
    let ids: Vec<_> = response.object_version.iter().map(|version| version.id.as_str()).collect();
    assert_eq!(ids, ["secret/foo", "secret/bar"]);
    assert!(response.object_version.iter().all(|version| version.version.len() == 32));
    assert!(response.error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn u5_version() {
    let world = World::start(seeds::one()).await;
    let mut driver = CsiDriverProviderClient::new(world.channel.clone());
    let version = driver.version(VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!(version.version, "v1alpha1");
    assert_eq!(version.runtime_name, "secrets-store-csi-driver-provider-azure");
    assert_eq!(version.runtime_version, concat!("v", env!("CARGO_PKG_VERSION")));
}

/// Attributes with exactly these keys.
async fn only(keys: &[(&str, &str)], text: &str) {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[]);
    call.attributes.clear();
    for (key, value) in keys {
        call.set(key, value);
    }
    wrong_class(&world, &call, &format!("failed to mount objects, error: {text}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u6_no_pod_name() {
    only(&[], "pod name is not provided").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u7_no_namespace() {
    only(&[(POD, "pod1")], "pod namespace is not provided").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u8_no_vault_name() {
    only(&[(POD, "pod1"), (NAMESPACE, "ns1")], "keyvaultName is not provided").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u9_no_tenant() {
    let keys = [(POD, "pod1"), (NAMESPACE, "ns1"), ("keyvaultName", "testKV")];
    only(&keys, "tenantId is not provided").await;
}

/// A complete call with these attributes changed, refused with this text.
async fn changed(changes: &[(&str, &str)], text: &str) {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    for (key, value) in changes {
        call.set(key, value);
    }
    wrong_class(&world, &call, text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u10_a_misspelt_pod_identity_flag() {
    changed(&[("usePodIdentity", "tru")], "failed to parse usePodIdentity flag, error: ").await;
    changed(&[("usePodIdentity", "tru")], "parsing \"tru\": invalid syntax").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u11_a_misspelt_managed_identity_flag() {
    let text =
        "failed to parse useVMManagedIdentity flag, error: strconv.ParseBool: parsing \"tru\"";
    changed(&[("useVMManagedIdentity", "tru")], text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u12_a_wrong_token_proxy_flag() {
    let text = "failed to parse useAzureTokenProxy flag, error: ";
    changed(&[("useAzureTokenProxy", "invalid-value")], text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u13_an_unknown_cloud() {
    changed(&[("cloudName", "AzureCloud1")], "cloudName AzureCloud1 is not valid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u14_a_custom_cloud_without_its_file() {
    let world = World::start(seeds::one()).await;
    // Files lie below one directory of the operator, whose default is the row's own.
    let file = world.dir.path().join("akscustom.json");
    let file = file.to_str().unwrap();
    let mut call = world.call(&[&secret(ONE)]);
    call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", file);
    let text = format!(
        "cloudName AzureStackCloud is not valid, error: open {file}: no such file or directory"
    );
    wrong_class(&world, &call, &text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u15_no_objects() {
    let changes = [("useVMManagedIdentity", "true"), ("objects", "")];
    changed(&changes, "objects is not set").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u16_objects_without_the_key_array() {
    let list = array(&[&secret(ONE)]).replace("array:\n", "");
    changed(&[("objects", &list)], "failed to yaml unmarshal objects").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u17_an_empty_list() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[]);
    call.set("objects", "array:");
    let response = world.mount(&call).await.unwrap();
    assert!(response.files.is_empty() && response.object_version.is_empty());
}

/// One entry, refused under its own name.
async fn entry(lines: &str, text: &str) {
    let objects = array(&[&format!("objectName: secret1\nobjectType: secret\n{lines}")]);
    let text = format!(
        "failed to mount objects, error: failed to get objectType:secret, objectName:secret1, \
         objectVersion:: {text}"
    );
    changed(&[("objects", &objects)], &text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u18_an_unknown_format() {
    entry("objectFormat: pkcs", "invalid objectFormat: pkcs, should be PEM or PFX").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u19_an_unknown_encoding() {
    let text = "invalid objectEncoding: utf-16, should be hex, base64 or utf-8";
    entry("objectEncoding: utf-16", text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u20_a_vault_that_cannot_be_reached() {
    let world = World::start(seeds::one()).await;
    world.control.always(Where::service(Service::Vault), Trouble::Hang);
    let call = world.call(&[&secret(ONE)]);
    let outcome = world.mount_within(&call, Duration::from_secs(2)).await;
    let hangs = said(&outcome.unwrap_err(), Code::Internal);
    assert!(hangs.starts_with("failed to mount objects, error: "), "{hangs}");
    let prefix = "failed to mount objects, error: failed to get objectType:secret, objectName:one, \
                  objectVersion:: ";
    world.control.clear_faults();
    world.control.always(Where::service(Service::Vault), Trouble::CutBody);
    let breaks = refusal(&world, &call, Code::Internal).await;
    assert!(breaks.starts_with(prefix), "{breaks}");
}

/// A pod with tokens that wants identity binding.
async fn binding(world: &World) -> Call {
    let token =
        WorkloadToken { audience: "api://AKSIdentityBinding".to_owned(), ..Default::default() };
    let mut call = world.workload_call(&[&secret(ONE)], &token);
    let key = "csi.storage.k8s.io/serviceAccount.tokens";
    let tokens = call.attributes[key].replace("AzureADTokenExchange", "AKSIdentityBinding");
    call.set(key, &tokens).set("useAzureTokenProxy", "true");
    call
}

#[tokio::test(flavor = "multi_thread")]
async fn u21_identity_binding_without_a_client_id() {
    let world = World::start(seeds::one()).await;
    let mut call = binding(&world).await;
    call.set("clientID", "");
    wrong_class(&world, &call, "clientID is required").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u22_identity_binding_without_tokens() {
    let world = World::start(seeds::one()).await;
    let mut call = binding(&world).await;
    call.attributes.remove("csi.storage.k8s.io/serviceAccount.tokens");
    call.secrets = Value::Null;
    let text = "service account tokens are required for identity binding";
    wrong_class(&world, &call, text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u23_two_identity_modes() {
    let flags = [("usePodIdentity", "true"), ("useAzureTokenProxy", "true")];
    changed(&flags, "only one identity mode can be enabled at a time").await;
}
