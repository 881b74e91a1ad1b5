//! Requests and classes as a whole: upstream's rows (U1, U2, ...) and the classic documentation's
//! classes. `malformed.rs` holds the table of wrong input, `arbitrary.rs` any input at all.

mod arbitrary;
mod identity;
mod malformed;

use super::*;
use crate::cloud::{CloudSource, Endpoints};
use crate::error::{Code, Error, Result};

const PREFIX: &str = "csi.storage.k8s.io/";

pub(super) fn clouds() -> CloudSource {
    let nowhere = PathBuf::from("/nonexistent/akvfs-clouds");
    CloudSource::with_file(Endpoints::azure(), "AzurePublicCloud", nowhere, None).unwrap()
}

/// One good object in YAML in YAML.
pub(super) const OBJECTS: &str = "array:\n  - |\n    objectName: secret1\n    objectType: secret\n";

/// Attributes of a good class with system-assigned identity, changed: `None` removes a key.
pub(super) fn attributes(changes: &[(&str, Option<&str>)]) -> String {
    let mut map = BTreeMap::from([
        (format!("{PREFIX}pod.name"), "pod1".to_owned()),
        (format!("{PREFIX}pod.namespace"), "ns1".to_owned()),
        (format!("{PREFIX}pod.uid"), "uid0".to_owned()),
        ("keyvaultName".to_owned(), "testKV".to_owned()),
        ("tenantID".to_owned(), "tid".to_owned()),
        ("useVMManagedIdentity".to_owned(), "true".to_owned()),
        ("objects".to_owned(), OBJECTS.to_owned()),
    ]);
    for (key, value) in changes {
        match value {
            Some(value) => map.insert((*key).to_owned(), (*value).to_owned()),
            None => map.remove(*key),
        };
    }
    serde_json::to_string(&map).unwrap()
}

pub(super) fn mount(attributes: &str, secrets: &str) -> Result<Parsed> {
    parameters::resolve(request::decode(attributes, secrets, "420")?, &clouds())
}

/// The error of a changed class.
pub(super) fn refused(changes: &[(&str, Option<&str>)], secrets: &str) -> Error {
    match mount(&attributes(changes), secrets) {
        Ok(parsed) => panic!("{changes:?} gave {parsed:?}"),
        Err(error) => error,
    }
}

pub(super) fn accepted(changes: &[(&str, Option<&str>)], secrets: &str) -> MountSpec {
    match mount(&attributes(changes), secrets) {
        Ok(Parsed::Mount(spec)) => *spec,
        other => panic!("{changes:?} gave {other:?}"),
    }
}

pub(super) fn objects(spec: &MountSpec) -> &[ObjectSpec] {
    match &spec.wanted {
        Wanted::Objects(objects) => objects,
        Wanted::Listing(_) => panic!("a class gave a listing"),
    }
}

#[test]
fn u1_u2_u3_decoding_stops_at_the_first_wrong_text() {
    for (attributes, secrets, permission, prefix) in [
        ("", "", "", "failed to unmarshal attributes, error: "),
        ("{\"keyvaultName\":\"kv\"}", "", "420", "failed to unmarshal secrets, error: "),
        ("{\"keyvaultName\":\"kv\"}", "{}", "", "failed to unmarshal file permission, error: "),
    ] {
        let error = request::decode(attributes, secrets, permission).unwrap_err();
        assert!(error.message().starts_with(prefix), "{error}");
        assert_eq!(error.code(), Code::ClassInvalid);
    }
}

