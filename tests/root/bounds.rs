//! Bounds of a mounted tree: bytes, ages, and how long a vault is asked that does not answer.

use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use akvfs::Code;
use akvfs::delivery::fuse;
use akvfs::view::{Layout, Limits};

use super::support::{Fake, Tree, eventually, plan};

const EIO: i32 = 5;
const EACCES: i32 = 13;
const ENFILE: i32 = 23;
const MINUTE: Duration = Duration::from_secs(60);

fn whole(file: &mut std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

mount_test! {
    fn a_full_tree_lets_go_of_what_nobody_has_open() {
        // Room for two of three.
        let limits = Limits { max_bytes: 25_000, ..Limits::default() };
        let (one, two, three) = ([1; 10_000], [2; 10_000], [3; 10_000]);
        for layout in [Layout::Atomic, Layout::Flat] {
            let vault = Fake::new(&[("one", &one), ("two", &two), ("three", &three)]);
            let plan = plan(layout, &["one", "two=dir/two", "three"]);
            let tree = Tree::with(&vault, plan, fuse::Options::default(), limits);
            let open = |name: &str| std::fs::File::open(tree.path(name)).unwrap();
            let asked = |name: &str| vault.requests().iter().filter(|one| *one == name).count();
            let (mut first, mut second) = (open("one"), open("dir/two"));
            assert_eq!((whole(&mut first), whole(&mut second)), (one.to_vec(), two.to_vec()));
            // All is open, and stays readable.
            assert_eq!(tree.open_error("three"), ENFILE);
            let status = tree.view.status();
            assert_eq!((status.bytes, status.most_bytes), (20_000, 25_000));
            let failure = status.objects[2].failure.clone().unwrap().error;
            assert_eq!(failure.code(), Code::TooLarge);
            assert!(failure.message().contains("all of them are open"), "{failure}");
            drop(first);
            assert_eq!(whole(&mut open("three")), three);
            assert_eq!(whole(&mut second), two);
            let let_go = |at: usize| tree.view.status().objects[at].let_go;
            assert_eq!([let_go(0), let_go(1), let_go(2)], [true, false, false]);
            let stat = std::fs::metadata(tree.path("one")).unwrap();
            assert_eq!(stat.len(), 10_000);
            // The vault goes on; this file is what it was until the next look.
            vault.rotate("one", &[9; 10_000]);
            let again = open("one");
            assert_eq!((again.metadata().unwrap().ino(), asked("one")), (stat.ino(), 2));
            assert_eq!(whole(&mut { again }), one);
            assert_eq!(whole(&mut second), two);
            // More than half of a full tree rotates at once, and nobody has to close anything.
            vault.rotate("two", &[8; 10_000]);
            vault.rotate("three", &[7; 10_000]);
            let done = tree.refresh();
            assert_eq!((done.changed.len(), done.failures.len()), (3, 0), "{done:?}");
            assert_eq!(whole(&mut second), two);
            let sizes = ["one", "dir/two", "three"].map(|name| tree.path(name).metadata().unwrap().len());
            assert_eq!(sizes, [10_000; 3]);
            for (name, value) in [("one", 9), ("dir/two", 8), ("three", 7), ("one", 9)] {
                assert_eq!(tree.read(name), [value; 10_000], "{name}");
            }
            assert_eq!(whole(&mut second), two);
            // What is not there any more says so; nothing else takes its place.
            assert!(tree.view.status().bytes <= 25_000);
            let gone = ["one", "three"].into_iter().zip([0, 2]).find(|(_, at)| let_go(*at)).unwrap().0;
            vault.fail(gone, Some(Code::Disabled));
            assert_eq!(tree.open_error(gone), EACCES);
        }
    }
}

mount_test! {
    fn a_vault_that_times_out_is_left_alone_for_a_while() {
        let names: Vec<String> = (0..20).map(|n| format!("name{n}")).collect();
        let values: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"late"[..])).collect();
        let vault = Fake::new(&[&values[..], &[("warm", b"value"), ("let-go", &[7; 90])]].concat());
        let mut objects: Vec<&str> = names.iter().map(String::as_str).collect();
        objects.extend(["warm", "let-go"]);
        let options =
            fuse::Options { open_timeout: Duration::from_millis(300), ..fuse::Options::default() };
        let tree = Tree::with(&vault, plan(Layout::Flat, &objects), options, Limits::default());
        assert_eq!(tree.read("warm"), b"value");
        names.iter().for_each(|name| vault.hold(name));
        // One object, however often, is none of the vault.
        for name in ["name0", "name0", "name0", "name1"] {
            assert_eq!(tree.open_error(name), EIO);
        }
        assert_eq!(tree.view.status().left_alone_until, None);
        assert_eq!(tree.open_error("name2"), EIO);
        let until = tree.view.status().left_alone_until.unwrap();
        let left = until.duration_since(vault.clock.wall()).unwrap();
        assert!(left > MINUTE / 3 && left <= MINUTE / 2, "{left:?}");
        let asked = vault.requests();
        assert_eq!(asked.len(), 4);
        // At once: there would be no time for all of them one after the other.
        for name in names.iter().cycle().take(1000) {
            assert_eq!(tree.open_error(name), EIO);
        }
        assert_eq!(vault.requests(), asked);
        assert_eq!(tree.read("warm"), b"value");
        assert_eq!(std::fs::read_dir(tree.dir()).unwrap().count(), 22);
        vault.rotate("warm", b"new");
        // Half a minute later one finds out.
        vault.clock.advance(MINUTE / 2);
        assert_eq!((tree.open_error("name9"), tree.open_error("name10")), (EIO, EIO));
        assert_eq!(vault.requests()[4..], ["name9"]);
        // An answer ends it, whoever asked.
        assert_eq!(tree.refresh().changed, ["warm"]);
        assert_eq!(tree.read("warm"), b"new");
        assert_eq!(tree.view.status().left_alone_until, None);
        names.iter().for_each(|name| vault.let_go(name));
        for name in &names {
            assert_eq!(tree.read(name), b"late");
        }
    }
}

