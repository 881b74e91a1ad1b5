//! Random histories of one directory against a map: what the caller wants, what others put there,
//! what somebody removes, and writers that end and begin between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::delivery::files::ledger::is_below;
use crate::testing::scale;

#[derive(Clone, Debug)]
enum Step {
    Want {
        path: String,
        mode: u32,
        contents: u8,
    },
    Unwant(usize),
    Write,
    Restart,
    Foreign {
        path: String,
        kind: Kind,
    },
    ForeignGoes(usize),
    /// Somebody removes a file (flat) or a link (atomic) of ours.
    Lose(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Link,
}

fn path() -> impl Strategy<Value = String> {
    let component = prop::sample::select(vec!["a", "b", "a.b", "ab"]);
    prop::collection::vec(component, 1..=3).prop_map(|components| components.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(vec![Kind::File, Kind::Folder, Kind::Link]);
    let mode = prop::sample::select(vec![0o400, 0o444, 0o640]);
    prop_oneof![
        6 => (path(), mode, 0..3_u8).prop_map(|(path, mode, contents)| Step::Want {
            path,
            mode,
            contents
        }),
        3 => any::<usize>().prop_map(Step::Unwant),
        6 => Just(Step::Write),
        2 => Just(Step::Restart),
        1 => (path(), kind).prop_map(|(path, kind)| Step::Foreign { path, kind }),
        2 => any::<usize>().prop_map(Step::ForeignGoes),
        1 => any::<usize>().prop_map(Step::Lose),
    ]
}

/// What should be in the directory.
struct Model<'d> {
    layout: Layout,
    root: &'d Path,
    writer: Option<Writer>,
    wanted: BTreeMap<String, (u32, Vec<u8>)>,
    /// What readers should find of it now.
    shown: BTreeMap<String, (u32, Vec<u8>)>,
    /// By inode, with the path where it was put.
    foreign: BTreeMap<u64, (String, Kind)>,
    /// What somebody removed since the last write.
    lost: BTreeSet<String>,
}

fn first(path: &str) -> &str {
    path.split('/').next().unwrap()
}

fn pick<T>(from: impl ExactSizeIterator<Item = T>, n: usize) -> Option<T> {
    let mut from = from;
    let len = from.len();
    (len > 0).then(|| from.nth(n % len)).flatten()
}

impl Model<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Want { path, mode, contents } => {
                self.wanted.retain(|other, _| !is_below(path, other) && !is_below(other, path));
                // Different lengths, and different bytes of one length.
                let contents = vec![b'x' + contents % 2; 1 + usize::from(*contents)];
                self.wanted.insert(path.clone(), (*mode, contents));
            }
            Step::Unwant(n) => {
                if let Some(path) = pick(self.wanted.keys().cloned(), *n) {
                    self.wanted.remove(&path);
                }
            }
            Step::Write => self.write(false),
            Step::Restart => {
                drop(self.writer.take());
                self.writer = Some(Writer::open(self.root, options(self.layout)).unwrap());
                self.write(true);
            }
            Step::Foreign { path, kind } => self.put(path, *kind),
            Step::ForeignGoes(n) => {
                let Some((inode, (path, kind))) =
                    pick(self.foreign.iter().map(|(i, f)| (*i, f.clone())), *n)
                else {
                    return;
                };
                let at = self.root.join(&path);
                // In the atomic layout it may have been left behind in an old generation.
                let there = fs::symlink_metadata(&at).is_ok_and(|data| data.ino() == inode);
                let removed = there
                    && match kind {
                        // Fails when something of ours is in it.
                        Kind::Folder => fs::remove_dir(at).is_ok(),
                        Kind::File | Kind::Link => fs::remove_file(at).is_ok(),
                    };
                if removed {
                    self.foreign.remove(&inode);
                }
            }
            Step::Lose(n) => {
                let Some(path) = pick(self.shown.keys().cloned(), *n) else { return };
                let lost = match self.layout {
                    Layout::Flat => path.as_str(),
                    Layout::Atomic => first(&path),
                };
                fs::remove_file(self.root.join(lost)).unwrap();
                self.lost.insert(lost.to_owned());
                self.shown.retain(|path, _| path != lost && !is_below(path, lost));
            }
        }
    }

    /// Somebody else puts something there, if the place is free.
    fn put(&mut self, path: &str, kind: Kind) {
        let at = self.root.join(path);
        if fs::symlink_metadata(&at).is_ok() {
            return;
        }
        let put = match kind {
            Kind::File => fs::write(&at, "foreign"),
            Kind::Folder => fs::create_dir(&at),
            Kind::Link => symlink("/nowhere", &at),
        };
        if put.is_ok()
            && kind == Kind::File
            && self.layout == Layout::Flat
            && self.lost.contains(path)
        {
            // A file that stands where one of ours stood is ours: somebody has edited it.
            let mode = fs::metadata(&at).unwrap().mode() & 0o7777;
            self.shown.insert(path.to_owned(), (mode, b"foreign".to_vec()));
        } else if put.is_ok() {
            let inode = fs::symlink_metadata(&at).unwrap().ino();
            self.foreign.insert(inode, (path.to_owned(), kind));
        }
    }

    /// Whether something foreign stands where one of the files has to go.
    fn is_in_the_way(&self) -> bool {
        let there = |inode: u64, path: &str| {
            fs::symlink_metadata(self.root.join(path)).is_ok_and(|data| data.ino() == inode)
        };
        self.foreign.iter().filter(|(inode, (path, _))| there(**inode, path)).any(
            |(_, (path, kind))| {
                self.wanted.keys().any(|wanted| match self.layout {
                    Layout::Atomic => !path.contains('/') && first(wanted) == path,
                    Layout::Flat => {
                        wanted == path
                            || is_below(path, wanted)
                            || (*kind != Kind::Folder && is_below(wanted, path))
                    }
                })
            },
        )
    }

    fn write(&mut self, restarted: bool) {
        let in_the_way = self.is_in_the_way();
        let before = snapshot(self.root);
        let files: Vec<_> = self
            .wanted
            .iter()
            .map(|(path, (mode, contents))| File { path, mode: *mode, contents })
            .collect();
        let outcome = self.writer.as_mut().unwrap().write(&files);
        if in_the_way {
            let error = outcome.unwrap_err();
            assert_eq!(error.code(), Code::PlaceRefused, "{error}");
            assert_eq!(snapshot(self.root), before, "{error}");
            return;
        }
        let written = outcome.unwrap();
        let differ = |which: &dyn Fn(&str) -> bool| -> Vec<String> {
            self.wanted.keys().filter(|path| which(path)).cloned().collect()
        };
        let mut added = written.added.clone();
        added.sort();
        assert_eq!(added, differ(&|path| !self.shown.contains_key(path)));
        assert_eq!(
            written.changed,
            differ(&|path| self
                .shown
                .get(path)
                .is_some_and(|shown| Some(shown) != self.wanted.get(path)))
        );
        if self.layout == Layout::Flat || written.removed.is_empty() {
            let gone: Vec<_> = self
                .shown
                .keys()
                .filter(|path| !self.wanted.contains_key(*path))
                .cloned()
                .collect();
            assert_eq!(written.removed, gone);
        }
        self.shown = self.wanted.clone();
        let after = snapshot(self.root);
        let lost = std::mem::take(&mut self.lost);
        if written.is_empty() && lost.is_empty() {
            assert_eq!(after, before);
        }
        self.check(&after, restarted || !written.is_empty());
    }

    /// Everything that should be there is, and nothing else.
    fn check(&self, after: &Snapshot, settled: bool) {
        for (inode, (path, kind)) in &self.foreign {
            let found = after.values().find(|(_, found, ..)| found == inode);
            let (mode, _, _, bytes) = found.unwrap_or_else(|| panic!("{path} is lost"));
            let (expected, text): (u32, &[u8]) = match kind {
                Kind::File => (0o100_000, b"foreign"),
                Kind::Folder => (0o040_000, b""),
                Kind::Link => (0o120_000, b"/nowhere"),
            };
            assert_eq!((mode & 0o170_000, bytes.as_slice()), (expected, text), "{path}");
        }
        let is_foreign = |path: &str| self.foreign.contains_key(&after[path].1);
        let mut generations = Vec::new();
        for (path, (mode, ..)) in after.iter().filter(|(path, _)| !is_foreign(path)) {
            let holds = |kept: &dyn Fn(&str) -> bool| {
                after.keys().any(|inner| is_below(inner, path) && kept(inner))
            };
            match (self.layout, path.starts_with("..")) {
                (Layout::Flat, dots) => {
                    assert!(!dots, "{path}");
                    let folder = mode & 0o170_000 == 0o040_000;
                    let needed = self.shown.contains_key(path)
                        || self.shown.keys().any(|shown| is_below(shown, path));
                    let leftover = folder && (!settled || holds(&is_foreign));
                    assert!(needed || leftover, "{path} is left");
                }
                (Layout::Atomic, true) if !path.contains('/') && path != "..data" => {
                    generations.push(path.as_str());
                }
                (Layout::Atomic, true) => {}
                (Layout::Atomic, false) => {
                    assert!(self.shown.keys().any(|shown| first(shown) == path), "{path} is left");
                }
            }
        }
        if self.layout == Layout::Atomic {
            let current = after.get("..data").map(|data| String::from_utf8_lossy(&data.3));
            for generation in generations {
                // Only what somebody put into an old one keeps it.
                let ours = after.iter().filter(|(path, (mode, ..))| {
                    is_below(path, generation) && !is_foreign(path) && mode & 0o170_000 != 0o040_000
                });
                let ours: Vec<_> = ours.map(|(path, _)| path.as_str()).collect();
                let foreign =
                    after.keys().any(|path| is_below(path, generation) && is_foreign(path));
                if current.as_deref() == Some(generation) {
                    assert_eq!(ours.len(), self.shown.len(), "{ours:?}");
                } else {
                    assert!(foreign && ours.is_empty(), "{generation} is left: {ours:?}");
                }
            }
        }
        for (path, (mode, contents)) in &self.shown {
            let at = self.root.join(path);
            let found = fs::metadata(&at).unwrap();
            assert_eq!(found.mode() & 0o7777, *mode, "{path}");
            assert_eq!(&fs::read(&at).unwrap(), contents, "{path}");
        }
    }
}

fn histories(layout: Layout) {
    let config = Config { cases: 500 * scale(), failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec(step(), 1..40);
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&steps, |steps| {
        let dir = directory();
        let mut model = Model {
            layout,
            root: dir.path(),
            writer: Some(Writer::open(dir.path(), options(layout)).unwrap()),
            wanted: BTreeMap::new(),
            shown: BTreeMap::new(),
            foreign: BTreeMap::new(),
            lost: BTreeSet::new(),
        };
        for step in &steps {
            model.step(step);
        }
        model.write(false);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn atomic_directories_follow_a_model_through_random_histories() {
    histories(Layout::Atomic);
}

#[test]
fn flat_directories_follow_a_model_through_random_histories() {
    histories(Layout::Flat);
}
