//! Every class of deploy/examples: read as on a machine, and as kubelet and the driver would send it.

use std::collections::BTreeMap;

use std::path::{Path, PathBuf};

use akvfs::Code;
use akvfs::class::{Claim, MountSpec, Parsed, Secrets, Wanted, manifest, parameters, request};
use akvfs::class::{request::Request, secrets_file};
use akvfs::cloud::{CloudSource, Endpoints};
use serde_json::{Value, json};

use super::{deploy, documents, of_kind};

const CLIENT: &str = "11111111-1111-1111-1111-111111111111";
/// The folders, and whether they have a pod for Windows.
const EXAMPLES: [(&str, bool); 6] = [
    ("service-principal", true),
    ("workload-identity", true),
    ("identity-binding", true),
    ("pod-identity", false),
    ("vm-system-assigned", true),
    ("vm-user-assigned", true),
];

fn clouds() -> CloudSource {
    let none = PathBuf::from("/nonexistent");
    CloudSource::with_file(Endpoints::azure(), "AzurePublicCloud", none, None).unwrap()
}

fn class_file(example: &str) -> PathBuf {
    deploy().join("examples").join(example).join("class.yaml")
}

fn load(example: &str) -> manifest::Manifest {
    manifest::load(&std::fs::read_to_string(class_file(example)).unwrap(), None).unwrap()
}

fn class_documents(example: &str) -> Vec<Value> {
    documents(&format!("examples/{example}/class.yaml"))
}

/// The volume's nodePublishSecretRef Secret, as the driver sends it.
fn secrets(example: &str) -> Value {
    let secrets = of_kind(&class_documents(example), "Secret");
    secrets.first().map_or(Value::Null, |secret| secret["stringData"].clone())
}

