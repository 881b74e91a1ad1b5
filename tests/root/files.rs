//! The plain-file writer where it needs root: what a kill at any step leaves, what watchers see, full
//! and read-only file systems, and a directory that others swap meanwhile.

mod crash;
mod hostile;
mod ptrace;
mod trouble;
pub mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use akvfs::delivery::files::{File, Layout, Options, Place};

const LAYOUTS: [Layout; 2] = [Layout::Atomic, Layout::Flat];

/// Mode and bytes by path.
type Files = BTreeMap<String, (u32, Vec<u8>)>;

fn options(layout: Layout) -> Options {
    Options { layout, place: Place::Directory, owner: None }
}

/// A directory in memory.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn given(files: &Files) -> Vec<File<'_>> {
    files.iter().map(|(path, (mode, contents))| File { path, mode: *mode, contents }).collect()
}

/// All regular files below a folder, by the names that a reader gives them; hidden ones of ours and
/// links that lead nowhere are left out.
fn readable(root: &Path) -> Files {
    let mut found = Files::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            match fs::metadata(&path) {
                _ if name.starts_with("..") => {}
                Ok(data) if data.is_dir() => waiting.push(path),
                Ok(data) => {
                    found.insert(name, (data.mode() & 0o7777, fs::read(&path).unwrap()));
                }
                Err(_) => {}
            }
        }
    }
    found
}

/// Names at the top that begin with two dots, sorted.
fn hidden(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with(".."));
    names.sort();
    names
}

/// Nothing of an earlier write is left.
fn is_tidy(root: &Path, layout: Layout) {
    let own = fs::read_dir(root.join("..akvfs")).unwrap().map(|entry| entry.unwrap().file_name());
    let own: Vec<_> = own.collect();
    assert!(own.is_empty() || own == ["ledger.json"], "{own:?}");
    let hidden = hidden(root);
    match layout {
        Layout::Flat => assert_eq!(hidden, ["..akvfs"]),
        // Nothing has been written yet.
        Layout::Atomic if hidden == ["..akvfs"] => assert!(readable(root).len() <= 2),
        Layout::Atomic => {
            let data = fs::read_link(root.join("..data")).unwrap();
            assert_eq!(hidden, [data.to_str().unwrap(), "..akvfs", "..data"]);
            for entry in fs::read_dir(root).unwrap() {
                let path = entry.unwrap().path();
                assert!(fs::metadata(&path).is_ok(), "{} leads nowhere", path.display());
            }
        }
    }
}
