//! The real `akvfs unmount`, by the mount's process and without it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::{NOBODY, empty_tmp, served, users};
use crate::support::{eventually, run, table};
use crate::sync::{Site, Watching, code, said};

/// Neither root nor the mount's user.
const OTHER: u32 = 1234;

/// A mount of the class in the foreground.
fn mount(site: &Site) -> (Watching, PathBuf) {
    let place = site.azure.path("tree");
    std::fs::create_dir(&place).unwrap();
    let (source, place) = (site.source(), place.canonicalize().unwrap());
    let args = ["mount", "--foreground", &source, place.to_str().unwrap()];
    let mounted = Watching::start(site.azure.akvfs(&args));
    eventually("a mount", || served(site).len() == 1);
    (mounted, place)
}

fn unmount(site: &Site, place: &Path) -> Output {
    site.akvfs(&["unmount", place.to_str().unwrap()])
}

fn unmount_as(site: &Site, uid: u32, place: &Path) -> Output {
    let mut command = site.azure.akvfs(&["unmount", place.to_str().unwrap()]);
    command.uid(uid).gid(uid).env_remove("XDG_RUNTIME_DIR").output().unwrap()
}

network_test! {
    fn its_process_ends_though_files_are_open() {
        let site = Site::new();
        let (mut mounted, place) = mount(&site);
        let mut open = std::fs::File::open(place.join("one")).unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, site.one);
        let done = unmount(&site, &place);
        assert_eq!((code(&done), said(&done).as_str()), (0, ""));
        assert_eq!(table(&place).len(), 0);
        assert!(mounted.ended().success());
        drop(open);
        assert_eq!(served(&site).len(), 0);
        // There is nothing to unmount any more.
        assert_eq!(code(&unmount(&site, &place)), 1);
    }
}

network_test! {
    fn what_another_mount_stands_on_is_served_on() {
        let site = Site::new();
        let (mut mounted, place) = mount(&site);
        run("mount", &["-t", "tmpfs", "tmpfs", place.to_str().unwrap()]);
        let refused = unmount(&site, &place);
        assert_eq!(code(&refused), 1);
        assert!(said(&refused).contains("another mount stands on it"), "{}", said(&refused));
        run("umount", &[place.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(place.join("two")).unwrap(), site.two);
        assert_eq!(code(&unmount(&site, &place)), 0);
        assert!(mounted.ended().success());
    }
}

network_test! {
    fn another_mount_that_was_made_at_the_same_place_is_served_on() {
        let site = Site::new();
        let (mut first, place) = mount(&site);
        let open = std::fs::File::open(place.join("one")).unwrap();
        // It lives on for whoever has a file open, and its process says still that it is there.
        run("umount", &["--lazy", place.to_str().unwrap()]);
        let args = ["mount", "--foreground", &site.source(), place.to_str().unwrap()];
        let mut second = Watching::start(site.azure.akvfs(&args));
        eventually("two", || served(&site).len() == 2);
        let serves = |one: &serde_json::Value| one["pid"].as_u64().unwrap();
        let both: Vec<u64> = served(&site).iter().map(serves).collect();
        let done = unmount(&site, &place);
        assert_eq!(code(&done), 0, "{}", said(&done));
        assert!(second.ended().success());
        assert_eq!((table(&place).len(), served(&site).len()), (0, 1), "{both:?}");
        // Nothing stands there any more, and nobody is asked.
        let refused = unmount(&site, &place);
        assert!(code(&refused) == 1 && said(&refused).contains("nothing is mounted"), "{}", said(&refused));
        assert_eq!(served(&site)[0]["pid"], serde_json::json!(first.pid()));
        let mut text = String::new();
        (&open).read_to_string(&mut text).unwrap();
        assert_eq!(text, site.one);
        drop(open);
        assert!(first.ended().success());
    }
}

network_test! {
    fn only_the_upper_one_of_several_is_unmounted() {
        let site = Site::new();
        let (mut below, place) = mount(&site);
        let path = place.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", path]);
        let args = ["mount", "--foreground", &site.source(), path];
        let mut above = Watching::start(site.azure.akvfs(&args));
        eventually("two", || served(&site).len() == 2);
        assert_eq!(code(&unmount(&site, &place)), 0);
        assert!(above.ended().success());
        assert_eq!((table(&place).len(), served(&site).len()), (2, 1));
        run("umount", &[path]);
        assert_eq!(code(&unmount(&site, &place)), 0);
        assert!(below.ended().success());
    }
}

network_test! {
    fn the_mount_of_a_process_that_is_dead_or_hangs_is_taken_away() {
        let site = Site::new();
        let (mut mounted, place) = mount(&site);
        mounted.signal("STOP");
        let done = unmount(&site, &place);
        assert_eq!(code(&done), 0, "{}", said(&done));
        assert_eq!(table(&place).len(), 0);
        mounted.signal("CONT");
        assert!(mounted.ended().success());
        std::fs::remove_dir(&place).unwrap();
        let (mut mounted, place) = mount(&site);
        mounted.signal("KILL");
        mounted.ended();
        assert_eq!(table(&place).len(), 1);
        let done = unmount(&site, &place);
        assert_eq!(code(&done), 0, "{}", said(&done));
        assert_eq!(table(&place).len(), 0);
    }
}

network_test! {
    fn a_sync_is_not_unmounted() {
        let site = Site::new();
        let _watching = site.watch(&[]);
        eventually("a process", || served(&site).len() == 1);
        let refused = unmount(&site, &site.dir());
        assert_eq!(code(&refused), 1);
        assert!(said(&refused).contains("nothing is mounted"), "{}", said(&refused));
        assert_eq!(served(&site).len(), 1);
    }
}

network_test! {
    fn a_users_mount_is_unmounted_by_the_user_and_by_root_and_nobody_else() {
        empty_tmp();
        let site = Site::new();
        for (by, done) in [(OTHER, false), (NOBODY, true), (0, true)] {
            let place = users::mount(&site);
            let output = unmount_as(&site, by, &place);
            assert_eq!(code(&output) == 0, done, "by {by}: {}", said(&output));
            assert_eq!(table(&place).len(), usize::from(!done), "by {by}");
            if !done {
                assert_eq!(served(&site).len(), 1);
                assert_eq!(code(&unmount(&site, &place)), 0);
            }
            eventually("the end of its process", || served(&site).is_empty());
            std::fs::remove_dir(&place).unwrap();
        }
    }
}