/// U6 to U9, U13, U15, U16 and everything between: each error hides those that come after it.
#[test]
fn checks_come_in_upstreams_order() {
    let mut changes: Vec<(&str, Option<&str>)> = vec![
        ("csi.storage.k8s.io/pod.name", Some(" ")),
        ("csi.storage.k8s.io/pod.namespace", None),
        ("usePodIdentity", Some("tru")),
        ("useVMManagedIdentity", Some("tru")),
        ("useAzureTokenProxy", Some("invalid-value")),
        ("keyvaultName", None),
        ("tenantID", None),
        ("cloudName", Some("AzureCloud1")),
        ("userAssignedIdentityID", Some("nonsense")),
        ("objects", None),
    ];
    let text = |changes: &[(&str, Option<&str>)]| refused(changes, "null").message().to_owned();
    assert_eq!(text(&changes), "pod name is not provided");
    changes[0].1 = Some("pod1");
    assert_eq!(text(&changes), "pod namespace is not provided");
    changes[1].1 = Some("ns1");
    // U10
    assert_eq!(
        text(&changes),
        "failed to parse usePodIdentity flag, error: strconv.ParseBool: parsing \"tru\": invalid syntax"
    );
    changes[2].1 = Some("true");
    // U11
    assert!(text(&changes).starts_with("failed to parse useVMManagedIdentity flag"));
    changes[3].1 = Some("true");
    // U12
    assert!(text(&changes).starts_with("failed to parse useAzureTokenProxy"));
    changes[4].1 = Some("false");
    assert!(text(&changes).starts_with("only one identity mode can be enabled at a time"));
    changes[2].1 = Some("f");
    assert_eq!(text(&changes), "keyvaultName is not provided");
    changes[5].1 = Some("x");
    assert_eq!(text(&changes), "tenantId is not provided");
    changes[6].1 = Some("..");
    assert!(text(&changes).starts_with(
        "cloudName AzureCloud1 is not valid, error: autorest/azure: There is no cloud environment \
         matching the name \"AZURECLOUD1\""
    ));
    changes[7].1 = Some("azurecloud");
    assert!(text(&changes).starts_with("failed to build auth config for mode VMManagedIdentity: "));
    changes[8].1 = Some("11111111-2222-3333-4444-555555555555");
    assert_eq!(text(&changes), "objects is not set");
    changes[9].1 = Some("- |\n  objectName: x");
    assert!(text(&changes).starts_with("failed to yaml unmarshal objects, error: "));
    changes[9].1 = Some("array: [\"objectType: secret\"]");
    assert!(text(&changes).contains("file name must not be empty"));
    // Neither the vault's name nor the tenant counts before there is something to mount (P21).
    changes[9].1 = Some("array:");
    assert!(matches!(mount(&attributes(&changes), "null"), Ok(Parsed::Nothing { .. })));
    changes[9].1 = Some(OBJECTS);
    assert!(text(&changes).starts_with("failed to get vault: Invalid vault name: \"x\""));
    changes[5].1 = Some("testkv");
    // A managed identity sends its tenant nowhere.
    assert!(matches!(accepted(&changes, "null").identity, Claim::Managed { client_id: Some(_) }));
    changes[3].1 = None;
    let secrets = "{\"clientid\":\"i\",\"clientsecret\":\"s\"}";
    let error = refused(&changes, secrets);
    assert!(error.message().starts_with("failed to get keyvault client: invalid tenantID \"..\""));
}

#[test]
fn u14_a_missing_custom_cloud_file_is_named() {
    let error = refused(
        &[
            ("cloudName", Some("AzureStackCloud")),
            ("cloudEnvFileName", Some("/nonexistent/akvfs-clouds/akscustom.json")),
        ],
        "null",
    );
    assert_eq!(
        error.message(),
        "cloudName AzureStackCloud is not valid, error: open \
         /nonexistent/akvfs-clouds/akscustom.json: no such file or directory"
    );
}

#[test]
fn u17_no_objects_is_a_success_with_a_reason() {
    for (objects, reason) in [
        ("array:", "array is empty"),
        ("array: []", "array is empty"),
        ("array: [~, null]", "array is empty"),
        ("null", "no key array"),
        ("~", "no key array"),
        ("{}", "no key array"),
        ("# array:", "no key array"),
        ("objects: [x]", "no key array, but objects"),
        ("Array:\n  - |\n    objectName: x", "spell it array, not Array"),
    ] {
        match mount(&attributes(&[("objects", Some(objects))]), "null") {
            Ok(Parsed::Nothing { notices }) => {
                assert!(notices.iter().any(|n| n.contains(reason)), "{objects}: {notices:?}");
            }
            other => panic!("{objects} gave {other:?}"),
        }
    }
}

/// U60: Go's booleans, on the flag that the other modes do not disturb.
#[test]
fn u60_booleans_are_gos() {
    let mode = |value: &str| {
        mount(&attributes(&[("useVMManagedIdentity", None), ("usePodIdentity", Some(value))]), "{}")
    };
    for value in ["true", "True", "TRUE", "t", "T", "1", " true ", "\u{a0}true\u{3000}"] {
        let Ok(Parsed::Mount(spec)) = mode(value) else { panic!("{value}") };
        assert!(matches!(spec.identity, Claim::Pod(_)), "{value}");
    }
    for value in ["false", "False", "FALSE", "f", "F", "0", "", " "] {
        let error = mode(value).unwrap_err();
        assert!(error.message().contains("could not find clientid in secrets"), "{value}: {error}");
    }
    for value in ["invalid", "tRue", "yes", "on", "2", "-1", "\u{200b}true", "true false"] {
        let error = mode(value).unwrap_err();
        assert!(
            error.message().contains("failed to parse usePodIdentity flag"),
            "{value}: {error}"
        );
    }
}

