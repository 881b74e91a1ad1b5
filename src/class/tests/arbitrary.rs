//! Any input at all: nothing panics, nothing runs away.

use proptest::prelude::*;

use super::*;

/// Texts made of what means something to the parsers, more than of what does not.
fn texts() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("array:"),
        Just("\n"),
        Just("  - |\n"),
        Just("    "),
        Just("objectName: "),
        Just("objectType: secret\n"),
        Just("objectVersionHistory: 3\n"),
        Just("\""),
        Just("'"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("- "),
        Just("&a "),
        Just("*a"),
        Just("<<: "),
        Just("!!"),
        Just("%"),
        Just("---\n"),
        Just("...\n"),
        Just("|"),
        Just("null"),
        Just("~"),
        Just("\u{feff}"),
        Just("\u{2028}"),
        Just("\t"),
        Just("\0"),
        Just("0x1F"),
        Just("\\u12"),
        Just("? "),
        Just("# "),
        Just("kind: List\n"),
        Just("items:\n"),
        Just("apiVersion: secrets-store.csi.x-k8s.io/v1\n"),
        Just("kind: SecretProviderClass\n"),
    ]
    .prop_map(str::to_owned);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(prop_oneof![8 => token, 1 => "\\PC{0,8}"], 0..60)
            .prop_map(|parts| parts.concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn requests(attributes in texts(), secrets in texts(), permission in texts()) {
        if let Ok(request) = request::decode(&attributes, &secrets, &permission) {
            let _ = parameters::resolve(request, &clouds());
        }
        let _ = request::decode(&attributes, "null", "420");
        let _ = request::decode("{}", &secrets, "420");
    }

    #[test]
    fn objects_and_tokens(objects in texts(), tokens in texts()) {
        let changes = [
            ("useVMManagedIdentity", None),
            ("clientID", Some("app")),
            ("csi.storage.k8s.io/serviceAccount.tokens", Some(tokens.as_str())),
        ];
        let _ = mount(&attributes(&changes), "null");
        let _ = mount(&attributes(&[("objects", Some(&objects))]), "null");
        let entry = format!("array:\n  - |\n    {}", objects.replace('\n', "\n    "));
        let _ = mount(&attributes(&[("objects", Some(&entry))]), "null");
    }

    #[test]
    fn manifests(text in texts(), name in texts()) {
        for name in [None, Some(name.as_str())] {
            if let Ok(manifest) = manifest::load(&text, name) {
                let _ = manifest.resolve(None, None, &clouds());
            }
        }
    }

    /// What is accepted stays inside the mount, on both platforms.
    #[test]
    fn paths_never_escape(text in texts()) {
        for rules in [paths::Rules::Unix, paths::Rules::Windows] {
            if let Ok(path) = FilePath::parse_with(&text, rules) {
                for part in path.as_str().split('/') {
                    prop_assert!(!part.is_empty() && part != "." && part.len() <= 255);
                    prop_assert!(!part.contains(".."));
                }
                prop_assert!(!path.as_str().contains('\0') && path.as_str().len() <= 4096);
            }
        }
    }
}
