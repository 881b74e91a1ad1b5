mod roundtrip;

use std::collections::BTreeMap;

use super::*;
use crate::class::{Encoding, Format, ObjectKind, Version};

fn parse(text: &str) -> Result<Vec<ObjectSpec>> {
    super::parse(text, 0o644, Rules::Unix).map(|list| list.objects)
}

/// A class of these entries, each given in flow style, which is YAML as well.
fn array(entries: &[&str]) -> String {
    let mut text = "array:\n".to_owned();
    for entry in entries {
        text.push_str("  - |\n");
        for line in entry.lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

fn one(entry: &str) -> Result<ObjectSpec> {
    parse(&array(&[entry])).map(|mut objects| objects.remove(0))
}

fn refused(text: &str) -> Error {
    match parse(text) {
        Ok(objects) => panic!("{text} gave {objects:?}"),
        Err(error) => error,
    }
}

/// A field's text as spelt in YAML, seen through the raw entry.
fn literal(scalar: &str) -> String {
    let raw = read_entry(&format!("objectVersion: {scalar}\nobjectName: x")).unwrap();
    raw.text("objectVersion").to_owned()
}

#[test]
fn scalars_are_taken_as_they_are_spelt() {
    for same in [
        "0755",
        "0123",
        "0x1F",
        "0o17",
        "1e3",
        "1_000",
        "1.50",
        "true",
        "True",
        "yes",
        "no",
        "on",
        "2021-01-01",
        ".inf",
        "-0",
        "+600",
        "1:30",
        "00",
        "1.",
        "a b",
        "=",
    ] {
        assert_eq!(literal(same), same);
        assert_eq!(literal(&format!("\"{same}\"")), same);
        assert_eq!(literal(&format!("'{same}'")), same);
    }
    for nothing in ["~", "null", "Null", "NULL", "", "''", "\"\"", " # comment"] {
        assert_eq!(literal(nothing), "", "{nothing}");
    }
    assert_eq!(literal("'null'"), "null");
    assert_eq!(literal("\"~\""), "~");
    assert_eq!(literal("!!str 0755"), "0755");
    assert_eq!(literal("&a 0755"), "0755");
    assert_eq!(literal("|\n  0755"), "0755");
}

/// U18, U19: the prefix users search for, the cause, and where it is.
#[test]
fn u18_u19_errors_name_object_cause_and_place() {
    let error = refused(&array(&[
        "objectName: secret0\nobjectType: secret",
        "objectName: secret1\nobjectType: secret\nobjectFormat: pkcs",
    ]));
    assert_eq!(
        error.message(),
        "failed to get objectType:secret, objectName:secret1, objectVersion:: \
         invalid objectFormat: pkcs, should be PEM or PFX, at array[1].objectFormat"
    );
    let error = one("objectName: secret1\nobjectType: secret\nobjectEncoding: utf-16").unwrap_err();
    assert_eq!(
        error.message(),
        "failed to get objectType:secret, objectName:secret1, objectVersion:: \
         invalid objectEncoding: utf-16, should be hex, base64 or utf-8, at array[0].objectEncoding"
    );
}

#[test]
fn u41_fields_are_trimmed() {
    let object =
        one("objectName: 'secret1     '\nobjectType: '  secret'\nobjectEncoding: 'base64   '\n\
                      objectVersion: \"\\u00a0latest\\u3000\"\nobjectVersionHistory: 2")
        .unwrap();
    assert_eq!(object.name.as_str(), "secret1");
    assert_eq!(object.encoding, Encoding::Base64);
    assert_eq!((object.version, object.history), (Version::Latest, 2));
}

#[test]
fn u53_formats() {
    let case = |format: &str, kind: &str| {
        one(&format!("objectName: x\nobjectType: {kind}\nobjectFormat: '{format}'"))
    };
    assert_eq!(case("", "cert").unwrap().format, Format::Pem);
    assert_eq!(case("PeM", "key").unwrap().format, Format::Pem);
    assert_eq!(case("PFX", "secret").unwrap().format, Format::Pfx);
    assert_eq!(case("pfx", "secret").unwrap().format, Format::Pfx);
    assert!(case("pkcs", "secret").unwrap_err().message().contains("should be PEM or PFX"));
    // Upstream lets the upper-case spelling through and ignores it.
    for format in ["pfx", "PFX"] {
        for kind in ["cert", "key"] {
            let error = case(format, kind).unwrap_err();
            assert!(error.message().contains("PFX format only supported for objectType: secret"));
        }
    }
}

#[test]
fn u54_encodings() {
    let case = |encoding: &str, kind: &str| {
        one(&format!("objectName: x\nobjectType: {kind}\nobjectEncoding: '{encoding}'"))
    };
    assert_eq!(case("", "cert").unwrap().encoding, Encoding::Utf8);
    assert_eq!(case("BasE64", "secret").unwrap().encoding, Encoding::Base64);
    assert_eq!(case("HEX", "secret").unwrap().encoding, Encoding::Hex);
    assert!(case("utf-16", "secret").is_err());
    for kind in ["cert", "key", "Secret"] {
        let error = case("base64", kind).unwrap_err();
        assert!(error.message().contains("objectEncoding only supported for objectType: secret"));
    }
}

/// U55 for both sources of a file name.
#[test]
fn u55_file_names() {
    for (name, text) in [
        ("/secret1", "file name must be a relative path"),
        ("secret1/..", "file name must not contain '..'"),
        ("../secret1", "file name must not contain '..'"),
        ("''", "file name must not be empty"),
        ("./x", "file name must be a clean path"),
    ] {
        let error = one(&format!("objectName: {name}\nobjectType: secret")).unwrap_err();
        assert!(error.message().contains(text), "{error}");
        assert!(error.message().ends_with(", at array[0].objectName"), "{error}");
        if name != "''" {
            let entry = format!("objectName: x\nobjectType: secret\nobjectAlias: {name}");
            let error = one(&entry).unwrap_err();
            assert!(error.message().contains(text), "{error}");
            assert!(error.message().ends_with(", at array[0].objectAlias"), "{error}");
        }
    }
}

/// U56, and the bounds of a history.
#[test]
fn u56_histories() {
    let case = |history: &str| {
        one(&format!("objectName: x\nobjectType: secret\nobjectVersionHistory: {history}"))
            .map(|object| object.history)
    };
    for (history, versions) in
        [("", 1), ("0", 1), ("1", 1), ("-3", 1), ("4", 4), ("100", 100), ("~", 1)]
    {
        assert_eq!(case(history).unwrap(), versions, "{history}");
    }
    for wrong in ["101", "4294967297", "99999999999999999999999"] {
        assert!(case(wrong).unwrap_err().message().contains("objectVersionHistory is above 100"));
    }
    for wrong in ["\"2\"", "two", "2.5", "2.0", "2_0", "true", "[2]", "{a: 2}", "!!str 2"] {
        let error = case(wrong).unwrap_err();
        let prefix = "unmarshal failed for keyVaultObjects at index 0, error: ";
        assert!(error.message().starts_with(prefix), "{wrong}: {error}");
        assert!(error.message().contains("into int32"), "{wrong}: {error}");
    }
}

/// U58: alias, else name; a history's alias is cleaned as upstream's joining does.
#[test]
fn u58_file_name_is_the_alias_or_the_name() {
    let path = |rest: &str| {
        one(&format!("objectName: test\nobjectType: key\n{rest}")).unwrap().path.as_str().to_owned()
    };
    assert_eq!(path("objectAlias: alias"), "alias");
    assert_eq!(path("objectAlias: sub/alias"), "sub/alias");
    assert_eq!(path(""), "test");
    assert_eq!(path("objectAlias: ./x/\nobjectVersionHistory: 2"), "x");
    let entry = "objectName: x\nobjectType: key\nobjectAlias: ./x/\nobjectVersionHistory: 1";
    assert!(one(entry).is_err());
}

/// U59: octal digits or nothing; upstream drops the error and makes mode 0 of it.
#[test]
fn u59_permissions() {
    let case = |permission: &str| {
        one(&format!("objectName: x\nobjectType: secret\nfilePermission: {permission}"))
            .map(|object| object.mode)
    };
    for (text, mode) in [
        ("0600", 0o600),
        ("\"0600\"", 0o600),
        ("600", 0o600),
        ("420", 0o420),
        ("0", 0),
        ("", 0o644),
        ("~", 0o644),
        ("' 0777 '", 0o777),
        ("00000777", 0o777),
    ] {
        assert_eq!(case(text).unwrap(), mode, "{text}");
    }
    for wrong in [
        "\"0900\"",
        "900",
        "0o600",
        "rw",
        "+600",
        "-600",
        "07777",
        "01000",
        "0x1ff",
        "77777777777777777777",
        "0 600",
        "'6 0'",
    ] {
        let error = case(wrong).unwrap_err();
        assert!(error.message().contains("invalid filePermission: "), "{error}");
    }
}

#[test]
fn u63_the_outer_text_is_a_list_of_texts() {
    let outer = read_outer("array:\n  - |\n    objectName: a\n  - 'objectName: b'\n").unwrap();
    let texts: Vec<_> = outer
        .items
        .iter()
        .map(|item| match item {
            Item::Text(text) => text.as_str(),
            Item::Empty => "",
        })
        .collect();
    assert_eq!(texts, ["objectName: a\n", "objectName: b"]);
    for wrong in ["invalid", "- |\n  objectName: x", "[a]", "7", "true", "1.5", "!x y"] {
        let error = refused(wrong);
        let prefix = "failed to yaml unmarshal objects, error: ";
        assert!(error.message().starts_with(prefix), "{wrong}: {error}");
    }
}

#[test]
fn the_forgotten_bar_is_explained() {
    let error =
        refused("array:\n  - |\n    objectName: a\n    objectType: key\n  - objectName: b\n");
    assert_eq!(
        error.message(),
        "failed to yaml unmarshal objects, error: array[1]: cannot unmarshal !!map into string"
    );
    assert!(error.likely_fix().unwrap().contains("each array item needs `|`"), "{error}");
}

#[test]
fn items_that_are_no_objects() {
    for item in ["5", "true", "1.5", "word", "'[1]'", "18446744073709551616"] {
        let error = refused(&format!("array:\n  - {item}\n"));
        assert!(
            error.message().starts_with("unmarshal failed for keyVaultObjects at index 0, error: "),
            "{item}: {error}"
        );
    }
    let text = "array:\n  - ~\n  - |\n    objectName: a\n    objectType: key\n  -\n";
    let List { objects, notices } = super::parse(text, 0o644, Rules::Unix).unwrap();
    assert_eq!((objects.len(), objects[0].index), (1, 1));
    assert_eq!(notices.len(), 2);
}

/// Everything about YAML that upstream's decoder does too.
#[test]
fn yaml_details() {
    let good = "objectName: a\nobjectType: key";
    for text in [
        "{\"array\": [\"{\\\"objectName\\\": \\\"a\\\", \\\"objectType\\\": \\\"key\\\"}\"]}",
        "\u{feff}array:\n  - |\n    objectName: a\n    objectType: key\n",
        "array:\r\n  - |\r\n    objectName: a\r\n    objectType: key\r\n",
        "array:\r  - |\r    objectName: a\r    objectType: key\r",
        "x: &x |\n  objectName: a\n  objectType: key\narray: [*x]\n",
        "array:\n  - |\n    objectName: a\n    objectType: key\n---\narray: [not, read]\n{",
        "unknown: {a: [b]}\narray:\n  - |\n    objectName: a\n    objectType: key\n    more: [x]\n",
        "array:\n  - |\n    d: &d {objectName: b, objectType: key}\n    <<: *d\n    objectName: a\n",
    ] {
        let objects = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(objects.len(), 1, "{text}");
        assert_eq!((objects[0].name.as_str(), objects[0].kind), ("a", ObjectKind::Key), "{text}");
    }
    let error = one(&format!("{good}\nobjectName: b")).unwrap_err();
    assert!(error.message().contains("mapping key \"objectName\" already defined"), "{error}");
    let error = refused("array: []\narray: []");
    assert!(error.message().contains("mapping key \"array\" already defined"), "{error}");
    let error = one("objectName: a\nobjectname: b\nobjecttype: key").unwrap_err();
    assert!(error.likely_fix().unwrap().contains("spell it objectType, not objecttype"), "{error}");
    let error = one("objectname: b").unwrap_err();
    assert!(error.message().contains("file name must not be empty"), "{error}");
    assert!(error.likely_fix().unwrap().contains("spell it objectName, not objectname"), "{error}");
}

#[test]
fn the_same_twice_is_one_and_two_in_one_place_are_none() {
    let a = "objectName: a\nobjectType: secret";
    let text =
        array(&[a, "objectName: b\nobjectType: key", &format!("{a}\nobjectVersion: latest")]);
    let List { objects, notices } = super::parse(&text, 0o644, Rules::Unix).unwrap();
    assert_eq!(objects.iter().map(|o| o.index).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(notices, ["objects: array[2] repeats array[0] and is left out"]);

    for (entries, text) in [
        (vec![a, "objectName: b\nobjectType: secret\nobjectAlias: a"], "are both the file a"),
        (vec![a, "objectName: a\nobjectType: key"], "array[0] and array[1] are both the file a"),
        (vec![a, "objectName: a\nobjectType: secret\nfilePermission: 0400"], "both the file a"),
        (
            vec![
                "objectName: b\nobjectType: key\nobjectAlias: a/b",
                "objectName: c\nobjectType: key\nobjectAlias: a.x",
                a,
            ],
            "array[2] is the file a, which array[0] needs as a folder",
        ),
        (
            vec![a, "objectName: a\nobjectType: secret\nobjectVersionHistory: 2"],
            "needs as a folder",
        ),
        (
            vec![
                "objectName: b\nobjectType: key\nobjectVersionHistory: 3\nobjectAlias: d",
                "objectName: c\nobjectType: key\nobjectAlias: d/2",
            ],
            "array[0] and array[1] are both the file d/2",
        ),
    ] {
        let error = refused(&array(&entries));
        assert!(error.message().starts_with("failed to get objectType:"), "{error}");
        assert!(error.message().contains(text), "{error}");
    }
    // One object under two names, and a history beside another file in its folder.
    let fine = array(&[
        a,
        &format!("{a}\nobjectAlias: b"),
        "objectName: b\nobjectType: key\nobjectVersionHistory: 3\nobjectAlias: d",
        "objectName: c\nobjectType: key\nobjectAlias: d/3",
    ]);
    assert_eq!(parse(&fine).unwrap().len(), 4);
    // Windows sees one file where Linux sees two.
    let cases = array(&[a, "objectName: b\nobjectType: secret\nobjectAlias: A"]);
    assert_eq!(parse(&cases).unwrap().len(), 2);
    assert!(super::parse(&cases, 0o644, Rules::Windows).is_err());
    let device = array(&["objectName: nul\nobjectType: key"]);
    assert!(super::parse(&device, 0o644, Rules::Windows).is_err());
}

#[test]
fn objects_are_counted_with_their_histories() {
    let entry = |i: usize, history: usize| {
        format!("objectName: n{i}\nobjectType: key\nobjectVersionHistory: {history}")
    };
    let class = |count: usize, history: usize| {
        let entries: Vec<_> = (0..count).map(|i| entry(i, history)).collect();
        parse(&array(&entries.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    assert_eq!(class(2_000, 1).unwrap().len(), 2_000);
    assert_eq!(class(20, 100).unwrap().len(), 20);
    for (count, history) in [(2_001, 1), (21, 100)] {
        let error = class(count, history).unwrap_err();
        assert!(error.message().contains("lists more than 2000 objects"), "{error}");
    }
}

/// Texts that are small and would cost much. A parser without bounds does not finish these.
#[test]
fn hostile_yaml_is_cheap() {
    let mut laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (now, before) in ('b'..='i').zip('a'..='h') {
        laughs.push_str(&format!("{now}: &{now} [{}]\n", format!("*{before},").repeat(9)));
    }
    laughs.push_str("array: *i\n");
    let deep = format!("array:\n  - |\n    x: {}{}", "[".repeat(60), "]".repeat(60));
    assert!(parse(&deep).is_err(), "the entry has no name");
    let repeated = format!("x: &x |\n  {}\narray: [{}]", "a".repeat(500_000), "*x,".repeat(1_999));
    for text in [
        laughs,
        repeated,
        "[".repeat(1_000_000),
        "{".repeat(1_000_000),
        "[\"]\", ".repeat(150_000),
        "- ".repeat(500_000),
        "? ".repeat(500_000),
        "a:\n".repeat(300_000),
        format!("array: {}x{}", "[".repeat(2_000), "]".repeat(2_000)),
        format!("array: {}{}", "[".repeat(2_000), "x,".repeat(60_000)),
        (0..30_000).map(|i| format!("k{i}:\n")).collect::<String>() + "k0:\n",
        format!("array: {}", "{a: ".repeat(2_000)),
        "array: &a [*a]".to_owned(),
        "array:\n  - |\n    a: &a\n      <<: *a\n    <<: *a\n".to_owned(),
        "array:\n  - |\n    a: &a {<<: [*a, *a, *a]}\n    <<: *a\n".to_owned(),
        format!("array:\n  - |\n    objectName: {}", "[".repeat(10_000)),
        "x".repeat(1_048_577),
    ] {
        let shown: String = text.chars().take(40).collect();
        let error = match parse(&text) {
            Ok(objects) => panic!("{shown} gave {} objects", objects.len()),
            Err(error) => error,
        };
        assert!(error.to_string().len() < 700, "{shown}: {error}");
    }
}