#[test]
fn u61_parameters_are_trimmed_as_go_trims() {
    for vault in ["testkv", " testkv ", "\u{85}\u{a0}\u{3000}\ttestkv\r\n"] {
        let spec = accepted(&[("keyvaultName", Some(vault))], "null");
        assert_eq!(spec.vault.as_str(), "testkv");
    }
    let error = refused(&[("keyvaultName", Some("\u{200b}testkv"))], "null");
    assert!(error.message().contains("must match"), "{error}");
    let error = refused(&[("keyvaultName", Some("\u{a0}"))], "null");
    assert_eq!(error.message(), "keyvaultName is not provided");
}

#[test]
fn u62_tenant_id_wins() {
    let secrets = "{\"clientid\":\"i\",\"clientsecret\":\"s\"}";
    let tenant = |upper: Option<&str>, lower: Option<&str>| {
        let changes = [("useVMManagedIdentity", None), ("tenantID", upper), ("tenantId", lower)];
        let spec = accepted(&changes, secrets);
        let Claim::ServicePrincipal { tenant, .. } = spec.identity else { panic!() };
        (tenant.as_str().to_owned(), spec.notices.len())
    };
    assert_eq!(tenant(None, Some("old")), ("old".to_owned(), 1));
    assert_eq!(tenant(Some("new"), None), ("new".to_owned(), 0));
    assert_eq!(tenant(Some("new"), Some("old")), ("new".to_owned(), 0));
    // P20
    assert_eq!(tenant(Some("  "), Some("old")).0, "old");
}

#[test]
fn null_counts_as_blank_and_the_last_of_two_keys_wins() {
    let error = mount("null", "null").unwrap_err();
    assert_eq!(error.message(), "pod name is not provided");
    let good = attributes(&[("usePodIdentity", Some("true"))]);
    let text = good.replace("\"tid\"", "null,\"tenantId\":\"old\"");
    assert!(mount(&text, "null").unwrap_err().message().contains("only one identity mode"));
    let text = attributes(&[]).replace('}', ",\"keyvaultName\":null}");
    assert_eq!(mount(&text, "null").unwrap_err().message(), "keyvaultName is not provided");
    let text = attributes(&[]).replace('}', ",\"keyvaultName\":\"last\"}");
    let Ok(Parsed::Mount(spec)) = mount(&text, "null") else { panic!() };
    assert_eq!(spec.vault.as_str(), "last");
}

#[test]
fn the_pod_and_the_default_mode_are_kept() {
    let spec = accepted(
        &[
            ("csi.storage.k8s.io/pod.uid", Some("uid1")),
            ("csi.storage.k8s.io/serviceAccount.name", Some("sa1")),
        ],
        "null",
    );
    let pod = spec.pod.as_ref().unwrap();
    assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("pod1", "ns1"));
    assert_eq!((pod.uid.as_str(), pod.service_account.as_str()), ("uid1", "sa1"));
    assert_eq!(objects(&spec)[0].mode, 0o644);
    assert_eq!(spec.cloud.name, "AzurePublicCloud");
    assert_eq!(spec.cloud.vault_url(&spec.vault), "https://testKV.vault.azure.net");
}

const CLASSIC: &str = "\
array:
  - |
    objectName: secret1
    objectAlias: SECRET_1
    objectType: secret
    objectVersion: \"\"
  - |
    objectName: key1
    objectAlias: \"\"
    objectType: key
    objectVersion:
  - |
    objectName: cert1
    objectType: cert                  # object types: secret, key or cert
    objectVersion: 5d2aabb7a1464d5bb1c4c3eb5a3c9bd6
";

