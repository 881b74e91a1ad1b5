use super::*;
use crate::class::tests::clouds;
use crate::class::{Assertion, Claim, Wanted};
use crate::error::Code;
use crate::secret::Secret;

fn class(name: &str, version: &str, parameters: &str) -> String {
    format!(
        "apiVersion: secrets-store.csi.x-k8s.io/{version}\nkind: SecretProviderClass\n\
         metadata:\n  name: {name}\n  namespace: default\nspec:\n  provider: azure\n  parameters:\n{parameters}"
    )
}

const PARAMETERS: &str = "    useVMManagedIdentity: \"true\"\n    keyvaultName: testkv\n    tenantId: tid\n    \
    objects: |\n      array:\n        - |\n          objectName: secret1\n          objectType: secret\n";

const OTHERS: &str = "# a comment\n---\napiVersion: v1\nkind: Secret\ndata: {clientid: x}\n---\n---\n\
    kind: Pod\nspec: [anything, 5]\n---\njust text\n---\n";

fn message(text: &str, name: Option<&str>) -> String {
    load(text, name).unwrap_err().to_string()
}

fn resolve(parameters: &str, secrets: Option<Secrets>, token: Option<&str>) -> Result<Parsed> {
    load(&class("a", "v1", parameters), None)?.resolve(secrets, token.map(PathBuf::from), &clouds())
}

#[test]
fn the_only_class_is_found_among_other_kinds() {
    for version in ["v1", "v1alpha1"] {
        let text = format!("{OTHERS}{}", class("a", version, PARAMETERS));
        let manifest = load(&text, None).unwrap();
        assert_eq!(manifest.name, "a");
        let Ok(Parsed::Mount(spec)) = manifest.resolve(None, None, &clouds()) else { panic!() };
        assert!(spec.pod.is_none());
        let Wanted::Objects(objects) = &spec.wanted else { panic!() };
        assert_eq!((objects[0].path.as_str(), objects[0].mode), ("secret1", 0o400));
    }
}

#[test]
fn several_classes_need_a_name() {
    let text =
        format!("{}---\n{}", class("a", "v1", PARAMETERS), class("b", "v1alpha1", PARAMETERS));
    assert_eq!(load(&text, Some("b")).unwrap().name, "b");
    assert!(
        message(&text, None).contains("several classes: a, b (likely fix: choose one: FILE#NAME)")
    );
    assert!(message(&text, Some("c")).contains("no class named c; it has a, b"));
    let twice = format!("{}---\n{}", class("a", "v1", PARAMETERS), class("a", "v1", PARAMETERS));
    assert!(message(&twice, Some("a")).contains("several classes named a"));
    let indented = class("a", "v1", PARAMETERS).replace('\n', "\n    ");
    let list = format!("kind: List\napiVersion: v1\nitems:\n  - {}\n", indented.trim_end());
    assert_eq!(load(&list, None).unwrap().name, "a");
}

#[test]
fn files_without_a_class_say_what_they_have() {
    assert!(message("", None).contains("no SecretProviderClass in it: it is empty"));
    let text = message(OTHERS, None);
    assert!(
        text.contains("it has Secret of v1, Pod without an apiVersion, a document without"),
        "{text}"
    );
    let text = message(&class("a", "v2", PARAMETERS), None);
    assert!(text.contains("SecretProviderClass of secrets-store.csi.x-k8s.io/v2"), "{text}");
    let text = message("a: [", None);
    assert!(text.contains("document 0: yaml: not valid here, line "), "{text}");
}

#[test]
fn the_class_must_be_for_azure_with_string_parameters() {
    let other = class("a", "v1", PARAMETERS).replace("provider: azure", "provider: gcp");
    assert_eq!(message(&other, None), "class a: spec.provider is \"gcp\", not azure");
    let none = class("a", "v1", PARAMETERS).replace("provider: azure", "provider:");
    assert!(message(&none, None).contains("spec.provider is \"\""));
    for (value, kind, fix) in [
        ("false", "a boolean", "quote it, as Kubernetes demands: usePodIdentity: \"...\""),
        ("1", "a number", "quote it"),
        ("[a]", "a list", "make it a text"),
        ("{a: b}", "a mapping", "make it a text"),
    ] {
        let text = message(&class("a", "v1", &format!("    usePodIdentity: {value}\n")), None);
        assert!(
            text.contains(&format!("spec.parameters.usePodIdentity is {kind}, not a string")),
            "{text}"
        );
        assert!(text.contains(fix), "{text}");
    }
    let text = message(&class("a", "v1", "    - x\n"), None);
    assert!(text.contains("spec.parameters is a list, not a mapping"), "{text}");
    let error = resolve("", None, None).unwrap_err();
    assert_eq!(error.message(), "keyvaultName is not provided");
}

#[test]
fn options_stand_for_what_a_pod_would_have() {
    let base = PARAMETERS.replace("    useVMManagedIdentity: \"true\"\n", "");
    let error = resolve(&base, None, None).unwrap_err();
    assert!(error.message().contains("nodePublishSecretRef secret is not set"), "{error}");
    assert!(error.likely_fix().unwrap().contains("--secrets-file"), "{error}");
    let secrets = Secrets(BTreeMap::from([
        ("clientid".to_owned(), Secret::from("app")),
        ("clientsecret".to_owned(), Secret::from("word")),
    ]));
    let Ok(Parsed::Mount(spec)) = resolve(&base, Some(secrets), None) else { panic!() };
    assert!(matches!(spec.identity, Claim::ServicePrincipal { .. }));

    let workload = format!("    clientID: app\n{base}");
    let error = resolve(&workload, None, None).unwrap_err();
    assert!(error.message().ends_with("service account tokens not found"), "{error}");
    assert!(error.likely_fix().unwrap().contains("--token-file"), "{error}");
    let Ok(Parsed::Mount(spec)) = resolve(&workload, None, Some("/run/token")) else { panic!() };
    let Claim::Workload { assertion: Assertion::File(path), .. } = spec.identity else { panic!() };
    assert_eq!(path, PathBuf::from("/run/token"));
}

#[test]
fn modes_that_need_a_pod_say_so() {
    for flag in ["usePodIdentity", "useAzureTokenProxy"] {
        let base = PARAMETERS.replace("useVMManagedIdentity", flag);
        let error = resolve(&base, None, Some("/run/token")).unwrap_err();
        assert_eq!(error.code(), Code::IdentityUnavailable);
        assert!(error.message().contains("works only for a pod"), "{error}");
    }
}
