//! What a write has to do: the wanted files compared with what is there and what is ours.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::File;
use super::super::super::ledger::parents;
use super::super::{Disk, Kind};
use super::{Flat, id};
use crate::class::FilePath;
use crate::class::paths::Rules;
use crate::error::{Error, Result, printable};

/// A wanted file.
pub(super) struct Wanted<'a> {
    /// With `/`.
    pub(super) path: String,
    /// As the caller spells it.
    pub(super) given: &'a str,
    pub(super) contents: &'a [u8],
}

/// The wanted files by what tells them apart.
pub(super) type Set<'a> = BTreeMap<String, Wanted<'a>>;

/// What has to be done.
#[derive(Default)]
pub(super) struct Work<'s> {
    pub(super) adding: Vec<&'s Wanted<'s>>,
    pub(super) changing: Vec<&'s Wanted<'s>>,
    /// With their numbers.
    pub(super) removing: BTreeMap<String, u64>,
    /// Files of ours that others have taken away.
    pub(super) gone: BTreeSet<String>,
    /// Folders that are not there, parents first.
    pub(super) folders: BTreeSet<String>,
}

impl Work<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.adding.is_empty()
            && self.changing.is_empty()
            && self.removing.is_empty()
            && self.gone.is_empty()
    }

    /// What is written, in the order of the staged files.
    pub(super) fn new_files(&self) -> impl Iterator<Item = &Wanted<'_>> {
        self.adding.iter().chain(&self.changing).copied()
    }
}

/// Checks every path, and that no file is given twice or is another's folder.
pub(super) fn wanted<'a>(files: &[File<'a>]) -> Result<Set<'a>> {
    let mut set = Set::new();
    for file in files {
        let shown = || printable(file.path, 256);
        let path = file.path.replace('\\', "/");
        FilePath::parse_with(&path, Rules::Windows).map_err(|error| error.context(shown()))?;
        let wanted = Wanted { path, given: file.path, contents: file.contents };
        if let Some(other) = set.insert(id(file.path), wanted) {
            let other = printable(other.given, 256);
            return Err(Error::class(format!("{} and {other} are one file on Windows", shown())));
        }
    }
    for (identity, file) in &set {
        if let Some(both) = parents(identity).find_map(|folder| set.get(folder)) {
            let (file, both) = (printable(file.given, 256), printable(both.given, 256));
            return Err(Error::class(format!("{both} is a file, and {file} needs it as a folder")));
        }
    }
    Ok(set)
}

impl<D: Disk> Flat<D> {
    /// Compares, and refuses what stands in the way. Changes nothing.
    pub(super) fn survey<'s>(&self, set: &'s Set<'s>) -> Result<Work<'s>> {
        let ours: BTreeMap<String, &String> =
            self.ledger.files.iter().map(|path| (id(path), path)).collect();
        let our_folders: BTreeSet<String> =
            self.ledger.folders.iter().map(|path| id(path)).collect();
        let mut work = Work::default();
        let mut looked = BTreeSet::new();
        for (identity, file) in set {
            for folder in parents(&file.path) {
                if !looked.insert(id(folder)) {
                    continue;
                }
                match self.look(folder)? {
                    Some(Kind::Folder) => {}
                    Some(Kind::File) if ours.contains_key(&id(folder)) => {
                        work.folders.insert(folder.to_owned());
                    }
                    Some(_) => return Err(self.in_the_way(folder)),
                    None => drop(work.folders.insert(folder.to_owned())),
                }
            }
            let respelled = ours.get(identity).is_some_and(|ours| **ours != file.path);
            match self.look(&file.path)? {
                None => work.adding.push(file),
                Some(Kind::File) if respelled => work.adding.push(file),
                Some(Kind::File) if ours.contains_key(identity) => {
                    if !self.holds(&file.path, file.contents) {
                        work.changing.push(file);
                    }
                }
                // Its files go first, and then the folder.
                Some(Kind::Folder) if our_folders.contains(identity) => work.adding.push(file),
                Some(_) => return Err(self.in_the_way(&file.path)),
            }
        }
        for path in &self.ledger.files {
            if set.get(&id(path)).is_some_and(|file| file.path == *path) {
                continue;
            }
            let found = self.disk.look(path).map_err(|e| self.failed("look at", path, &e))?;
            match found {
                Some(found) if found.kind == Kind::File => {
                    work.removing.insert(path.clone(), found.number);
                }
                _ => drop(work.gone.insert(path.clone())),
            }
        }
        Ok(work)
    }

    /// One that cannot be read is written anew.
    fn holds(&self, path: &str, contents: &[u8]) -> bool {
        self.disk.read(path, contents.len() + 1).is_ok_and(|found| *found == contents)
    }
}