/// The classes of the classic documentation, in all their spellings.
#[test]
fn classic_classes_work_unchanged() {
    let id = "11111111-2222-3333-4444-555555555555";
    let base = [
        ("usePodIdentity", Some("false")),
        ("useVMManagedIdentity", Some("true")),
        ("userAssignedIdentityID", Some("")),
        ("cloudName", Some("")),
        ("resourceGroup", Some("rg1")),
        ("subscriptionId", Some(id)),
        ("enableSecretRotation", Some("yes")),
        ("objects", Some(CLASSIC)),
        ("tenantID", Some(id)),
        ("tenantId", None),
    ];
    let spec = accepted(&base, "null");
    assert!(matches!(spec.identity, Claim::Managed { client_id: None }));
    assert!(spec.notices.is_empty(), "{:?}", spec.notices);
    let files: Vec<_> =
        objects(&spec).iter().map(|o| (o.path.as_str(), o.kind, o.version.as_str())).collect();
    assert_eq!(
        files,
        [
            ("SECRET_1", ObjectKind::Secret, ""),
            ("key1", ObjectKind::Key, ""),
            ("cert1", ObjectKind::Certificate, "5d2aabb7a1464d5bb1c4c3eb5a3c9bd6"),
        ]
    );

    let mut user_assigned = base;
    user_assigned[2].1 = Some(id);
    user_assigned[8] = ("tenantID", None);
    user_assigned[9] = ("tenantId", Some(id));
    let spec = accepted(&user_assigned, "null");
    assert!(matches!(spec.identity, Claim::Managed { client_id: Some(found) } if found == id));

    let mut principal = base;
    principal[1] = ("useVMManagedIdentity", None);
    let spec = accepted(&principal, "{\"clientid\":\"app\",\"clientsecret\":\"word\"}");
    let Claim::ServicePrincipal { client_id, client_secret, .. } = spec.identity else { panic!() };
    assert_eq!((client_id.as_str(), client_secret.expose()), ("app", b"word".as_slice()));
}

#[test]
fn the_documentations_lower_case_flag_is_understood() {
    let spec = accepted(&[("usepodidentity", Some("false"))], "null");
    assert!(matches!(spec.identity, Claim::Managed { .. }));
    assert!(spec.notices[0].contains("usePodIdentity"), "{:?}", spec.notices);
    let changes = [("useVMManagedIdentity", None), ("usepodidentity", Some("true"))];
    assert!(matches!(accepted(&changes, "null").identity, Claim::Pod(_)));
    // Where the exact key is there, it alone counts.
    let spec =
        accepted(&[("usepodidentity", Some("nonsense")), ("usePodIdentity", Some(""))], "null");
    assert!(spec.notices.is_empty());
}

#[test]
fn a_request_shows_no_values() {
    let text = attributes(&[
        ("csi.storage.k8s.io/serviceAccount.tokens", Some("canary-1")),
        ("tenantID", Some("canary-2")),
    ]);
    let request = request::decode(&text, "{\"clientsecret\":\"canary-3\"}", "420").unwrap();
    let shown = format!("{request:?}");
    assert!(shown.contains("keyvaultName") && !shown.contains("canary"), "{shown}");
}

#[test]
fn what_is_ours_in_a_class_is_blank_or_right() {
    let spec = accepted(&[("mountMode", Some(" ")), ("maxStale", Some(""))], "null");
    assert_eq!((spec.mount_mode, spec.max_stale), (None, None));
    assert_eq!((spec.fetch, spec.fuse_cache), (None, None));
    for mode in MountMode::ALL {
        let spec = accepted(&[("mountMode", Some(mode.as_str()))], "null");
        assert_eq!(spec.mount_mode, Some(mode));
    }
    for fetch in FetchMode::ALL {
        assert_eq!(accepted(&[("fetch", Some(fetch.as_str()))], "null").fetch, Some(fetch));
    }
    for cache in FuseCache::ALL {
        let spec = accepted(&[("fuseCache", Some(cache.as_str()))], "null");
        assert_eq!(spec.fuse_cache, Some(cache));
    }
    let hour = accepted(&[("maxStale", Some("1h"))], "null");
    assert_eq!(hour.max_stale, Some(Duration::from_secs(3600)));
    for (key, value) in [
        ("mountMode", "Write"),
        ("mountMode", "nfs\n"),
        ("maxStale", "1 hour"),
        ("fetch", "always"),
        ("fuseCache", "None"),
    ] {
        let error = refused(&[(key, Some(value))], "null");
        assert_eq!(error.code(), Code::ClassInvalid);
        assert!(error.message().starts_with(&format!("{key} is \"")), "{error}");
    }
}
