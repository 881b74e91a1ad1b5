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

/// Chains of any length, in any order, through a whole PFX. The emulator's library makes them.
#[cfg(feature = "emulator")]
mod any_order {
    use std::sync::OnceLock;

    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::super::{Case, blocks};
    use crate::render::pkcs12::builder as build;

    const LONGEST: usize = 6;

    /// PKCS#8 of the leaf, and the certificates from leaf to root.
    fn chain() -> &'static (Vec<u8>, Vec<Vec<u8>>) {
        static CHAIN: OnceLock<(Vec<u8>, Vec<Vec<u8>>)> = OnceLock::new();
        CHAIN.get_or_init(|| {
            let mut chain: Vec<Vec<u8>> = Vec::new();
            let mut issuer: Option<Issuer<'static, KeyPair>> = None;
            let mut leaf = Vec::new();
            for _ in 0..LONGEST {
                let key = KeyPair::generate().unwrap();
                leaf = key.serialize_der();
                let mut params = CertificateParams::new(Vec::new()).unwrap();
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.use_authority_key_identifier_extension = true;
                let certificate = match &issuer {
                    Some(issuer) => params.signed_by(&key, issuer),
                    None => params.self_signed(&key),
                };
                chain.insert(0, certificate.unwrap().der().to_vec());
                issuer = Some(Issuer::new(params, key));
            }
            (leaf, chain)
        })
    }

    /// The last certificates before the leaf, or all, and an order for them. A chain need not end at a
    /// root: an intermediate whose issuer is not there ends it too.
    fn shuffled() -> impl Strategy<Value = Vec<usize>> {
        (2..=LONGEST).prop_flat_map(|length| Just((0..length).collect::<Vec<_>>()).prop_shuffle())
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(64)
        })]

        #[test]
        fn is_rendered_from_leaf_to_root(order in shuffled(), key_at in 0..=LONGEST) {
            let (key, certificates) = chain();
            let mut bags: Vec<_> =
                order.iter().map(|at| build::certificate_bag(&certificates[*at])).collect();
            bags.insert(key_at.min(bags.len()), build::bag(build::KEY_BAG, key));
            let blocks = blocks(&Case::pfx(&build::pfx(&bags)).text());
            prop_assert_eq!(&blocks[0], &("PRIVATE KEY".to_owned(), key.clone()));
            let rendered: Vec<_> = blocks[1..].iter().map(|(_, der)| der.clone()).collect();
            prop_assert_eq!(&rendered[..], &certificates[..order.len()]);
        }
    }
}
