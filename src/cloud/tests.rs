use super::*;

const GOOD: &str = r#"{
    "name": "AzureStackCloud",
    "managementPortalURL": "https://portal.local/x?y",
    "galleryEndpoint": null,
    "resourceIdentifiers": {"graph": "N/A"},
    "activeDirectoryEndpoint": "https://Login.Local:8443/",
    "keyvaultendpoint": "https://vault.local",
    "KEYVAULTDNSSUFFIX": "vault.local:8443"
}"#;

fn source(dir: &Path, file: Option<PathBuf>) -> CloudSource {
    CloudSource::with_file(Endpoints::azure(), "AzurePublicCloud", dir.to_owned(), file).unwrap()
}

fn vault_url(cloud: &str) -> String {
    let cloud = source(Path::new("/nonexistent"), None).resolve(cloud, "").unwrap();
    cloud.vault_url(&VaultName::parse("testkv").unwrap())
}

/// U25, P19
#[test]
fn u25_vault_urls_of_every_cloud() {
    for (cloud, suffix) in [
        ("", "vault.azure.net"),
        ("AZUREPUBLICCLOUD", "vault.azure.net"),
        ("azurecloud", "vault.azure.net"),
        ("AZURECHINACLOUD", "vault.azure.cn"),
        ("AZUREGERMANCLOUD", "vault.microsoftazure.de"),
        ("AZUREUSGOVERNMENTCLOUD", "vault.usgovcloudapi.net"),
        ("AzureUSGovernment", "vault.usgovcloudapi.net"),
    ] {
        assert_eq!(vault_url(cloud), format!("https://testkv.{suffix}"));
    }
    let cloud = Endpoints::azure().cloud("azureusgovernment").unwrap();
    assert_eq!(cloud.name, "AzureUSGovernmentCloud");
    assert_eq!(cloud.authority, "https://login.microsoftonline.us");
    assert_eq!(cloud.resource, "https://vault.usgovcloudapi.net");
    assert!(cloud.named);
}

#[test]
fn u26_unknown_clouds_are_refused() {
    let error = source(Path::new("/nonexistent"), None).resolve("Nope", "").unwrap_err();
    assert_eq!(
        error.message(),
        "cloudName Nope is not valid, error: autorest/azure: There is no cloud environment \
         matching the name \"NOPE\""
    );
    let dir = PathBuf::from("/nonexistent");
    for default in ["AZUREWRONGCLOUD", "", "AzureStackCloud"] {
        let endpoints = Endpoints::azure();
        assert!(
            CloudSource::with_file(endpoints, default, dir.clone(), None).is_err(),
            "{default}"
        );
    }
}

/// U27: where upstream takes any file with a name, ours must hold the three addresses.
#[test]
fn u27_a_custom_cloud_comes_from_the_operators_file() {
    let dir = tempfile::tempdir().unwrap();
    let error = source(dir.path(), None).resolve("AZURESTACKCLOUD", "").unwrap_err();
    assert!(error.message().starts_with("cloudName AZURESTACKCLOUD is not valid"), "{error}");
    // Anywhere on the host: only the operator can set the variable.
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("cloud.json");
    std::fs::write(&file, GOOD).unwrap();
    let clouds = source(dir.path(), Some(file.clone()));
    let cloud = clouds.resolve("AZURESTACKCLOUD", "").unwrap();
    assert_eq!(cloud.name, "AzureStackCloud");
    assert_eq!(cloud.authority, "https://login.local:8443");
    assert_eq!(cloud.resource, "https://vault.local");
    assert!(!cloud.named);
    assert_eq!(
        cloud.vault_url(&VaultName::parse("testkv").unwrap()),
        "https://testkv.vault.local:8443"
    );
    // Read for each request.
    std::fs::write(&file, GOOD.replace("Login.Local", "other.local")).unwrap();
    assert_eq!(
        clouds.resolve("AzureStackCloud", "").unwrap().authority,
        "https://other.local:8443"
    );
    // As the default, too.
    let default = CloudSource::with_file(
        Endpoints::azure(),
        "azurestackcloud",
        dir.path().into(),
        Some(file),
    );
    assert!(!default.unwrap().resolve("", "").unwrap().named);
}

/// P26: a class's file is this class's only.
#[test]
fn files_of_classes_lie_below_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("clouds");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/cloud.json"), GOOD).unwrap();
    std::fs::write(root.path().join("outside.json"), GOOD).unwrap();
    let clouds = source(&dir, None);
    let absolute = dir.join("sub/cloud.json");
    for name in ["sub/cloud.json", absolute.to_str().unwrap()] {
        assert!(clouds.resolve("AzureStackCloud", name).is_ok(), "{name}");
    }
    let outside = root.path().join("outside.json");
    let dotted = dir.join("../outside.json");
    for name in ["../outside.json", outside.to_str().unwrap(), dotted.to_str().unwrap()] {
        let error = clouds.resolve("AzureStackCloud", name).unwrap_err();
        assert!(error.message().contains("outside of"), "{name}: {error}");
    }
    assert!(clouds.resolve("AzureStackCloud", "").is_err());
    // Another cloud does not look at the file.
    assert!(clouds.resolve("AzurePublicCloud", "none.json").is_ok());
    for (name, text) in [
        ("none.json", "open none.json: no such file or directory"),
        ("sub", "not a regular file"),
        ("sub/cloud.json/x", "open sub/cloud.json/x: "),
        ("a\0b", "open ab: "),
    ] {
        let error = clouds.resolve("AzureStackCloud", name).unwrap_err();
        let prefix = "cloudName AzureStackCloud is not valid, error: open ";
        assert!(error.message().starts_with(prefix), "{error}");
        assert!(error.message().contains(text), "{name}: {error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn links_do_not_lead_out_and_pipes_are_not_waited_for() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("clouds");
    std::fs::create_dir_all(dir.join("..2026")).unwrap();
    std::fs::write(dir.join("..2026/cloud.json"), GOOD).unwrap();
    std::fs::write(root.path().join("outside.json"), GOOD).unwrap();
    // As a ConfigMap volume is laid out.
    symlink("..2026", dir.join("..data")).unwrap();
    symlink("..data/cloud.json", dir.join("cloud.json")).unwrap();
    symlink("../outside.json", dir.join("up.json")).unwrap();
    symlink(root.path().join("outside.json"), dir.join("absolute.json")).unwrap();
    symlink("..", dir.join("parent")).unwrap();
    symlink("/proc/self/root", dir.join("magic")).unwrap();
    let clouds = source(&dir, None);
    assert!(clouds.resolve("AzureStackCloud", "cloud.json").is_ok());
    for name in ["up.json", "absolute.json", "parent/outside.json", "magic/etc/hostname"] {
        let error = clouds.resolve("AzureStackCloud", name).unwrap_err();
        assert!(error.message().contains("outside of"), "{name}: {error}");
    }
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("pipe"), fifo, mode, 0).unwrap();
    let error = clouds.resolve("AzureStackCloud", "pipe").unwrap_err();
    assert!(error.message().contains("not a regular file"), "{error}");
}

