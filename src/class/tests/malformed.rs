//! Two hundred and more wrong inputs: each gives a clear error, and none shows a secret.
//!
//! A row is the input and a part of the error. `canary` stands wherever a secret may stand, in wrong
//! types and broken syntax too; no error may repeat it.

use super::*;

mod table;

use table::{ATTRIBUTES, ENTRIES, OBJECTS, PARAMETERS, PERMISSIONS, SECRETS, TOKENS, WORKLOADS};

fn check(what: &str, input: &str, expected: &str, outcome: Result<Parsed>) {
    let error = match outcome {
        Ok(parsed) => panic!("{what} {input:?} gave {parsed:?}"),
        Err(error) => error,
    };
    let shown = format!("{error} {error:?}");
    assert_eq!(error.code(), Code::ClassInvalid, "{input:?}: {error}");
    assert!(error.to_string().contains(expected), "{what} {input:?}: {error}, not {expected:?}");
    assert!(!shown.contains("canary") && !shown.contains("123456789"), "{what} {input:?}: {error}");
    assert!(!shown.contains(char::is_control), "{what} {input:?}: {error:?}");
    assert!(shown.len() < 2_000, "{what} {input:?}: {error}");
}

#[test]
fn attributes_texts() {
    for (text, expected) in ATTRIBUTES {
        let error = mount(text, "canary");
        assert!(
            matches!(&error, Err(e) if e.message().starts_with("failed to unmarshal attributes, error: "))
        );
        check("attributes", text, expected, error);
    }
}

#[test]
fn secrets_texts() {
    for (text, expected) in SECRETS {
        let error = mount(&attributes(&[]), text);
        assert!(
            matches!(&error, Err(e) if e.message().starts_with("failed to unmarshal secrets, error: "))
        );
        check("secrets", text, expected, error);
    }
}

#[test]
fn permission_texts() {
    for (text, expected) in PERMISSIONS {
        let outcome =
            request::decode("{}", "{}", text).map(|_| Parsed::Nothing { notices: vec![] });
        assert!(
            matches!(&outcome, Err(e) if e.message().starts_with("failed to unmarshal file permission, error: "))
        );
        check("permission", text, expected, outcome);
    }
    for (text, mode) in [("420", 420), (" 511\n", 511), ("0", 0)] {
        assert_eq!(request::decode("{}", "{}", text).unwrap().permission, mode);
    }
}

#[test]
fn parameter_values() {
    for (key, value, expected) in PARAMETERS {
        check(key, value, expected, mount(&attributes(&[(key, Some(value))]), "null"));
    }
    for (key, value, expected) in WORKLOADS {
        let good = "{\"api://AzureADTokenExchange\":{\"token\":\"canary\"}}";
        let changes = [
            ("useVMManagedIdentity", None),
            ("clientID", Some("app")),
            (TOKENS, Some(good)),
            (*key, Some(*value)),
        ];
        check(key, value, expected, mount(&attributes(&changes), "{\"clientsecret\":\"canary\"}"));
    }
}

#[test]
fn objects_texts() {
    for (text, expected) in OBJECTS {
        check("objects", text, expected, mount(&attributes(&[("objects", Some(text))]), "null"));
    }
    for (entry, expected) in ENTRIES {
        let text = format!("array:\n  - |\n    {{{entry}}}\n");
        check("entry", entry, expected, mount(&attributes(&[("objects", Some(&text))]), "null"));
    }
}

#[test]
fn texts_are_bounded() {
    let long = "canary".repeat(200_000);
    let value = format!("{{\"a\":\"{long}\"}}");
    check("attributes", "(long)", "the text is larger than 1 MiB", mount(&value, "null"));
    check("secrets", "(long)", "the text is larger than 1 MiB", mount("{}", &value));
    let mut keys = String::from("{\"k\":\"canary\"");
    (0..5_000).for_each(|i| keys.push_str(&format!(",\"k{i}\":\"canary\"")));
    keys.push('}');
    check("attributes", "(keys)", "the object has too many keys", mount(&keys, "null"));
    check("secrets", "(keys)", "the object has too many keys", mount("{}", &keys));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    check("attributes", "(deep)", "the value of a is an array", mount(&deep, "null"));
    check("secrets", "(deep)", "the value of a is an array", mount("{}", &deep));
    let name = "n".repeat(100_000);
    for key in ["usePodIdentity", "keyvaultName", "cloudName", "userAssignedIdentityID"] {
        let outcome = mount(&attributes(&[(key, Some(&name))]), "null");
        check(key, "(long)", "", outcome);
    }
    for key in ["objectName", "objectType", "objectVersion", "objectFormat", "objectAlias"] {
        let text = format!("array:\n  - |\n    {key}: {name}\n");
        check(key, "(long)", "", mount(&attributes(&[("objects", Some(&text))]), "null"));
    }
}

#[test]
fn there_are_enough_of_them() {
    let rows = ATTRIBUTES.len()
        + SECRETS.len()
        + PERMISSIONS.len()
        + PARAMETERS.len()
        + WORKLOADS.len()
        + OBJECTS.len()
        + ENTRIES.len();
    assert!(rows >= 200, "{rows}");
}
