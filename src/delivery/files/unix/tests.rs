mod model;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::super::{File, Layout, Options, Place, Written};
use super::*;
use crate::Code;

pub(super) const LAYOUTS: [Layout; 2] = [Layout::Atomic, Layout::Flat];

/// A directory in memory where there is one: most of these tests are about names, not about disks.
pub(super) fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        return tempfile::tempdir_in(memory).unwrap();
    }
    tempfile::tempdir().unwrap()
}

pub(super) fn options(layout: Layout) -> Options {
    Options { layout, place: Place::Directory, owner: None }
}

pub(super) fn files<'a>(files: &[(&'a str, &'a str)]) -> Vec<File<'a>> {
    files.iter().map(|(path, text)| File { path, mode: 0o440, contents: text.as_bytes() }).collect()
}

/// What a directory holds, but for our own folder: kind, mode, inode, time and bytes or target.
pub(super) type Snapshot = BTreeMap<String, (u32, u64, i128, Vec<u8>)>;

pub(super) fn snapshot(root: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if name == crate::delivery::files::ledger::OWN {
                continue;
            }
            let bytes = if data.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if data.is_dir() {
                waiting.push(path);
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let time = i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec());
            found.insert(name, (data.mode(), data.ino(), time, bytes));
        }
    }
    found
}

/// The files that a reader finds by their names, with modes and bytes.
pub(super) fn visible(root: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if name.starts_with("..") {
                continue;
            }
            let data = fs::metadata(&path).unwrap();
            if data.is_dir() {
                waiting.push(path);
            } else {
                found.insert(name, (data.mode() & 0o7777, fs::read(&path).unwrap()));
            }
        }
    }
    found
}

fn written(added: &[&str], changed: &[&str], removed: &[&str]) -> Written {
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    Written { added: owned(added), changed: owned(changed), removed: owned(removed) }
}

#[test]
fn a_write_says_what_it_did_and_an_equal_one_does_nothing() {
    for layout in LAYOUTS {
        let dir = directory();
        let target = dir.path().join("new");
        let mut writer = Writer::open(&target, options(layout)).unwrap();
        let first = files(&[("a", "1"), ("b/c/d", "2"), ("b/e", "3")]);
        assert_eq!(writer.write(&first).unwrap(), written(&["a", "b/c/d", "b/e"], &[], &[]));
        assert_eq!(visible(&target)["b/c/d"], (0o440, b"2".to_vec()));

        let before = snapshot(&target);
        let own = fs::metadata(target.join("..akvfs")).unwrap().mtime_nsec();
        assert!(writer.write(&first).unwrap().is_empty());
        drop(writer);
        let mut writer = Writer::open(&target, options(layout)).unwrap();
        assert!(writer.write(&first).unwrap().is_empty());
        assert_eq!(snapshot(&target), before);
        assert_eq!(fs::metadata(target.join("..akvfs")).unwrap().mtime_nsec(), own);

        // A file becomes a folder, and a folder a file.
        let second = files(&[("a/x", "1"), ("b", "2")]);
        assert_eq!(
            writer.write(&second).unwrap(),
            written(&["a/x", "b"], &[], &["a", "b/c/d", "b/e"])
        );
        assert_eq!(visible(&target).len(), 2);
        let mut third = second;
        third[0].contents = b"other";
        third[1].mode = 0o400;
        assert_eq!(writer.write(&third).unwrap(), written(&[], &["a/x", "b"], &[]));
        assert_eq!(visible(&target)["b"], (0o400, b"2".to_vec()));
        assert_eq!(writer.write(&[]).unwrap(), written(&[], &[], &["a/x", "b"]));
        assert_eq!(visible(&target).len(), 0);
    }
}

#[test]
fn values_are_in_no_ledger_and_only_we_may_read_it() {
    for layout in LAYOUTS {
        let dir = directory();
        let mut writer = Writer::open(dir.path(), options(layout)).unwrap();
        writer.write(&files(&[("name", "the-value")])).unwrap();
        let own = dir.path().join("..akvfs");
        let text = fs::read_to_string(own.join("ledger.json")).unwrap();
        assert!(text.contains("name") && !text.contains("the-value"), "{text}");
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_dir(&own).unwrap().count(), 1);
    }
}

