//! The class: what an entry may say, how values are read.

use akvfs::emulator::Seed;
use tonic::Code;

use crate::canary;
use crate::seeds::{self, ONE};
use crate::support::{bytes, paths, refusal, wrong_class};
use crate::world::{World, array, secret};

#[tokio::test(flavor = "multi_thread")]
async fn u41_blanks_around_an_entrys_values() {
    let value = canary::value("trimmed");
    let seed = Seed::default().secret("secret1", &[&hex(&value)]);
    let world = World::start(seed).await;
    let call = world
        .call(&["objectName: 'secret1     '\nobjectType: '  secret'\nobjectEncoding: 'hex   '\n\
         objectVersionHistory: 1\nobjectAlias: ' a\u{a0}'\nfilePermission: ' 0600 '"]);
    let response = world.mount(&call).await.unwrap();
    assert_eq!(bytes(&response, "a"), value.as_bytes());
    assert_eq!(response.files[0].mode, 0o600);
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Entries of which some are refused with nothing requested, and the rest are no class errors.
async fn entries(rows: &[(&str, &str)]) {
    let world = World::start(Seed::default()).await;
    for (lines, wrong) in rows {
        let call = world.call(&[&format!("objectName: x\n{lines}")]);
        if wrong.is_empty() {
            // There is no such object: that is found out only by asking the vault.
            refusal(&world, &call, Code::NotFound).await;
        } else {
            wrong_class(&world, &call, wrong).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u53_formats() {
    entries(&[
        ("objectType: cert\nobjectFormat: ''", ""),
        ("objectType: secret\nobjectFormat: pkcs", "invalid objectFormat: pkcs"),
        ("objectType: cert\nobjectFormat: pfx", "PFX format only supported for objectType: secret"),
        ("objectType: secret\nobjectFormat: PFX", ""),
        ("objectType: secret\nobjectFormat: pfx", ""),
        // Upstream looks at the lower-case spelling alone here, and then ignores the format.
        ("objectType: cert\nobjectFormat: PFX", "PFX format only supported for objectType: secret"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u54_encodings() {
    let only = "objectEncoding only supported for objectType: secret";
    entries(&[
        ("objectType: cert\nobjectEncoding: ''", ""),
        ("objectType: secret\nobjectEncoding: utf-16", "invalid objectEncoding: utf-16"),
        ("objectType: cert\nobjectEncoding: base64", only),
        ("objectType: secret\nobjectEncoding: BasE64", ""),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u55_file_names() {
    let world = World::start(seeds::one()).await;
    for (name, text) in [
        ("/secret1", "file name must be a relative path"),
        ("secret1/..", "file name must not contain '..'"),
        ("../secret1", "file name must not contain '..'"),
    ] {
        let entry = format!("objectName: {ONE}\nobjectType: secret\nobjectAlias: {name}");
        wrong_class(&world, &world.call(&[&entry]), text).await;
    }
    let nameless = world.call(&["objectName: ''\nobjectType: secret"]);
    wrong_class(&world, &nameless, "file name must not be empty").await;
    let good = format!("objectName: {ONE}\nobjectType: secret\nobjectAlias: secret1");
    assert_eq!(paths(&world.mount(&world.call(&[&good])).await.unwrap()), ["secret1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn u58_the_alias_or_the_name_or_nothing() {
    let world = World::start(seeds::one()).await;
    let both = format!("objectName: {ONE}\nobjectType: secret\nobjectAlias: alias");
    assert_eq!(paths(&world.mount(&world.call(&[&both])).await.unwrap()), ["alias"]);
    assert_eq!(paths(&world.mount(&world.call(&[&secret(ONE)])).await.unwrap()), [ONE]);
    let neither = world.call(&["objectType: secret"]);
    wrong_class(&world, &neither, "file name must not be empty").await;
}

/// Upstream drops the error of a wrong mode, and makes a file of it that nobody can read.
#[tokio::test(flavor = "multi_thread")]
async fn u59_permissions() {
    let world = World::start(seeds::one()).await;
    for (given, mode) in [("0600", Some(0o600)), ("''", Some(0o644)), ("0900", None), ("900", None)]
    {
        let entry = format!("objectName: {ONE}\nobjectType: secret\nfilePermission: {given}");
        let call = world.call(&[&entry]);
        match mode {
            Some(mode) => assert_eq!(world.mount(&call).await.unwrap().files[0].mode, mode),
            None => wrong_class(&world, &call, &format!("invalid filePermission: {given}")).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u60_booleans() {
    let world = World::start(seeds::one()).await;
    for (text, managed) in [
        ("true", true),
        ("false", false),
        ("", false),
        ("True", true),
        ("FALSE", false),
        ("1", true),
        ("0", false),
        (" true ", true),
    ] {
        let mut call = world.call(&[&secret(ONE)]);
        call.set("useVMManagedIdentity", text);
        world.control.reset_log();
        world.mount(&call).await.unwrap();
        let reader = world.control.requests().into_iter().find_map(|request| request.client);
        let principal = Some(world.emulator.service_principal().0.to_owned());
        assert_eq!(reader != principal, managed, "{text:?}: {reader:?}");
    }
    let mut call = world.call(&[&secret(ONE)]);
    call.set("useVMManagedIdentity", "invalid");
    wrong_class(&world, &call, "parsing \"invalid\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u61_blanks_around_parameters() {
    let world = World::start(seeds::one()).await;
    let good = world.call(&[&secret(ONE)]);
    let strings = ["keyvaultName", "tenantID", "objects"];
    for key in strings {
        let mut padded = good.clone();
        padded.set(key, &format!(" \t{}\n ", good.attributes[key]));
        assert_eq!(paths(&world.mount(&padded).await.unwrap()), [ONE], "{key}");
        let mut blank = good.clone();
        blank.set(key, "");
        refusal(&world, &blank, Code::InvalidArgument).await;
    }
    let mut optional = good.clone();
    for key in ["cloudName", "cloudEnvFileName", "clientID", "userAssignedIdentityID"] {
        optional.set(key, "  ");
    }
    assert_eq!(paths(&world.mount(&optional).await.unwrap()), [ONE]);
    optional.set("cloudName", " azurepubliccloud ");
    assert_eq!(paths(&world.mount(&optional).await.unwrap()), [ONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn u62_both_spellings_of_the_tenant() {
    let world = World::start(seeds::one()).await;
    let tenant = world.emulator.tenant().to_owned();
    for (keys, right) in [
        (vec![("tenantId", tenant.as_str())], true),
        (vec![("tenantID", tenant.as_str())], true),
        (vec![("tenantID", tenant.as_str()), ("tenantId", "wrong")], true),
        (vec![("tenantID", "wrong"), ("tenantId", tenant.as_str())], false),
    ] {
        let mut call = world.call(&[&secret(ONE)]);
        call.attributes.remove("tenantID");
        for (key, value) in &keys {
            call.set(key, value);
        }
        assert_eq!(world.mount(&call).await.is_ok(), right, "{keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u63_the_outer_yaml() {
    let world = World::start(seeds::many(2)).await;
    let entries = [secret(&seeds::nth(0)), secret(&seeds::nth(1))];
    let mut call = world.call(&[]);
    call.set("objects", &array(&[&entries[0], &entries[1]]));
    let expected = [seeds::nth(0), seeds::nth(1)];
    assert_eq!(paths(&world.mount(&call).await.unwrap()), expected);
    call.set("objects", "invalid");
    wrong_class(&world, &call, "failed to yaml unmarshal objects").await;
}
