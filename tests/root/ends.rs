//! How mounts begin and end.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use akvfs::Code;
use akvfs::delivery::fuse;
use akvfs::view::{Layout, Limits, View};

use super::fstab::servers;
use super::support::{
    Fake, MARKER, Tree, eventually, is_root, open_device_to_all, plan, run, scale,
    show_connections, table,
};

mount_test! {
    fn an_unmount_from_outside_ends_the_session() {
        let vault = Fake::new(&[("one", b"first")]);
        let mut tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        assert_eq!(tree.read("one"), b"first");
        let dir = tree.dir().to_str().unwrap();
        if is_root() {
            run("umount", &[dir]);
        } else {
            run("fusermount3", &["-u", dir]);
        }
        let mounted = tree.mounted.take().unwrap();
        tree.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), mounted.wait()).await.unwrap().unwrap();
        });
        if !is_root() {
            return;
        }
        // Somebody else's mount at the same place is left alone.
        run("mount", &["-t", "tmpfs", "tmpfs", tree.dir().to_str().unwrap()]);
        tree.runtime.block_on(mounted.unmount()).unwrap();
        assert_eq!(table(tree.dir()).len(), 1);
        run("umount", &[tree.dir().to_str().unwrap()]);
    }
}

mount_test! {
    fn an_unmount_answers_running_opens_and_refuses_new_ones() {
        let cold: Vec<String> = (0..1000).map(|n| format!("cold{n}")).collect();
        let mut names: Vec<&str> = cold.iter().map(String::as_str).collect();
        names.extend(["slow", "open"]);
        let values: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"value"[..])).collect();
        let vault = Fake::new(&values);
        let mut tree = Tree::new(&vault, Layout::Atomic, &names);
        let file = std::fs::File::open(tree.path("open")).unwrap();
        vault.hold("slow");
        let mounted = tree.mounted.take().unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| tree.read("slow"));
            eventually("a request", || vault.requests().len() == 2);
            let unmounting = scope.spawn(|| tree.runtime.block_on(mounted.unmount()));
            // Each poll takes a file that nobody opened before: the unmount may not have begun yet.
            let mut cold = cold.iter();
            eventually("a refusal", || match std::fs::read(tree.path(cold.next().unwrap())) {
                Ok(bytes) => bytes != b"value",
                Err(error) => error.raw_os_error() == Some(5),
            });
            assert!(!reader.is_finished() && !unmounting.is_finished());
            vault.let_go("slow");
            assert_eq!(reader.join().unwrap(), b"value");
            unmounting.join().unwrap().unwrap();
        });
        assert_eq!(table(tree.dir()).len(), 0);
        // Open files stay readable while the process lives.
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; 5];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"value");
    }
}

root_test! {
    fn unmount_takes_only_our_mounts() {
        let vault = Fake::new(&[("one", b"first")]);
        let mut tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        let other = tempfile::tempdir().unwrap();
        assert_eq!(fuse::unmount(other.path()).unwrap_err().code(), Code::Local);
        run("mount", &["-t", "tmpfs", "tmpfs", other.path().to_str().unwrap()]);
        assert_eq!(fuse::unmount(other.path()).unwrap_err().code(), Code::Local);
        assert_eq!(table(other.path()).len(), 1);
        run("umount", &[other.path().to_str().unwrap()]);
        fuse::unmount(tree.dir()).unwrap();
        assert_eq!(table(tree.dir()).len(), 0);
        let mounted = tree.mounted.take().unwrap();
        tree.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), mounted.wait()).await.unwrap().unwrap();
        });
    }
}

root_test! {
    fn a_mount_below_another_one_is_not_taken_for_gone() {
        let vault = Fake::new(&[("one", b"first")]);
        let mut tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        let dir = tree.dir().to_str().unwrap().to_owned();
        run("mount", &["-t", "tmpfs", "tmpfs", &dir]);
        let error = tree.runtime.block_on(tree.mounted.take().unwrap().unmount()).unwrap_err();
        assert!(error.message().contains("another mount stands on it"), "{error}");
        assert_eq!(table(tree.dir()).len(), 2);
        run("umount", &[&dir]);
        fuse::unmount(tree.dir()).unwrap();
    }
}

