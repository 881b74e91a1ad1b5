//! What a mounted tree shows, and when it asks the vault.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command};
use std::time::Duration;

use akvfs::Code;
use akvfs::delivery::fuse;
use akvfs::view::{Layout, Limits};

use super::support::{Fake, Tree, eventually, plan, run, table};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const ENFILE: i32 = 23;
const EROFS: i32 = 30;
const ESTALE: i32 = 116;
const ENAMETOOLONG: i32 = 36;

mount_test! {
    fn a_value_is_requested_by_its_first_open_and_never_again() {
        let vault = Fake::new(&[("one", b"first"), ("two", b"second")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one", "two=deep/er/two.txt"]);
        let listing = String::from_utf8(run("ls", &["-lRa", tree.dir().to_str().unwrap()])).unwrap();
        assert!(listing.contains("one -> ..data/one"), "{listing}");
        assert!(listing.contains("two.txt"), "{listing}");
        assert_eq!(vault.requests(), [""; 0]);
        for _ in 0..11 {
            assert_eq!(run("cat", &[tree.path("one").to_str().unwrap()]), b"first");
        }
        assert_eq!(vault.requests(), ["one"]);
        assert_eq!(tree.read("deep/er/two.txt"), b"second");
        assert_eq!(vault.requests(), ["one", "two"]);
    }
}

mount_test! {
    fn openers_of_one_file_share_one_fetch() {
        let vault = Fake::new(&[("one", b"first")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        vault.hold("one");
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..20).map(|_| scope.spawn(|| tree.read("one"))).collect();
            eventually("a request", || !vault.requests().is_empty());
            vault.let_go("one");
            for reader in readers {
                assert_eq!(reader.join().unwrap(), b"first");
            }
        });
        assert_eq!(vault.requests(), ["one"]);
    }
}

mount_test! {
    fn a_slow_open_does_not_delay_a_cached_one() {
        let names: Vec<String> = (0..40).map(|n| format!("slow{n}")).collect();
        let values: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"late"[..])).collect();
        let vault = Fake::new(&[&values[..], &[("quick", b"value")]].concat());
        let mut objects: Vec<&str> = names.iter().map(String::as_str).collect();
        objects.push("quick");
        let tree = Tree::new(&vault, Layout::Flat, &objects);
        assert_eq!(tree.read("quick"), b"value");
        names.iter().for_each(|name| vault.hold(name));
        std::thread::scope(|scope| {
            let slow: Vec<_> =
                names.iter().map(|name| scope.spawn(|| tree.read(name))).collect();
            // As many as may run at the same time; the others wait for their turn.
            eventually("16 fetches", || vault.requests().len() == 17);
            for _ in 0..100 {
                assert_eq!(tree.read("quick"), b"value");
            }
            assert_eq!(run("ls", &[tree.dir().to_str().unwrap()]).iter().filter(|b| **b == b'\n').count(), 41);
            assert!(slow.iter().all(|reader| !reader.is_finished()));
            assert_eq!(vault.requests().len(), 17);
            names.iter().for_each(|name| vault.let_go(name));
            for reader in slow {
                assert_eq!(reader.join().unwrap(), b"late");
            }
        });
    }
}

mount_test! {
    fn failures_have_their_errno_and_the_next_open_tries_again() {
        let vault = Fake::new(&[("one", b"first"), ("hung", b"")]);
        let options =
            fuse::Options { open_timeout: Duration::from_millis(300), ..fuse::Options::default() };
        let plan = plan(Layout::Atomic, &["one", "hung"]);
        let tree = Tree::with(&vault, plan, options, Limits::default());
        for (code, errno) in [
            (Code::NotFound, ENOENT),
            (Code::Forbidden, EACCES),
            (Code::Unauthenticated, EACCES),
            (Code::Disabled, EACCES),
            (Code::Unavailable, EIO),
            (Code::Throttled, EIO),
        ] {
            vault.fail("one", Some(code));
            assert_eq!(tree.open_error("one"), errno, "{code}");
            let failure = tree.view.status().objects[0].failure.clone().unwrap();
            assert_eq!(failure.error.code(), code);
        }
        vault.fail("one", None);
        assert_eq!(tree.read("one"), b"first");
        assert!(tree.view.status().objects[0].failure.is_none());
        vault.hold("hung");
        assert_eq!(tree.open_error("hung"), EIO);
        // The fetch goes on and fills the file for the next one.
        vault.let_go("hung");
        assert_eq!(tree.read("hung"), b"");
        assert_eq!(vault.requests().iter().filter(|name| *name == "hung").count(), 1);
    }
}

