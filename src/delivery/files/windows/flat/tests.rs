//! The writer over a file system in memory that folds case, numbers files, and fails when told to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use zeroize::Zeroizing;

use super::super::Found;
use super::*;

const SHARING_VIOLATION: i32 = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    File(u64, Vec<u8>),
    Folder(u64),
    Link,
}

/// Shared by the writers of one directory, as a disk is.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    /// By identity, with the spelling.
    nodes: BTreeMap<String, (String, Node)>,
    numbers: u64,
    locked: bool,
    /// How often something still fails because it is in use.
    busy: BTreeMap<String, usize>,
    /// Operations that change something until the machine stops.
    left: Option<usize>,
    paused: Duration,
}

struct Handle {
    memory: Memory,
    locked: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.locked {
            self.memory.0.borrow_mut().locked = false;
        }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn change(&mut self, path: &str) -> io::Result<()> {
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return Err(io::Error::other("the machine has stopped"));
            }
            *left -= 1;
        }
        match self.busy.get_mut(&id(path)) {
            Some(times) if *times > 0 => {
                *times -= 1;
                Err(io::Error::from_raw_os_error(SHARING_VIOLATION))
            }
            _ => self.parent_is_there(path),
        }
    }

    fn parent_is_there(&self, path: &str) -> io::Result<()> {
        let missing = parents(&id(path))
            .any(|folder| !matches!(self.nodes.get(folder), Some((_, Node::Folder(_)))));
        if missing { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn has_children(&self, path: &str) -> bool {
        self.nodes.keys().any(|other| is_below(other, &id(path)))
    }
}

impl Disk for Handle {
    fn look(&self, path: &str) -> io::Result<Option<Found>> {
        let state = self.memory.0.borrow();
        Ok(state.nodes.get(&id(path)).map(|(_, node)| match node {
            Node::File(number, _) => Found { kind: Kind::File, number: *number },
            Node::Folder(number) => Found { kind: Kind::Folder, number: *number },
            Node::Link => Found { kind: Kind::Other, number: 0 },
        }))
    }

    fn read(&self, path: &str, room: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        match self.memory.0.borrow().nodes.get(&id(path)) {
            Some((_, Node::File(_, contents))) => {
                Ok(Zeroizing::new(contents.iter().take(room).copied().collect()))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, path: &str, contents: &[u8]) -> io::Result<u64> {
        let mut state = self.memory.0.borrow_mut();
        state.change(path)?;
        if state.nodes.contains_key(&id(path)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.number();
        state.nodes.insert(id(path), (path.to_owned(), Node::File(number, contents.to_vec())));
        Ok(number)
    }

    fn rename(&self, from: &str, to: &str, replace: bool) -> io::Result<()> {
        let mut state = self.memory.0.borrow_mut();
        state.change(to)?;
        match state.nodes.get(&id(to)) {
            Some(_) if !replace => return Err(io::ErrorKind::AlreadyExists.into()),
            Some((_, Node::Folder(_))) => return Err(io::Error::from_raw_os_error(5)),
            _ => {}
        }
        let (_, node) = state.nodes.remove(&id(from)).ok_or(io::ErrorKind::NotFound)?;
        state.nodes.insert(id(to), (to.to_owned(), node));
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut state = self.memory.0.borrow_mut();
        match state.nodes.get(&id(path)) {
            None => return Err(io::ErrorKind::NotFound.into()),
            Some((_, Node::Folder(_))) => return Err(io::Error::from_raw_os_error(5)),
            Some(_) => state.change(path)?,
        }
        state.nodes.remove(&id(path));
        Ok(())
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        let mut state = self.memory.0.borrow_mut();
        if state.nodes.contains_key(&id(path)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change(path)?;
        let number = state.number();
        state.nodes.insert(id(path), (path.to_owned(), Node::Folder(number)));
        Ok(())
    }

    fn remove_folder(&self, path: &str) -> io::Result<()> {
        let mut state = self.memory.0.borrow_mut();
        if !matches!(state.nodes.get(&id(path)), Some((_, Node::Folder(_)))) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.has_children(path) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.change(path)?;
        state.nodes.remove(&id(path));
        Ok(())
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let state = self.memory.0.borrow();
        let start = if folder.is_empty() { String::new() } else { format!("{}/", id(folder)) };
        let names = state.nodes.iter().filter_map(|(identity, (spelled, _))| {
            let rest = identity.strip_prefix(&start).filter(|rest| !rest.contains('/'))?;
            spelled.get(spelled.len() - rest.len()..).map(str::to_owned)
        });
        Ok(names.collect())
    }

    fn lock(&mut self, _: &str) -> io::Result<()> {
        let mut state = self.memory.0.borrow_mut();
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::Error::from_raw_os_error(SHARING_VIOLATION));
        }
        self.locked = true;
        Ok(())
    }

    fn pause(&self, time: Duration) {
        self.memory.0.borrow_mut().paused += time;
    }
}

impl Memory {
    fn open_as(&self, place: Place) -> Result<Flat<Handle>> {
        let handle = Handle { memory: self.clone(), locked: false };
        Flat::open(handle, place, "C:\\secrets".to_owned())
    }

    fn open(&self) -> Flat<Handle> {
        self.open_as(Place::Directory).unwrap()
    }

    /// Somebody else's.
    fn put(&self, path: &str, contents: Option<&str>) {
        let mut state = self.0.borrow_mut();
        let number = state.number();
        let node = match contents {
            Some(text) => Node::File(number, text.as_bytes().to_vec()),
            None => Node::Folder(number),
        };
        state.nodes.insert(id(path), (path.to_owned(), node));
    }

    /// Every file but our own folder's, as they are spelled.
    fn files(&self) -> BTreeMap<String, String> {
        let state = self.0.borrow();
        let files = state.nodes.values().filter_map(|(path, node)| match node {
            Node::File(_, contents) if !path.starts_with(OWN) => {
                Some((path.clone(), String::from_utf8(contents.clone()).unwrap()))
            }
            _ => None,
        });
        files.collect()
    }

    fn folders(&self) -> BTreeSet<String> {
        let state = self.0.borrow();
        let folders = state.nodes.values().filter_map(|(path, node)| match node {
            Node::Folder(_) if path != OWN => Some(path.clone()),
            _ => None,
        });
        folders.collect()
    }

    fn own_names(&self) -> Vec<String> {
        Handle { memory: self.clone(), locked: false }.names(OWN).unwrap()
    }

    fn busy(&self, path: &str, times: usize) {
        self.0.borrow_mut().busy.insert(id(path), times);
    }
}

fn write(flat: &mut Flat<Handle>, files: &[(&str, &str)]) -> Result<Written> {
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| File { path, mode: 0o644, contents: text.as_bytes() })
        .collect();
    flat.write(&files)
}

fn map(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(path, text)| (path.replace('\\', "/"), (*text).to_owned())).collect()
}

#[test]
fn files_come_change_and_go() {
    let memory = Memory::default();
    let mut flat = memory.open();
    let first = [("a", "1"), (r"b\c\0", "2"), ("d", "3")];
    let written = write(&mut flat, &first).unwrap();
    assert_eq!(written.added, ["a", r"b\c\0", "d"]);
    assert_eq!(memory.files(), map(&first));
    assert_eq!(write(&mut flat, &first).unwrap(), Written::default());
    let written = write(&mut flat, &[("a", "new"), ("e", "4")]).unwrap();
    assert_eq!(
        (written.added, written.changed, written.removed),
        (vec!["e".to_owned()], vec!["a".to_owned()], vec!["b/c/0".to_owned(), "d".to_owned()])
    );
    assert_eq!(memory.files(), map(&[("a", "new"), ("e", "4")]));
    assert!(memory.folders().is_empty(), "emptied folders of ours go");
    assert_eq!(memory.own_names(), ["ledger.json"]);
    drop(flat);
    // Another process goes on where the last one has ended.
    let mut flat = memory.open();
    assert_eq!(write(&mut flat, &[("a", "new"), ("e", "4")]).unwrap(), Written::default());
    assert_eq!(write(&mut flat, &[]).unwrap().removed, ["a", "e"]);
    assert!(memory.files().is_empty());
}

#[test]
fn a_file_may_become_a_folder_and_another_spelling() {
    let memory = Memory::default();
    let mut flat = memory.open();
    for files in [
        &[("x", "1"), ("y/z", "2")][..],
        &[("x/deep/er", "1"), ("y", "2")],
        &[("X", "1"), ("Y/Z", "2")],
        &[("x", "1"), ("y/z", "2")],
    ] {
        write(&mut flat, files).unwrap();
        assert_eq!(memory.files(), map(files));
        assert_eq!(write(&mut flat, files).unwrap(), Written::default(), "{files:?}");
    }
}

#[test]
fn what_is_not_ours_stays_and_is_told_of() {
    let memory = Memory::default();
    memory.put("README", Some("theirs"));
    memory.put("folder", None);
    memory.put("folder/file", Some("theirs"));
    memory.put("target", None);
    memory.0.borrow_mut().nodes.insert("link".to_owned(), ("link".to_owned(), Node::Link));
    let theirs = memory.files();
    let mut flat = memory.open();
    // A file in the way, also in another spelling; a folder; a link as a file and as a folder.
    for (path, what) in [
        ("readme", "readme"),
        ("README", "README"),
        ("Folder/FILE", r"Folder\FILE"),
        ("target", "target"),
        ("link", "link"),
        ("link/x", "link"),
        ("readme/x", "readme"),
    ] {
        let error = write(&mut flat, &[("mine", "1"), (path, "2")]).unwrap_err();
        let expected = format!(r"C:\secrets\{what} is in the way: akvfs did not write it");
        assert_eq!(error.message(), expected);
        assert_eq!(memory.files(), theirs, "nothing was written");
    }
    write(&mut flat, &[("folder/mine", "1"), ("target/mine", "2")]).unwrap();
    write(&mut flat, &[]).unwrap();
    assert_eq!(memory.files(), theirs);
    assert_eq!(memory.folders(), BTreeSet::from(["folder".to_owned(), "target".to_owned()]));
}

#[test]
fn two_names_of_one_file_and_bad_names_are_refused() {
    let memory = Memory::default();
    let mut flat = memory.open();
    for (files, text) in [
        (&[("a", ""), ("A", "")][..], "A and a are one file on Windows"),
        (&[("a/b", ""), (r"A\B", "")], r"A\B and a/b are one file on Windows"),
        (&[("a", ""), ("A/b", "")], "a is a file, and A/b needs it as a folder"),
        (&[("../a", "")], "../a: file name must not contain '..'"),
        (&[("..akvfs/ledger.json", "")], "..akvfs/ledger.json: file name must not contain '..'"),
        (&[(r"\a", "")], r"\a: file name must be a relative path"),
        (&[("nul", "")], "nul: file name must not be the Windows device nul"),
    ] {
        assert_eq!(write(&mut flat, files).unwrap_err().message(), text);
    }
    assert!(memory.files().is_empty());
}

#[test]
fn a_file_in_use_is_waited_for_and_then_told_of() {
    let memory = Memory::default();
    let mut flat = memory.open();
    write(&mut flat, &[("a", "1"), ("b", "1"), ("c", "1")]).unwrap();
    memory.busy("a", 3);
    let written = write(&mut flat, &[("a", "2"), ("b", "1"), ("c", "1")]).unwrap();
    assert_eq!(written.changed, ["a"]);
    assert_eq!(memory.0.borrow().paused, Duration::from_millis(20 + 40 + 80));
    // For ever: the others are written, and removed.
    memory.busy("a", usize::MAX);
    memory.0.borrow_mut().paused = Duration::ZERO;
    let error = write(&mut flat, &[("a", "3"), ("b", "3"), ("d", "3")]).unwrap_err();
    assert!(error.message().starts_with(r"C:\secrets\a is in use"), "{error}");
    assert!(memory.0.borrow().paused <= PATIENCE);
    assert_eq!(memory.files(), map(&[("a", "2"), ("b", "3"), ("d", "3")]));
    assert_eq!(memory.own_names(), ["ledger.json"], "nothing staged stays");
    // One that cannot be removed stays ours.
    let error = write(&mut flat, &[("b", "3"), ("d", "3")]).unwrap_err();
    assert!(error.message().starts_with(r"C:\secrets\a is in use"), "{error}");
    memory.busy("a", 0);
    // What the writes that failed have done is told with it.
    assert_eq!(
        write(&mut flat, &[("b", "3"), ("d", "3")]).unwrap(),
        Written {
            added: vec!["d".to_owned()],
            changed: vec!["b".to_owned()],
            removed: vec!["a".to_owned(), "c".to_owned()]
        }
    );
    assert_eq!(write(&mut flat, &[("b", "3"), ("d", "3")]).unwrap(), Written::default());
    assert_eq!(flat.take_untold(), Written::default());
    // Not one but two, and the write's patience is one.
    memory.busy("b", usize::MAX);
    memory.busy("d", usize::MAX);
    memory.0.borrow_mut().paused = Duration::ZERO;
    let error = write(&mut flat, &[("b", "4"), ("d", "4")]).unwrap_err();
    assert!(error.message().starts_with(r"C:\secrets\b (and 1 more) is in use"), "{error}");
    assert!(memory.0.borrow().paused <= PATIENCE);
}

#[test]
fn one_writer_at_a_time_and_only_a_ledger_of_ours() {
    let memory = Memory::default();
    let flat = memory.open();
    let error = memory.open_as(Place::Directory).err().unwrap();
    assert_eq!(error.message(), r"C:\secrets is written by another akvfs");
    drop(flat);
    memory.put(LEDGER, Some("{}"));
    let error = memory.open_as(Place::Directory).err().unwrap();
    assert!(error.message().contains("that this akvfs cannot read"), "{error}");
    let memory = Memory::default();
    memory.put(OWN, Some("a file"));
    let error = memory.open_as(Place::Directory).err().unwrap();
    assert_eq!(error.message(), r"C:\secrets\..akvfs is in the way: akvfs did not write it");
}

#[test]
fn a_csi_target_is_empty_or_ours() {
    let memory = Memory::default();
    let mut flat = memory.open_as(Place::CsiTarget).unwrap();
    write(&mut flat, &[("a", "1")]).unwrap();
    drop(flat);
    assert!(memory.open_as(Place::CsiTarget).is_ok());
    let memory = Memory::default();
    memory.put("theirs", Some(""));
    let error = memory.open_as(Place::CsiTarget).err().unwrap();
    assert_eq!(error.message(), r"C:\secrets holds theirs, which akvfs did not write");
    assert!(memory.files().contains_key("theirs"));
}

/// The machine stops at each point of a write. Whatever is left is understood by the next writer: it takes
/// nothing for its own that is not, and makes the directory what it should be.
#[test]
fn after_a_crash_anywhere_the_next_writer_goes_on() {
    let before = [("a", "1"), ("b/c", "1"), ("d", "1"), ("E", "1"), ("f", "1")];
    let after = [("a", "2"), ("b", "2"), ("d/g", "2"), ("e", "2"), ("h", "2")];
    for left in 0..200 {
        let memory = Memory::default();
        memory.put("theirs", Some("theirs"));
        let mut flat = memory.open();
        write(&mut flat, &before).unwrap();
        memory.0.borrow_mut().left = Some(left);
        let crashed = write(&mut flat, &after).is_err();
        memory.0.borrow_mut().left = None;
        drop(flat);
        // What others put in the way meanwhile is not taken for ours.
        let mut flat = memory.open();
        assert_eq!(memory.own_names(), ["ledger.json"], "after {left}");
        if !memory.files().contains_key("h") {
            memory.put("h", Some("theirs"));
            let error = write(&mut flat, &after).unwrap_err();
            assert_eq!(error.message(), r"C:\secrets\h is in the way: akvfs did not write it");
            memory.0.borrow_mut().nodes.remove("h");
        }
        write(&mut flat, &after).unwrap();
        let mut expected = map(&after);
        expected.insert("theirs".to_owned(), "theirs".to_owned());
        assert_eq!(memory.files(), expected, "after {left}");
        write(&mut flat, &[]).unwrap();
        assert_eq!(memory.files(), map(&[("theirs", "theirs")]), "after {left}");
        assert!(memory.folders().is_empty(), "after {left}");
        if !crashed {
            assert!(left > 10, "the write was stopped {left} times only");
            return;
        }
    }
    panic!("the write never ended");
}