#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    let dir = directory();
    let first = Writer::open(dir.path(), options(Layout::Flat)).unwrap();
    let error = Writer::open(dir.path(), options(Layout::Flat)).unwrap_err();
    assert!(error.message().starts_with("another akvfs is writing"), "{error}");
    drop(first);
    let mut second = Writer::open(dir.path(), options(Layout::Flat)).unwrap();
    second.write(&files(&[("a", "1")])).unwrap();
    drop(second);
    // A directory keeps its layout.
    let error = Writer::open(dir.path(), options(Layout::Atomic)).unwrap_err();
    assert_eq!(error.code(), Code::PlaceRefused);
    assert!(error.message().ends_with("was written with the other layout"), "{error}");
}

#[test]
fn directories_that_others_may_change_are_refused() {
    for (mode, above) in [(0o775, 0o755), (0o757, 0o755), (0o1777, 0o755), (0o755, 0o775)] {
        let dir = directory();
        let inner = dir.path().join("above");
        let target = inner.join("target");
        fs::create_dir_all(&target).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(above)).unwrap();
        let error = Writer::open(&target, options(Layout::Atomic)).unwrap_err();
        assert_eq!(error.code(), Code::PlaceRefused, "{error}");
        assert!(error.message().contains("may be written by its group or by others"), "{error}");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        // With the sticky bit nobody can replace what is not theirs.
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o1777)).unwrap();
        Writer::open(&target, options(Layout::Atomic)).unwrap();
    }
}

#[test]
fn what_is_no_directory_is_refused() {
    let dir = directory();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    for name in ["file", "link"] {
        let error = Writer::open(&dir.path().join(name), options(Layout::Flat)).unwrap_err();
        assert!(error.message().ends_with("is a symbolic link, or no directory"), "{error}");
    }
    let error = Writer::open(&dir.path().join("no/where"), options(Layout::Flat)).unwrap_err();
    assert_eq!(error.likely_fix(), Some("make the parent directory first"), "{error}");
    // A link above the directory is followed, once.
    Writer::open(&dir.path().join("link/target"), options(Layout::Flat)).unwrap();
    assert!(dir.path().join("real/target/..akvfs").is_dir());
    assert_eq!(
        Writer::open(Path::new("/"), options(Layout::Flat)).unwrap_err().code(),
        Code::PlaceRefused
    );
    let target = Options { place: Place::CsiTarget, ..options(Layout::Atomic) };
    let error = Writer::open(&dir.path().join("real"), target).unwrap_err();
    assert!(error.message().ends_with("is not the tmpfs that the CSI driver mounts"), "{error}");
}

#[test]
fn ledgers_that_cannot_be_trusted_are_refused() {
    let bad = [
        "",
        "{",
        "{}",
        r#"{"version":2,"flat":{"files":[],"folders":[]}}"#,
        r#"{"version":1,"flat":{"files":["../x"],"folders":[]}}"#,
        r#"{"version":1,"flat":{"files":[],"folders":["/etc"]}}"#,
        r#"{"version":1,"flat":{"files":[],"folders":[],"adding":{"a//b":[1,2]}}}"#,
        r#"{"version":1,"flat":{"files":[],"folders":[],"more":1}}"#,
        r#"{"version":1,"atomic":{"generations":{"..data":[]},"links":[]}}"#,
        r#"{"version":1,"atomic":{"generations":{"..":[]},"links":[]}}"#,
        r#"{"version":1,"atomic":{"generations":{"..1/../../x":[]},"links":[]}}"#,
        r#"{"version":1,"atomic":{"generations":{},"links":["a/b"]}}"#,
    ];
    for text in bad {
        let dir = directory();
        drop(Writer::open(dir.path(), options(Layout::Flat)).unwrap());
        fs::write(dir.path().join("..akvfs/ledger.json"), text).unwrap();
        for layout in LAYOUTS {
            let error = Writer::open(dir.path(), options(layout)).unwrap_err();
            assert!(error.message().contains("ledger"), "{text}: {error}");
        }
    }
    // Nor is one followed to somewhere else.
    let dir = directory();
    drop(Writer::open(dir.path(), options(Layout::Flat)).unwrap());
    symlink("/etc/passwd", dir.path().join("..akvfs/ledger.json")).unwrap();
    let error = Writer::open(dir.path(), options(Layout::Flat)).unwrap_err();
    assert!(error.message().contains("in the way"), "{error}");
}

