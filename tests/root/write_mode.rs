//! `mountMode: write` between a real provider without capabilities and a stand-in for the CSI driver.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use akvfs::emulator::{Seed, Service, Trouble, Where};
use tonic::Code;

use crate::azure::Azure;
use crate::canary;
use crate::driver::{Node, Pods, Publish, files};
use crate::support::{eventually, run, table};

const VAULT: &str = "akvfs-dev";
const WRITE: (&str, &str) = ("mountMode", "write");

/// Ages that make each republish look.
const NO_AGES: [&str; 2] = ["--mount-max-age=0s", "--refresh-max-age=0s"];

fn node(pods: Pods, flags: &[&str]) -> Node {
    Node::new(Azure::new(), pods, flags)
}

fn entries(objects: &[(&str, &str, &str)]) -> String {
    let entry = |(name, alias, more): &(&str, &str, &str)| {
        format!(
            "  - |\n    objectName: {name}\n    objectType: secret\n    objectAlias: {alias}\n{more}"
        )
    };
    format!("array:\n{}", objects.iter().map(entry).collect::<String>())
}

fn mtime(path: &Path) -> (i64, i64) {
    let found = std::fs::metadata(path).unwrap();
    (found.mtime(), found.mtime_nsec())
}

network_test! {
    fn the_provider_writes_rotates_and_leaves_nothing_behind() {
        let node = node(Pods::Shown, &NO_AGES);
        let objects = entries(&[
            ("secret1", "plain", ""),
            ("secret1", "deep/er/name", "    filePermission: \"0400\"\n"),
        ]);
        let volume = node.volume("u-1", &[WRITE, ("objects", &objects)]);
        let response = node.publish(&volume).answered();
        assert!(response.files.is_empty(), "the driver has nothing to write");
        let ids: Vec<_> = response.object_version.iter().map(|object| object.id.as_str()).collect();
        assert_eq!(ids, ["secret/secret1", "secret/secret1"]);
        let value = node.azure.value.clone().into_bytes();
        let expected = |value: &[u8]| {
            BTreeMap::from(["plain", "deep/er/name"].map(|name| (name.to_owned(), value.to_vec())))
        };
        assert_eq!(files(&volume.target), expected(&value));
        let mode = |name| std::fs::metadata(volume.target.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("plain"), mode("deep/er/name")), (0o644, 0o400));
        assert_eq!(std::fs::metadata(volume.target.join("plain")).unwrap().uid(), 0);

        // Nothing new: nothing is touched, so the driver's clock goes on.
        let before = mtime(&volume.target);
        let again = node.publish(&volume).answered();
        assert_eq!(again.object_version, response.object_version);
        assert_eq!(mtime(&volume.target), before);

        let new = canary::value("secret1 rotated");
        node.azure.emulator.control().set_secret(VAULT, "secret1", new.clone()).unwrap();
        let mut old = std::fs::File::open(volume.target.join("plain")).unwrap();
        let rotated = node.publish(&volume).answered();
        assert_ne!(rotated.object_version, response.object_version);
        assert_eq!(files(&volume.target), expected(new.as_bytes()));
        assert!(mtime(&volume.target) > before);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut old, &mut bytes).unwrap();
        assert_eq!(bytes, value, "a reader of the old file keeps its bytes");
        drop(old);

        node.unpublish(&volume);
        assert!(std::fs::read_dir(volume.target.parent().unwrap()).unwrap().next().is_none());
    }
}

network_test! {
    fn the_drivers_clock_and_its_first_failure_are_as_with_files() {
        let mut node = node(Pods::Shown, &NO_AGES);
        node.interval = Some(Duration::from_secs(120));
        let volume = node.volume("u-1", &[WRITE]);
        node.publish(&volume).answered();
        assert!(matches!(node.publish(&volume), Publish::Skipped), "written a moment ago");
        // A first publish that fails leaves no mount.
        let mut broken = node.volume("u-2", &[WRITE]);
        broken.attributes.insert("objects".to_owned(), entries(&[("nothing-here", "x", "")]));
        assert_eq!(node.publish(&broken).refused().code(), Code::NotFound);
        assert!(table(&broken.target).is_empty());
        assert!(std::fs::read_dir(&broken.target).unwrap().next().is_none());
    }
}