root_test! {
    fn a_mount_that_was_moved_is_unmounted_where_it_is_now() {
        let vault = Fake::new(&[("one", b"first")]);
        let mut tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new place");
        std::fs::create_dir(&path).unwrap();
        run("mount", &["--move", tree.dir().to_str().unwrap(), path.to_str().unwrap()]);
        assert_eq!(std::fs::read(path.join("one")).unwrap(), b"first");
        // What stands at its old place is not it.
        run("mount", &["-t", "tmpfs", "tmpfs", tree.dir().to_str().unwrap()]);
        tree.runtime.block_on(tree.mounted.take().unwrap().unmount()).unwrap();
        assert_eq!((table(&path).len(), table(tree.dir()).len()), (0, 1));
        run("umount", &[tree.dir().to_str().unwrap()]);
        // One that cannot be reached where it is now is not gone.
        let mut tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        run("mount", &["--move", tree.dir().to_str().unwrap(), path.to_str().unwrap()]);
        run("mount", &["-t", "tmpfs", "tmpfs", path.to_str().unwrap()]);
        let error = tree.runtime.block_on(tree.mounted.take().unwrap().unmount()).unwrap_err();
        assert!(error.message().contains("another mount stands on it"), "{error}");
        run("umount", &[path.to_str().unwrap()]);
        fuse::unmount(&path).unwrap();
    }
}

root_test! {
    fn an_unmount_takes_no_other_mount_whoever_turns_the_path() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let vault = Fake::new(&[("one", b"first")]);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (ours, theirs) = (path("way/tree"), path("theirs/tree"));
        std::fs::create_dir_all(&ours).unwrap();
        std::fs::create_dir_all(&theirs).unwrap();
        std::os::unix::fs::symlink(path("theirs"), path("link")).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", theirs.to_str().unwrap()]);
        // A long table takes long to look through: there is time for the path to turn.
        std::fs::create_dir(path("other")).unwrap();
        for _ in 0..500 {
            rustix::mount::mount_bind(path("theirs"), path("other")).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let turning = std::sync::atomic::AtomicBool::new(true);
        for _ in 0..20 * scale() {
            let view = View::new(
                plan(Layout::Atomic, &["one"]),
                vault.clone(),
                akvfs::render::Options::default(),
                Limits::default(),
            );
            let mounted = runtime.block_on(fuse::mount(view, &ours, fuse::Options::default())).unwrap();
            turning.store(true, std::sync::atomic::Ordering::Relaxed);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while turning.load(std::sync::atomic::Ordering::Relaxed) {
                        for _ in 0..2 {
                            let flags = RenameFlags::EXCHANGE;
                            renameat_with(CWD, path("way"), CWD, path("link"), flags).unwrap();
                        }
                    }
                });
                // It may find nothing, or what is not akvfs's.
                for _ in 0..30 {
                    let _ = fuse::unmount(&ours);
                }
                turning.store(false, std::sync::atomic::Ordering::Relaxed);
            });
            assert_eq!(table(&theirs).len(), 1, "a stranger's mount was taken");
            runtime.block_on(mounted.unmount()).unwrap();
            assert_eq!(table(&ours).len(), 0);
        }
        run("umount", &[theirs.to_str().unwrap()]);
    }
}