#[test]
fn wrong_files_name_the_key_and_quote_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clouds = source(dir.path(), None);
    let with = |from: &str, to: &str| GOOD.replace(from, to);
    for (text, expected) in [
        (String::new(), "unexpected end of JSON input"),
        ("[\"canary\"]".to_owned(), "not a JSON object"),
        ("{\"name\": \"canary\"".to_owned(), "unexpected end of JSON input"),
        ("{\"name\" \"canary\"}".to_owned(), "not valid JSON, line 1"),
        (
            "{\"name\": \"AZURESTACKCLOUD\"}".to_owned(),
            "the key activeDirectoryEndpoint is missing",
        ),
        (with("activeDirectoryEndpoint", "x"), "the key activeDirectoryEndpoint is missing"),
        (with("keyvaultendpoint", "x"), "the key keyVaultEndpoint is missing"),
        (with("KEYVAULTDNSSUFFIX", "x"), "the key keyVaultDNSSuffix is missing"),
        (with("\"vault.local:8443\"", "\" \""), "the key keyVaultDNSSuffix is blank"),
        (with("\"vault.local:8443\"", "null"), "the key keyVaultDNSSuffix is missing"),
        (with("\"vault.local:8443\"", "{\"canary\":1}"), "keyVaultDNSSuffix is not a string"),
        (with("vault.local:8443", ".canary"), "the value of keyVaultDNSSuffix is more or less"),
        (with("vault.local:8443", "canary/x"), "keyVaultDNSSuffix"),
        (with("vault.local:8443", "canary:0"), "keyVaultDNSSuffix"),
        (with("vault.local:8443", "canary:+1"), "keyVaultDNSSuffix"),
        (with("vault.local:8443", "canary:70000"), "keyVaultDNSSuffix"),
        (
            with("https://Login", "http://canary"),
            "activeDirectoryEndpoint does not begin with https",
        ),
        (with("https://Login", "https://canary@x"), "the value of activeDirectoryEndpoint is more"),
        (with("8443/", "8443/adfs/x"), "the value of activeDirectoryEndpoint is more"),
        (with("8443/", "8443/tenant"), "the value of activeDirectoryEndpoint is more"),
        (with("vault.local:8443", "canary/adfs"), "keyVaultDNSSuffix"),
        (with("8443/", "8443/?canary"), "the value of activeDirectoryEndpoint is more"),
        (with("https://vault.local", "https://"), "the value of keyVaultEndpoint is more"),
        (with("https://vault.local", "https://can\u{e9}ary"), "keyVaultEndpoint"),
        (
            with("https://vault.local", "canary\u{e9}\u{e9}\u{e9}"),
            "keyVaultEndpoint does not begin",
        ),
        (format!("{GOOD}{}", " ".repeat(65_536)), "larger than 64 KiB"),
        (format!("{GOOD} canary"), "not valid JSON"),
        ("[".repeat(60_000), "not valid JSON"),
    ] {
        std::fs::write(dir.path().join("cloud.json"), &text).unwrap();
        let error = clouds.resolve("AzureStackCloud", "cloud.json").unwrap_err();
        let prefix = "cloudName AzureStackCloud is not valid, error: ";
        assert!(error.message().starts_with(prefix), "{error}");
        assert!(error.message().contains(expected), "{expected}: {error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

#[test]
fn an_adfs_authority_goes_with_its_tenant_only() {
    let dir = tempfile::tempdir().unwrap();
    let clouds = source(dir.path(), None);
    for end in ["8443/adfs", "8443/ADFS/"] {
        std::fs::write(dir.path().join("cloud.json"), GOOD.replace("8443/", end)).unwrap();
        let cloud = clouds.resolve("AzureStackCloud", "cloud.json").unwrap();
        assert_eq!(cloud.authority, format!("{}/adfs", cloud.authority_host()));
        assert!(!cloud.authority_host().contains("adfs"));
        assert!(cloud.is_adfs("ADFS").unwrap());
        assert!(cloud.is_adfs("tenant").is_err());
    }
    let public = Endpoints::azure().cloud("AzurePublicCloud").unwrap();
    assert!(public.is_adfs("Adfs").unwrap() && !public.is_adfs("tenant").unwrap());
}
