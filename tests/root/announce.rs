//! What watchers see of a rotation in a mounted tree, and that nobody else can make them see anything.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use akvfs::Code;
use akvfs::delivery::files::{self, File, Place, Writer};
use akvfs::delivery::fuse;
use akvfs::view::{Layout, Limits};

use super::files::watch::Watch;
use super::support::{
    Fake, MARKER, Tree, end_with_thread, eventually, is_root, plan, run, scale, table,
};
use super::tree::{ENDLESS_LISTER, Killed};

const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const EROFS: i32 = 30;

const SWAP: [&str; 3] = ["create ..data_tmp", "from ..data_tmp", "to ..data"];
const ENDED: [&str; 3] = ["attributes", "delete itself", "end"];

/// The tree at another place: a bind mount. A plain user can make none, and has the tree itself.
struct Bound(Option<tempfile::TempDir>, PathBuf);

impl Bound {
    /// As a pod has it.
    fn read_only(tree: &Tree) -> Self {
        Self::new(tree, "ro")
    }

    /// Where the kernel lets through what only the server refuses.
    fn writable(tree: &Tree) -> Self {
        Self::new(tree, "rw")
    }

    fn new(tree: &Tree, access: &str) -> Self {
        if !is_root() {
            return Self(None, tree.dir().to_owned());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        run("mount", &["--bind", tree.dir().to_str().unwrap(), path]);
        run("mount", &["-o", &format!("remount,bind,{access}"), path]);
        let path = dir.path().to_owned();
        Self(Some(dir), path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.1.join(name)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.0.is_some() {
            run("umount", &["--lazy", self.1.to_str().unwrap()]);
        }
    }
}

/// What the plain-file writer gives for the same change, without the directories that only it makes.
fn as_the_writer_gives(before: &[(&str, &str)], now: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let options =
        files::Options { layout: files::Layout::Atomic, place: Place::Directory, owner: None };
    let mut writer = Writer::open(dir.path(), options).unwrap();
    let mut write = |content: &[(&str, &str)]| {
        let files: Vec<_> = content
            .iter()
            .map(|(path, text)| File { path, mode: 0o444, contents: text.as_bytes() })
            .collect();
        writer.write(&files).unwrap();
    };
    write(before);
    let watch = Watch::new(dir.path());
    write(now);
    watch.events().into_iter().filter(|event| !event.contains("..GENERATION")).collect()
}

mount_test! {
    fn watchers_of_an_atomic_tree_see_what_kubelet_shows_them() {
        let names = ["one", "same=dir/same", "gone", "held"];
        let vault =
            Fake::new(&[("one", b"1"), ("same", b"1"), ("gone", b"1"), ("held", b"1")]);
        let tree = Tree::new(&vault, Layout::Atomic, &names);
        let pod = Bound::read_only(&tree);
        for name in ["one", "dir/same", "gone", "held"] {
            assert_eq!(fs::read(pod.path(name)).unwrap(), b"1");
        }
        let watch = Watch::new(&pod.path("."));
        let [one, same, held] =
            ["one", "dir/same", "held"].map(|name| Watch::new(&pod.path(name)));
        let mut open = fs::File::open(pod.path("held")).unwrap();
        let old = fs::read_link(pod.path("..data")).unwrap();
        let requests = vault.requests().len();

        vault.rotate("one", b"2");
        assert_eq!(tree.refresh().changed, ["one"]);
        assert_eq!(watch.events(), SWAP);
        assert_eq!(vault.requests().len(), requests + 4, "each was looked at once");
        // A watch on a file is one on the file of this generation, changed or not.
        assert_eq!(one.events(), ENDED);
        assert_eq!(same.events(), ENDED);
        // Its last holder still has it.
        assert_eq!(held.events(), ["attributes"]);
        assert_eq!(open.metadata().unwrap().nlink(), 0);
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"1");
        assert_eq!(held.events(), [""; 0]);
        drop(open);
        eventually("the end of a watch", || !held.events().is_empty());
        assert_eq!(fs::read(pod.path("one")).unwrap(), b"2");
        assert_eq!(fs::metadata(pod.path("one")).unwrap().nlink(), 1);
        // Whoever is still in the old directory finds everything there, the removed files too.
        for name in ["one", "dir/same", "gone", "held"] {
            let path = pod.path(old.to_str().unwrap()).join(name);
            assert_eq!(fs::read(&path).unwrap(), b"1", "{name}");
        }
        assert_eq!(vault.requests().len(), requests + 4);

        // A name that goes, and one that comes.
        let gone = Watch::new(&pod.path("gone"));
        vault.fail("gone", Some(Code::NotFound));
        assert_eq!(tree.refresh().changed, ["gone"]);
        let events = watch.events();
        let (three, two) = ([("a", "1"), ("gone", "1")], [("a", "2")]);
        assert_eq!(events, as_the_writer_gives(&three, &two));
        assert_eq!(events, [&SWAP[..], &["delete gone"]].concat());
        assert_eq!(gone.events(), ENDED);
        vault.fail("gone", None);
        assert_eq!(tree.refresh().changed, ["gone"]);
        let events = watch.events();
        assert_eq!(events, as_the_writer_gives(&two, &three));
        assert_eq!(events, [&SWAP[..], &["create gone"]].concat());
        assert_eq!(fs::read(pod.path("gone")).unwrap(), b"1");

        // Nothing changed: nothing is seen. What everybody sees is as it was.
        assert!(tree.refresh().changed.is_empty());
        assert_eq!(watch.events(), [""; 0]);
        let kind = if is_root() { "ro" } else { "rw" };
        let line = table(tree.dir()).pop().unwrap();
        assert_eq!(line.split(' ').nth(5).unwrap(), format!("{kind},nosuid,nodev,noexec,noatime"));
        let mut listed: Vec<_> = fs::read_dir(pod.path(".")).unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("..2"))
            .collect();
        listed.sort();
        assert_eq!(listed, ["..data", "dir", "gone", "held", "one"]);
    }
}