network_test! {
    fn a_mount_that_waits_for_its_vault_holds_nothing_of_the_target() {
        let node = node(Pods::Shown, &NO_AGES);
        let volume = node.volume("u-1", &[WRITE]);
        let control = node.azure.emulator.control();
        control.always(Where::service(Service::Vault), Trouble::Hang);
        std::thread::scope(|scope| {
            let publish = scope.spawn(|| node.publish(&volume));
            eventually("the vault is asked", || control.counters().vault_requests > 0);
            let descriptors = std::fs::read_dir(format!("/proc/{}/fd", node.provider.pid())).unwrap();
            for descriptor in descriptors {
                // One may have gone since it was listed.
                let path = std::fs::read_link(descriptor.unwrap().path()).unwrap_or_default();
                assert!(!path.starts_with(&volume.target), "{path:?}");
            }
            assert!(std::fs::read_dir(&volume.target).unwrap().next().is_none(), "nothing is made");
            control.clear_faults();
            publish.join().unwrap().answered();
        });
        node.unpublish(&volume);
    }
}

network_test! {
    fn a_first_publish_that_the_driver_takes_back_is_a_first_one_again() {
        let node = node(Pods::Shown, &["--mount-max-age=0s", "--refresh-max-age=1h"]);
        let volume = node.volume("u-1", &[WRITE, ("objects", &entries(&[("secret1", "a", "")]))]);
        node.publish(&volume).answered();
        // The driver could not write the pod's status.
        node.unpublish(&volume);
        let new = canary::value("secret1 rotated");
        node.azure.emulator.control().set_secret(VAULT, "secret1", new.clone()).unwrap();
        node.publish(&volume).answered();
        assert_eq!(files(&volume.target)["a"], new.as_bytes(), "a pod that starts sees the rotation");
    }
}

network_test! {
    fn classes_larger_than_a_message_are_written() {
        const COUNT: usize = 256;
        let mut values = Vec::new();
        let mut seed = Seed::default_seed().unwrap();
        for number in 0..COUNT {
            let name = format!("large-{number:03}");
            let mut value = canary::value(&name);
            value.push_str(&"x".repeat(24_800));
            seed = seed.secret(&name, &[&value]);
            values.push((name, value.into_bytes()));
        }
        let azure = Azure::with(|config| config.seed = seed);
        let node = Node::new(azure, Pods::Shown, &NO_AGES);
        let all: Vec<_> = values.iter().map(|(name, _)| (name.as_str(), name.as_str(), "")).collect();
        let objects = entries(&all);
        let volume = node.volume("u-1", &[("objects", &objects)]);
        let refused = node.publish(&volume).refused();
        assert!(refused.message().contains("larger than 4194304 bytes"), "{refused}");
        let volume = node.volume("u-2", &[WRITE, ("objects", &objects)]);
        let response = node.publish(&volume).answered();
        assert_eq!((response.files.len(), response.object_version.len()), (0, COUNT));
        let written = files(&volume.target);
        assert!(written.values().map(Vec::len).sum::<usize>() > 6 << 20);
        assert!(written == values.into_iter().collect(), "the bytes are the vault's");
        node.unpublish(&volume);
    }
}

