//! Whole vaults: their names follow the vault, through the real binary and a real mount.

use std::process::Output;

use akvfs::Code;
use akvfs::class::ObjectKind;
use akvfs::delivery::fuse;
use akvfs::emulator::{SYSTEM_IDENTITY, Seed, Trouble, Verb, Where};
use akvfs::view::{Layout, Limits, Plan};
use serde_json::Value;

use crate::azure::Azure;
use crate::canary;
use crate::support::{Fake, Tree, eventually, names, run};

const VAULT: &str = "akvfs-dev";
const URL: &str = "https://akvfs-dev.vault.azure.net";
const ESTALE: i32 = 116;

/// A vault of three secrets and nothing else.
fn azure() -> Azure {
    let names = ["read", "unread", "third"];
    let seed =
        names.iter().fold(Seed::default(), |seed, name| seed.secret(name, &[&canary::value(name)]));
    let azure = Azure::with(|config| config.seed = seed.clone());
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    std::fs::create_dir(azure.path("vault")).unwrap();
    azure
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn mount(azure: &Azure, url: &str, options: &[&str]) -> Output {
    let dir = azure.path("vault");
    let args = ["mount", "--identity", "managed", url, dir.to_str().unwrap()];
    azure.output(&[&args[..], &["--refresh-interval", "1s"], options].concat())
}

fn unmount(azure: &Azure) {
    assert!(azure.output(&["unmount", azure.path("vault").to_str().unwrap()]).status.success());
}

/// What status says of a collection.
fn collection(azure: &Azure, kind: &str) -> Value {
    let output = azure.output(&["status", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    canary::record("akvfs-stdout", &said.to_string());
    let all = said["served"][0]["collections"].as_array().unwrap();
    all.iter().find(|one| one["type"] == kind).unwrap().clone()
}

fn names_follow(azure: &Azure) {
    let control = azure.emulator.control();
    let output = mount(azure, URL, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let dir = azure.path("vault");
    let secrets = dir.join("secrets");
    assert_eq!(names(&dir), ["certificates", "keys", "secrets"]);
    assert_eq!(names(&dir.join("keys")), [""; 0]);
    assert_eq!(names(&secrets), ["read", "third", "unread"]);
    let mut open = std::fs::File::open(secrets.join("read")).unwrap();
    std::io::Read::read(&mut open, &mut [0; 4]).unwrap();

    assert!(!secrets.join("new").exists());
    let value = canary::value("new");
    control.set_secret(VAULT, "new", value.as_str()).unwrap();
    eventually("a new name", || secrets.join("new").exists());
    assert_eq!(std::fs::read_to_string(secrets.join("new")).unwrap(), value);
    for name in ["read", "unread"] {
        control.delete(VAULT, ObjectKind::Secret, name).unwrap();
    }
    eventually("deleted ones are gone", || names(&secrets) == ["new", "third"]);
    assert!(!secrets.join("read").exists() && !secrets.join("unread").exists());
    let read = std::io::Read::read(&mut open, &mut [0; 4]);
    assert_eq!(read.unwrap_err().raw_os_error(), Some(ESTALE));
    let again = canary::value("again");
    control.set_secret(VAULT, "read", again.as_str()).unwrap();
    eventually("it is back", || secrets.join("read").exists());
    // That it was not there is remembered for some seconds.
    eventually("its value", || {
        std::fs::read_to_string(secrets.join("read")).is_ok_and(|value| value == again)
    });

    control.always(Where::vault(VAULT), Trouble::Status(503));
    eventually("the list is stale", || !collection(azure, "secret")["stale_since"].is_null());
    let said = collection(azure, "secret");
    assert_eq!((&said["names"], &said["error"]["code"]), (&3.into(), &"unavailable".into()));
    assert_eq!(names(&secrets), ["new", "read", "third"]);
    assert_eq!(std::fs::read_to_string(secrets.join("new")).unwrap(), value);
    control.clear_faults();
    control.set_secret(VAULT, "late", value.as_str()).unwrap();
    eventually("the vault is followed again", || secrets.join("late").exists());
    assert!(collection(azure, "secret")["stale_since"].is_null());
    unmount(azure);
}

network_test! {
    fn a_whole_vaults_names_follow_the_vault_and_outlast_an_outage() {
        let machine = azure();
        names_follow(&machine);
        drop(machine);
        let machine = azure();
        machine.as_a_plain_user(|| names_follow(&machine));
    }
}

fn role_is_named(azure: &Azure) {
    let control = azure.emulator.control();
    let permit = |kind, allow| control.permit(SYSTEM_IDENTITY, kind, Verb::List, allow).unwrap();
    permit(ObjectKind::Key, false);
    permit(ObjectKind::Certificate, false);
    let output = mount(azure, URL, &[]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    for collection in ["keys", "certificates"] {
        let note =
            format!("note: {collection}/ is empty: the names of {collection} cannot be listed");
        assert!(said.contains(&note) && said.contains("Key Vault Crypto User"), "{said}");
    }
    let dir = azure.path("vault");
    assert_eq!(names(&dir.join("secrets")), ["read", "third", "unread"]);
    assert_eq!(names(&dir.join("keys")), [""; 0]);
    let status = collection(azure, "key");
    assert_eq!(status["error"]["code"], "forbidden", "{status}");
    assert!(status["error"]["message"].as_str().unwrap().contains("Key Vault Crypto User"));
    assert!(collection(azure, "secret")["error"].is_null());
    // It was told, and is no failure from now on.
    let refreshed = azure.output(&["refresh", dir.to_str().unwrap()]);
    assert!(refreshed.status.success(), "{}", text(&refreshed.stderr));
    // A role works when Azure has it, without a new mount.
    permit(ObjectKind::Key, true);
    eventually("keys may be listed", || collection(azure, "key")["error"].is_null());
    unmount(azure);

    for (url, kind) in [(URL, None), ("https://akvfs-dev.vault.azure.net/keys", Some(()))] {
        permit(ObjectKind::Secret, kind.is_some());
        permit(ObjectKind::Key, false);
        let output = mount(azure, url, &[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("cannot be listed") && said.contains("Key Vault Secrets User"),
            "{said}"
        );
    }
    // Who writes files must know all names: one that is not told would be taken for a deleted one.
    let files = azure.path("files");
    let output = azure.output(&["sync", URL, files.to_str().unwrap(), "--identity", "managed"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(!files.join("secrets").exists());
}

network_test! {
    fn a_missing_list_permission_names_the_role() {
        let machine = azure();
        role_is_named(&machine);
        drop(machine);
        let machine = azure();
        machine.as_a_plain_user(|| role_is_named(&machine));
    }
}

fn names_come_later(azure: &Azure) {
    let control = azure.emulator.control();
    control.always(Where::vault(VAULT), Trouble::Status(503));
    let output = mount(azure, URL, &["--list-timeout", "1s"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("note: secrets/ is empty until it works"), "{said}");
    let dir = azure.path("vault");
    assert_eq!(names(&dir), ["certificates", "keys", "secrets"]);
    assert_eq!(names(&dir.join("secrets")), [""; 0]);
    assert!(!dir.join("secrets/read").exists());
    assert_eq!(collection(azure, "secret")["error"]["code"], "unavailable");
    control.clear_faults();
    eventually("the names", || names(&dir.join("secrets")).len() == 3);
    assert!(dir.join("secrets/read").exists());
    unmount(azure);
}

network_test! {
    fn a_vault_that_is_down_is_mounted_without_names_and_gets_them_later() {
        let machine = azure();
        names_come_later(&machine);
        drop(machine);
        let machine = azure();
        machine.as_a_plain_user(|| names_come_later(&machine));
    }
}

network_test! {
    fn a_sync_of_a_vault_follows_its_names() {
        let azure = azure();
        let control = azure.emulator.control();
        let files = azure.path("files");
        let args = ["sync", URL, files.to_str().unwrap(), "--identity", "managed"];
        let secrets = files.join("secrets");
        let watch = ["--watch", "--refresh-interval", "1s"];
        let mut watching = crate::sync::Watching::start(azure.akvfs(&[&args[..], &watch].concat()));
        eventually("the files", || secrets.exists() && names(&secrets) == ["read", "third", "unread"]);
        let value = canary::value("new");
        control.set_secret(VAULT, "new", value.as_str()).unwrap();
        eventually("a new file", || {
            std::fs::read_to_string(secrets.join("new")).is_ok_and(|text| text == value)
        });
        control.delete(VAULT, ObjectKind::Secret, "third").unwrap();
        eventually("a deleted one is gone", || names(&secrets) == ["new", "read", "unread"]);
        watching.signal("TERM");
        assert_eq!(watching.ended().code(), Some(0));
    }
}

network_test! {
    fn of_a_vault_a_file_whose_name_is_not_listed_goes_when_the_vault_refuses_it_too() {
        let azure = azure();
        let control = azure.emulator.control();
        let files = azure.path("files");
        let args = ["sync", URL, files.to_str().unwrap(), "--identity", "managed"];
        let written = || names(&files.join("secrets"));
        assert!(azure.output(&args).status.success());
        assert_eq!(written(), ["read", "third", "unread"]);
        control.delete(VAULT, ObjectKind::Secret, "third").unwrap();
        control.always(Where::vault(VAULT).path("/secrets/third"), Trouble::Status(503));
        let output = azure.output(&[&args[..], &["--fetch-timeout", "2s"]].concat());
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), written().len()), (Some(1), 3), "{said}");
        assert!(said.contains("whether secret third is still there cannot be told"), "{said}");
        control.clear_faults();
        let output = azure.output(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(written(), ["read", "unread"]);
    }
}

root_test! {
    fn a_long_listing_of_a_directory_with_gaps_has_each_name_once() {
        let all: Vec<String> = (0..3000).map(|n| format!("name-{n:05}")).collect();
        let values: Vec<(&str, &[u8])> = all.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
        let vault = Fake::new(&values);
        vault.lists(ObjectKind::Secret, all.clone());
        let plan = Plan::listing(&[ObjectKind::Secret], 0o400, Layout::Flat);
        let tree = Tree::with(&vault, plan, fuse::Options::default(), Limits::default());
        let (gone, rest) = all.split_at(300);
        for name in gone {
            assert_eq!(tree.read(&format!("secrets/{name}")), b"x");
            vault.fail(name, Some(Code::NotFound));
        }
        assert_eq!(tree.refresh().changed.len(), 300);
        assert_eq!(names(&tree.path("secrets")), rest);
        // Names that come while somebody lists are at the end, and none is missed.
        let mut listing = std::fs::read_dir(tree.path("secrets")).unwrap();
        let mut seen = vec![listing.next().unwrap().unwrap().file_name().into_string().unwrap()];
        vault.lists(ObjectKind::Secret, [&all[..], &["a-new-one".to_owned()]].concat());
        assert_eq!(tree.refresh().changed, ["secrets/a-new-one"]);
        seen.extend(listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        seen.retain(|name| name != "a-new-one");
        seen.sort();
        assert_eq!(seen, rest);
        assert!(tree.path("secrets/a-new-one").exists());
    }
}
