//! What upstream's end-to-end suite shows in a cluster, as far as the provider's part goes.

use akvfs::emulator::{Seed, USER_IDENTITY, WorkloadToken};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::canary;
use crate::openssl::run;
use crate::seeds::{self, ONE, PLAIN};
use crate::support::{answer, blocks, bytes, paths, text};
use crate::world::{World, eventually, secret};

#[tokio::test(flavor = "multi_thread")]
async fn e1_a_secret_and_its_alias() {
    let value = canary::value("secret1");
    let world = World::start(Seed::default().secret("secret1", &[&value])).await;
    let call = world.call(&[
        "objectName: secret1\nobjectType: secret",
        "objectName: secret1\nobjectType: secret\nobjectAlias: SECRET_1",
    ]);
    let response = world.mount(&call).await.unwrap();
    assert_eq!(text(&response, "secret1"), value);
    assert_eq!(text(&response, "SECRET_1"), value);
}

/// The driver makes `tls.crt` and `tls.key` of one file: it needs both in it.
#[tokio::test(flavor = "multi_thread")]
async fn e2_what_a_synced_tls_secret_is_made_of() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let response = world.mount(&world.call(&[&secret("pemcert1")])).await.unwrap();
    let blocks = blocks(text(&response, "pemcert1"));
    let labels: Vec<_> = blocks.iter().map(|(label, _)| label.as_str()).collect();
    assert!(labels.contains(&"PRIVATE KEY") && labels.contains(&"CERTIFICATE"), "{labels:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn e3_public_keys() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    // The emulator's keys are software keys: the two of an HSM are its own with another type.
    for (name, like, kty) in [("rsahsmkey1", "key1", "RSA"), ("echsmkey1", "ec-p256", "EC")] {
        let jwk = public_jwk(&world, like, kty).await;
        answer(&world, &format!("/keys/{name}/"), &json!({ "key": jwk }));
    }
    let call = world.call(&[
        "objectName: key1\nobjectType: key",
        "objectName: key1\nobjectType: key\nobjectAlias: KEY_1",
        "objectName: rsahsmkey1\nobjectType: key",
        "objectName: echsmkey1\nobjectType: key",
        "objectName: ec-p256\nobjectType: key",
    ]);
    let response = world.mount(&call).await.unwrap();
    assert_eq!(text(&response, "key1"), text(&response, "KEY_1"));
    assert_eq!(text(&response, "key1"), text(&response, "rsahsmkey1"));
    assert_eq!(text(&response, "ec-p256"), text(&response, "echsmkey1"));
    for file in &response.files {
        run(&["pkey", "-pubin", "-noout"], &file.contents);
    }
}

/// A key of the vault as JSON, as if an HSM had it.
async fn public_jwk(world: &World, name: &str, kty: &str) -> Value {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let call = world.call(&[&format!("objectName: {name}\nobjectType: key")]);
    let response = world.mount(&call).await.unwrap();
    let (_, der) = blocks(text(&response, name)).remove(0);
    let mut jwk = json!({"kty": format!("{kty}-HSM"), "kid": format!("https://v/keys/{name}/v1")});
    if kty == "EC" {
        let (x, y) = der[der.len() - 64..].split_at(32);
        jwk["crv"] = "P-256".into();
        jwk["x"] = URL_SAFE_NO_PAD.encode(x).into();
        jwk["y"] = URL_SAFE_NO_PAD.encode(y).into();
    } else {
        // SubjectPublicKeyInfo of 2048 bits: the modulus ends 5 bytes before the end (02 03 e).
        let (rest, exponent) = der.split_at(der.len() - 3);
        jwk["e"] = URL_SAFE_NO_PAD.encode(exponent).into();
        jwk["n"] = URL_SAFE_NO_PAD.encode(&rest[rest.len() - 2 - 256..rest.len() - 2]).into();
    }
    jwk
}

