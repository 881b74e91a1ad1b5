use crate::class::{
    Assertion, Claim, FilePath, MountSpec, ObjectKind, ObjectName, ObjectSpec, Pod, Tenant,
    VaultName, Wanted,
};
use crate::cloud::Endpoints;
use crate::error::Code;
use crate::secret::Secret;

use super::*;

const ID: &str = "0ddba110-0000-4000-8000-0000000000aa";

/// What a pod of `team-a` asks for.
fn spec(identity: Claim) -> MountSpec {
    let object = ObjectSpec::newest(
        0,
        ObjectKind::Secret,
        ObjectName::parse("x").unwrap(),
        FilePath::parse("x").unwrap(),
        0o400,
    );
    MountSpec {
        pod: Some(Pod {
            name: "app-0".to_owned(),
            namespace: "team-a".to_owned(),
            uid: "1".to_owned(),
            service_account: "app".to_owned(),
        }),
        cloud: Endpoints::azure().cloud("AzurePublicCloud").unwrap(),
        vault: VaultName::parse("kv-team-a").unwrap(),
        identity,
        wanted: Wanted::Objects(vec![object]),
        max_stale: None,
        mount_mode: None,
        fetch: None,
        fuse_cache: None,
        notices: Vec::new(),
    }
}

fn workload() -> MountSpec {
    spec(Claim::Workload {
        tenant: Tenant::parse("contoso.onmicrosoft.com").unwrap(),
        client_id: "any".to_owned(),
        assertion: Assertion::Token(Secret::from("token")),
    })
}

fn managed(client_id: Option<&str>) -> MountSpec {
    spec(Claim::Managed { client_id: client_id.map(str::to_owned) })
}