mount_test! {
    fn values_beyond_the_budget_are_refused() {
        let vault = Fake::new(&[("small", &[1; 100]), ("large", &[2; 2000])]);
        let limits = Limits { max_bytes: 1000, ..Limits::default() };
        let plan = plan(Layout::Atomic, &["small", "large"]);
        let tree = Tree::with(&vault, plan, fuse::Options::default(), limits);
        assert_eq!(tree.open_error("large"), ENFILE);
        assert_eq!(tree.read("small"), [1; 100]);
        assert_eq!(tree.view.status().bytes, 100);
    }
}

root_test! {
    fn nothing_can_be_written() {
        let vault = Fake::new(&[("one", b"first")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        let (file, new) = (tree.path("one"), tree.path("new"));
        let errno = |error: std::io::Error| error.raw_os_error().unwrap();
        assert_eq!(errno(std::fs::write(&file, b"x").unwrap_err()), EROFS);
        assert_eq!(errno(std::fs::write(&new, b"x").unwrap_err()), EROFS);
        assert_eq!(errno(std::fs::create_dir(&new).unwrap_err()), EROFS);
        assert_eq!(errno(std::fs::remove_file(&file).unwrap_err()), EROFS);
        assert_eq!(errno(std::fs::rename(&file, &new).unwrap_err()), EROFS);
        assert_eq!(vault.requests(), [""; 0]);
        let line = table(tree.dir()).pop().unwrap();
        let options = line.split(' ').nth(5).unwrap();
        assert_eq!(options, "ro,nosuid,nodev,noexec,noatime", "{line}");
        assert!(line.contains(" - fuse.akvfs akvfs rw,"), "{line}");
        assert!(line.contains("default_permissions") && line.contains("allow_other"), "{line}");
    }
}

mount_test! {
    fn attributes_are_a_placeholder_first_and_true_after_the_first_open() {
        let vault = Fake::new(&[("one", &[7; 20]), ("big", &[8; 24_000])]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one", "big=dir/big"]);
        let size = |name: &str| std::fs::metadata(tree.path(name)).unwrap().len();
        assert_eq!((size("one"), size("dir/big")), (4096, 4096));
        for (name, bytes) in [("one", 20), ("dir/big", 24_000)] {
            let mut file = std::fs::File::open(tree.path(name)).unwrap();
            assert_eq!(file.metadata().unwrap().len(), bytes);
            assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), bytes);
            assert_eq!(size(name), bytes);
        }
        let attributes = std::fs::metadata(tree.path("one")).unwrap();
        assert_eq!(attributes.permissions().mode(), 0o100_400);
        assert_eq!(attributes.mtime(), 1_700_000_001);
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!((attributes.uid(), attributes.gid()), owner);
        let directory = std::fs::metadata(tree.path("dir")).unwrap();
        assert_eq!(directory.permissions().mode(), 0o40_755);
        let missing = |length| std::fs::metadata(tree.path(&"x".repeat(length))).unwrap_err();
        assert_eq!(missing(255).raw_os_error(), Some(ENOENT));
        assert_eq!(missing(256).raw_os_error(), Some(ENAMETOOLONG));
    }
}

mount_test! {
    fn a_rotation_moves_all_names_together_and_open_files_keep_their_bytes() {
        let vault = Fake::new(&[("one", b"first"), ("two", b"second"), ("never", b"")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one", "two=dir/two", "never"]);
        assert_eq!((tree.read("one"), tree.read("dir/two")), (b"first".into(), b"second".into()));
        let data = || std::fs::read_link(tree.path("..data")).unwrap();
        let before = data();
        assert!(tree.refresh().changed.is_empty());
        assert_eq!(data(), before);
        let mut open = std::fs::File::open(tree.path("one")).unwrap();
        vault.rotate("one", &[b'n'; 9000]);
        // An object that cannot be told keeps everything as it is.
        vault.fail("two", Some(Code::Unavailable));
        let refreshed = tree.refresh();
        assert_eq!((refreshed.changed.len(), refreshed.failures.len()), (0, 1));
        assert_eq!((tree.read("one"), data()), (b"first".into(), before.clone()));
        vault.fail("two", None);
        assert_eq!(tree.refresh().changed, ["one"]);
        assert_ne!(data(), before);
        assert_eq!(tree.read("one"), [b'n'; 9000]);
        assert_eq!(tree.read("dir/two"), b"second");
        let mut old = Vec::new();
        open.read_to_end(&mut old).unwrap();
        assert_eq!(old, b"first");
        // Whoever resolved the old directory still reads one state of everything.
        assert_eq!(std::fs::read(tree.dir().join(&before).join("one")).unwrap(), b"first");
        assert!(!vault.requests().contains(&"never".to_owned()));
    }
}

mount_test! {
    fn a_rotation_in_a_flat_tree_replaces_one_entry() {
        let vault = Fake::new(&[("one", b"first"), ("two", b"second")]);
        let tree = Tree::new(&vault, Layout::Flat, &["one=secrets/one", "two=secrets/two"]);
        let inode = |name: &str| std::fs::metadata(tree.path(name)).unwrap().ino();
        tree.read("secrets/one");
        tree.read("secrets/two");
        let before = (inode("secrets/one"), inode("secrets/two"));
        vault.rotate("one", b"changed");
        vault.fail("two", Some(Code::Unavailable));
        assert_eq!(tree.refresh().changed, ["secrets/one"]);
        assert_eq!(tree.read("secrets/one"), b"changed");
        assert_ne!(inode("secrets/one"), before.0);
        assert_eq!(inode("secrets/two"), before.1);
    }
}

mount_test! {
    fn ten_thousand_names_are_listed_without_a_request() {
        let names: Vec<String> = (0..10_000).map(|n| format!("name-{n:05}=secrets/name-{n:05}")).collect();
        let objects: Vec<&str> = names.iter().map(String::as_str).collect();
        let vault = Fake::new(&[]);
        let tree = Tree::new(&vault, Layout::Flat, &objects);
        let listed = run("ls", &["-l", tree.path("secrets").to_str().unwrap()]);
        assert_eq!(listed.iter().filter(|byte| **byte == b'\n').count(), 10_001);
        let found = std::fs::read_dir(tree.path("secrets")).unwrap().count();
        assert_eq!(found, 10_000);
        assert_eq!(vault.requests(), [""; 0]);
    }
}

/// Lists a directory into memory that never comes, and so holds the directory's lock.
pub const ENDLESS_LISTER: &str = "
import ctypes, fcntl, mmap, os, platform, struct, sys
libc = ctypes.CDLL(None)
faults = libc.syscall({'x86_64': 323, 'aarch64': 282}[platform.machine()], 0)
fcntl.ioctl(faults, 0xc018aa3f, struct.pack('QQQ', 0xaa, 0, 0))
memory = mmap.mmap(-1, 65536, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(faults, 0xc020aa00, struct.pack('QQQQ', at, 65536, 1, 0))
libc.getdents64(os.open(sys.argv[1], os.O_RDONLY), ctypes.c_void_p(at), 65536)
";

root_test! {
    fn a_lister_that_never_ends_does_not_keep_others_from_opening() {
        let vault = Fake::new(&[("one", b"first"), ("two", b"second")]);
        let tree = Tree::new(&vault, Layout::Flat, &["one", "two"]);
        assert_eq!(tree.read("one"), b"first");
        std::fs::metadata(tree.path("two")).unwrap();
        let lister =
            Command::new("python3").args(["-c", ENDLESS_LISTER]).arg(tree.dir()).spawn().unwrap();
        let mut lister = Killed(lister);
        let held = format!("/proc/{}/wchan", lister.0.id());
        eventually("a blocked lister", || {
            std::fs::read_to_string(&held).is_ok_and(|place| place.contains("userfault"))
        });
        vault.rotate("one", b"changed");
        // Cannot be shown now.
        assert_eq!(tree.refresh().changed, ["one"]);
        assert_eq!(tree.read("two"), b"second");
        lister.0.kill().unwrap();
        eventually("the new value", || tree.read("one") == b"changed");
    }
}

mount_test! {
    fn what_the_vault_refuses_goes_from_open_files_and_the_kernels_cache_too() {
        for (layout, code, errno) in [
            (Layout::Atomic, Code::NotFound, ESTALE),
            (Layout::Atomic, Code::Forbidden, EACCES),
            (Layout::Flat, Code::Disabled, EACCES),
        ] {
            let vault = Fake::new(&[("one", &[7; 9000]), ("two", b"second")]);
            let tree = Tree::new(&vault, layout, &["one", "two"]);
            let mut file = std::fs::File::open(tree.path("one")).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            assert_eq!((bytes.len(), tree.read("two")), (9000, b"second".to_vec()));
            vault.fail("one", Some(code));
            assert_eq!(tree.refresh().changed, ["one"]);
            assert_eq!(tree.open_error("one"), ENOENT);
            let listing = String::from_utf8(run("ls", &["-a", tree.dir().to_str().unwrap()])).unwrap();
            assert!(!listing.contains("one") && listing.contains("two"), "{listing}");
            file.rewind().unwrap();
            let error = file.read(&mut [0; 10]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno), "{code}");
            assert_eq!(file.metadata().unwrap_err().raw_os_error(), Some(errno), "{code}");
            assert_eq!(tree.read("two"), b"second");
            vault.fail("one", None);
            assert_eq!(tree.refresh().changed, ["one"]);
            assert_eq!(tree.read("one"), [7; 9000]);
        }
    }
}

/// A child that must not outlive the test, or the mount could not be taken away.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