#[tokio::test(flavor = "multi_thread")]
async fn e4_a_certificate_as_certificate_key_and_secret() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    for name in ["pemcert1", "pkcs12cert1", "ecccert1"] {
        let entries: Vec<_> = ["cert", "key", "secret"]
            .map(|kind| format!("objectName: {name}\nobjectType: {kind}\nobjectAlias: {kind}"))
            .into();
        let entries: Vec<_> = entries.iter().map(String::as_str).collect();
        let response = world.mount(&world.call(&entries)).await.unwrap();
        let subject = run(&["x509", "-noout", "-subject"], bytes(&response, "cert"));
        assert!(String::from_utf8(subject).unwrap().contains("test.domain.com"), "{name}");
        let public = run(&["x509", "-noout", "-pubkey"], bytes(&response, "cert"));
        let key = run(&["pkey", "-pubin", "-pubout"], bytes(&response, "key"));
        let private = run(&["pkey", "-pubout"], bytes(&response, "secret"));
        assert_eq!((&public, &public), (&key, &private), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e5_pfx_as_base64_text() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    for name in ["pkcs12cert1", "ecccert1"] {
        let entry = format!("{}\nobjectFormat: pfx", secret(name));
        let response = world.mount(&world.call(&[&entry])).await.unwrap();
        let der = STANDARD.decode(bytes(&response, name)).unwrap();
        let pem = run(&["pkcs12", "-legacy", "-passin", "pass:", "-nodes"], &der);
        run(&["pkey", "-noout"], &pem);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e6_certificate_and_key_in_files_of_their_own() {
    let world = World::with_separate_files(Seed::default_seed().unwrap()).await;
    for name in ["pemcert1", "pkcs12cert1", "ecccert1"] {
        let alias = format!("{name}-secret");
        let entry = format!("{}\nobjectAlias: {alias}", secret(name));
        let response = world.mount(&world.call(&[&entry])).await.unwrap();
        let certificate = bytes(&response, &format!("{alias}.crt"));
        let subject = run(&["x509", "-noout", "-subject"], certificate);
        assert!(String::from_utf8(subject).unwrap().contains("test.domain.com"), "{name}");
        let public = run(&["pkey", "-pubout"], bytes(&response, &format!("{alias}.key")));
        assert_eq!(public, run(&["x509", "-noout", "-pubkey"], certificate), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e7_a_mode_of_0755() {
    let world = World::start(seeds::one()).await;
    let entry = format!("{}\nfilePermission: 0755", secret(ONE));
    assert_eq!(world.mount(&world.call(&[&entry])).await.unwrap().files[0].mode, 0o755);
}

/// The driver asks again at each poll: a rotated value is in the next answer, for every identity.
#[tokio::test(flavor = "multi_thread")]
async fn e9_rotation() {
    let world = World::start(Seed::default().secret(PLAIN, &[&canary::value("first")])).await;
    let entry = secret(PLAIN);
    let mut user = world.call(&[&entry]);
    user.set("useVMManagedIdentity", "true").set("userAssignedIdentityID", USER_IDENTITY);
    let workload = world.workload_call(&[&entry], &WorkloadToken::default());
    for (mode, call) in [("principal", &world.call(&[&entry])), ("user", &user), ("pod", &workload)]
    {
        let before = world.mount(call).await.unwrap();
        let value = canary::value(mode);
        world.control.set_secret(world.emulator.vault_name(), PLAIN, value.as_str()).unwrap();
        let after = world.mount(call).await.unwrap();
        assert_eq!(text(&after, PLAIN), value, "{mode}");
        assert_ne!(before.object_version[0].version, after.object_version[0].version);
        assert_eq!(before.object_version[0].id, after.object_version[0].id);
    }
    // And what is disabled is no value any more.
    let vault = world.emulator.vault_name();
    world.control.enable(vault, akvfs::class::ObjectKind::Secret, PLAIN, "", false).unwrap();
    assert!(world.mount(&workload).await.is_err());
    assert_eq!(paths(&world.mount(&world.call(&[])).await.unwrap()).len(), 0);
    world.stop.cancel();
    world.server.ended().await.unwrap();
    let idle = world.control.clone();
    eventually("nobody asks any more", || idle.counters().in_flight == 0).await;
}
