//! Rows of the conformance table are named where they are tested. OpenSSL makes the certificates
//! and judges what we write; its program must be there.

mod chain;
mod hostile;
mod key;
mod openssl;
mod pfx;
mod separate;
mod table;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::class::{Encoding, Format, ObjectKind, ObjectName, Version};

fn object(kind: ObjectKind) -> ObjectSpec {
    ObjectSpec {
        index: 0,
        kind,
        name: ObjectName::parse("thing").unwrap(),
        version: Version::Latest,
        history: 1,
        position: None,
        path: FilePath::parse("folder/alias").unwrap(),
        format: Format::Pem,
        encoding: Encoding::Utf8,
        mode: 0o644,
    }
}

fn version(kind: ObjectKind, body: Body) -> ObjectVersion {
    ObjectVersion {
        kind,
        name: "thing".into(),
        version: "v1".into(),
        created: None,
        expires: None,
        not_before: None,
        body,
    }
}

/// A secret's rendering inputs, with the defaults of a PFX certificate.
struct Case {
    value: Vec<u8>,
    content_type: Option<&'static str>,
    kid: Option<&'static str>,
    format: Format,
    encoding: Encoding,
    chain: bool,
    separate: bool,
}

impl Case {
    fn plain(value: impl Into<Vec<u8>>) -> Self {
        let encoding = Encoding::Utf8;
        let format = Format::Pem;
        Self {
            value: value.into(),
            content_type: None,
            kid: None,
            format,
            encoding,
            chain: true,
            separate: false,
        }
    }

    fn certificate(content_type: &'static str, value: impl Into<Vec<u8>>) -> Self {
        let content_type = Some(content_type);
        Self { content_type, kid: Some("https://x/keys/thing/v1"), ..Self::plain(value) }
    }

    fn pfx(der: &[u8]) -> Self {
        Self::certificate("application/x-pkcs12", STANDARD.encode(der))
    }

    fn files(&self) -> Result<Vec<FileView>> {
        let object = ObjectSpec {
            format: self.format,
            encoding: self.encoding,
            ..object(ObjectKind::Secret)
        };
        let body = Body::Secret {
            value: Secret::new(self.value.clone()),
            content_type: self.content_type.map(Into::into),
            kid: self.kid.map(Into::into),
        };
        let options = Options { construct_pem_chain: self.chain, separate_files: self.separate };
        render(&object, &version(ObjectKind::Secret, body), options)
    }

    fn render(&self) -> Result<Vec<u8>> {
        let files = self.files()?;
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].path.as_str(), "folder/alias");
        Ok(files[0].contents.expose().to_vec())
    }

    fn text(&self) -> String {
        String::from_utf8(self.render().unwrap()).unwrap()
    }

    /// The error's message after the prefix, which every error must have.
    fn refusal(&self) -> (Code, String) {
        let error = self.render().unwrap_err();
        let prefix = "failed to get objectType:secret, objectName:thing, objectVersion:: ";
        let message = error.message().strip_prefix(prefix).expect("the object's prefix");
        (error.code(), message.to_owned())
    }
}

/// Labels and DER of the blocks of a PEM text, which must be exactly what we promise of its form.
fn blocks(text: &str) -> Vec<(String, Vec<u8>)> {
    assert!(text.ends_with("-----\n") && !text.contains('\r'));
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(begin) = lines.next() {
        let label = begin.strip_prefix("-----BEGIN ").unwrap().strip_suffix("-----").unwrap();
        let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with('-')).collect();
        let (last, full) = body.split_last().unwrap();
        assert!(full.iter().all(|line| line.len() == 64) && (1..=64).contains(&last.len()));
        assert!(text.contains(&format!("{last}\n-----END {label}-----\n")));
        blocks.push((label.to_owned(), STANDARD.decode(body.concat()).unwrap()));
    }
    blocks
}

#[test]
fn u33_u45_secrets_are_decoded_as_their_encoding_says() {
    let cases: [(Encoding, &str, &[u8]); 7] = [
        (Encoding::Utf8, "abcdefg", b"abcdefg"),
        (Encoding::Utf8, "secret1value", b"secret1value"),
        (Encoding::Base64, "QmFzZTY0RW5jb2RlZFN0cmluZw==", b"Base64EncodedString"),
        (Encoding::Base64, "\r\nQmFz\nZTY0RW5jb2RlZFN0cmluZw=\r\n=\n", b"Base64EncodedString"),
        (Encoding::Base64, "//+/", b"\xff\xff\xbf"),
        (Encoding::Hex, "486578456E636F646564537472696E67", b"HexEncodedString"),
        (Encoding::Hex, "486578456e636f646564537472696e67", b"HexEncodedString"),
    ];
    for (encoding, value, expected) in cases {
        assert_eq!(Case { encoding, ..Case::plain(value) }.render().unwrap(), expected, "{value}");
    }
    for encoding in [Encoding::Utf8, Encoding::Base64, Encoding::Hex] {
        assert_eq!(Case { encoding, ..Case::plain("") }.render().unwrap(), b"", "empty");
    }
}

