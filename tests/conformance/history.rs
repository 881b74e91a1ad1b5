//! Version histories: which versions become files, under which names.

use akvfs::class::ObjectKind::Secret;
use akvfs::emulator::Seed;
use serde_json::json;
use tonic::Code;

use crate::canary;
use crate::support::{answer, paths, refusal, text};
use crate::world::World;

/// A vault whose `secret1` has these versions, listed in this order: each letter is an hour older
/// than the one before it, and its own value.
async fn world(listed: &[&str]) -> World {
    let world = World::start(Seed::default()).await;
    let id = |version: &str| format!("{}/secrets/secret1/{version}", world.emulator.vault_url());
    let created = |version: &str| 1_700_000_000 - 3600 * i64::from(version.as_bytes()[0]);
    let items: Vec<_> = listed
        .iter()
        .map(|version| {
            let attributes = json!({"enabled": true, "created": created(version)});
            json!({"id": id(version), "attributes": attributes})
        })
        .collect();
    answer(&world, "/secrets/secret1/versions", &json!({"value": items, "nextLink": null}));
    for version in listed {
        let body = json!({"value": version, "id": id(version), "attributes": {"enabled": true}});
        answer(&world, &format!("/secrets/secret1/{version}"), &body);
    }
    world
}

/// The entry's files are these versions, numbered from 0.
async fn numbered(listed: &[&str], lines: &str, expected: &[&str]) {
    let world = world(listed).await;
    let entry = format!("objectName: secret1\nobjectType: secret\n{lines}");
    let response = world.mount(&world.call(&[&entry])).await.unwrap();
    let names: Vec<_> = (0..expected.len()).map(|index| format!("secret1/{index}")).collect();
    assert_eq!(paths(&response), names);
    for (index, version) in expected.iter().enumerate() {
        assert_eq!(text(&response, &names[index]), *version);
        assert_eq!(response.object_version[index].version, *version);
        assert_eq!(response.object_version[index].id, format!("secret/secret1/{index}"));
    }
}

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

