//! The flat layout: plain files, each replaced on its own by one rename.
//!
//! New contents are written into our own folder first, so a full disk is noticed before anything is
//! seen, and watchers see one move for each file. Then the ledger names what is about to appear and to
//! go, with marks: [`Flat::settle`] can tell after a crash which of two things of one name is ours.
//! What stands where a new file or folder goes is removed first, the rest last. Folders that were there
//! already are used and never removed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Stat, renameat};
use rustix::io::Errno;

use super::super::ledger::{OWN, is_below, parents};
use super::super::set::{Set, folders, split};
use super::super::{Owner, Written};
use super::beneath::{
    Flush, Folders, create, folder, is_as, is_file, is_no_folder, kind, look, look_below,
    make_folder, names, remove,
};
use super::ledger::{self, Ledger, Mark, Own};
use super::place::Directory;
use crate::error::{Result, printable};

/// One write, or the settling of one.
pub(super) struct Flat<'a> {
    pub(super) directory: &'a Directory,
    pub(super) own: &'a Own,
    pub(super) ledger: &'a mut Ledger,
    pub(super) owner: Option<Owner>,
    /// Set before anything is changed.
    pub(super) begun: &'a mut bool,
}

/// What a write has to do.
#[derive(Default)]
struct Work<'s> {
    adding: Vec<&'s str>,
    changing: Vec<&'s str>,
    removing: BTreeMap<String, Mark>,
    /// Folders that are not there, parents first.
    making: Vec<&'s str>,
}