/// A plain secret's content type means nothing: without a kid it backs no certificate.
#[test]
fn u45_plain_secrets_ignore_the_content_type() {
    let case = Case { content_type: Some("application/x-pkcs12"), ..Case::plain("text") };
    assert_eq!(case.text(), "text");
    assert_eq!(Case { kid: Some(""), ..case }.text(), "text");
}

/// Differs from upstream on purpose: the error names the object.
#[test]
fn p13_u50_encoding_errors_have_upstreams_words_the_position_and_no_content() {
    let base64 = [
        ("YWJjZA", 4),
        ("YWJjZA=", 4),
        ("a", 0),
        ("YWJj\nZA", 5),
        ("cana.ry=", 4),
        ("ca\r\nna.ry=", 6),
        ("YW-_", 2),
    ];
    for (value, position) in base64 {
        let case = Case { encoding: Encoding::Base64, ..Case::plain(value) };
        let message = format!("illegal base64 data at input byte {position}");
        assert_eq!(case.refusal(), (Code::BadContent, message), "{value:?}");
    }
    for (value, message) in [
        ("486", "encoding/hex: odd length hex string"),
        ("48zz", "encoding/hex: invalid byte at input byte 2"),
        ("48\n4", "encoding/hex: invalid byte at input byte 2"),
    ] {
        let case = Case { encoding: Encoding::Hex, ..Case::plain(value) };
        assert_eq!(case.refusal(), (Code::BadContent, message.into()), "{value:?}");
    }
}

#[test]
fn u46_pem_certificates_are_unchanged() {
    let value = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n\n-----BEGIN X\r\n";
    for format in [Format::Pem, Format::Pfx] {
        let case = Case { format, ..Case::certificate("application/x-pem-file", value) };
        assert_eq!(case.text(), value);
    }
}

/// Upstream dies of it; here, as for a blank one, the value is plain text.
#[test]
fn p16_a_certificates_secret_without_content_type_is_plain_text() {
    for content_type in [None, Some("")] {
        let case = Case { content_type, ..Case::certificate("", "value") };
        assert_eq!(case.text(), "value");
    }
}

#[test]
fn unknown_content_types_are_refused_and_quoted_in_bounds() {
    let message = "failed to get certificate. unknown content type 'Application/X-Pkcs12'";
    let case = Case::certificate("Application/X-Pkcs12", "canary");
    assert_eq!(case.refusal(), (Code::BadContent, message.into()));
    let long = Case::certificate(Box::leak(format!("a\n{}", "b".repeat(999)).into()), "canary");
    let message = format!("failed to get certificate. unknown content type 'a{}'", "b".repeat(63));
    assert_eq!(long.refusal(), (Code::BadContent, message));
}

fn certificate(cer: &[u8]) -> Result<String> {
    let version = version(ObjectKind::Certificate, Body::Certificate { cer: cer.to_vec() });
    let files = render(&object(ObjectKind::Certificate), &version, Options::default())?;
    Ok(files[0].contents.expose_str().unwrap().to_owned())
}

#[test]
fn u35_u51_certificates_are_one_block_of_the_bytes_as_they_are() {
    let text = "-----BEGIN CERTIFICATE-----\ndGVzdA==\n-----END CERTIFICATE-----\n";
    assert_eq!(certificate(b"test").unwrap(), text);
    for length in [47, 48, 49, 96, 1000] {
        let cer: Vec<u8> = (0..length).map(|i| i as u8).collect();
        assert_eq!(blocks(&certificate(&cer).unwrap()), [("CERTIFICATE".to_owned(), cer)]);
    }
}

#[test]
fn u52_an_empty_certificate_is_an_error() {
    let error = certificate(b"").unwrap_err();
    assert_eq!(
        error.message(),
        "failed to get objectType:cert, objectName:thing, objectVersion:: certificate value is nil"
    );
    assert_eq!(error.code(), Code::BadContent);
}

#[test]
fn e4_openssl_reads_certificates() {
    let leaf = openssl::pki().certificate("leaf");
    let text = certificate(&leaf).unwrap();
    let subject = openssl::run(&["x509", "-noout", "-subject"], text.as_bytes());
    assert!(String::from_utf8(subject).unwrap().contains("test.domain.com"));
}

/// Distinct permutations of the names, all of them.
fn permutations(names: &[&'static str]) -> Vec<Vec<&'static str>> {
    if names.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        let mut rest = names.to_vec();
        rest.remove(index);
        for mut tail in permutations(&rest) {
            tail.insert(0, name);
            all.insert(tail.clone(), tail);
        }
    }
    all.into_values().collect()
}
