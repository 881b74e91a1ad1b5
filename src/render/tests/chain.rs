use super::openssl::{self, pki};
use super::permutations;
use crate::render::chain::order;

/// Names in the order that came out, or the error's message.
fn ordered(names: &[&'static str]) -> Result<Option<Vec<&'static str>>, String> {
    match order(&pki().certificates(names)) {
        Ok(chain) => Ok(chain.map(|chain| chain.into_iter().map(|index| names[index]).collect())),
        Err(error) => Err(error.message().to_owned()),
    }
}

/// The fixtures are what the tests below take them for, whatever OpenSSL adds by itself.
#[test]
fn fixtures_have_the_key_identifiers_they_should() {
    for (name, subject, authority) in [
        ("leaf", true, true),
        ("root", true, true),
        ("server", false, true),
        ("bare", false, false),
    ] {
        let arguments = ["x509", "-inform", "DER", "-noout", "-text"];
        let text = openssl::run(&arguments, &pki().certificate(name));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.contains("Subject Key Identifier"), subject, "{name}");
        assert_eq!(text.contains("Authority Key Identifier"), authority, "{name}");
    }
}

#[test]
fn u30_all_orders_of_three_give_server_intermediate_root() {
    let all = permutations(&["root", "int", "leaf"]);
    assert_eq!(all.len(), 6);
    for names in all {
        assert_eq!(ordered(&names), Ok(Some(vec!["leaf", "int", "root"])), "{names:?}");
    }
}

#[test]
fn u31_all_orders_of_four_work_though_the_server_has_no_key_identifier() {
    for names in permutations(&["root", "int", "int2", "server"]) {
        assert_eq!(ordered(&names), Ok(Some(vec!["server", "int2", "int", "root"])), "{names:?}");
    }
}

#[test]
fn u32_an_incomplete_chain_is_not_ordered() {
    for names in [
        &["leaf", "root"][..],
        &["root", "leaf"],
        &["leaf", "rsa", "int", "root"],
        &["int", "root", "bare"],
        &["bare", "leaf"],
    ] {
        assert_eq!(ordered(names), Ok(None), "{names:?}");
    }
}

#[test]
fn one_certificate_is_its_own_chain() {
    for name in ["root", "leaf", "bare"] {
        assert_eq!(ordered(&[name]), Ok(Some(vec![name])), "a link to itself is none");
    }
}

#[test]
fn circles_and_nothing_at_all_have_no_leaf() {
    assert_eq!(ordered(&[]), Err("no leaf found".into()));
    assert_eq!(ordered(&["there", "back"]), Err("no leaf found".into()));
}

#[test]
fn a_cycle_above_the_leaf_is_an_error() {
    for names in permutations(&["below", "back", "there"]) {
        let message = "the certificates of the PFX are linked in a cycle";
        assert_eq!(ordered(&names), Err(message.into()));
    }
    assert!(ordered(&["leaf", "int", "root", "root"]).unwrap_err().contains("cycle"));
}

#[test]
fn unreadable_certificates_link_to_nothing() {
    let mut certificates = pki().certificates(&["leaf", "int", "root"]);
    certificates.push(vec![0x30, 0]);
    assert_eq!(order(&certificates).unwrap(), None);
}
