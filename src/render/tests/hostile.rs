//! Files that want to crash, hang or be quoted.

use proptest::prelude::*;

use super::openssl::pki;
use super::*;
use crate::render::pkcs12::{self, builder as build};

#[test]
fn expensive_files_are_refused_before_the_work() {
    let bags = [build::certificate_bag(&pki().certificate("leaf"))];
    // PBKDF2's count of 100,000, replaced in place. Two million iterations of HMAC cost just the
    // whole budget, so that nothing else may have been spent.
    let key = pki().encrypted_key("leaf", &["-v2", "aes-256-cbc", "-iter", "100000"]);
    let at = key.windows(5).position(|bytes| bytes == [2, 3, 0x01, 0x86, 0xa0]).unwrap();
    let with_count = |count: u32| {
        let key = [&key[..at], &build::number(count), &key[at + 5..]].concat();
        build::bag(build::SHROUDED_KEY_BAG, &key)
    };
    let cheap = build::encrypted_key_bag(&pki().key("leaf"), &[0, 0], 1);
    for pfx in [
        build::pfx_with_mac(&bags, &[0, 0], i32::MAX as u32),
        build::pfx_with_mac(&bags, &[0, 0], u32::MAX),
        build::pfx(&[build::expensive_key_bag(i32::MAX as u32)]),
        build::pfx(&[with_count(2_000_001)]),
        build::pfx(&[cheap, with_count(2_000_000)]),
    ] {
        let message = "pkcs12: more than 4000000 rounds of key derivation";
        assert_eq!(Case::pfx(&pfx).refusal(), (Code::BadContent, message.into()));
    }
    assert_eq!(
        Case::pfx(&build::pfx(&[build::expensive_key_bag(0)])).refusal().1,
        "pkcs12: an iteration count of zero"
    );
}

#[test]
fn bags_are_counted_and_their_nesting_is_bounded() {
    let certificate = build::certificate_bag(&pki().certificate("bare"));
    let case = |bags: &[Vec<u8>]| Case { chain: false, ..Case::pfx(&build::pfx(bags)) };
    assert_eq!(blocks(&case(&vec![certificate.clone(); 128]).text()).len(), 128);
    let (code, message) = case(&vec![certificate.clone(); 129]).refusal();
    assert_eq!(
        (code, message.as_str()),
        (Code::BadContent, "pkcs12: more than 128 keys and certificates")
    );

    let nested = |depth: usize| {
        let inner = certificate.clone();
        let wrap = |bag| build::bag(build::SAFE_CONTENTS_BAG, &build::contents(&[bag]));
        (0..depth).fold(inner, |bag, _| wrap(bag))
    };
    assert_eq!(blocks(&case(&[nested(4)]).text()).len(), 1);
    for depth in [5, 100] {
        let (code, message) = case(&[nested(depth)]).refusal();
        assert_eq!(
            (code, message.as_str()),
            (Code::BadContent, "pkcs12: bags are nested too deep")
        );
    }
}

/// Cut at every byte and with every byte changed, whether encrypted or not: an error or a text,
/// never a panic, and never a piece of the content.
#[test]
fn damaged_files_do_no_harm() {
    let sealed = pki().pfx(&["leaf", "int"], "", &["-noiter", "-nomaciter"]);
    let open = pki().pfx(&["leaf"], "", &["-keypbe", "NONE", "-certpbe", "NONE", "-nomac"]);
    for pfx in [&sealed, &open] {
        for length in 0..pfx.len() {
            let error = pkcs12::open(&pfx[..length]).err().expect("a cut file is refused");
            assert!(error.message().starts_with("pkcs12: "));
        }
    }
    let mut refused = 0;
    for (pfx, bits) in [(&sealed, &[0x01][..]), (&open, &[0x01, 0x80, 0xff])] {
        for position in 0..pfx.len() {
            for bit in bits {
                let mut damaged = pfx.clone();
                damaged[position] ^= bit;
                match Case::pfx(&damaged).render() {
                    Ok(text) => assert!(!text.is_empty()),
                    Err(error) => {
                        assert!(error.message().len() < 200, "{error}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > sealed.len() / 2, "the integrity check sees most of it");
}

/// Whatever is wrong with a value, its error does not show it.
#[test]
fn errors_never_contain_the_content() {
    let canary = "CANARY7f3aSECRET";
    let hex = hex::encode(canary);
    let key = build::bag(build::KEY_BAG, canary.as_bytes());
    let certificate = build::certificate_bag(canary.as_bytes());
    let mut cases = vec![
        Case { encoding: Encoding::Base64, ..Case::plain(format!("{canary}!")) },
        Case { encoding: Encoding::Hex, ..Case::plain(canary) },
        Case { encoding: Encoding::Hex, ..Case::plain(format!("{hex}0")) },
        Case::certificate("application/other", canary),
        Case::certificate("application/x-pkcs12", canary),
        Case::certificate("application/x-pkcs12", format!("{canary}?")),
    ];
    for pfx in [canary.as_bytes().to_vec(), build::pfx(&[key]), build::pfx(&[certificate])] {
        cases.push(Case::pfx(&pfx));
    }
    let encoded = STANDARD.encode(canary);
    for case in cases {
        let error = case.render().unwrap_err();
        for shown in [format!("{error}"), format!("{error:?}")] {
            for form in [canary, &hex, &encoded] {
                assert!(!shown.contains(form), "{shown}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_as_a_pfx(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(pkcs12::open(&bytes).is_err());
    }

    /// The same behind a well-formed shell, where the bags begin.
    #[test]
    fn no_bytes_panic_as_a_bag(
        kind in prop::sample::select(vec![
            build::KEY_BAG, build::SHROUDED_KEY_BAG, build::CERT_BAG, build::SAFE_CONTENTS_BAG,
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        if let Ok(contents) = pkcs12::open(&build::pfx(&[build::bag(kind, &bytes)])) {
            prop_assert!(contents.keys.len() + contents.certificates.len() <= 1);
        }
    }

    #[test]
    fn no_text_panics_whatever_it_is_said_to_be(
        value in any::<String>(),
        content_type in prop::sample::select(vec!["application/x-pkcs12", "application/x-pem-file", "x"]),
        encoding in prop::sample::select(vec![Encoding::Utf8, Encoding::Base64, Encoding::Hex]),
    ) {
        let case = Case { encoding, ..Case::certificate(content_type, value.clone()) };
        if let Ok(bytes) = case.render() {
            prop_assert!(bytes.len() <= value.len());
        }
    }

    #[test]
    fn base64_and_hex_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (encoding, text) in [
            (Encoding::Base64, STANDARD.encode(&bytes)),
            (Encoding::Hex, hex::encode(&bytes)),
        ] {
            let case = Case { encoding, ..Case::plain(text) };
            prop_assert_eq!(&case.render().unwrap(), &bytes);
        }
    }
}
