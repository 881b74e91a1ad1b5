//! What a Mount answers, through the real socket: files, ids, modes, identities, request counts.

use std::time::Duration;

use akvfs::emulator::{SYSTEM_IDENTITY, Seed, USER_IDENTITY, WorkloadToken};
use tonic::Code;

use crate::canary;
use crate::seeds::{self, ONE};
use crate::world::{Call, World, secret};

#[tokio::test(flavor = "multi_thread")]
async fn files_and_object_versions_are_parallel_and_in_the_classs_order() {
    let (first, second) = (canary::value("first"), canary::value("second"));
    let seed = Seed::default().secret("a", &["old", &first]).secret("b", &[&second]);
    let world = World::start(seed).await;
    let old =
        world.control.versions(world.emulator.vault_name(), akvfs::class::ObjectKind::Secret, "a");
    let by_version =
        format!("objectName: a\nobjectType: secret\nobjectVersion: {}\nobjectAlias: old", old[0]);
    let call = world.call(&[
        "objectName: b\nobjectType: secret\nobjectAlias: P/Q\nfilePermission: 0600",
        &by_version,
        "objectName: a\nobjectType: secret\nobjectVersion: latest",
    ]);
    let response = world.mount(&call).await.unwrap();
    let files: Vec<_> = response
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.mode, file.contents.as_slice()))
        .collect();
    assert_eq!(
        files,
        [
            ("P/Q", 0o600, second.as_bytes()),
            ("old", 0o644, b"old".as_slice()),
            ("a", 0o644, first.as_bytes())
        ]
    );
    let ids: Vec<_> =
        response.object_version.iter().map(|v| (v.id.as_str(), v.version.as_str())).collect();
    assert_eq!(
        (ids[0].0, ids[1], ids[2]),
        ("secret/b", ("secret/a", &*old[0]), ("secret/a", &*old[1]))
    );
    assert!(response.error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_of_every_type_is_mounted_with_one_token() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let call = world.call(&[
        "objectName: secret1\nobjectType: secret\nobjectAlias: SECRET_1",
        "objectName: key1\nobjectType: key",
        "objectName: ec-p521\nobjectType: key",
        "objectName: pemcert1\nobjectType: cert",
        "objectName: pemcert1\nobjectType: secret\nobjectAlias: pemcert1.pem",
        "objectName: pkcs12cert1\nobjectType: secret",
        "objectName: ecccert1\nobjectType: secret\nobjectFormat: pfx\nobjectEncoding: base64\nobjectAlias: ecc.pfx",
    ]);
    let response = world.mount(&call).await.unwrap();
    let text = |path: &str| {
        let file = response.files.iter().find(|file| file.path == path).unwrap();
        String::from_utf8_lossy(&file.contents).into_owned()
    };
    assert!(text("SECRET_1").starts_with("dev-only-secret1-"));
    assert!(text("key1").starts_with("-----BEGIN PUBLIC KEY-----\n"));
    assert!(text("ec-p521").starts_with("-----BEGIN PUBLIC KEY-----\n"));
    assert_eq!(text("pemcert1").matches("BEGIN CERTIFICATE").count(), 1);
    for path in ["pemcert1.pem", "pkcs12cert1"] {
        assert_eq!(text(path).matches("BEGIN CERTIFICATE").count(), 3, "{path}");
        assert_eq!(text(path).matches("BEGIN PRIVATE KEY").count(), 1, "{path}");
    }
    assert!(
        text("pkcs12cert1").starts_with("-----BEGIN PRIVATE KEY-----\n"),
        "the key comes first"
    );
    let pfx = response.files.iter().find(|file| file.path == "ecc.pfx").unwrap();
    assert_eq!(pfx.contents[0], 0x30, "a DER sequence");
    let counters = world.control.counters();
    // pemcert1 as secret and as cert are two objects; nothing is asked twice, nor without a token.
    assert_eq!((counters.vault_requests, counters.challenges, counters.token_requests), (7, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_objects_are_fetched_side_by_side_with_one_token() {
    let world = World::start(seeds::many(100)).await;
    world.control.always(
        akvfs::emulator::Where::service(akvfs::emulator::Service::Vault),
        akvfs::emulator::Trouble::Delay(Duration::from_millis(20)),
    );
    let response = world.mount(&world.call_for(100)).await.unwrap();
    let paths: Vec<_> = response.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(paths, (0..100).map(seeds::nth).collect::<Vec<_>>());
    let counters = world.control.counters();
    assert_eq!((counters.vault_requests, counters.token_requests), (100, 1));
    assert!(counters.most_in_flight >= 16, "{}", counters.most_in_flight);
}

/// Only what is on the way when the vault says no carries the refused token.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_is_replaced_for_all_objects_to_come() {
    let world = World::start(seeds::many(100)).await;
    let call = world.call_for(100);
    world.mount(&call).await.unwrap();
    world.later();
    world.control.revoke_tokens(world.emulator.service_principal().0).unwrap();
    world.control.reset_log();
    assert_eq!(world.mount(&call).await.unwrap().files.len(), 100);
    let counters = world.control.counters();
    assert_eq!(counters.token_requests, 1);
    assert!((101..=150).contains(&counters.vault_requests), "{}", counters.vault_requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_client_secret_is_tried_once_for_all_objects() {
    let world = World::start(seeds::many(50)).await;
    let mut call = world.call_for(50);
    call.secrets["clientsecret"] = canary::value("wrong client secret").into();
    let status = world.mount(&call).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("AADSTS7000215"), "{status}");
    let counters = world.control.counters();
    assert_eq!((counters.token_requests, counters.vault_requests), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_identity_of_this_version_mounts() {
    let world = World::start(seeds::one()).await;
    let entry = secret(ONE);
    let managed = |id: &str| {
        let mut call = world.call(&[&entry]);
        call.secrets = serde_json::Value::Null;
        call.set("usePodIdentity", "false").set("useVMManagedIdentity", "true");
        call.set("userAssignedIdentityID", id).set("cloudName", "");
        call.set("resourceGroup", "rg").set("subscriptionId", "sub");
        call
    };
    let mut spelled = managed("");
    let tenant = spelled.attributes.remove("tenantID").unwrap();
    spelled.set("tenantId", &tenant);
    for (call, client) in [
        (world.call(&[&entry]), world.emulator.service_principal().0),
        (
            world.workload_call(&[&entry], &WorkloadToken::default()),
            world.emulator.workload_client_id(),
        ),
        (managed(""), SYSTEM_IDENTITY),
        (spelled, SYSTEM_IDENTITY),
        (managed(USER_IDENTITY), USER_IDENTITY),
    ] {
        world.later();
        world.control.reset_log();
        let response = world.mount(&call).await.unwrap();
        assert_eq!(response.files.len(), 1);
        let reader = world.control.requests().into_iter().find(|r| r.path.starts_with("/secrets/"));
        assert_eq!(reader.unwrap().client.as_deref(), Some(client));
    }
}

/// Attempts to get a value by somebody else's proof: all must fail, and no value may come back.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_value_with_another_callers_proof() {
    let world = World::start(seeds::one()).await;
    world.control.add_client(
        "0ddba110-0000-4000-8000-00000000dead",
        Some("other".into()),
        &[("other", "app")],
    );
    let entry = secret(ONE);
    let good = world.call(&[&entry]);
    let good_workload = world.workload_call(&[&entry], &WorkloadToken::default());
    let mut managed = world.call(&[&entry]);
    managed.set("useVMManagedIdentity", "true");
    // Everything is warm: the right callers have live proofs.
    for call in [&good, &good_workload, &managed] {
        world.mount(call).await.unwrap();
    }
    let with = |base: &Call, change: &dyn Fn(&mut Call)| {
        let mut call = base.clone();
        change(&mut call);
        call
    };
    let forged = WorkloadToken { forged: true, ..WorkloadToken::default() };
    let expired = WorkloadToken { lifetime: None, ..WorkloadToken::default() };
    let other_pod = WorkloadToken { namespace: "other".to_owned(), ..WorkloadToken::default() };
    let other_audience =
        WorkloadToken { audience: "https://elsewhere".to_owned(), ..WorkloadToken::default() };
    let attempts = [
        with(&good, &|c| c.secrets["clientsecret"] = "guess".into()),
        with(&good, &|c| c.secrets["clientid"] = "0ddba110-0000-4000-8000-00000000dead".into()),
        with(&good, &|c| {
            c.set("tenantID", "00000000-0000-0000-0000-000000000000");
        }),
        with(&good_workload, &|c| {
            c.set("clientID", "0ddba110-0000-4000-8000-00000000dead");
        }),
        with(&good_workload, &|c| {
            c.set("clientID", world.emulator.service_principal().0);
        }),
        with(&good_workload, &|c| {
            c.attributes.remove("csi.storage.k8s.io/serviceAccount.tokens");
        }),
        with(&managed, &|c| {
            c.set("userAssignedIdentityID", "0ddba110-0000-4000-8000-00000000dead");
        }),
        world.workload_call(&[&entry], &forged),
        world.workload_call(&[&entry], &expired),
        world.workload_call(&[&entry], &other_pod),
        world.workload_call(&[&entry], &other_audience),
    ];
    for (number, call) in attempts.iter().enumerate() {
        let outcome = world.mount(call).await;
        let status = outcome.err().unwrap_or_else(|| panic!("attempt {number} got a value"));
        assert!(
            matches!(
                status.code(),
                Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument
            ),
            "attempt {number}: {status}"
        );
    }
    // And the right callers are not harmed by the attempts.
    for call in [&good, &good_workload, &managed] {
        world.mount(call).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_changed_in_the_vault_is_in_the_next_mount_after_its_age() {
    let world = World::start(seeds::one()).await;
    let call = world.call(&[&secret(ONE)]);
    let before = world.mount(&call).await.unwrap();
    let new = canary::value("rotated");
    let version = world.control.set_secret(world.emulator.vault_name(), ONE, new.as_str()).unwrap();
    world.later();
    let after = world.mount(&call).await.unwrap();
    assert_ne!(before.files[0].contents, after.files[0].contents);
    assert_eq!(after.files[0].contents, new.as_bytes());
    assert_eq!(after.object_version[0].version, version);
}
