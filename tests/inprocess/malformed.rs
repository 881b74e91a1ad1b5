//! The class's table of wrong inputs, sent through the socket as a hostile pod could.

use std::time::Duration;

use akvfs::csi::proto::MountRequest;
use tonic::{Code, Status};

use crate::seeds;
use crate::world::{World, secret};

#[path = "../../src/class/tests/malformed/table.rs"]
pub mod table;

/// Every row as a request, each with only one thing wrong.
pub fn requests(world: &World) -> Vec<(MountRequest, &'static str)> {
    let good = world.call(&[&secret(seeds::ONE)]);
    let mut rows = Vec::new();
    for (text, expected) in table::ATTRIBUTES {
        rows.push((MountRequest { attributes: (*text).to_owned(), ..good.request() }, *expected));
    }
    for (text, expected) in table::SECRETS {
        rows.push((MountRequest { secrets: (*text).to_owned(), ..good.request() }, *expected));
    }
    for (text, expected) in table::PERMISSIONS {
        rows.push((MountRequest { permission: (*text).to_owned(), ..good.request() }, *expected));
    }
    for (text, expected) in table::OBJECTS {
        let mut call = good.clone();
        call.set("objects", text);
        rows.push((call.request(), *expected));
    }
    for (entry, expected) in table::ENTRIES {
        let mut call = good.clone();
        call.set("objects", &format!("array:\n  - |\n    {{{entry}}}\n"));
        rows.push((call.request(), *expected));
    }
    for (key, value, expected) in table::PARAMETERS {
        let mut call = good.clone();
        call.set("useVMManagedIdentity", "true").set(key, value);
        rows.push((call.request(), *expected));
    }
    let token = "{\"api://AzureADTokenExchange\":{\"token\":\"canary\"}}";
    for (key, value, expected) in table::WORKLOADS {
        let mut call = good.clone();
        call.set("clientID", "app").set(table::TOKENS, token).set(key, value);
        rows.push((call.request(), *expected));
    }
    rows
}

pub fn check(request: &MountRequest, status: &Status, expected: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{request:?}: {status}");
    assert!(status.message().contains(expected), "{request:?}: {status}, not {expected:?}");
    assert!(!status.message().contains("canary"), "{request:?}: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_inputs_are_refused_and_nothing_is_requested() {
    let world = World::start(seeds::one()).await;
    let rows = requests(&world);
    assert!(rows.len() >= 200, "{}", rows.len());
    for (request, expected) in rows {
        let outcome = world.mount_raw(request.clone(), Duration::from_secs(60)).await;
        check(&request, &outcome.expect_err(&format!("{request:?}")), expected);
    }
    let counters = world.control.counters();
    assert_eq!((counters.vault_requests, counters.token_requests), (0, 0));
}

/// Upstream's P21: no objects is success, with nothing; the driver then refuses the mount.
#[tokio::test(flavor = "multi_thread")]
async fn a_class_without_objects_is_success_without_files() {
    let world = World::start(seeds::one()).await;
    for objects in ["array:", "array: []", "{}", "Array:\n  - x"] {
        let mut call = world.call(&[]);
        call.set("objects", objects).set("keyvaultName", "x");
        let response = world.mount(&call).await.unwrap();
        assert!(response.files.is_empty() && response.object_version.is_empty(), "{objects}");
    }
}