root_test! {
    fn the_mount_that_the_path_leads_to_counts() {
        let vault = Fake::new(&[("one", b"first")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        // An older mount that was moved over a younger one: the table lists it first.
        let place = tempfile::tempdir().unwrap();
        let path = place.path().to_str().unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", path]);
        run("mount", &["--move", tree.dir().to_str().unwrap(), path]);
        fuse::unmount(place.path()).unwrap();
        let error = fuse::unmount(place.path()).unwrap_err();
        assert!(error.message().contains("is not akvfs's"), "{error}");
        run("umount", &[path]);
        // A mount that another one hides: nothing is mounted at the path that can be reached.
        let tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        let parent = tree.dir().parent().unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", parent.to_str().unwrap()]);
        std::fs::create_dir(tree.dir()).unwrap();
        let error = fuse::unmount(tree.dir()).unwrap_err();
        assert!(error.message().contains("nothing is mounted"), "{error}");
        run("umount", &[parent.to_str().unwrap()]);
    }
}

mount_test! {
    fn a_live_mount_is_not_mounted_over_and_a_dead_one_is_replaced() {
        let vault = Fake::new(&[("one", b"first")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        let again = |dir: &Path| {
            let view = View::new(
                plan(Layout::Atomic, &["one"]),
                vault.clone(),
                akvfs::render::Options::default(),
                Limits::default(),
            );
            tree.runtime.block_on(fuse::mount(view, dir, fuse::Options::default()))
        };
        let error = again(tree.dir()).err().unwrap();
        assert!(error.message().contains("mounted already"), "{error}");
        // A mount whose server is gone: its connection is aborted.
        let line = table(tree.dir()).pop().unwrap();
        let device = line.split(' ').nth(2).unwrap().split_once(':').unwrap().1;
        show_connections();
        std::fs::write(format!("/sys/fs/fuse/connections/{device}/abort"), "1").unwrap();
        eventually("a dead mount", || {
            std::fs::read_dir(tree.dir()).is_err_and(|error| error.raw_os_error() == Some(107))
        });
        let second = again(tree.dir()).unwrap();
        assert_eq!(table(tree.dir()).len(), 1);
        assert_eq!(tree.read("one"), b"first");
        tree.runtime.block_on(second.unmount()).unwrap();
    }
}

root_test! {
    fn a_mount_that_is_to_end_before_it_is_there_ends() {
        let site = tempfile::tempdir().unwrap();
        let (source, dir) = (site.path().join("source"), site.path().join("tree"));
        std::fs::create_dir(&dir).unwrap();
        // A source that nobody ever writes to.
        run("mkfifo", &[source.to_str().unwrap()]);
        for foreground in [true, false] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_akvfs"));
            command.arg("mount").arg(&source).arg(&dir);
            if foreground {
                command.arg("--foreground");
            }
            let mut child = command.spawn().unwrap();
            let processes = if foreground { 1 } else { 2 };
            eventually("its processes", || servers(&dir).len() == processes);
            // The handler of signals is there, which a process of its own sets up before all else.
            let server = servers(&dir).into_iter().max().unwrap();
            let caught = || {
                let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
                let line = status.lines().find(|line| line.starts_with("SigCgt:")).unwrap();
                u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
            };
            eventually("its handlers", || caught() & (1 << 14) != 0);
            run("kill", &["-s", "INT", &child.id().to_string()]);
            eventually("its end", || child.try_wait().unwrap().is_some());
            eventually("the end of all", || servers(&dir).is_empty());
            assert_eq!(table(&dir).len(), 0);
        }
    }
}

root_test! {
    fn a_machine_without_fuse_says_so() {
        let vault = Fake::new(&[("one", b"first")]);
        let empty = tempfile::tempdir().unwrap();
        // An empty directory over /dev: there is no device any more.
        run("mount", &["--bind", empty.path().to_str().unwrap(), "/dev"]);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let view = View::new(
            plan(Layout::Atomic, &["one"]),
            vault,
            akvfs::render::Options::default(),
            Limits::default(),
        );
        let mount = fuse::mount(view, empty.path(), fuse::Options::default());
        let error = runtime.block_on(mount).err().unwrap();
        assert_eq!(error.code(), Code::FuseUnavailable);
        assert!(error.likely_fix().unwrap().contains("modprobe fuse"), "{error}");
    }
}

root_test! {
    fn a_plain_user_mounts_by_fusermount3() {
        open_device_to_all();
        let output = Command::new("/proc/self/exe")
            .args(["ends::as_a_plain_user", "--exact", "--ignored", "--nocapture"])
            .env(MARKER, "a plain user")
            .env("TMPDIR", "/tmp")
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{said}");
    }
}

/// The inside of the test above.
#[test]
#[ignore = "run by another test, as another user"]
fn as_a_plain_user() {
    assert_eq!(std::env::var(MARKER).unwrap(), "a plain user");
    let vault = Fake::new(&[("one", &[7; 9000])]);
    let mut tree = Tree::new(&vault, Layout::Atomic, &["one"]);
    let line = table(tree.dir()).pop().unwrap();
    assert!(line.contains(" - fuse.akvfs akvfs "), "{line}");
    assert_eq!(line.split(' ').nth(5).unwrap(), "rw,nosuid,nodev,noexec,noatime", "{line}");
    assert!(line.contains("default_permissions"), "{line}");
    assert_eq!(tree.read("one"), [7; 9000]);
    vault.rotate("one", b"new");
    assert_eq!(tree.refresh().changed, ["one"]);
    assert_eq!(tree.read("one"), b"new");
    // This mount is not read-only for the kernel: these are our own answers.
    let errno = |error: std::io::Error| error.raw_os_error();
    let new = tree.path("new");
    assert_eq!(errno(std::fs::write(&new, b"x").unwrap_err()), Some(30));
    assert_eq!(errno(std::fs::create_dir(&new).unwrap_err()), Some(30));
    assert_eq!(errno(std::os::unix::fs::symlink("x", &new).unwrap_err()), Some(30));
    assert_eq!(errno(std::fs::remove_file(tree.path("one")).unwrap_err()), Some(30));
    assert_eq!(errno(std::fs::rename(tree.path("one"), &new).unwrap_err()), Some(30));
    let before = Instant::now();
    tree.runtime.block_on(tree.mounted.take().unwrap().unmount()).unwrap();
    assert_eq!(table(tree.dir()).len(), 0, "unmounted in {:?}", before.elapsed());
}
