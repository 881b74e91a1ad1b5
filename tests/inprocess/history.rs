//! Version histories through the socket: which versions, under which names, at what price.

use akvfs::class::ObjectKind::{Certificate, Key, Secret};
use akvfs::emulator::{Seed, Verb};
use tonic::Code;

use crate::canary;
use crate::world::World;

/// Path, id and version of every file.
async fn mounted(world: &World, entry: &str) -> Vec<(String, String, String)> {
    let response = world.mount(&world.call(&[entry])).await.unwrap();
    let versions = response.files.iter().zip(&response.object_version);
    versions.map(|(file, v)| (file.path.clone(), v.id.clone(), v.version.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn e8_e9_versions_are_numbered_from_the_newest_and_a_rotation_moves_them_on() {
    let values: Vec<String> = (1..=3).map(|n| canary::value(&format!("v{n}"))).collect();
    let seed = Seed::default().secret("secret1", &[&values[0], &values[1]]);
    let world = World::start(seed).await;
    let entry = "objectName: secret1\nobjectType: secret\nobjectAlias: ./SECRET_1/\n\
                 objectVersionHistory: 5\nfilePermission: 0400";
    let call = world.call(&[entry]);
    let vault = world.emulator.vault_name();
    let expected = |newest: &[&String]| -> Vec<(String, i32, Vec<u8>)> {
        let file = |(n, value): (usize, &&String)| {
            (format!("SECRET_1/{n}"), 0o400, value.as_bytes().to_vec())
        };
        newest.iter().enumerate().map(file).collect()
    };
    for rotated in [false, true] {
        if rotated {
            world.control.set_secret(vault, "secret1", values[2].as_str()).unwrap();
            world.later();
        }
        world.control.reset_log();
        let response = world.mount(&call).await.unwrap();
        let files = response.files.into_iter().map(|file| (file.path, file.mode, file.contents));
        let newest: Vec<_> = values[..if rotated { 3 } else { 2 }].iter().rev().collect();
        assert_eq!(files.collect::<Vec<_>>(), expected(&newest));
        let ids: Vec<_> = response.object_version.iter().map(|v| v.id.as_str()).collect();
        assert_eq!(ids, ["secret/secret1/0", "secret/secret1/1", "secret/secret1/2"][..ids.len()]);
        let mut versions = world.control.versions(vault, Secret, "secret1");
        versions.reverse();
        let sent: Vec<_> = response.object_version.iter().map(|v| v.version.clone()).collect();
        assert_eq!(sent, versions);
        // One list, and each version by its id.
        let counters = world.control.counters();
        assert_eq!((counters.lists, counters.vault_requests), (1, 1 + newest.len() as u64));
    }
}

/// Upstream gives N + 1 here.
#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_n_versions_over_several_pages_without_the_disabled_ones() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let vault = world.emulator.vault_name();
    let newest: Vec<String> = world
        .control
        .versions(vault, Secret, "many-versions")
        .into_iter()
        .enumerate()
        .filter(|(index, _)| (index + 1) % 7 != 0)
        .map(|(_, version)| version)
        .rev()
        .collect();
    assert_eq!(newest.len(), 52);
    let history = |count: u32, start: &str| {
        format!(
            "objectName: many-versions\nobjectType: secret\nobjectVersion: {start}\n\
             objectVersionHistory: {count}"
        )
    };
    for (count, start, expected) in [
        (2, "latest", &newest[..2]),
        (100, "", &newest[..]),
        (3, newest[20].as_str(), &newest[20..23]),
        (100, newest[49].as_str(), &newest[49..]),
        (1, newest[5].as_str(), &newest[5..6]),
    ] {
        let mounted = mounted(&world, &history(count, start)).await;
        let versions: Vec<_> = mounted.iter().map(|(_, _, version)| version.clone()).collect();
        assert_eq!(versions, expected);
        let single = count == 1;
        let last = mounted.last().map(|(path, id, _)| (path.as_str(), id.as_str()));
        let tail = if single { String::new() } else { format!("/{}", expected.len() - 1) };
        let (path, id) = (format!("many-versions{tail}"), format!("secret/many-versions{tail}"));
        assert_eq!(last, Some((path.as_str(), id.as_str())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_certificates_have_histories_too() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let vault = world.emulator.vault_name();
    world.control.rotate_certificate(vault, "pemcert1").unwrap();
    for (kind, text) in [(Secret, "secret"), (Key, "key"), (Certificate, "cert")] {
        let entry = format!(
            "objectName: pemcert1\nobjectType: {text}\nobjectAlias: a/{text}\n\
             objectVersionHistory: 2"
        );
        let files = mounted(&world, &entry).await;
        let expected: Vec<_> = world
            .control
            .versions(vault, kind, "pemcert1")
            .into_iter()
            .rev()
            .enumerate()
            .map(|(n, version)| (format!("a/{text}/{n}"), format!("{text}/pemcert1/{n}"), version))
            .collect();
        assert_eq!(files, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_history_that_is_not_there_is_refused_and_says_why() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let vault = world.emulator.vault_name();
    let disabled = world.control.versions(vault, Secret, "many-versions")[6].clone();
    let history = |name: &str, start: &str| {
        format!(
            "objectName: {name}\nobjectType: secret\nobjectVersion: {start}\n\
             objectVersionHistory: 3"
        )
    };
    for (entry, code, why) in [
        (history("many-versions", "zz"), Code::NotFound, "no such version"),
        (history("many-versions", &disabled), Code::PermissionDenied, "this version is disabled"),
        (history("disabled", ""), Code::PermissionDenied, "no version of the object is enabled"),
        (history("absent", ""), Code::NotFound, "SecretNotFound"),
    ] {
        let status = world.mount(&world.call(&[&entry])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(why), "{status}");
        let prefix = "failed to mount objects, error: failed to get objectType:secret, objectName:";
        assert!(status.message().starts_with(prefix), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_list_permission_the_error_names_it_and_a_role() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let client = world.emulator.service_principal().0;
    world.control.permit(client, Secret, Verb::List, false).unwrap();
    let entry = "objectName: many-versions\nobjectType: secret\nobjectVersionHistory: 3";
    let plain = "objectName: secret1\nobjectType: secret";
    let status = world.mount(&world.call(&[plain, entry])).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    for part in ["many-versions/versions: RESPONSE 403", "may list", "Key Vault Secrets User"] {
        assert!(status.message().contains(part), "{status}");
    }
    world.mount(&world.call(&[plain])).await.unwrap();
}