mount_test! {
    fn watchers_of_a_flat_tree_see_one_move_for_each_file() {
        let names = ["one=dir/one", "same=dir/same", "gone=dir/gone", "top"];
        let values: Vec<(&str, &[u8])> =
            ["one", "same", "gone", "top"].map(|name| (name, &b"1"[..])).to_vec();
        let vault = Fake::new(&values);
        let tree = Tree::new(&vault, Layout::Flat, &names);
        let pod = Bound::read_only(&tree);
        for name in ["dir/one", "dir/same", "dir/gone", "top"] {
            assert_eq!(fs::read(pod.path(name)).unwrap(), b"1");
        }
        let [root, dir, one, same] =
            [".", "dir", "dir/one", "dir/same"].map(|name| Watch::new(&pod.path(name)));
        let moved = |name: &str| {
            ["create ..akvfs_tmp".to_owned(), "from ..akvfs_tmp".to_owned(), format!("to {name}")]
        };
        let requests = vault.requests().len();
        vault.rotate("one", b"2");
        vault.rotate("top", b"2");
        assert_eq!(tree.refresh().changed.len(), 2);
        assert_eq!(dir.events(), moved("one"));
        assert_eq!(root.events(), moved("top"));
        assert_eq!(one.events(), ENDED);
        assert_eq!(same.events(), [""; 0]);
        assert_eq!(fs::read(pod.path("dir/one")).unwrap(), b"2");
        assert_eq!(fs::metadata(pod.path("dir/one")).unwrap().nlink(), 1);
        assert_eq!(vault.requests().len(), requests + 4);
        vault.fail("gone", Some(Code::Forbidden));
        let gone = Watch::new(&pod.path("dir/gone"));
        assert_eq!(tree.refresh().changed, ["gone"].map(|name| format!("dir/{name}")));
        assert_eq!(dir.events(), ["delete gone"]);
        assert_eq!(gone.events(), ENDED);
        vault.fail("gone", None);
        assert_eq!(tree.refresh().changed, ["dir/gone"]);
        assert_eq!(dir.events(), ["create gone"]);
        assert_eq!(fs::read(pod.path("dir/gone")).unwrap(), b"1");
        assert!(tree.refresh().changed.is_empty());
        assert_eq!((dir.events(), root.events()), (Vec::new(), Vec::new()));
    }
}

