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

/// Paths out of what paths are made of, most of them not far from good ones.
fn path_texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => "[a-zA-Z0-9._ -]{1,8}".boxed(),
        1 => "\\PC{1,4}".boxed(),
        1 => Just(".".to_owned()).boxed(),
        1 => Just("..".to_owned()).boxed(),
        1 => Just("con".to_owned()).boxed(),
        1 => "[a-z]{240,260}".boxed(),
    ];
    let separator = prop_oneof![8 => Just("/"), 1 => Just("\\"), 1 => Just("//"), 1 => Just("")];
    let path = prop::collection::vec((part, separator), 0..5).prop_map(|parts| {
        parts.into_iter().flat_map(|(part, sep)| [part, sep.to_owned()]).collect::<String>()
    });
    prop_oneof![
        1 => texts(),
        // Without the separator that the last part brought.
        6 => path.clone().prop_map(|path| path.trim_end_matches(['/', '\\']).to_owned()),
        1 => path,
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

    /// What is accepted obeys the CSI driver's rules, and so does what is made of it.
    #[test]
    fn paths_obey_the_driver(text in path_texts(), position in 0..100_u32) {
        for rules in [paths::Rules::Unix, paths::Rules::Windows] {
            let Ok(path) = FilePath::parse_with(&text, rules) else { continue };
            let version = path.version(position);
            let more: Vec<_> =
                [&path, &version].iter().filter_map(|path| path.with(".crt").ok()).collect();
            for path in [&path, &version].into_iter().chain(&more) {
                // The driver reads both separators of its platform.
                let shown = match rules {
                    paths::Rules::Unix => path.as_str().to_owned(),
                    paths::Rules::Windows => path.as_str().replace('\\', "/"),
                };
                prop_assert!(!shown.is_empty() && !shown.starts_with('/'), "{shown:?}");
                prop_assert!(!shown.contains('\0') && !shown.starts_with(".."), "{shown:?}");
                prop_assert!(shown.len() <= 4096);
                prop_assert!(shown.split('/').all(|part| part != ".." && part.len() <= 255));
                prop_assert_eq!(&cleaned(&shown), &shown);
            }
        }
    }
}

/// As Go's path.Clean: what the driver compares a path with.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (path.starts_with('/'), joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[test]
fn the_oracle_cleans_as_go_does() {
    for (path, clean) in [
        ("", "."),
        ("a/b", "a/b"),
        ("a//b", "a/b"),
        ("./a/", "a"),
        ("a/../b", "b"),
        ("..", ".."),
        ("../../a", "../../a"),
        ("/../a", "/a"),
        ("a/..", "."),
        ("a/b/../../..", ".."),
        ("/", "/"),
    ] {
        assert_eq!(cleaned(path), clean, "{path}");
    }
}