network_test! {
    fn readers_see_wholly_old_or_wholly_new_through_rotations() {
        const ROUNDS: usize = 20;
        let node = node(Pods::Shown, &NO_AGES);
        let control = node.azure.emulator.control();
        let put = |round: usize| {
            for name in ["pair-a", "pair-b"] {
                let value = format!("{round:04}").repeat(2000);
                control.set_secret(VAULT, name, value).unwrap();
            }
        };
        put(0);
        let objects = entries(&[("pair-a", "a", ""), ("pair-b", "b", "")]);
        let volume = node.volume("u-1", &[WRITE, ("objects", &objects)]);
        node.publish(&volume).answered();
        let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        // As a program that wants both of one state.
                        let state = std::fs::read_link(volume.target.join("..data")).unwrap();
                        let read = |name| std::fs::read(volume.target.join(&state).join(name));
                        let (Ok(a), Ok(b)) = (read("a"), read("b")) else { continue };
                        assert_eq!(a.len(), 8000);
                        assert!(a == b, "one of two states each");
                        assert!(a.chunks(4).all(|part| part == &a[..4]), "torn");
                        let plain = std::fs::read(volume.target.join("a")).unwrap();
                        assert!(plain.len() == 8000 && plain.chunks(4).all(|part| part == &plain[..4]));
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for round in 1..=ROUNDS {
                put(round);
                node.publish(&volume).answered();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(reads.load(Ordering::Relaxed) > ROUNDS, "the readers read");
        assert_eq!(files(&volume.target)["a"], format!("{ROUNDS:04}").repeat(2000).as_bytes());
        // One state, not a heap of them.
        let states = std::fs::read_dir(&volume.target).unwrap().filter(|entry| {
            let entry = entry.as_ref().unwrap();
            entry.file_type().unwrap().is_dir() && entry.file_name() != "..akvfs"
        });
        assert_eq!(states.count(), 1);
        node.unpublish(&volume);
    }
}

network_test! {
    fn what_is_not_the_drivers_mount_for_this_pod_is_refused_and_untouched() {
        let node = node(Pods::Shown, &[]);
        let refused = |uid: &str, prepare: &dyn Fn(&Path), change: &dyn Fn(&mut crate::driver::Volume)| {
            let mut volume = node.volume(uid, &[WRITE]);
            std::fs::create_dir_all(volume.target.parent().unwrap()).unwrap();
            prepare(&volume.target);
            change(&mut volume);
            let requests = node.azure.emulator.control().counters().vault_requests;
            let status = node.call(&volume).unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            let later = node.azure.emulator.control().counters().vault_requests;
            assert_eq!(requests, later, "nothing is fetched for it");
            status.message().to_owned()
        };
        let nothing = |_: &mut crate::driver::Volume| {};
        let tmpfs = |target: &Path| {
            std::fs::create_dir(target).unwrap();
            run("mount", &["-t", "tmpfs", "tmpfs", target.to_str().unwrap()]);
        };
        // The node's disk: the driver's mount failed, or is gone.
        let said = refused("u-1", &|target| std::fs::create_dir(target).unwrap(), &nothing);
        assert!(said.contains("tmpfs"), "{said}");
        // Somebody else's files.
        let said = refused("u-2", &|target| {
            tmpfs(target);
            std::fs::write(target.join("foreign"), "kept").unwrap();
        }, &nothing);
        assert!(said.contains("foreign"), "{said}");
        let volume = node.volume("u-2", &[WRITE]);
        assert_eq!(files(&volume.target), BTreeMap::from([("foreign".to_owned(), b"kept".to_vec())]));
        // A link to another place.
        let elsewhere = node.azure.path("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", elsewhere.to_str().unwrap()]);
        refused("u-3", &|target| symlink(&elsewhere, target).unwrap(), &nothing);
        assert!(std::fs::read_dir(&elsewhere).unwrap().next().is_none());
        // Another pod's volume, and no volume at all.
        refused("u-4", &tmpfs, &|volume| {
            volume.attributes.insert("csi.storage.k8s.io/pod.uid".to_owned(), "u-5".to_owned());
        });
        refused("u-6", &tmpfs, &|volume| volume.target = elsewhere.clone());
        assert!(std::fs::read_dir(&elsewhere).unwrap().next().is_none());
        // What cannot be done in this version.
        let mut volume = node.volume("u-7", &[("mountMode", "fuse")]);
        assert_eq!(node.publish(&volume).refused().code(), Code::FailedPrecondition);
        volume.attributes.insert("mountMode".to_owned(), "nfs".to_owned());
        assert_eq!(node.publish(&volume).refused().code(), Code::InvalidArgument);
    }
}