/// Everything that the server does itself, and a little more. Returns how often that was refused.
fn attack(dir: &Path) -> usize {
    let data = fs::read_link(dir.join("..data"));
    let target = data.as_deref().unwrap_or(Path::new("..2000"));
    let tries = [
        symlink(target, dir.join("..data_tmp")),
        symlink("elsewhere", dir.join("..data_tmp")),
        fs::rename(dir.join("..data_tmp"), dir.join("..data")),
        fs::rename(dir.join("..akvfs_tmp"), dir.join("flat")),
        fs::write(dir.join("..akvfs_tmp"), b"x"),
        fs::write(dir.join("new"), b"x"),
        fs::rename(dir.join("one"), dir.join("two")),
        fs::remove_file(dir.join("one")),
        fs::remove_file(dir.join("..data")),
        fs::remove_file(dir.join(target).join("one")),
        fs::create_dir(dir.join("new")),
    ];
    let mut refused = 0;
    for (at, result) in tries.into_iter().enumerate() {
        match result.map_err(|error| error.raw_os_error()) {
            Err(Some(EROFS)) => refused += 1,
            // The kernel's own answers, without asking.
            Err(Some(ENOENT | EEXIST | EACCES)) => {}
            other => panic!("number {at} of the attack: {other:?}"),
        }
    }
    refused
}

mount_test! {
    fn only_the_server_itself_can_announce() {
        let vault = Fake::new(&[("one", b"0"), ("two", b"0")]);
        for layout in [Layout::Atomic, Layout::Flat] {
            let tree = Tree::new(&vault, layout, &["one", "two"]);
            let place = Bound::writable(&tree);
            ["one", "two"].iter().for_each(|name| drop(tree.read(name)));
            assert!(attack(&place.1) >= 5);
            let watch = Watch::new(tree.dir());
            let (stop, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                // Threads of the server's own process, and another process of the same user.
                for _ in 0..3 {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            refused.fetch_add(attack(&place.1), Ordering::Relaxed);
                        }
                    });
                }
                let script = "cd \"$1\" && while :; do ln -sfn x ..data_tmp && exit 9; \
                    mv -T ..data_tmp ..data && exit 9; mv -T ..akvfs_tmp one && exit 9; \
                    rm -f one && [ ! -e one ] && exit 9; done 2>/dev/null";
                let mut other = Killed(
                    Command::new("sh").args(["-c", script, "sh"]).arg(&place.1).spawn().unwrap(),
                );
                let swap = match layout {
                    Layout::Atomic => SWAP,
                    Layout::Flat => ["create ..akvfs_tmp", "from ..akvfs_tmp", "to one"],
                };
                for n in 0..20 * scale() {
                    let value = format!("{layout:?} {n}");
                    vault.rotate("one", value.as_bytes());
                    assert_eq!(tree.refresh().changed, ["one"]);
                    assert_eq!(watch.events(), swap, "rotation {n}");
                    assert_eq!(tree.read("one"), value.as_bytes());
                }
                stop.store(true, Ordering::Relaxed);
                assert!(other.0.try_wait().unwrap().is_none(), "the other process got through");
            });
            assert!(refused.into_inner() > 0);
            assert!(attack(&place.1) >= 5, "nothing is left open");
            drop(place);
        }
    }
}

mount_test! {
    fn a_walker_in_an_old_directory_finds_every_file_while_it_is_taken_away() {
        let names: Vec<String> = (0..20).map(|n| format!("name{n:02}")).collect();
        let objects: Vec<&str> = names.iter().map(String::as_str).collect();
        let values: Vec<(&str, &[u8])> = objects.iter().map(|name| (*name, &b"a"[..])).collect();
        let vault = Fake::new(&values);
        for layout in [Layout::Atomic, Layout::Flat] {
            let tree = Tree::new(&vault, layout, &objects);
            names.iter().for_each(|name| drop(tree.read(name)));
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let dir = match layout {
                                Layout::Atomic => {
                                    tree.path(fs::read_link(tree.path("..data")).unwrap().to_str().unwrap())
                                }
                                Layout::Flat => tree.dir().to_owned(),
                            };
                            // All of one directory are of one generation.
                            let found: Vec<_> = names.iter()
                                .map(|name| fs::read(dir.join(name)).unwrap())
                                .collect();
                            if layout == Layout::Atomic {
                                assert!(found.iter().all(|bytes| *bytes == found[0]), "{found:?}");
                            }
                            let listed = fs::read_dir(&dir).unwrap().count();
                            let links = if layout == Layout::Flat { 0..=1 } else { 0..=0 };
                            assert!(links.contains(&(listed - names.len())), "{listed}");
                        }
                    });
                }
                let rounds = u8::try_from(10 * scale().min(8)).unwrap();
                for n in 0..rounds {
                    names.iter().for_each(|name| vault.rotate(name, &[b'b' + n]));
                    assert_eq!(tree.refresh().changed.len(), names.len());
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
    }
}

