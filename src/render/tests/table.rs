//! Every combination of content, `objectFormat` and `objectEncoding`, with the bytes it gives.

use super::openssl::pki;
use super::*;

/// What a file holds, or the error's message.
type Outcome = std::result::Result<Vec<u8>, &'static str>;
/// For each format the outcomes of utf-8, base64 and hex.
type Outcomes = [[Outcome; 3]; 2];
/// Whether it backs a certificate, its content type, its value.
type Content<'a> = (bool, Option<&'static str>, &'a Vec<u8>);

const NO_BASE64: &str = "illegal base64 data at input byte 0";
const NO_HEX: &str = "encoding/hex: invalid byte at input byte 0";

#[test]
fn u33_u45_u46_u47_u48_every_format_and_encoding() {
    // Valid in all three encodings.
    let value = b"cafebabe".to_vec();
    let pem = b"-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n".to_vec();
    let pfx = pki().pfx(&["leaf", "int", "root"], "", &["-legacy"]);
    let pfx_text = STANDARD.encode(&pfx).into_bytes();
    let converted = Case::pfx(&pfx).render().unwrap();
    assert_eq!(blocks(std::str::from_utf8(&converted).unwrap()).len(), 4);

    let same = |value: &Vec<u8>| -> [Outcome; 3] {
        let hex: Outcome = Ok(vec![0xca, 0xfe, 0xba, 0xbe]);
        [Ok(value.clone()), Ok(STANDARD.decode(value).unwrap()), hex]
    };
    let text = |text: &Vec<u8>| -> [Outcome; 3] { [Ok(text.clone()), Err(NO_BASE64), Err(NO_HEX)] };
    let (no_type, pem_type, pfx_type) =
        (None, Some("application/x-pem-file"), Some("application/x-pkcs12"));
    let table: [(&str, Content<'_>, Outcomes); 7] = [
        ("plain", (false, no_type, &value), [same(&value), same(&value)]),
        ("plain, typed", (false, pfx_type, &value), [same(&value), same(&value)]),
        ("untyped certificate", (true, no_type, &value), [same(&value), same(&value)]),
        ("blank type", (true, Some(""), &value), [same(&value), same(&value)]),
        ("PEM certificate", (true, pem_type, &pem), [text(&pem), text(&pem)]),
        // The value is not looked into.
        ("PEM certificate that is none", (true, pem_type, &value), [same(&value), same(&value)]),
        (
            "PFX certificate",
            (true, pfx_type, &pfx_text),
            [text(&converted), [Ok(pfx_text.clone()), Ok(pfx.clone()), Err(NO_HEX)]],
        ),
    ];
    for (what, (certificate, content_type, value), outcomes) in table {
        for (format, outcomes) in [Format::Pem, Format::Pfx].into_iter().zip(outcomes) {
            let encodings = [Encoding::Utf8, Encoding::Base64, Encoding::Hex];
            for (encoding, expected) in encodings.into_iter().zip(outcomes) {
                let kid = certificate.then_some("https://x/keys/thing/v1");
                let case =
                    Case { content_type, kid, format, encoding, ..Case::plain(value.clone()) };
                let what = format!("{what}, {format:?}, {encoding:?}");
                match expected {
                    Ok(bytes) => assert_eq!(case.render().unwrap(), bytes, "{what}"),
                    Err(message) => assert_eq!(case.refusal().1, message, "{what}"),
                }
            }
        }
    }
}