network_test! {
    fn a_provider_that_does_not_see_the_mount_refuses_and_the_pods_directory_stays_clean() {
        let node = node(Pods::NotPropagated, &[]);
        let volume = node.volume("u-1", &[WRITE]);
        let status = node.publish(&volume).refused();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("HostToContainer"), "{status}");
        assert!(table(&volume.target).is_empty());
        assert!(std::fs::read_dir(&volume.target).unwrap().next().is_none());
    }
}

network_test! {
    fn a_volume_keeps_its_first_writer() {
        let node = node(Pods::Shown, &NO_AGES);
        // As the driver's atomic writer leaves it.
        let volume = node.volume("u-1", &[WRITE]);
        std::fs::create_dir_all(&volume.target).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", volume.target.to_str().unwrap()]);
        std::fs::create_dir(volume.target.join("..2026_11_25.1")).unwrap();
        std::fs::write(volume.target.join("..2026_11_25.1/secret1"), "x").unwrap();
        symlink("..2026_11_25.1", volume.target.join("..data")).unwrap();
        symlink("..data/secret1", volume.target.join("secret1")).unwrap();
        let names = || {
            let names = std::fs::read_dir(&volume.target).unwrap();
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        let response = node.publish(&volume).answered();
        assert_eq!(response.files.len(), 3, "the driver goes on");
        assert_eq!(files(&volume.target)["secret1"], b"x");
        assert_eq!(names(), before, "and we touch nothing");
    }
}

network_test! {
    fn what_is_usual_for_all_stops_no_volume_where_the_pods_directory_is_not_shown() {
        let node = node(Pods::NotPropagated, &["--mount-mode=write"]);
        // As seen from a container that has no such directory at all.
        let mut volume = node.volume("u-1", &[]);
        volume.target = "/nowhere/pods/u-1/volumes/kubernetes.io~csi/secrets/mount".into();
        assert_eq!(node.call(&volume).unwrap().files.len(), 3, "the driver writes it");
        volume.attributes.insert("mountMode".to_owned(), "write".to_owned());
        assert_eq!(node.call(&volume).unwrap_err().code(), Code::FailedPrecondition);
    }
}

network_test! {
    fn the_operator_decides_what_is_usual_and_what_is_allowed() {
        let azure = Azure::new();
        let policy = azure.path("policy.yaml");
        std::fs::write(
            &policy,
            "default: deny\nrules:\n- name: large\n  match: {namespaces: [default]}\n  allow: \
             {identityModes: [service-principal], vaults: ['*'], mountModes: [write], \
             maxResponseBytes: 1MiB}\n",
        )
        .unwrap();
        let policy = format!("--policy={}", policy.display());
        let node = Node::new(azure, Pods::Shown, &["--mount-mode=write", &policy]);
        let volume = node.volume("u-1", &[]);
        assert!(node.publish(&volume).answered().files.is_empty());
        assert_eq!(files(&volume.target)["secret1"], node.azure.value.as_bytes());
        let volume = node.volume("u-2", &[("mountMode", "files")]);
        let status = node.publish(&volume).refused();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("the mount mode files (mountModes)"), "{status}");
    }
}

network_test! {
    fn a_full_node_keeps_the_old_state() {
        let node = node(Pods::Shown, &NO_AGES);
        let volume = node.volume("u-1", &[WRITE, ("objects", &entries(&[("secret1", "a", "")]))]);
        node.publish(&volume).answered();
        let before = files(&volume.target);
        // The kernel's own limit stands in for a node without memory.
        run("mount", &["-o", "remount,size=8k", volume.target.to_str().unwrap()]);
        node.azure.emulator.control().set_secret(VAULT, "secret1", "y".repeat(20_000)).unwrap();
        let status = node.publish(&volume).refused();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains("no storage space"), "{status}");
        assert_eq!(files(&volume.target), before);
        let mode = std::fs::metadata(&volume.target).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777, "the mount's own mode is the driver's");
        run("mount", &["-o", "remount,size=1m", volume.target.to_str().unwrap()]);
        node.publish(&volume).answered();
        assert_eq!(files(&volume.target)["a"].len(), 20_000);
        node.unpublish(&volume);
    }
}
