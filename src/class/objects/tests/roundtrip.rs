//! Whatever a class can say of its objects survives YAML in YAML, however it is written.

use proptest::prelude::*;

use super::*;
use crate::class::ObjectName;

/// How a class's author may write a mapping.
#[derive(Clone, Copy, Debug)]
enum Style {
    Yaml,
    Json,
    Quoted,
}

/// An object with a path that no other number's can meet.
fn object(index: usize) -> impl Strategy<Value = ObjectSpec> {
    let kind =
        prop_oneof![Just(ObjectKind::Secret), Just(ObjectKind::Key), Just(ObjectKind::Certificate)];
    let version = prop_oneof![Just(String::new()), "[0-9a-f]{32}", "0[0-9]{1,6}"];
    let alias = prop_oneof![
        Just(None),
        // Spaces at the ends would be trimmed, and `..` is refused.
        "[ -~\u{e9}\u{4e2d}]{0,6}[a-z#:'\"%&*!|>{}\\[\\],?-](/[a-z: ]{1,5}[a-z])?".prop_map(Some),
    ];
    let format = prop_oneof![Just(Format::Pem), Just(Format::Pfx)];
    let encoding = prop_oneof![Just(Encoding::Utf8), Just(Encoding::Base64), Just(Encoding::Hex)];
    let parts =
        (kind, "[0-9A-Za-z-]{0,20}", version, 1..=3_u32, alias, format, encoding, 0..=0o777_u32);
    parts.prop_map(move |(kind, name, version, history, alias, format, encoding, mode)| {
        let name = format!("n{index}-{name}");
        let secret = kind == ObjectKind::Secret;
        let alias = alias.filter(|alias| !alias.contains("..") && !alias.contains("//"));
        let path = match alias.map(|alias| alias.replace("/.", "/_")) {
            Some(alias) if !alias.starts_with('/') => format!("a{index}-{alias}"),
            _ => name.clone(),
        };
        ObjectSpec {
            index,
            kind,
            name: ObjectName::parse(&name).unwrap(),
            version: Version::parse(&version).unwrap(),
            history,
            position: None,
            path: crate::class::FilePath::parse_with(&path, Rules::Unix).unwrap(),
            format: if secret { format } else { Format::Pem },
            encoding: if secret { encoding } else { Encoding::Utf8 },
            mode,
        }
    })
}

fn objects() -> impl Strategy<Value = Vec<(ObjectSpec, Style)>> {
    let style = || prop_oneof![Just(Style::Yaml), Just(Style::Json), Just(Style::Quoted)];
    (0..12_usize).prop_flat_map(move |count| {
        (0..count).map(|index| (object(index), style())).collect::<Vec<_>>()
    })
}

fn entry(object: &ObjectSpec, style: Style) -> String {
    let mut fields = vec![
        ("objectName", object.name.as_str().to_owned()),
        ("objectAlias", object.path.as_str().to_owned()),
        ("objectType", object.kind.as_str().to_owned()),
        ("objectVersion", object.version.as_str().to_owned()),
        ("filePermission", format!("{:04o}", object.mode)),
    ];
    if object.kind == ObjectKind::Secret {
        let format = if object.format == Format::Pfx { "PFX" } else { "pem" };
        let encoding = match object.encoding {
            Encoding::Utf8 => "utf-8",
            Encoding::Base64 => "base64",
            Encoding::Hex => "Hex",
        };
        // Case does not matter, but for a PFX of another type.
        fields.push(("objectFormat", format.to_ascii_lowercase()));
        fields.push(("objectEncoding", encoding.to_owned()));
    }
    let history = ("objectVersionHistory", object.history);
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    match style {
        Style::Yaml => {
            let mut map: serde_yaml::Mapping =
                fields.into_iter().map(|(key, text)| (key.into(), text.into())).collect();
            map.insert(history.0.into(), history.1.into());
            serde_yaml::to_string(&map).unwrap()
        }
        Style::Json => {
            let mut map: serde_json::Map<_, _> =
                fields.into_iter().map(|(key, text)| (key.to_owned(), text.into())).collect();
            map.insert(history.0.to_owned(), history.1.into());
            serde_json::Value::Object(map).to_string()
        }
        Style::Quoted => {
            let lines = fields.iter().map(|(key, text)| format!("\"{key}\":   {}\n", quoted(text)));
            format!("{}{}: {} # versions\n", lines.collect::<String>(), history.0, history.1)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn objects_round_trip(objects in objects(), outer_json in any::<bool>()) {
        let entries: Vec<_> = objects.iter().map(|(object, style)| entry(object, *style)).collect();
        let outer = BTreeMap::from([("array", &entries)]);
        let text = match outer_json {
            true => serde_json::to_string(&outer).unwrap(),
            false => serde_yaml::to_string(&outer).unwrap(),
        };
        let parsed = match parse(&text) {
            Ok(parsed) => parsed,
            Err(error) => return Err(TestCaseError::fail(format!("{error}\n{text}"))),
        };
        let memo = Memo::default();
        for _ in 0..2 {
            prop_assert_eq!(&memo.parse(&text, 0o644, Rules::Unix).unwrap().objects, &parsed);
        }
        let expected: Vec<_> = objects.into_iter().map(|(object, _)| format!("{object:?}")).collect();
        let parsed: Vec<_> = parsed.into_iter().map(|object| format!("{object:?}")).collect();
        prop_assert_eq!(parsed, expected);
    }
}