impl Flat<'_> {
    fn held(&self) -> ledger::Flat {
        self.ledger.flat.clone().unwrap_or_default()
    }

    fn store(&mut self, held: ledger::Flat) -> Result<()> {
        self.own.replace(self.directory, self.ledger, held.into())
    }

    fn at(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Takes stock after a write that did not end: each file is the old or the new one by itself.
    pub(super) fn settle(&mut self) -> Result<()> {
        let mut held = self.held();
        let mut opened = Folders::below(self.directory);
        let mut mark_at = |path: &str| {
            look_below(&mut opened, path)
                .map(|found| found.filter(is_file).map(|found| Mark::of(&found)))
                .map_err(|error| self.directory.failed_at("look at", path, error))
        };
        for (path, mark) in std::mem::take(&mut held.adding) {
            if mark_at(&path)? == Some(mark) {
                held.files.insert(path);
            } else {
                held.files.remove(&path);
            }
        }
        for (path, mark) in std::mem::take(&mut held.removing) {
            if mark_at(&path)? != Some(mark) {
                held.files.remove(&path);
            }
        }
        self.end(held)
    }

    /// Removes folders of ours that have no file of ours any more, and stores what is held.
    fn end(&mut self, mut held: ledger::Flat) -> Result<()> {
        held.folders = self.remove_emptied(&held.folders, |folder| {
            held.files
                .range(format!("{folder}/")..)
                .next()
                .is_some_and(|file| is_below(file, folder))
        })?;
        self.store(held)
    }

    /// Makes the directory hold the set. What is done is noted as it is done, whatever comes after it.
    pub(super) fn write(&mut self, set: &Set<'_>, written: &mut Written) -> Result<()> {
        let held = self.held();
        let work = self.survey(&held, set)?;
        let mut next = held;
        // What somebody removed or replaced is not ours any more.
        next.files
            .retain(|path| set.contains_key(path.as_str()) || work.removing.contains_key(path));
        if work.is_empty() {
            if next != self.held() {
                *self.begun = true;
                self.store(next)?;
                self.settle()?;
            }
            return Ok(());
        }
        *self.begun = true;
        let staged = self.stage(set, &work)?;
        next.adding = work
            .adding
            .iter()
            .zip(&staged)
            .map(|(path, found)| ((*path).to_owned(), Mark::of(found)))
            .collect();
        next.removing = work.removing.clone();
        next.folders.extend(work.making.iter().map(|path| (*path).to_owned()));
        self.store(next.clone())?;
        self.carry_out(set, &work, &next, written)?;
        // All of it was done, so no marks are asked: a file that somebody has changed since is ours.
        next.files.extend(std::mem::take(&mut next.adding).into_keys());
        for path in std::mem::take(&mut next.removing).into_keys() {
            next.files.remove(&path);
        }
        self.end(next)
    }

    /// Does the work that is staged and stored.
    fn carry_out(
        &self,
        set: &Set<'_>,
        work: &Work<'_>,
        next: &ledger::Flat,
        written: &mut Written,
    ) -> Result<()> {
        let needed = folders(set.keys().copied());
        let (first, last): (Vec<&str>, Vec<&str>) =
            work.removing.keys().map(String::as_str).partition(|path| {
                needed.contains(path) || parents(path).any(|folder| set.contains_key(folder))
            });
        let mut touched = BTreeSet::new();
        self.remove_files(&first, &mut touched, written)?;
        self.remove_emptied(&next.folders, |folder| needed.contains(folder))?;
        for path in &work.making {
            let (parent, name) = split(path);
            folder(self.at(), parent)
                .and_then(|at| make_folder(at.as_fd(), name))
                .map_err(|error| self.directory.failed_at("make", path, error))?;
            touched.insert(parent.to_owned());
        }
        self.show(work, &mut touched, written)?;
        self.remove_files(&last, &mut touched, written)?;
        self.flush(&touched)
    }

    /// Compares the directory with the set, and refuses what is in the way. Nothing is changed.
    fn survey<'s>(&self, held: &ledger::Flat, set: &Set<'s>) -> Result<Work<'s>> {
        let mut work = Work::default();
        let mut present: BTreeSet<&str> = BTreeSet::new();
        for path in folders(set.keys().copied()) {
            let (parent, name) = split(path);
            if !parent.is_empty() && !present.contains(parent) {
                work.making.push(path);
                continue;
            }
            let failed = |error| self.directory.failed_at("look at", path, error);
            let found = folder(self.at(), parent).and_then(|at| look(at.as_fd(), name));
            match found.map_err(failed)? {
                Some(found) if kind(&found) == FileType::Directory => {
                    self.directory.folder_is_safe(path, &found)?;
                    // As it is opened later: something may be mounted there.
                    folder(self.at(), path).map_err(failed)?;
                    present.insert(path);
                }
                // Goes, since no file of the set can be where a folder is.
                Some(found) if is_file(&found) && held.files.contains(path) => {
                    work.making.push(path)
                }
                Some(_) => return Err(self.directory.in_the_way(path)),
                None => work.making.push(path),
            }
        }
        let mut opened = Folders::below(self.directory);
        for (&path, file) in set {
            let failed = |error| self.directory.failed_at("read", path, error);
            let (parent, _) = split(path);
            if !parent.is_empty() && !present.contains(parent) {
                work.adding.push(path);
                continue;
            }
            let (at, name) = opened.of(path).map_err(failed)?;
            match look(at, name).map_err(failed)? {
                None => work.adding.push(path),
                Some(found) if is_file(&found) && held.files.contains(path) => {
                    if !is_as(at, name, file, self.owner).map_err(failed)? {
                        work.changing.push(path);
                    }
                }
                Some(found)
                    if kind(&found) == FileType::Directory && held.folders.contains(path) =>
                {
                    self.is_wholly_ours(path, held)?;
                    work.adding.push(path);
                }
                Some(_) => return Err(self.directory.in_the_way(path)),
            }
        }
        for path in held.files.iter().filter(|path| !set.contains_key(path.as_str())) {
            let found = look_below(&mut opened, path)
                .map_err(|error| self.directory.failed_at("look at", path, error))?;
            // One that became something else is not ours any more.
            if let Some(found) = found.filter(is_file) {
                work.removing.insert(path.clone(), Mark::of(&found));
            }
        }
        Ok(work)
    }

    /// Fails when a folder that has to go holds something that is not ours.
    fn is_wholly_ours(&self, path: &str, held: &ledger::Flat) -> Result<()> {
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            let failed = |error| self.directory.failed_at("list", &path, error);
            let opened = folder(self.at(), &path).map_err(failed)?;
            for name in names(opened.as_fd()).map_err(failed)? {
                let inner = format!("{path}/{}", name.to_string_lossy());
                match look(opened.as_fd(), name.as_c_str()).map_err(failed)? {
                    Some(found) if is_file(&found) && held.files.contains(&inner) => {}
                    Some(found)
                        if kind(&found) == FileType::Directory && held.folders.contains(&inner) =>
                    {
                        waiting.push(inner);
                    }
                    None => {}
                    Some(_) => return Err(self.directory.in_the_way(&inner)),
                }
            }
        }
        Ok(())
    }

    /// Writes all new contents into our own folder: first the added files, then the changed ones.
    fn stage(&self, set: &Set<'_>, work: &Work<'_>) -> Result<Vec<Stat>> {
        let flush = Flush::of(work.files().count(), self.directory.is_memory());
        let mut staged = Vec::new();
        for (path, file) in work.files().filter_map(|path| set.get_key_value(path)) {
            let name = staged_name(staged.len());
            let made = create(self.own.as_fd(), &name, file, self.owner, flush == Flush::Each)
                .map_err(|error| match error {
                    Errno::EXIST => self.directory.in_the_way(&format!("{OWN}/{name}")),
                    error => self.directory.failed_at("write", path, error),
                })?;
            staged.push(made);
        }
        flush.once(self.own.as_fd()).map_err(|error| self.directory.failed("flush", error))?;
        Ok(staged)
    }

    /// Moves the staged files to their places.
    fn show(
        &self,
        work: &Work<'_>,
        touched: &mut BTreeSet<String>,
        written: &mut Written,
    ) -> Result<()> {
        let mut opened = Folders::below(self.directory);
        for (index, path) in work.files().enumerate() {
            let from = staged_name(index);
            let own = self.own.as_fd();
            let moved = opened.of(path).and_then(|(at, name)| {
                if index < work.adding.len() {
                    rename_to_nothing(own, &from, at, name)
                } else {
                    renameat(own, &from, at, name)
                }
            });
            moved.map_err(|error| match error {
                Errno::EXIST | Errno::ISDIR => self.directory.in_the_way(path),
                error => self.directory.failed_at("replace", path, error),
            })?;
            let is_new = index < work.adding.len();
            let told = if is_new { &mut written.added } else { &mut written.changed };
            told.push(path.to_owned());
            touched.insert(split(path).0.to_owned());
        }
        Ok(())
    }

    /// Removes files of ours.
    fn remove_files(
        &self,
        paths: &[&str],
        touched: &mut BTreeSet<String>,
        written: &mut Written,
    ) -> Result<()> {
        let mut opened = Folders::below(self.directory);
        for path in paths {
            opened
                .of(path)
                .and_then(|(at, name)| remove(at, name, AtFlags::empty()))
                .map_err(|error| self.directory.failed_at("remove", path, error))?;
            written.removed.push((*path).to_owned());
            touched.insert(split(path).0.to_owned());
        }
        Ok(())
    }

    /// Removes folders of ours that are empty and not needed, and gives those that stay ours.
    fn remove_emptied(
        &self,
        ours: &BTreeSet<String>,
        needed: impl Fn(&str) -> bool,
    ) -> Result<BTreeSet<String>> {
        let mut left = ours.clone();
        // What is in a folder comes before it.
        for path in ours.iter().rev() {
            let (parent, name) = split(path);
            if needed(path) {
                continue;
            }
            let removed = folder(self.at(), parent)
                .and_then(|at| remove(at.as_fd(), name, AtFlags::REMOVEDIR));
            match removed {
                Ok(()) => drop(left.remove(path)),
                // Somebody uses it: it is removed when it is empty one day.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                // It is no folder, or no longer there.
                Err(error) if is_no_folder(error) => drop(left.remove(path)),
                Err(error) => return Err(self.directory.failed_at("remove", path, error)),
            }
        }
        Ok(left)
    }

    fn durable(&self) -> bool {
        !self.directory.is_memory()
    }

    /// On a disk, makes what was done in these folders last.
    fn flush(&self, touched: &BTreeSet<String>) -> Result<()> {
        for path in touched.iter().filter(|_| self.durable()) {
            match folder(self.at(), path).and_then(|opened| rustix::fs::fsync(&opened)) {
                // Removed after it was touched.
                Err(error) if is_no_folder(error) => {}
                Err(error) => {
                    let shown = printable(path, 256);
                    return Err(self.directory.failed_at("flush", &shown, error));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

impl<'s> Work<'s> {
    fn is_empty(&self) -> bool {
        self.adding.is_empty() && self.changing.is_empty() && self.removing.is_empty()
    }

    /// What is written, in the order of the staged files.
    fn files(&self) -> impl Iterator<Item = &'s str> {
        self.adding.iter().chain(&self.changing).copied()
    }
}

fn staged_name(index: usize) -> String {
    format!("new.{index}")
}

/// Moves a file to a name that nothing has.
fn rename_to_nothing(
    from: BorrowedFd<'_>,
    name: &str,
    to: BorrowedFd<'_>,
    new: &str,
) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    match rustix::fs::renameat_with(from, name, to, new, rustix::fs::RenameFlags::NOREPLACE) {
        // Not every file system can; the survey has found nothing there.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        outcome => return outcome,
    }
    renameat(from, name, to, new)
}