#[tokio::test(flavor = "multi_thread")]
async fn u36_five_of_five() {
    numbered(&FIVE, "objectVersion: latest\nobjectVersionHistory: 5", &FIVE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u37_listed_in_any_order() {
    for shuffled in [["c", "a", "e", "b", "d"], ["e", "d", "c", "b", "a"]] {
        numbered(&shuffled, "objectVersion: latest\nobjectVersionHistory: 5", &FIVE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u38_without_a_version() {
    numbered(&["a", "b"], "objectVersionHistory: 2", &["a", "b"]).await;
}

/// Upstream has no bound. A wish for more than 100 is a mistake that would fill a vault's quota.
#[tokio::test(flavor = "multi_thread")]
async fn u39_more_than_there_are() {
    numbered(&["a", "b"], "objectVersionHistory: 100", &["a", "b"]).await;
    let world = world(&["a", "b"]).await;
    let call = world.call(&["objectName: secret1\nobjectType: secret\nobjectVersionHistory: 200"]);
    let said = refusal(&world, &call, Code::InvalidArgument).await;
    assert!(said.contains("objectVersionHistory is above 100"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn u40_from_a_version_on() {
    numbered(&FIVE, "objectVersion: c\nobjectVersionHistory: 5", &["c", "d", "e"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u56_a_history_of_one_is_none() {
    let world = World::start(Seed::default().secret("x", &["old", "new"])).await;
    for (history, files) in [
        ("", &["x"][..]),
        ("objectVersionHistory: 0", &["x"]),
        ("objectVersionHistory: 1", &["x"]),
        ("objectVersionHistory: -1", &["x"]),
        ("objectVersionHistory: 4", &["x/0", "x/1"]),
    ] {
        let call = world.call(&[&format!("objectName: x\nobjectType: secret\n{history}")]);
        assert_eq!(paths(&world.mount(&call).await.unwrap()), files, "{history}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u57_ids_of_object_versions() {
    let values: Vec<_> = (0..9).map(|number| format!("dev-only-{number}")).collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    let seed =
        Seed::default().secret("single-version", &["x"]).secret("multiple-versions", &values);
    let world = World::start(seed).await;
    for (name, lines, last) in [
        ("single-version", "", "secret/single-version"),
        ("single-version", "objectAlias: alias", "secret/single-version"),
        (
            "multiple-versions",
            "objectAlias: folder/alias\nobjectVersionHistory: 10",
            "secret/multiple-versions/8",
        ),
    ] {
        let call = world.call(&[&format!("objectName: {name}\nobjectType: secret\n{lines}")]);
        let response = world.mount(&call).await.unwrap();
        let ids: Vec<_> = response.object_version.iter().map(|version| &version.id).collect();
        assert_eq!(ids.last().unwrap().as_str(), last);
        assert_eq!(ids[0].as_str(), last.replace("/8", "/0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e8_histories_of_a_secret_its_alias_and_a_certificate() {
    let (old, new) = (canary::value("old"), canary::value("new"));
    let world = World::start(Seed::default_seed().unwrap().secret("secret1", &[&old, &new])).await;
    let vault = world.emulator.vault_name();
    world.control.rotate_certificate(vault, "pemcert1").unwrap();
    let call = world.call(&[
        "objectName: secret1\nobjectType: secret\nobjectVersionHistory: 5",
        "objectName: secret1\nobjectType: secret\nobjectVersionHistory: 5\nobjectAlias: SECRET_1",
        "objectName: pemcert1\nobjectType: cert\nobjectVersionHistory: 5",
    ]);
    let response = world.mount(&call).await.unwrap();
    let expected =
        ["secret1/0", "secret1/1", "SECRET_1/0", "SECRET_1/1", "pemcert1/0", "pemcert1/1"];
    assert_eq!(paths(&response), expected);
    assert_eq!((text(&response, "SECRET_1/0"), text(&response, "secret1/1")), (&*new, &*old));
    // What a synced secret refers to.
    assert!(text(&response, "pemcert1/0").starts_with("-----BEGIN CERTIFICATE-----\n"));
}

/// The versions of `many-versions` that are enabled, newest first.
fn enabled(world: &World) -> Vec<String> {
    let versions = world.control.versions(world.emulator.vault_name(), Secret, "many-versions");
    let enabled = versions.into_iter().enumerate().filter(|(index, _)| (index + 1) % 7 != 0);
    enabled.map(|(_, version)| version).rev().collect()
}

async fn many(world: &World, lines: &str) -> Vec<(String, String)> {
    let entry = format!("objectName: many-versions\nobjectType: secret\n{lines}");
    let response = world.mount(&world.call(&[&entry])).await.unwrap();
    let versions = response.object_version.iter().map(|version| version.version.clone());
    response.files.iter().map(|file| file.path.clone()).zip(versions).collect()
}

/// Upstream counts one too many.
#[tokio::test(flavor = "multi_thread")]
async fn p2_n_versions_are_n() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let newest = enabled(&world);
    let files = many(&world, "objectVersionHistory: 2").await;
    let expected = [
        ("many-versions/0".to_owned(), newest[0].clone()),
        ("many-versions/1".to_owned(), newest[1].clone()),
    ];
    assert_eq!(files, expected);
    assert!(world.control.counters().lists > 1, "several pages");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_disabled_versions_are_skipped_and_the_alias_is_a_folder() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let newest = enabled(&world);
    // Of 60 versions the 56th is disabled: it lies between the 57th and the 55th.
    let lines = format!("objectVersion: {}\nobjectVersionHistory: 3\nobjectAlias: al", newest[3]);
    let files = many(&world, &lines).await;
    let expected: Vec<_> =
        (0..3).map(|index| (format!("al/{index}"), newest[3 + index].clone())).collect();
    assert_eq!(files, expected);
}

/// Upstream mounts nothing, and calls it success.
#[tokio::test(flavor = "multi_thread")]
async fn p4_a_start_that_is_not_there_is_an_error() {
    let world = World::start(Seed::default_seed().unwrap()).await;
    let call = world.call(&[
        "objectName: many-versions\nobjectType: secret\nobjectVersion: zz\nobjectVersionHistory: 3",
    ]);
    let said = refusal(&world, &call, Code::NotFound).await;
    assert!(said.contains("objectName:many-versions, objectVersion:zz"), "{said}");
}