/// A policy of one rule for `team-*`, with this under `allow`; others get nothing.
fn one(allow: &str) -> Policy {
    let text = format!(
        "default: deny\nrules:\n- name: teams\n  match: {{namespaces: [team-*]}}\n  allow: {allow}"
    );
    Policy::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(policy: &Policy, spec: &MountSpec) -> String {
    let error = policy.check(spec).unwrap_err();
    assert_eq!(error.code(), Code::PolicyDenied);
    error.message().to_owned()
}

#[test]
fn every_key_refuses_what_it_does_not_name() {
    for (allow, spec, refused) in [
        (r#"{identityModes: [workload], vaults: ["*"]}"#, workload(), None),
        (r#"{identityModes: [workload], vaults: [KV-*]}"#, workload(), None),
        (
            r#"{identityModes: [service-principal, pod, binding], vaults: ["*"]}"#,
            workload(),
            Some("the identity mode workload (identityModes)"),
        ),
        (
            r#"{identityModes: [workload], vaults: [kv-team-b, kv-?]}"#,
            workload(),
            Some("the vault \"kv-team-a\" (vaults)"),
        ),
        (
            r#"{identityModes: [workload], vaults: ["*"], tenants: ["*.contoso.com"]}"#,
            workload(),
            Some("the tenant \"contoso.onmicrosoft.com\" (tenants)"),
        ),
        (r#"{identityModes: [workload], vaults: ["*"], tenants: ["Contoso.*"]}"#, workload(), None),
        (
            r#"{identityModes: [workload], vaults: ["*"], clouds: [azurechinacloud, AzureStackCloud]}"#,
            workload(),
            Some("the cloud \"AzurePublicCloud\" (clouds)"),
        ),
        (
            r#"{identityModes: [workload], vaults: ["*"], clouds: [AzurePublicCloud], mountModes: [files]}"#,
            workload(),
            None,
        ),
        (
            r#"{identityModes: [workload], vaults: ["*"], mountModes: [fuse, write]}"#,
            workload(),
            Some("the mount mode files (mountModes)"),
        ),
        (
            r#"{identityModes: [managed], vaults: ["*"], vmClientIds: [system]}"#,
            managed(None),
            None,
        ),
        (
            r#"{identityModes: [managed], vaults: ["*"], vmClientIds: [system]}"#,
            managed(Some(ID)),
            Some("the managed identity \"0ddba110-0000-4000-8000-0000000000aa\" (vmClientIds)"),
        ),
        (
            r#"{identityModes: [managed], vaults: ["*"], vmClientIds: [0DDBA110-0000-4000-8000-0000000000AA]}"#,
            managed(Some(ID)),
            None,
        ),
        (
            r#"{identityModes: [managed], vaults: ["*"], vmClientIds: [0DDBA110-0000-4000-8000-0000000000AA]}"#,
            managed(None),
            Some("the system-assigned managed identity (vmClientIds)"),
        ),
        // A managed identity is asked of the machine: no tenant is named to anybody.
        (
            r#"{identityModes: [managed], vaults: ["*"], vmClientIds: ["*"], tenants: [none]}"#,
            managed(Some(ID)),
            None,
        ),
        ("all", managed(Some(ID)), None),
        ("none", workload(), Some("rule \"teams\" allows nothing")),
    ] {
        let policy = one(allow);
        match refused {
            None => assert!(policy.check(&spec).is_ok(), "{allow}"),
            Some(text) => {
                let said = refusal(&policy, &spec);
                assert!(said.starts_with("refused by the operator's policy: rule \"teams\" "));
                assert!(said.ends_with(text), "{said}");
            }
        }
    }
}

#[test]
fn a_mount_mode_is_what_the_class_asks_for() {
    let policy = one(r#"{identityModes: [workload], vaults: ["*"], mountModes: [files, write]}"#);
    let mut spec = workload();
    for (mode, allowed) in [("files", true), ("write", true), ("fuse", false)] {
        spec.mount_mode = MountMode::parse(mode);
        assert_eq!(policy.check(&spec).is_ok(), allowed, "{mode}");
    }
}

#[test]
fn the_first_matching_rule_decides_alone() {
    let policy = Policy::parse(
        r#"
default: allow
rules:
- name: jobs
  match: {namespaces: [team-a], serviceAccounts: ["job-*"]}
  allow: none
- name: team a
  match: {namespaces: [team-a]}
  allow: {identityModes: [workload], vaults: [kv-team-a], maxResponseBytes: 512KiB, maxStale: 1h30m}
- name: never reached
  match: {namespaces: ["*-a"]}
  allow: all
- name: b
  match: {namespaces: [team-b], serviceAccounts: [app]}
  allow: none
"#,
    )
    .unwrap();
    let pod = |namespace: &str, service_account: &str| {
        let mut spec = workload();
        let pod = spec.pod.as_mut().unwrap();
        pod.namespace = namespace.to_owned();
        pod.service_account = service_account.to_owned();
        spec
    };
    let granted = policy.check(&pod("team-a", "app")).unwrap();
    assert_eq!(granted.max_response_bytes, Some(512 * 1024));
    assert_eq!(granted.max_stale, Some(std::time::Duration::from_secs(5400)));
    assert!(refusal(&policy, &pod("team-a", "job-1")).contains("rule \"jobs\" allows nothing"));
    let mut other = pod("team-a", "app");
    other.vault = VaultName::parse("kv-team-b").unwrap();
    assert!(refusal(&policy, &other).contains("rule \"team a\""));
    // Namespaces are compared to the letter, and as a whole.
    for (namespace, account) in [("Team-A", "job-1"), ("team-ab", "app"), ("team-b", ""), ("", "")]
    {
        assert!(policy.check(&pod(namespace, account)).is_ok(), "{namespace}/{account}");
    }
    assert!(refusal(&policy, &pod("team-b", "app")).contains("rule \"b\""));
}

#[test]
fn without_a_match_the_default_decides_and_a_refusal_names_the_pod() {
    let mut spec = workload();
    spec.pod.as_mut().unwrap().namespace = "other\n\u{1b}[31m".to_owned();
    let said = refusal(&one("all"), &spec);
    let expected = "no rule matches namespace \"other[31m\", service account \"app\", and the \
                    default is deny";
    assert!(said.ends_with(expected), "{said}");
    assert!(Policy::parse("default: allow").unwrap().check(&spec).is_ok());
    assert!(Policy::parse("default: deny").unwrap().check(&spec).is_err());
    spec.pod = None;
    assert!(Policy::parse("default: allow").unwrap().check(&spec).is_err(), "nobody is no pod");
}

#[test]
fn what_is_not_understood_in_full_is_refused_with_its_place() {
    let allow = |text: &str| {
        format!("default: deny\nrules: [{{name: r, match: {{namespaces: [a]}}, allow: {text}}}]")
    };
    let long = format!("[\"{}\"]", "a".repeat(254));
    for (text, place) in [
        (String::new(), "the policy is nothing, not a mapping"),
        ("default: deny\n---\ndefault: allow".to_owned(), "the policy is not one YAML document"),
        ("default: deny\nrules: [".to_owned(), "line "),
        ("default: deny\ndefault: allow".to_owned(), "a key stands there twice"),
        ("[]".to_owned(), "the policy is a list, not a mapping"),
        ("rules: []".to_owned(), "default is not \"allow\" or \"deny\""),
        ("default: Deny".to_owned(), "default is not \"allow\" or \"deny\""),
        ("default: deny\nrule: []".to_owned(), "the policy has an unknown key rule"),
        ("default: deny\nrules: {}".to_owned(), "rules is a mapping, not a list"),
        ("default: deny\nrules: [x]".to_owned(), "rules[0] is a string, not a mapping"),
        ("default: deny\nrules: [{match: {}}]".to_owned(), "rules[0].name is not"),
        ("default: deny\nrules: [{name: r}]".to_owned(), "rules[0] (\"r\").match is missing"),
        (
            "default: deny\nrules: [{name: r, match: {}}]".to_owned(),
            "rules[0] (\"r\").match.namespaces is missing",
        ),
        (
            "default: deny\nrules: [{name: r, match: {namespaces: a}}]".to_owned(),
            "rules[0] (\"r\").match.namespaces is a string, not a list",
        ),
        (
            "default: deny\nrules: [{name: r, match: {namespaces: [1]}}]".to_owned(),
            "match.namespaces[0] is a number, not a text",
        ),
        (
            "default: deny\nrules: [{name: r, match: {namespace: [a]}}]".to_owned(),
            "match has an unknown key namespace",
        ),
        (
            "default: deny\nrules: [{name: r, match: {namespaces: [a]}}]".to_owned(),
            "rules[0] (\"r\").allow is missing",
        ),
        (allow("all") + "\nmore: x", "the policy has an unknown key more"),
        (allow("yes"), "allow is a string, not all, none or a mapping"),
        (allow("{}"), "allow.identityModes is missing"),
        (allow("{identityModes: [workload]}"), "allow.vaults is missing"),
        (allow("{identityModes: [workload], vaults: []}"), "allow.vaults has no entry"),
        (allow("{identityModes: [Workload], vaults: [a]}"), "allow.identityModes[0]: \"Workload\""),
        (allow("{identityModes: [managed], vaults: [a]}"), "allow.vmClientIds is missing"),
        (
            allow("{identityModes: [managed], vaults: [a], vmClientIds: [my-id]}"),
            "allow.vmClientIds[0]: \"my-id\" is not a client id",
        ),
        (
            allow("{identityModes: [workload], vaults: [a], vmClientIds: [system]}"),
            "allow.vmClientIds stands without the identity mode",
        ),
        (
            allow("{identityModes: [workload], vaults: [kv.vault.azure.net]}"),
            "allow.vaults[0]: \"kv.vault.azure.net\" is not a pattern",
        ),
        (allow("{identityModes: [workload], vaults: ['a ']}"), "allow.vaults[0]: \"a \" is not"),
        (allow(&format!("{{identityModes: [workload], vaults: {long}}}")), "allow.vaults[0]"),
        (allow("{identityModes: [workload], vaults: [a], clouds: [Azure]}"), "allow.clouds[0]"),
        (allow("{identityModes: [workload], vaults: [a], tenants: \"*\"}"), "allow.tenants is a"),
        (
            allow("{identityModes: [workload], vaults: [a], maxStale: 1 hour}"),
            "allow.maxStale is not a duration",
        ),
        (
            allow("{identityModes: [workload], vaults: [a], mountModes: [nfs]}"),
            "\"nfs\" is not files, fuse, write",
        ),
    ] {
        match Policy::parse(&text) {
            Ok(_) => panic!("{text} was accepted"),
            Err(error) => {
                assert_eq!(error.code(), Code::ClassInvalid);
                assert!(error.message().contains(place), "{text}: {error}");
            }
        }
    }
    for size in ["1000", "512", "0KiB", "1GiB", "-1KiB", "KiB", "99999999999999999999MiB", "''"] {
        let text =
            allow(&format!("{{identityModes: [pod], vaults: [a], maxResponseBytes: {size}}}"));
        let error = Policy::parse(&text).unwrap_err();
        assert!(error.message().ends_with("allow.maxResponseBytes is not a size"), "{error}");
    }
    let twice = "default: deny\nrules:\n\
                 - {name: r, match: {namespaces: [a]}, allow: all}\n\
                 - {name: r, match: {namespaces: [b]}, allow: all}";
    assert!(Policy::parse(twice).unwrap_err().message().contains("another rule is named \"r\""));
}

#[test]
fn ten_thousand_rules_are_read_and_not_one_more() {
    let mut text = "default: deny\nrules:\n".to_owned();
    for number in 0..10_000 {
        text.push_str(&format!(
            "- {{name: r{number}, match: {{namespaces: [n{number}]}}, allow: all}}\n"
        ));
    }
    let policy = Policy::parse(&text).unwrap();
    let mut spec = workload();
    spec.pod.as_mut().unwrap().namespace = "n9999".to_owned();
    assert!(policy.check(&spec).is_ok());
    text.push_str("- {name: last, match: {namespaces: [n]}, allow: all}\n");
    let error = Policy::parse(&text).unwrap_err();
    assert_eq!(error.message(), "rules has more than 10000 entries");
    assert!(Policy::parse(&"#".repeat(1024 * 1024 + 1)).is_err());
}

#[test]
fn the_restricted_example_does_what_it_says() {
    let policy =
        Policy::parse(include_str!("../../deploy/examples/policy-restricted.yaml")).unwrap();
    assert!(policy.check(&workload()).is_ok());
    assert!(refusal(&policy, &managed(None)).contains("(identityModes)"));
    let mut other = workload();
    other.vault = VaultName::parse("kv-team-b").unwrap();
    assert!(refusal(&policy, &other).contains("(vaults)"));
    let mut stranger = workload();
    stranger.pod.as_mut().unwrap().namespace = "default".to_owned();
    assert!(refusal(&policy, &stranger).contains("the default is deny"));
    let mut platform = managed(Some("11111111-2222-3333-4444-555555555555"));
    platform.pod.as_mut().unwrap().namespace = "kube-system".to_owned();
    platform.vault = VaultName::parse("kv-platform").unwrap();
    assert!(refusal(&policy, &platform).contains("the default is deny"));
    platform.pod.as_mut().unwrap().service_account = "ingress".to_owned();
    assert!(policy.check(&platform).is_ok());
}

#[test]
fn the_pages_example_is_a_policy() {
    let page = include_str!("../../docs/POLICY.md");
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let policy = Policy::parse(rest.split_once("```").unwrap().0).unwrap();
    let mut spec = workload();
    spec.pod.as_mut().unwrap().service_account = "job-1".to_owned();
    assert!(refusal(&policy, &spec).contains("rule \"team a\" does not allow the vault"));
}

mod files {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Writes and lets the file look as if that was some time ago.
    fn write(path: &std::path::Path, text: &str, age: u64) {
        std::fs::write(path, text).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    fn allows(file: &PolicyFile) -> bool {
        file.current().check(&workload()).is_ok()
    }

    #[test]
    fn a_change_counts_at_once_and_a_broken_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        // An old file, whose stamp is trusted, and a young one, which is read again.
        for age in [3600, 0] {
            write(&path, "default: deny", age);
            let file = PolicyFile::open(path.clone()).unwrap();
            assert!(!allows(&file));
            let before = file.current();
            assert!(std::sync::Arc::ptr_eq(&before, &file.current()), "parsed again for nothing");
            write(&path, "default: allow", age / 2);
            assert!(allows(&file));
            for broken in ["default: den", "", "default: [", "\u{0}"] {
                write(&path, broken, age / 3);
                assert!(allows(&file), "{broken}");
            }
            std::fs::remove_file(&path).unwrap();
            assert!(allows(&file));
            std::fs::create_dir(&path).unwrap();
            assert!(allows(&file));
            std::fs::remove_dir(&path).unwrap();
            write(&path, "default: deny", age / 4);
            assert!(!allows(&file));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // As kubelet publishes a ConfigMap; the same size, so that only the file differs.
        write(&at("old"), "default: deny ", 3600);
        write(&at("new"), "default: allow", 3600);
        std::os::unix::fs::symlink("old", at("policy")).unwrap();
        let file = PolicyFile::open(at("policy")).unwrap();
        assert!(!allows(&file));
        std::os::unix::fs::symlink("new", at("next")).unwrap();
        std::fs::rename(at("next"), at("policy")).unwrap();
        assert!(allows(&file));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        let refused = |text: &str| {
            let error = PolicyFile::open(path.clone()).unwrap_err();
            assert_eq!(error.code(), Code::ClassInvalid);
            assert!(error.message().contains(text), "{error}");
            assert!(error.message().contains("policy.yaml"), "{error}");
        };
        refused("cannot read the policy");
        std::fs::write(&path, [b'a', 0xff]).unwrap();
        refused("not text");
        std::fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
        refused("larger than 1 MiB");
        std::fs::write(&path, "default: deny\nrules:\n- name: {").unwrap();
        refused("line 4 column 1");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        refused("not a regular file");
    }
}
