//! What was observed of the Go provider 1.8.2, and where akvfs differs on purpose.

use std::sync::Arc;

use akvfs::emulator::{Emulator, SYSTEM_IDENTITY, Seed, Service, Trouble, USER_IDENTITY, Where};
use akvfs::error::Result;
use akvfs::fetch::{ObjectRef, Source};
use akvfs::identity::Proof;
use akvfs::vault::{Ask, Body, ObjectVersion, VaultRef};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tonic::Code;

use crate::canary;
use crate::openssl::pki;
use crate::seeds::{self, DISABLED, ONE, PLAIN};
use crate::support::{
    answer, backed, bytes, mount_pfx, named, paths, refusal, requests, text, wrong_class,
};
use crate::world::{World, secret};

/// Upstream asks the vault for each entry, and once more for a challenge.
#[tokio::test(flavor = "multi_thread")]
async fn p1_one_secret_twice() {
    let world = World::start(seeds::one()).await;
    let again = format!("{}\nobjectAlias: P/Q\nfilePermission: 0600", secret(ONE));
    let response = world.mount(&world.call(&[&secret(ONE), &again])).await.unwrap();
    let modes: Vec<_> = response.files.iter().map(|file| (file.path.as_str(), file.mode)).collect();
    assert_eq!(modes, [(ONE, 420), ("P/Q", 384)]);
    assert_eq!(response.object_version[0], response.object_version[1]);
    assert_eq!(response.object_version[0].id, format!("secret/{ONE}"));
    let counters = world.control.counters();
    assert!(counters.vault_requests <= 2, "{counters:?}");
    assert_eq!((counters.challenges, counters.token_requests), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_latest_is_a_version_without_a_history_too() {
    let world = World::start(seeds::one()).await;
    let entry = format!("{}\nobjectVersion: latest", secret(ONE));
    assert_eq!(paths(&world.mount(&world.call(&[&entry])).await.unwrap()), [ONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_mode_that_is_none_is_refused() {
    let world = World::start(seeds::one()).await;
    for mode in ["\"0900\"", "0o600"] {
        let entry = format!("{}\nfilePermission: {mode}", secret(ONE));
        wrong_class(&world, &world.call(&[&entry]), "invalid filePermission: 0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_modes_are_octal() {
    let world = World::start(seeds::one()).await;
    let entry = format!("{}\nfilePermission: 420", secret(ONE));
    assert_eq!(world.mount(&world.call(&[&entry])).await.unwrap().files[0].mode, 272);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_types_are_lower_case() {
    let world = World::start(seeds::one()).await;
    for lines in ["objectType: Secret", ""] {
        let call = world.call(&[&format!("objectName: {ONE}\n{lines}")]);
        let text = "Invalid vaultObjectTypes. Should be secret, key, or cert";
        wrong_class(&world, &call, text).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_one_missing_object_fails_the_mount() {
    let world = World::start(seeds::one()).await;
    let call = world.call(&[&secret(ONE), &secret("missing")]);
    let said = refusal(&world, &call, Code::NotFound).await;
    assert!(said.contains("objectName:missing"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_one_wrong_entry_is_found_before_any_request() {
    let world = World::start(seeds::one()).await;
    let call = world.call(&[&secret(ONE), "objectName: x\nobjectType: secret\nobjectFormat: zip"]);
    wrong_class(&world, &call, "invalid objectFormat: zip").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_throttling_is_waited_for_three_times() {
    let world = World::start(seeds::one()).await;
    let at = Where::service(Service::Vault);
    world.control.always(at.clone(), Trouble::Throttle(Some(1)));
    let said = refusal(&world, &world.call(&[&secret(ONE)]), Code::Internal).await;
    assert!(said.contains("RESPONSE 429, ERROR CODE: Throttled"), "{said}");
    assert_eq!(world.control.counters().vault_requests, 4);
    // And one that ends meanwhile is no error.
    world.control.clear_faults();
    world.control.times(1, at, Trouble::Throttle(Some(1)));
    assert_eq!(paths(&world.mount(&world.call(&[&secret(ONE)])).await.unwrap()), [ONE]);
}

/// Asked once, as upstream does; the code says what upstream's Unknown does not.
#[tokio::test(flavor = "multi_thread")]
async fn p12_refusals_of_the_vault_are_asked_once() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    for (name, code, text) in [
        (DISABLED, Code::PermissionDenied, "RESPONSE 403, ERROR CODE: Forbidden"),
        ("missing", Code::NotFound, "RESPONSE 404, ERROR CODE: SecretNotFound"),
    ] {
        world.control.reset_log();
        let said = refusal(&world, &world.call(&[&secret(name)]), code).await;
        assert!(said.contains(text), "{said}");
        assert_eq!(world.control.counters().vault_requests, 1, "{name}");
    }
    assert_eq!(paths(&world.mount(&world.call(&[&secret(PLAIN)])).await.unwrap()), [PLAIN]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_undecodable_content_names_its_object() {
    let world = World::start(Seed::default().secret("b", &["dGVzd"])).await;
    let call = world.call(&[&format!("{}\nobjectEncoding: base64", secret("b"))]);
    let said = refusal(&world, &call, Code::Internal).await;
    let prefix = "failed to get objectType:secret, objectName:b, objectVersion:: ";
    assert!(said.contains(prefix) && said.contains("illegal base64 data at input byte"), "{said}");
    assert!(!said.contains("dGVzd"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_old_and_modern_pfx() {
    let world = World::start(Seed::default()).await;
    for options in [&["-legacy"][..], &[], &["-macalg", "sha512"]] {
        let response = mount_pfx(&world, &pki().pfx(&["rsa"], "", options), "").await.unwrap();
        assert_eq!(named(text(&response, "x")), ["PRIVATE KEY rsa", "CERTIFICATE rsa"]);
    }
}

/// Upstream adds an empty `.crt` and an empty `.key`.
#[tokio::test(flavor = "multi_thread")]
async fn p15_a_binary_pfx_stays_one_file() {
    let world = World::with_separate_files(Seed::default()).await;
    let pfx = pki().pfx(&["rsa"], "", &[]);
    let lines = "objectFormat: pfx\nobjectEncoding: base64";
    let response = mount_pfx(&world, &pfx, lines).await.unwrap();
    assert_eq!(paths(&response), ["x"]);
    assert_eq!(bytes(&response, "x"), pfx);
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_a_certificates_secret_without_a_content_type_is_plain_text() {
    let world = World::start(Seed::default()).await;
    let value = canary::value("untyped");
    for content_type in [Value::Null, json!("")] {
        world.control.clear_faults();
        answer(&world, "/secrets/x/", &backed(&world, content_type, &value));
        let response = world.mount(&world.call(&[&secret("x")])).await.unwrap();
        assert_eq!(text(&response, "x"), value);
    }
    world.control.clear_faults();
    answer(&world, "/secrets/x/", &backed(&world, json!("text/plain"), &value));
    let said = refusal(&world, &world.call(&[&secret("x")]), Code::Internal).await;
    assert!(said.contains("unknown content type 'text/plain'"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p18_keys_of_the_secret_in_any_case() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    call.secrets = json!({
        "ClientID": call.secrets["clientid"], "CLIENTSECRET": call.secrets["clientsecret"],
    });
    assert_eq!(paths(&world.mount(&call).await.unwrap()), [ONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_a_blank_tenant_gives_way_to_the_old_spelling() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    call.set("tenantID", "  ").set("tenantId", world.emulator.tenant());
    assert_eq!(paths(&world.mount(&call).await.unwrap()), [ONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p21_without_objects_the_vaults_name_is_not_checked() {
    let world = World::start(seeds::one()).await;
    let mut call = world.call(&[]);
    call.set("objects", "array:").set("keyvaultName", "x");
    assert!(world.mount(&call).await.unwrap().files.is_empty());
    assert_eq!(requests(&world), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p23_a_managed_identitys_token_outlives_the_mount() {
    let seed = || Seed::default_seed().unwrap();
    managed_twice(World::start(seed()).await).await;
    managed_twice(World::with_machine(seed(), Emulator::app_service).await).await;
}

/// Two mounts by each managed identity, with one token request.
async fn managed_twice(world: World) {
    for (id, client) in [("", SYSTEM_IDENTITY), (USER_IDENTITY, USER_IDENTITY)] {
        let mut call = world.call(&[
            &secret(PLAIN),
            "objectName: key1\nobjectType: key",
            "objectName: pemcert1\nobjectType: cert",
        ]);
        call.set("useVMManagedIdentity", "true").set("userAssignedIdentityID", id);
        for tokens in [1, 0] {
            world.control.reset_log();
            assert_eq!(world.mount(&call).await.unwrap().files.len(), 3);
            assert_eq!(world.control.counters().token_requests, tokens, "{client}");
            let requests = world.control.requests();
            let mut readers =
                requests.iter().filter(|request| request.host.starts_with("akvfs-dev"));
            assert!(readers.all(|request| request.client.as_deref() == Some(client)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p28_a_name_with_a_slash_is_refused_before_any_request() {
    let world = World::start(seeds::one()).await;
    let entry = "objectName: plain/v1\nobjectType: secret";
    wrong_class(&world, &world.call(&[entry]), "invalid objectName: \"plain/v1\"").await;
}

/// A vault in memory with one secret of any size and any bytes.
struct Fixed(Vec<u8>);

#[async_trait]
impl Source for Fixed {
    async fn get(
        &self,
        _: &Proof,
        _: &VaultRef,
        object: &ObjectRef,
        _: &Ask,
    ) -> Result<ObjectVersion> {
        let value = akvfs::Secret::new(self.0.clone());
        Ok(ObjectVersion {
            kind: object.kind,
            name: object.name.to_string(),
            version: "v1".to_owned(),
            created: None,
            expires: None,
            not_before: None,
            body: Body::Secret { value, content_type: None, kid: None },
        })
    }
}

/// Whatever the bytes: a value is a value.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_any_bytes_arrives_as_it_is() {
    let value: Vec<u8> = (0..=255).cycle().take(25 * 1024).collect();
    let world = World::with_source(Seed::default(), Arc::new(Fixed(value.clone()))).await;
    let response = world.mount(&world.call(&[&secret("x")])).await.unwrap();
    assert_eq!(STANDARD.encode(bytes(&response, "x")), STANDARD.encode(value));
}