mount_test! {
    fn an_eager_mount_has_everything_or_is_not_there() {
        let limits = Limits { eager: true, ..Limits::default() };
        for layout in [Layout::Atomic, Layout::Flat] {
            let vault = Fake::new(&[("one", b"first"), ("two", b"second"), ("big", &[8; 9000])]);
            let objects = ["one", "two=dir/two", "big"];
            vault.fail("two", Some(Code::Forbidden));
            let error = Tree::try_with(&vault, plan(layout, &objects), fuse::Options::default(), limits).err().unwrap();
            assert_eq!(error.code(), Code::Forbidden);
            assert!(error.message().contains("objectName:two"), "{error}");
            vault.fail("two", None);
            // Nor does it pretend to hold what it cannot.
            let small = Limits { max_bytes: 9000, ..limits };
            let error = Tree::try_with(&vault, plan(layout, &objects), fuse::Options::default(), small).err().unwrap();
            assert_eq!(error.code(), Code::TooLarge);
            let before = vault.requests().len();
            let tree = Tree::with(&vault, plan(layout, &objects), fuse::Options::default(), limits);
            let asked = vault.requests().len();
            assert_eq!(asked, before + 3);
            let size = |name: &str| std::fs::metadata(tree.path(name)).unwrap().len();
            assert_eq!([size("one"), size("dir/two"), size("big")], [5, 6, 9000]);
            // Nothing needs the vault any more.
            objects.iter().for_each(|name| vault.hold(name.split('=').next().unwrap()));
            assert_eq!(tree.read("one"), b"first");
            assert_eq!(tree.read("dir/two"), b"second");
            assert_eq!(tree.read("big"), [8; 9000]);
            assert_eq!(vault.requests().len(), asked);
        }
    }
}

mount_test! {
    fn what_nobody_opened_is_fetched_before_the_credential_ends() {
        let names: Vec<String> = (0..40).map(|n| format!("name{n}")).collect();
        let values: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"value"[..])).collect();
        let vault = Fake::new(&values);
        let objects: Vec<&str> = names.iter().map(String::as_str).collect();
        vault.ends(vault.clock.wall() + 60 * MINUTE);
        let tree = Tree::new(&vault, Layout::Atomic, &objects);
        assert_eq!(tree.read("name3"), b"value");
        let keeper = tree.runtime.spawn(tree.view.clone().keep_fresh(600 * MINUTE));
        eventually("a keeper", || tree.view.status().next_look.is_some());
        vault.clock.advance(40 * MINUTE);
        assert_eq!(vault.requests(), ["name3"], "lazy as long as it may be");
        vault.clock.advance(10 * MINUTE);
        let fetched = || tree.view.status().objects.iter().all(|object| object.version.is_some());
        eventually("everything", fetched);
        assert_eq!(vault.requests().len(), 40);
        vault.clock.advance(30 * MINUTE);
        names.iter().for_each(|name| vault.fail(name, Some(Code::Unauthenticated)));
        for name in &names {
            assert_eq!(tree.read(name), b"value");
        }
        keeper.abort();
    }
}

mount_test! {
    fn an_old_version_is_readable_while_it_is_open_and_ten_minutes() {
        for layout in [Layout::Atomic, Layout::Flat] {
            let vault = Fake::new(&[("one", b"value 0"), ("two", b"other")]);
            let tree = Tree::new(&vault, layout, &["one", "two"]);
            let mut open = std::fs::File::open(tree.path("one")).unwrap();
            tree.read("two");
            let directory = || match layout {
                Layout::Atomic => tree.dir().join(std::fs::read_link(tree.path("..data")).unwrap()),
                Layout::Flat => tree.dir().to_owned(),
            };
            let first = directory();
            // Every ten seconds another version.
            for version in 1..=59_u8 {
                vault.clock.advance(MINUTE / 6);
                vault.rotate("one", format!("value {version}").as_bytes());
                assert_eq!(tree.refresh().changed, ["one"]);
            }
            let retired = tree.view.status().retired;
            assert!((57..=59).contains(&retired), "{retired}");
            if layout == Layout::Atomic {
                assert_eq!(std::fs::read(first.join("one")).unwrap(), b"value 0");
                assert_eq!(std::fs::read(first.join("two")).unwrap(), b"other");
            }
            vault.clock.advance(MINUTE);
            tree.refresh();
            // The test itself takes some seconds, each ten of them worth one.
            let retired = tree.view.status().retired;
            assert!((52..=54).contains(&retired), "{retired}");
            if layout == Layout::Atomic {
                assert!(std::fs::read(first.join("two")).is_err());
            }
            vault.clock.advance(24 * 60 * MINUTE);
            tree.refresh();
            assert_eq!(tree.view.status().retired, 0);
            assert_eq!(whole(&mut open), b"value 0");
            assert_eq!(open.metadata().unwrap().len(), 7);
            assert_eq!(tree.read("one"), b"value 59");
        }
    }
}
