//! Contents: certificates, chains, encodings, keys, and answers of a vault that lack something.

use akvfs::csi::proto::MountResponse;
use akvfs::emulator::{KeySeed, Seed, Service, Trouble, Where};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tonic::Code;

use crate::canary;
use crate::openssl::{pki, run};
use crate::seeds;
use crate::support::{
    PEM, PFX, answer, backed, blocks, bytes, mount_pfx, named, paths, refusal, text, wrong_class,
};
use crate::world::{World, secret};

/// What becomes of a PFX with these certificates, in this order and without a key: OpenSSL would put
/// the key's own first.
async fn chain(world: &World, names: &[&str]) -> Vec<Vec<u8>> {
    let pfx = pki().pfx(names, "", &["-nokeys"]);
    let response = mount_pfx(world, &pfx, "").await.unwrap();
    blocks(text(&response, "x")).into_iter().map(|(_, der)| der).collect()
}

/// Every order.
fn orders(names: &[&'static str]) -> Vec<Vec<&'static str>> {
    let [first, rest @ ..] = names else { return vec![Vec::new()] };
    let mut all = Vec::new();
    for order in orders(rest) {
        for place in 0..names.len() {
            let mut order = order.clone();
            order.insert(place, first);
            all.push(order);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn u28_a_self_signed_rsa_certificate_without_key_identifiers() {
    let world = World::start(Seed::default()).await;
    let response = mount_pfx(&world, &pki().pfx(&["bare"], "", &[]), "").await.unwrap();
    assert_eq!(named(text(&response, "x")), ["PRIVATE KEY bare", "CERTIFICATE bare"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn u29_an_ec_key_with_its_chain() {
    let world = World::start(Seed::default()).await;
    let pfx = pki().pfx(&["leaf", "root", "int"], "", &[]);
    let response = mount_pfx(&world, &pfx, "").await.unwrap();
    let expected = ["PRIVATE KEY leaf", "CERTIFICATE leaf", "CERTIFICATE int", "CERTIFICATE root"];
    assert_eq!(named(text(&response, "x")), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn u30_every_order_of_three() {
    let world = World::start(Seed::default()).await;
    let orders = orders(&["root", "int", "leaf"]);
    assert_eq!(orders.len(), 6);
    for names in orders {
        assert_eq!(chain(&world, &names).await, pki().certificates(&["leaf", "int", "root"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u31_every_order_of_four_though_the_server_has_no_key_identifier() {
    let world = World::start(Seed::default()).await;
    for names in orders(&["root", "int", "int2", "server"]) {
        let expected = pki().certificates(&["server", "int2", "int", "root"]);
        assert_eq!(chain(&world, &names).await, expected, "{names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u32_an_incomplete_chain_stays_as_it_is() {
    let world = World::start(Seed::default()).await;
    for names in [["root", "leaf"], ["leaf", "root"]] {
        assert_eq!(chain(&world, &names).await, pki().certificates(&names));
    }
}

/// A secret with this value, mounted with this encoding.
async fn encoded(value: &str, encoding: &str) -> Result<MountResponse, tonic::Status> {
    let world = World::start(Seed::default().secret("e", &[value])).await;
    let entry = format!("objectName: e\nobjectType: secret\nobjectEncoding: '{encoding}'");
    world.mount(&world.call(&[&entry])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn u33_encodings() {
    for (encoding, value, expected) in [
        ("", "abcdefg", "abcdefg"),
        ("utf-8", "TestSecret1", "TestSecret1"),
        ("base64", "QmFzZTY0RW5jb2RlZFN0cmluZw==", "Base64EncodedString"),
        ("hex", "486578456E636F646564537472696E67", "HexEncodedString"),
    ] {
        let response = encoded(value, encoding).await.unwrap();
        assert_eq!(text(&response, "e"), expected, "{encoding}");
    }
}

/// Found out before any request, under the text that a class with it has always got.
#[tokio::test(flavor = "multi_thread")]
async fn u34_an_encoding_that_is_none() {
    let world = World::start(seeds::one()).await;
    let entry = format!("{}\nobjectEncoding: NotAnEncoding", secret(seeds::ONE));
    let text = "invalid objectEncoding: NotAnEncoding, should be hex, base64 or utf-8";
    wrong_class(&world, &world.call(&[&entry]), text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u35_the_text_of_keys_and_certificates_is_not_decoded() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let call = world.call(&[
        "objectName: pemcert1\nobjectType: cert\nobjectAlias: cert",
        "objectName: key1\nobjectType: key\nobjectEncoding: ''",
    ]);
    let response = world.mount(&call).await.unwrap();
    assert_eq!(blocks(text(&response, "cert"))[0].0, "CERTIFICATE");
    assert_eq!(blocks(text(&response, "key1"))[0].0, "PUBLIC KEY");
}

#[tokio::test(flavor = "multi_thread")]
async fn u42_curves() {
    let seed = Seed::default()
        .key("p256", KeySeed::P256)
        .key("p384", KeySeed::P384)
        .key("p521", KeySeed::P521);
    let world = World::start(seed).await;
    for name in ["p256", "p384", "p521"] {
        let call = world.call(&[&format!("objectName: {name}\nobjectType: key")]);
        let response = world.mount(&call).await.unwrap();
        let shown = run(&["pkey", "-pubin", "-noout", "-text"], bytes(&response, name));
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(&format!("NIST CURVE: P-{}", &name[1..])), "{shown}");
    }
    let kid = format!("{}/keys/k/v1", world.emulator.vault_url());
    let jwk = json!({"kid": kid, "kty": "EC", "crv": "P-256K", "x": "AQ", "y": "AQ"});
    answer(&world, "/keys/k/", &json!({ "key": jwk }));
    let call = world.call(&["objectName: k\nobjectType: key"]);
    let said = refusal(&world, &call, Code::Internal).await;
    assert!(said.contains("curve P-256K is not supported"), "{said}");
}

/// A PFX holds PKCS#8, whatever was imported; a PEM secret keeps its own form, unread.
#[tokio::test(flavor = "multi_thread")]
async fn u43_forms_of_private_keys() {
    let world = World::start(Seed::default()).await;
    for name in ["rsa", "leaf"] {
        let response = mount_pfx(&world, &pki().pfx(&[name], "", &[]), "").await.unwrap();
        assert_eq!(blocks(text(&response, "x"))[0], ("PRIVATE KEY".to_owned(), pki().key(name)));
        let traditional = run(&["pkey", "-inform", "DER", "-traditional"], &pki().key(name));
        let encrypted = STANDARD.encode(pki().encrypted_key(name, &[]));
        let encrypted = format!(
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n{encrypted}\n-----END ENCRYPTED PRIVATE KEY-----\n"
        );
        for pem in [String::from_utf8(traditional).unwrap(), encrypted] {
            world.control.clear_faults();
            answer(&world, "/secrets/x/", &backed(&world, PEM.into(), &pem));
            let response = world.mount(&world.call(&[&secret("x")])).await.unwrap();
            assert_eq!(text(&response, "x"), pem);
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn u44_certificates_in_order_and_the_key_apart() {
    let world = World::with_separate_files(Seed::default()).await;
    let key = pem("PRIVATE KEY", &pki().key("leaf"));
    let chain = |names: &[&str]| -> String {
        names.iter().map(|name| pem("CERTIFICATE", &pki().certificate(name))).collect()
    };
    for names in [&["leaf"][..], &["leaf", "int", "root"], &["root", "leaf", "int"]] {
        for value in [chain(names) + &key, key.clone() + &chain(names)] {
            world.control.clear_faults();
            answer(&world, "/secrets/x/", &backed(&world, PEM.into(), &value));
            let response = world.mount(&world.call(&[&secret("x")])).await.unwrap();
            let expected: Vec<_> = names.iter().map(|name| format!("CERTIFICATE {name}")).collect();
            assert_eq!(named(text(&response, "x.crt")), expected);
            assert_eq!(named(text(&response, "x.key")), ["PRIVATE KEY leaf"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u45_a_plain_secret() {
    let world = World::start(Seed::default()).await;
    let url = world.emulator.vault_url();
    let body = json!({"value": "secret1value", "id": format!("{url}/secrets/secret1/v1")});
    answer(&world, "/secrets/secret1/", &body);
    let response = world.mount(&world.call(&[&secret("secret1")])).await.unwrap();
    assert_eq!(text(&response, "secret1"), "secret1value");
    assert_eq!(response.object_version[0].version, "v1");
}

/// What a certificate's secret of this type and value comes to.
async fn certificate(content_type: &str, value: &str, lines: &str) -> MountResponse {
    let world = World::start(Seed::default()).await;
    answer(&world, "/secrets/x/", &backed(&world, content_type.into(), value));
    let entry = format!("{}\n{lines}", secret("x"));
    world.mount(&world.call(&[&entry])).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn u46_a_pem_certificate_is_unchanged() {
    // With blank lines, which are the value's own.
    let certificate_text = pem("CERTIFICATE", &pki().certificate("leaf"));
    let value = format!("{certificate_text}\n{}\n", pem("PRIVATE KEY", &pki().key("leaf")));
    for lines in ["", "objectFormat: pem", "objectFormat: pfx"] {
        assert_eq!(text(&certificate(PEM, &value, lines).await, "x"), value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u47_a_pfx_stays_base64() {
    let value = STANDARD.encode(pki().pfx(&["rsa"], "", &[]));
    assert_eq!(text(&certificate(PFX, &value, "objectFormat: pfx").await, "x"), value);
}

#[tokio::test(flavor = "multi_thread")]
async fn u48_a_pfx_becomes_pem() {
    let value = STANDARD.encode(pki().pfx(&["rsa"], "", &[]));
    for lines in ["", "objectFormat: pem", "objectFormat: PEM"] {
        let response = certificate(PFX, &value, lines).await;
        assert_eq!(named(text(&response, "x")), ["PRIVATE KEY rsa", "CERTIFICATE rsa"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u49_certificate_key_and_both_in_three_files() {
    let world = World::with_separate_files(Seed::default()).await;
    let response = mount_pfx(&world, &pki().pfx(&["rsa"], "", &[]), "").await.unwrap();
    assert_eq!(paths(&response), ["x.crt", "x.key", "x"]);
    assert_eq!(named(text(&response, "x.crt")), ["CERTIFICATE rsa"]);
    assert_eq!(named(text(&response, "x.key")), ["PRIVATE KEY rsa"]);
    assert_eq!(named(text(&response, "x")), ["PRIVATE KEY rsa", "CERTIFICATE rsa"]);
    assert!(response.object_version.iter().all(|v| v.id == "secret/x" && v.version == "v1"));
}

/// Answers that must be errors of the object.
async fn broken(path: &str, entry: &str, rows: &[(Value, &str)]) {
    let world = World::start(Seed::default()).await;
    let call = world.call(&[entry]);
    for (body, expected) in rows {
        world.control.clear_faults();
        answer(&world, path, body);
        let said = refusal(&world, &call, Code::Internal).await;
        assert!(said.contains(expected), "{said}, not {expected}");
        assert!(said.contains("failed to get objectType:"), "{said}");
    }
    world.control.clear_faults();
    world.control.always(Where::service(Service::Vault), Trouble::Status(500));
    let said = refusal(&world, &call, Code::Internal).await;
    assert!(said.contains("RESPONSE 500"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn u50_secrets_that_are_no_good() {
    let id = "https://v/secrets/x/v1";
    let kid = "https://v/keys/x/v1";
    let pfx = json!({"value": "invalid", "id": id, "kid": kid, "contentType": PFX});
    let rows = [
        (json!({ "id": id }), "secret value is nil"),
        (json!({ "value": canary::value("nameless") }), "secret id is nil"),
        (pfx, "base64"),
    ];
    broken("/secrets/x/", &secret("x"), &rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u51_the_bytes_of_a_certificate() {
    let world = World::start(Seed::default()).await;
    let body = json!({"cer": STANDARD.encode("test"), "id": "https://v/certificates/x/v1"});
    answer(&world, "/certificates/x/", &body);
    let response = world.mount(&world.call(&["objectName: x\nobjectType: cert"])).await.unwrap();
    let expected = "-----BEGIN CERTIFICATE-----\ndGVzdA==\n-----END CERTIFICATE-----\n";
    assert_eq!(text(&response, "x"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn u52_certificates_that_are_no_good() {
    let rows = [
        (json!({"id": "https://v/certificates/x/v1"}), "certificate value is nil"),
        (json!({ "cer": STANDARD.encode("test") }), "certificate id is nil"),
    ];
    broken("/certificates/x/", "objectName: x\nobjectType: cert", &rows).await;
}