/// The class as the driver sends it for a pod, with the tokens of the documented audiences.
fn request(example: &str) -> Request {
    let mut attributes: BTreeMap<String, String> = load(example).parameters().clone();
    let token =
        json!({"token": "header.claims.signature", "expirationTimestamp": "2026-01-01T00:00:00Z"});
    let tokens = json!({"api://AzureADTokenExchange": token, "api://AKSIdentityBinding": token});
    for (key, value) in [
        ("csi.storage.k8s.io/pod.name", "web"),
        ("csi.storage.k8s.io/pod.namespace", "default"),
        ("csi.storage.k8s.io/pod.uid", "22222222-2222-2222-2222-222222222222"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ("csi.storage.k8s.io/serviceAccount.tokens", &tokens.to_string()),
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("secretProviderClass", example),
    ] {
        attributes.insert(key.to_owned(), value.to_owned());
    }
    let attributes = json!(attributes).to_string();
    request::decode(&attributes, &secrets(example).to_string(), "420").unwrap()
}

fn mount(parsed: Parsed) -> MountSpec {
    match parsed {
        Parsed::Mount(spec) => *spec,
        Parsed::Nothing { notices } => panic!("no objects: {notices:?}"),
    }
}

/// Whether the claim is the one that the folder is named for.
fn is_of(example: &str, claim: &Claim) -> bool {
    match (example, claim) {
        ("service-principal", Claim::ServicePrincipal { client_id, .. })
        | ("workload-identity", Claim::Workload { client_id, .. })
        | ("identity-binding", Claim::Binding { client_id, .. }) => client_id == CLIENT,
        ("pod-identity", Claim::Pod(_)) => true,
        ("vm-system-assigned", Claim::Managed { client_id }) => client_id.is_none(),
        ("vm-user-assigned", Claim::Managed { client_id }) => client_id.as_deref() == Some(CLIENT),
        _ => false,
    }
}

fn check(example: &str, spec: &MountSpec) {
    assert!(is_of(example, &spec.identity), "{example}: {:?}", spec.identity);
    assert!(spec.notices.is_empty(), "{example}: {:?}", spec.notices);
    let Wanted::Objects(objects) = &spec.wanted else { panic!("{example} lists the vault") };
    let paths: Vec<_> = objects.iter().map(|object| object.path.as_str()).collect();
    assert_eq!(paths, ["password.txt", "tls.pem", "tls.crt", "signing.pem"], "{example}");
}

#[test]
fn the_examples_are_all_checked() {
    let entries = std::fs::read_dir(deploy().join("examples")).unwrap().map(Result::unwrap);
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut found: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let mut expected = EXAMPLES.map(|(example, _)| example);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn each_class_of_the_examples_resolves_for_a_pod() {
    for (example, _) in EXAMPLES {
        let spec = mount(parameters::resolve(request(example), &clouds()).unwrap());
        check(example, &spec);
    }
}

/// The example's Secret as `--secrets-file` wants it: open to its owner only.
fn private_copy(example: &str, dir: &Path) -> Option<Secrets> {
    of_kind(&class_documents(example), "Secret").first()?;
    let copy = dir.join("class.yaml");
    std::fs::copy(class_file(example), &copy).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    Some(secrets_file::read(&copy).unwrap())
}

#[test]
fn the_same_files_work_on_a_machine_where_the_identity_can() {
    let dir = tempfile::tempdir().unwrap();
    for (example, _) in EXAMPLES {
        let token = Some(PathBuf::from("/run/token"));
        let resolved = load(example).resolve(private_copy(example, dir.path()), token, &clouds());
        if ["pod-identity", "identity-binding"].contains(&example) {
            assert_eq!(resolved.unwrap_err().code(), Code::IdentityUnavailable, "{example}");
        } else {
            check(example, &mount(resolved.unwrap()));
        }
    }
}

#[test]
fn each_pod_fits_its_class() {
    for (example, has_windows) in EXAMPLES {
        let class = class_documents(example);
        let named = |kind| -> Vec<Value> {
            of_kind(&class, kind).iter().map(|found| found["metadata"]["name"].clone()).collect()
        };
        assert_eq!(named("SecretProviderClass"), [json!(example)]);
        let windows = format!("examples/{example}/pod-windows.yaml");
        assert_eq!(deploy().join(&windows).exists(), has_windows, "{example}");
        let linux = format!("examples/{example}/pod.yaml");
        let files = [("linux", linux, "/vault"), ("windows", windows, r"C:\vault")];
        for (os, file, place) in files.iter().take(if has_windows { 2 } else { 1 }) {
            let pod = &documents(file)[0];
            assert_eq!(pod["kind"], "Pod", "{file}");
            let spec = &pod["spec"];
            assert_eq!(spec["nodeSelector"]["kubernetes.io/os"], *os, "{file}");
            assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], *place, "{file}");
            assert_eq!(
                spec["containers"][0]["volumeMounts"][0]["name"],
                spec["volumes"][0]["name"]
            );
            let volume = &spec["volumes"][0]["csi"];
            assert_eq!(volume["driver"], "secrets-store.csi.k8s.io", "{file}");
            assert_eq!(volume["readOnly"], true, "{file}");
            assert_eq!(volume["volumeAttributes"], json!({"secretProviderClass": example}));
            let secret = named("Secret").into_iter().next().unwrap_or(Value::Null);
            assert_eq!(volume["nodePublishSecretRef"]["name"], secret, "{file}");
            let account = named("ServiceAccount").into_iter().next().unwrap_or(Value::Null);
            assert_eq!(spec["serviceAccountName"], account, "{file}");
        }
        // Without the label the driver does not see the Secret, the commonest mistake of all.
        for secret in of_kind(&class, "Secret") {
            assert_eq!(secret["metadata"]["labels"]["secrets-store.csi.k8s.io/used"], "true");
        }
        let text = std::fs::read_to_string(class_file(example)).unwrap();
        for command in ["az keyvault set-policy", "az role assignment create"] {
            assert!(text.contains(command), "{example} lacks {command}");
        }
    }
}
