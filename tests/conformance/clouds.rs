//! Clouds: vault URLs, names in any case, the custom ones' files.

use std::path::PathBuf;

use akvfs::class::VaultName;
use akvfs::cloud::{CloudSource, Endpoints};
use serde_json::json;

use crate::seeds::{self, ONE};
use crate::support::{paths, wrong_class};
use crate::world::{World, secret};

const CLOUDS: [(&str, &str); 5] = [
    ("", "vault.azure.net"),
    ("AZUREPUBLICCLOUD", "vault.azure.net"),
    ("AZURECHINACLOUD", "vault.azure.cn"),
    ("AZUREGERMANCLOUD", "vault.microsoftazure.de"),
    ("AZUREUSGOVERNMENTCLOUD", "vault.usgovcloudapi.net"),
];

fn azure(file: Option<PathBuf>) -> CloudSource {
    let dir = "/etc/kubernetes".into();
    CloudSource::with_file(Endpoints::azure(), "AzurePublicCloud", dir, file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn u24_vault_names_that_cannot_be() {
    let world = World::start(seeds::one()).await;
    for (name, text) in [
        ("longkeyvaultnamewhichisnotvalid", "must be between 3 and 24 chars"),
        ("kv", "must be between 3 and 24 chars"),
        ("kv_test", "must match [-a-zA-Z0-9]{3,24}"),
    ] {
        let mut call = world.call(&[&secret(ONE)]);
        call.set("keyvaultName", name);
        let text = format!("failed to get vault: Invalid vault name: \"{name}\", {text}");
        wrong_class(&world, &call, &text).await;
    }
}

#[test]
fn u25_vault_urls_of_the_clouds() {
    let vault = VaultName::parse("testkv").unwrap();
    for (name, suffix) in CLOUDS {
        let cloud = azure(None).resolve(name, "").unwrap();
        // Paths follow, so the trailing slash is theirs.
        assert_eq!(cloud.vault_url(&vault), format!("https://testkv.{suffix}"), "{name}");
    }
}

#[test]
fn u26_a_cloud_that_is_none() {
    let error = azure(None).resolve("AZUREWRONGCLOUD", "").unwrap_err().to_string();
    assert!(error.contains("There is no cloud environment matching the name"), "{error}");
    assert!(error.contains("\"AZUREWRONGCLOUD\""), "{error}");
}

/// Upstream resolves a file that names nothing but itself, and then asks `https://NAME./`.
#[test]
fn u27_the_custom_cloud_of_the_operators_file() {
    assert!(azure(None).resolve("AZURESTACKCLOUD", "").is_err());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cloud.json");
    std::fs::write(&file, r#"{"name":"AZURESTACKCLOUD"}"#).unwrap();
    let error = azure(Some(file.clone())).resolve("AZURESTACKCLOUD", "").unwrap_err().to_string();
    assert!(error.contains("the key activeDirectoryEndpoint is missing"), "{error}");
    let whole = json!({
        "name": "AZURESTACKCLOUD",
        "ACTIVEDIRECTORYENDPOINT": "https://login.contoso.test/",
        "keyVaultEndpoint": "https://vault.contoso.test/",
        "keyVaultDNSSuffix": "vault.contoso.test",
        "galleryEndpoint": "https://unused.contoso.test/",
    });
    std::fs::write(&file, whole.to_string()).unwrap();
    let cloud = azure(Some(file)).resolve("AZURESTACKCLOUD", "").unwrap();
    let url = cloud.vault_url(&VaultName::parse("testkv").unwrap());
    assert_eq!(url, "https://testkv.vault.contoso.test");
    assert_eq!(cloud.authority, "https://login.contoso.test");
}

/// The emulator's cloud as a custom one's file.
fn cloud_file(world: &World) -> String {
    let cloud = world.emulator.cloud();
    let text = json!({
        "name": "AzureStackCloud",
        "activeDirectoryEndpoint": format!("{}/", cloud.authority),
        "keyVaultEndpoint": format!("{}/", cloud.resource),
        "keyVaultDNSSuffix": cloud.vault_suffix,
    });
    let path = world.dir.path().join("custom.json");
    std::fs::write(&path, text.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn e10_a_custom_cloud_that_names_the_same_endpoints() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", &cloud_file(&world));
    assert_eq!(paths(&world.mount(&call).await.unwrap()), [ONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p19_the_public_clouds_alias() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    call.set("cloudName", "azurecloud");
    assert_eq!(paths(&world.mount(&call).await.unwrap()), [ONE]);
}

/// Nothing is asked of the public cloud about a custom one's authority.
#[tokio::test(flavor = "multi_thread")]
async fn p25_a_custom_cloud_needs_no_public_entra() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    call.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", &cloud_file(&world));
    assert!(world.mount(&call).await.is_ok());
    let authority = world.emulator.cloud().authority;
    let requests = world.control.requests();
    assert!(requests.iter().all(|request| !request.path.contains("discovery")), "{requests:?}");
    assert!(requests.iter().any(|request| authority.contains(&request.host)), "{requests:?}");
}

/// Upstream keeps a class's file for the whole process, for good.
#[tokio::test(flavor = "multi_thread")]
async fn p26_a_class_does_not_inherit_another_ones_cloud_file() {
    let world = World::start(seeds::one()).await;
    let mut with = world.call(&[&secret(ONE)]);
    with.set("cloudName", "AzureStackCloud").set("cloudEnvFileName", &cloud_file(&world));
    let mut without = with.clone();
    without.set("cloudEnvFileName", "");
    for _ in 0..2 {
        assert!(world.mount(&with).await.is_ok());
        wrong_class(&world, &without, "no file is known for it").await;
    }
}