#[test]
fn a_directory_that_was_replaced_or_emptied_is_noticed() {
    for layout in LAYOUTS {
        let dir = directory();
        let (target, aside) = (dir.path().join("target"), dir.path().join("aside"));
        let mut writer = Writer::open(&target, options(layout)).unwrap();
        writer.write(&files(&[("a", "1")])).unwrap();
        fs::rename(&target, &aside).unwrap();
        fs::create_dir(&target).unwrap();
        let error = writer.write(&files(&[("a", "2")])).unwrap_err();
        assert!(error.message().ends_with("was replaced while akvfs wrote it"), "{error}");
        assert_eq!(visible(&aside)["a"].1, b"1");
        fs::remove_dir(&target).unwrap();
        fs::rename(&aside, &target).unwrap();
        writer.write(&files(&[("a", "3")])).unwrap();
        fs::remove_dir_all(target.join("..akvfs")).unwrap();
        let error = writer.write(&files(&[("a", "4")])).unwrap_err();
        assert!(error.message().ends_with("was emptied by another program"), "{error}");
    }
}

#[test]
fn after_a_crash_a_file_with_the_inode_of_ours_is_not_ours() {
    for (taken, left) in [(false, false), (true, true)] {
        let dir = directory();
        let (gone, ledger) = (dir.path().join("gone"), dir.path().join("..akvfs/ledger.json"));
        let mut writer = Writer::open(dir.path(), options(Layout::Flat)).unwrap();
        writer.write(&files(&[("gone", "1"), ("kept", "1")])).unwrap();
        drop(writer);
        // As if a writer had been killed that was to remove the file.
        let data = fs::metadata(&gone).unwrap();
        let time = data.mtime() * 1_000_000_000 + data.mtime_nsec();
        let removing = format!(r#","removing":{{"gone":[{},{time}]}}}}}}"#, data.ino());
        let text = fs::read_to_string(&ledger).unwrap();
        fs::write(&ledger, text.strip_suffix("}}").unwrap().to_owned() + &removing).unwrap();
        if taken {
            fs::set_permissions(&gone, fs::Permissions::from_mode(0o600)).unwrap();
            let file = fs::OpenOptions::new().write(true).open(&gone).unwrap();
            file.set_modified(data.modified().unwrap() + std::time::Duration::from_secs(1))
                .unwrap();
        }
        let mut writer = Writer::open(dir.path(), options(Layout::Flat)).unwrap();
        writer.write(&files(&[("kept", "1")])).unwrap();
        assert_eq!(gone.exists(), left);
    }
}

/// A file that cannot be replaced ends a flat write; those before it are changed already.
#[test]
fn what_a_failed_write_has_changed_is_told_by_the_next_one() {
    let dir = directory();
    let mut writer = Writer::open(dir.path(), options(Layout::Flat)).unwrap();
    writer.write(&files(&[("a", "1"), ("b", "1"), ("gone", "1")])).unwrap();
    // As a write leaves it that has failed after "a", "new" and "gone".
    writer.untold = written(&["new"], &["a"], &["gone"]);
    let next = writer.write(&files(&[("a", "2"), ("b", "2"), ("gone", "1")])).unwrap();
    assert_eq!(next, written(&["new"], &["a", "b"], &["gone"]));
    assert!(writer.write(&files(&[("a", "2"), ("b", "2"), ("gone", "1")])).unwrap().is_empty());
    // One that finds nothing to do tells it too.
    writer.untold = written(&[], &["a"], &[]);
    let next = writer.write(&files(&[("a", "2"), ("b", "2"), ("gone", "1")])).unwrap();
    assert_eq!(next, written(&[], &["a"], &[]));
}