root_test! {
    fn a_mount_that_was_moved_or_is_hidden_is_read_on_and_no_stranger_is_touched() {
        let vault = Fake::new(&[("one", b"first")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one"]);
        let dir = tree.dir().to_str().unwrap();
        assert_eq!(tree.read("one"), b"first");
        // Hidden by another filesystem.
        let inside = fs::File::open(dir).unwrap();
        let reached = format!("/proc/self/fd/{}", inside.as_raw_fd());
        let ours = Watch::new(Path::new(&reached));
        run("mount", &["-t", "tmpfs", "tmpfs", dir]);
        let stranger = Watch::new(tree.dir());
        vault.rotate("one", b"second");
        assert_eq!(tree.refresh().changed, ["one"]);
        assert_eq!(fs::read(Path::new(&reached).join("one")).unwrap(), b"second");
        assert_eq!((ours.events(), stranger.events()), (Vec::new(), Vec::new()));
        run("umount", &[dir]);
        vault.rotate("one", b"third");
        assert_eq!(tree.refresh().changed, ["one"]);
        assert_eq!(ours.events(), SWAP);
        // Hidden by another one of ours.
        let other = Fake::new(&[("one", b"other")]);
        let above = tempfile::tempdir().unwrap();
        let second = Tree::new(&other, Layout::Atomic, &["one"]);
        assert_eq!(second.read("one"), b"other");
        run("mount", &["--bind", second.dir().to_str().unwrap(), dir]);
        let stranger = Watch::new(tree.dir());
        vault.rotate("one", b"fourth");
        assert_eq!(tree.refresh().changed, ["one"]);
        assert_eq!(tree.read("one"), b"other");
        assert_eq!((ours.events(), stranger.events()), (Vec::new(), Vec::new()));
        run("umount", &[dir]);
        assert_eq!(tree.read("one"), b"fourth");
        // Moved away.
        run("mount", &["--move", dir, above.path().to_str().unwrap()]);
        vault.rotate("one", b"fifth");
        assert_eq!(tree.refresh().changed, ["one"]);
        assert_eq!(fs::read(above.path().join("one")).unwrap(), b"fifth");
        assert_eq!(ours.events(), [""; 0]);
        drop((inside, ours));
        fuse::unmount(above.path()).unwrap();
    }
}

root_test! {
    fn a_file_that_another_is_mounted_on_does_not_keep_the_others_from_being_announced() {
        let vault = Fake::new(&[("one", b"1"), ("two", b"1")]);
        let tree = Tree::new(&vault, Layout::Flat, &["one", "two"]);
        ["one", "two"].iter().for_each(|name| drop(tree.read(name)));
        let over = tempfile::NamedTempFile::new().unwrap();
        run("mount", &["--bind", over.path().to_str().unwrap(), tree.path("one").to_str().unwrap()]);
        let watch = Watch::new(tree.dir());
        vault.rotate("one", b"2");
        vault.rotate("two", b"2");
        assert_eq!(tree.refresh().changed.len(), 2);
        let events = watch.events();
        assert!(events.contains(&"to two".to_owned()), "{events:?}");
        assert_eq!((tree.read("two"), fs::read(over.path()).unwrap()), (b"2".to_vec(), Vec::new()));
        eventually("the new version", || tree.read("one") == b"2");
        assert!(!tree.path("..akvfs_tmp").exists());
    }
}

root_test! {
    fn a_directory_that_another_is_mounted_on_is_not_written_to() {
        let vault = Fake::new(&[("one", b"1"), ("two", b"1")]);
        let tree = Tree::new(&vault, Layout::Flat, &["one=dir/one", "two"]);
        ["dir/one", "two"].iter().for_each(|name| drop(tree.read(name)));
        let dir = tree.path("dir");
        let inside = fs::File::open(&dir).unwrap();
        let ours = PathBuf::from(format!("/proc/self/fd/{}", inside.as_raw_fd()));
        let watches = [Watch::new(tree.dir()), Watch::new(&ours)];
        run("mount", &["-t", "tmpfs", "tmpfs", dir.to_str().unwrap()]);
        fs::write(dir.join("one"), "a stranger's").unwrap();
        let stranger = Watch::new(&dir);
        vault.rotate("one", b"2");
        vault.rotate("two", b"2");
        assert_eq!(tree.refresh().changed.len(), 2);
        // Below, where nobody in this namespace sees it, it is announced as ever.
        assert_eq!(watches[0].events().last().unwrap(), "to two");
        assert_eq!(watches[1].events().last().unwrap(), "to one");
        assert_eq!(fs::read(ours.join("one")).unwrap(), b"2");
        assert_eq!((stranger.events(), tree.read("dir/one")), (Vec::new(), b"a stranger's".to_vec()));
        run("umount", &[dir.to_str().unwrap()]);
        assert_eq!(tree.read("dir/one"), b"2");
    }
}

mount_test! {
    fn an_unmount_during_an_announcement_ends_both() {
        let names: Vec<String> = (0..300).map(|n| format!("name{n}")).collect();
        let objects: Vec<&str> = names.iter().map(String::as_str).collect();
        let values: Vec<(&str, &[u8])> = objects.iter().map(|name| (*name, &b"a"[..])).collect();
        for round in 0..6 {
            let vault = Fake::new(&values);
            let mut tree = Tree::new(&vault, Layout::Atomic, &objects);
            tree.read("name0");
            let watch = Watch::new(tree.dir());
            vault.rotate("name0", b"b");
            let mounted = tree.mounted.take().unwrap();
            std::thread::scope(|scope| {
                let rotation = scope.spawn(|| tree.refresh());
                eventually("a rotation", || rotation.is_finished() || !watch.events().is_empty());
                drop(watch);
                match round % 2 {
                    0 => tree.runtime.block_on(mounted.unmount()).unwrap(),
                    _ => {
                        fuse::unmount(tree.dir()).unwrap();
                        tree.runtime.block_on(async {
                            let ended = mounted.wait();
                            tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap().unwrap();
                        });
                    }
                }
                rotation.join().unwrap();
            });
            assert_eq!(table(tree.dir()).len(), 0);
        }
    }
}

/// Holds the directory until it is killed.
fn hold(dir: &Path) -> Killed {
    let lister = Command::new("python3").args(["-c", ENDLESS_LISTER]).arg(dir).spawn().unwrap();
    let lister = Killed(lister);
    let held = format!("/proc/{}/wchan", lister.0.id());
    eventually("a blocked lister", || {
        fs::read_to_string(&held).is_ok_and(|place| place.contains("userfault"))
    });
    lister
}

root_test! {
    fn a_lister_that_never_ends_holds_the_announcement_and_not_who_looked_names_up_before() {
        let vault = Fake::new(&[("one", b"first"), ("two", b"second")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one", "two"]);
        ["one", "two"].iter().for_each(|name| drop(tree.read(name)));
        let lister = hold(tree.dir());
        vault.rotate("one", b"changed");
        assert_eq!(tree.refresh().changed, ["one"]);
        for _ in 0..100 {
            assert_eq!(tree.read("two"), b"second");
        }
        drop(lister);
        eventually("the new value", || tree.read("one") == b"changed");
        // The next one is announced as ever.
        eventually("an announced rotation", || {
            let watch = Watch::new(tree.dir());
            vault.rotate("one", b"again");
            tree.refresh();
            watch.events() == SWAP
        });
        assert_eq!(tree.read("one"), b"again");
        assert!(!tree.path("..data_tmp").is_symlink());
    }
}

root_test! {
    fn a_revocation_does_not_wait_for_a_lister_that_holds_the_directory() {
        let vault = Fake::new(&[("one", b"first"), ("two", b"second")]);
        let limits = Limits { show_limit: Duration::from_secs(1), ..Limits::default() };
        let plan = plan(Layout::Atomic, &["one", "two"]);
        let tree = Tree::with(&vault, plan, fuse::Options::default(), limits);
        assert_eq!(tree.read("two"), b"second");
        let mut open = fs::File::open(tree.path("one")).unwrap();
        open.read_to_end(&mut Vec::new()).unwrap();
        let _lister = hold(tree.dir());
        // An announcement that nobody sees the end of.
        vault.rotate("two", b"changed");
        tree.refresh();
        vault.fail("one", Some(Code::Forbidden));
        tree.refresh();
        eventually("an end of the bytes", || {
            open.rewind().unwrap();
            open.read(&mut [0; 10]).is_err_and(|error| error.raw_os_error() == Some(EACCES))
        });
    }
}

mount_test! {
    fn a_server_that_is_killed_while_it_announces_is_gone_and_its_readers_are_told() {
        for round in 0..20 * scale() {
            let mut server = Command::new("/proc/self/exe");
            server
                .args(["announce::rotating_for_ever", "--exact", "--ignored", "--nocapture"])
                .env(MARKER, "a server to be killed")
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            let mut server = Killed(end_with_thread(&mut server).spawn().unwrap());
            let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
            let dir = said.find_map(|line| line.unwrap().strip_prefix(PLACE).map(PathBuf::from));
            let dir = dir.unwrap();
            let watch = Watch::new(&dir);
            eventually("a rotation", || !watch.events().is_empty());
            // It is at some other step each time.
            std::thread::sleep(Duration::from_micros(1700 * u64::try_from(round % 20).unwrap()));
            server.0.kill().unwrap();
            eventually("the end of the server", || server.0.try_wait().unwrap().is_some());
            // ENOTCONN: nobody waits for an answer that never comes.
            let refused = fs::read_dir(&dir).unwrap_err().raw_os_error();
            assert_eq!(refused, Some(107));
            drop(watch);
            run("umount", &["--lazy", dir.to_str().unwrap()]);
            fs::remove_dir(dir).unwrap();
        }
    }
}

root_test! {
    fn a_server_that_is_killed_while_somebody_holds_a_directory_is_gone_for_its_readers() {
        let mut server = Command::new("/proc/self/exe");
        server
            .args(["announce::rotating_for_ever", "--exact", "--ignored", "--nocapture"])
            .env(MARKER, "a server to be killed")
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut server = Killed(end_with_thread(&mut server).spawn().unwrap());
        let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
        let dir = said.find_map(|line| line.unwrap().strip_prefix(PLACE).map(PathBuf::from));
        let dir = dir.unwrap();
        let open = fs::File::open(dir.join("name0")).unwrap();
        let lister = hold(&dir);
        // By then the announcement has been given up.
        assert!(said.any(|line| line.unwrap() == LATE));
        server.0.kill().unwrap();
        let told = || {
            let statfs = Command::new("timeout").args(["-s", "KILL", "5", "stat", "-f"]).arg(&dir).output();
            String::from_utf8_lossy(&statfs.unwrap().stderr).contains("not connected")
        };
        eventually("ENOTCONN", told);
        // An open that needs no directory.
        let again = fs::File::open(format!("/proc/self/fd/{}", open.as_raw_fd()));
        assert_eq!(again.unwrap_err().raw_os_error(), Some(107));
        drop((lister, open));
        eventually("the end of the server", || server.0.try_wait().unwrap().is_some());
        run("umount", &["--lazy", dir.to_str().unwrap()]);
        fs::remove_dir(dir).unwrap();
    }
}

const PLACE: &str = "the tree is at ";
const LATE: &str = "an announcement takes long";

/// The inside of the test above.
#[test]
#[ignore = "run by another test, until it is killed"]
fn rotating_for_ever() {
    assert_eq!(std::env::var(MARKER).unwrap(), "a server to be killed");
    let names: Vec<String> = (0..200).map(|n| format!("name{n}")).collect();
    let objects: Vec<&str> = names.iter().map(String::as_str).collect();
    let vault = Fake::new(&[("name0", b"value")]);
    // More than an operation of an announcement gets.
    let patience = Duration::from_secs(4);
    let limits = Limits { show_limit: patience, ..Limits::default() };
    let plan = plan(Layout::Atomic, &objects);
    let tree = Tree::with(&vault, plan, fuse::Options::default(), limits);
    tree.read("name0");
    println!("\n{PLACE}{}", tree.dir().display());
    loop {
        vault.rotate("name0", b"another value");
        let begun = std::time::Instant::now();
        assert!(!tree.refresh().changed.is_empty());
        if begun.elapsed() >= patience {
            println!("{LATE}");
        }
    }
}
