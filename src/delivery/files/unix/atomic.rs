//! The atomic layout, as kubelet and the CSI driver write it and as watchers know it.
//!
//! ```text
//! ..data -> ..2026_01_31_12_00_00.123456789      the one rename that shows a new generation
//! ..2026_01_31_12_00_00.123456789/db/password    the files
//! db -> ..data/db                                one link for each first path element
//! ```
//!
//! The order of a write is kubelet's: the new generation with its files, `..data_tmp`, its rename to
//! `..data`, new links, vanished links, the old generation. [`Atomic::settle`] brings the directory from
//! any point of that to the old or the new state: after a failure at once, after a crash at the next
//! open.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{AtFlags, renameat, symlinkat};
use rustix::io::Errno;

use super::super::set::{Set, folders, split};
use super::super::{Owner, Written};
use super::beneath::{
    Flush, Folders, create, folder, is_as, is_file, is_no_folder, link_target, look, look_below,
    make_folder, make_folders, remove,
};
use super::ledger::{self, Ledger, Own};
use super::place::Directory;
use crate::error::{Code, Error, Result, printable};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// How many old generations may be kept that cannot be removed.
const MAX_GENERATIONS: usize = 16;

/// One write, or the settling of one.
pub(super) struct Atomic<'a> {
    pub(super) directory: &'a Directory,
    pub(super) own: &'a Own,
    pub(super) ledger: &'a mut Ledger,
    pub(super) owner: Option<Owner>,
    /// Set before anything is changed.
    pub(super) begun: &'a mut bool,
}

impl Atomic<'_> {
    fn held(&self) -> ledger::Atomic {
        self.ledger.atomic.clone().unwrap_or_default()
    }

    fn store(&mut self, held: ledger::Atomic) -> Result<()> {
        self.own.replace(self.directory, self.ledger, held.into())
    }

    fn at(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The generation that is shown. Anything else at `..data` is not ours.
    fn current(&self, held: &ledger::Atomic) -> Result<Option<String>> {
        let failed = |error| self.directory.failed_at("read", DATA, error);
        match link_target(self.at(), DATA).map_err(failed)? {
            Some(target) if held.generations.contains_key(&target) => Ok(Some(target)),
            None if look(self.at(), DATA).map_err(failed)?.is_none() => Ok(None),
            _ => Err(self.directory.in_the_way(DATA)),
        }
    }

    /// Ends what an earlier write has begun, forwards if its generation is shown, else backwards.
    pub(super) fn settle(&mut self) -> Result<()> {
        let mut held = self.held();
        let current = self.current(&held)?;
        let failed = |name: &str, error| self.directory.failed_at("clean up", name, error);
        if let Some(target) = link_target(self.at(), NEW_DATA).map_err(|e| failed(NEW_DATA, e))?
            && held.generations.contains_key(&target)
        {
            remove(self.at(), NEW_DATA, AtFlags::empty()).map_err(|e| failed(NEW_DATA, e))?;
        }
        let needed = match current.as_ref().and_then(|name| held.generations.get(name)) {
            Some(files) => firsts(files.iter().map(String::as_str)),
            None => BTreeSet::new(),
        };
        let mut links = BTreeSet::new();
        for link in &held.links {
            if !self.is_our_link(link).map_err(|error| failed(link, error))? {
                continue;
            }
            if needed.contains(link.as_str()) {
                links.insert(link.clone());
            } else {
                remove(self.at(), link, AtFlags::empty()).map_err(|error| failed(link, error))?;
            }
        }
        if held.generations.keys().any(|name| Some(name) != current.as_ref()) {
            // On a disk the rename must last before the generation that it replaced goes, and what
            // went before the ledger forgets it.
            self.flush(self.at()).map_err(|error| failed(DATA, error))?;
            let mut kept = BTreeMap::new();
            for (name, files) in std::mem::take(&mut held.generations) {
                if Some(&name) == current.as_ref() || !self.remove_generation(&name, &files)? {
                    kept.insert(name, files);
                }
            }
            held.generations = kept;
            self.flush(self.at()).map_err(|error| failed(DATA, error))?;
        }
        held.links = links;
        self.store(held)
    }

    /// Makes the directory hold the set. What is done is noted when readers see it, whatever comes after it.
    pub(super) fn write(&mut self, set: &Set<'_>, written: &mut Written) -> Result<()> {
        let held = self.held();
        let current = self.current(&held)?;
        let needed = firsts(set.keys().copied());
        let missing = self.missing_links(&held, &needed)?;
        let (differs, same) = self.compare(&held, current.as_deref(), set, &missing)?;
        if differs.is_empty() && (current.is_some() || set.is_empty()) {
            return Ok(());
        }
        *self.begun = true;
        let mut next = held;
        next.links.extend(needed.iter().map(|link| (*link).to_owned()));
        // When all that is missing is links, the shown generation does.
        if same {
            self.store(next)?;
        } else {
            if next.generations.len() >= MAX_GENERATIONS {
                return Err(self.directory.full_of_old());
            }
            let name = name()?;
            let files = set.keys().map(|path| (*path).to_owned()).collect();
            next.generations.insert(name.clone(), files);
            self.store(next)?;
            self.build(&name, set)?;
            self.show(&name)?;
        }
        *written = differs;
        for link in missing {
            symlinkat(format!("{DATA}/{link}"), self.at(), link)
                .map_err(|error| self.directory.failed_at("make", link, error))?;
        }
        self.settle()
    }

    /// Which links have to be made. Something else in their places, or in the rename's, is refused.
    fn missing_links<'s>(
        &self,
        held: &ledger::Atomic,
        needed: &BTreeSet<&'s str>,
    ) -> Result<BTreeSet<&'s str>> {
        let failed = |name: &str, error| self.directory.failed_at("look at", name, error);
        let is_there = |name: &str| {
            look(self.at(), name).map(|found| found.is_some()).map_err(|error| failed(name, error))
        };
        if is_there(NEW_DATA)? {
            return Err(self.directory.in_the_way(NEW_DATA));
        }
        let mut missing = BTreeSet::new();
        for link in needed {
            let named = held.links.contains(*link);
            if named && self.is_our_link(link).map_err(|error| failed(link, error))? {
                continue;
            }
            if is_there(link)? {
                return Err(self.directory.in_the_way(link));
            }
            missing.insert(*link);
        }
        Ok(missing)
    }

    /// What differs from the shown generation, and whether that generation is the set exactly.
    fn compare(
        &self,
        held: &ledger::Atomic,
        current: Option<&str>,
        set: &Set<'_>,
        missing: &BTreeSet<&str>,
    ) -> Result<(Written, bool)> {
        let mut written = Written::default();
        let mut same = true;
        let shown = match current.map(|name| folder(self.at(), name)) {
            None => None,
            Some(Ok(shown)) => Some(shown),
            // Somebody removed it: all of it is written anew.
            Some(Err(error)) if is_no_folder(error) => None,
            Some(Err(error)) => return Err(self.directory.failed("read", error)),
        };
        let mut folders = shown.as_ref().map(Folders::below);
        let held = current.and_then(|name| held.generations.get(name));
        for (path, file) in set {
            let failed = |error| self.directory.failed_at("read", path, error);
            // What somebody else put there by that name does not count.
            let known = held.is_some_and(|files| files.contains(*path));
            let found = match folders.as_mut().filter(|_| known) {
                Some(folders) => look_below(folders, path).map_err(failed)?.filter(is_file),
                None => None,
            };
            let equal = match (&mut folders, found) {
                (Some(folders), Some(_)) => folders
                    .of(path)
                    .and_then(|(at, name)| is_as(at, name, file, self.owner))
                    .map_err(failed)?,
                _ => false,
            };
            same &= equal;
            let first = path.split('/').next().unwrap_or(path);
            if found.is_none() || missing.contains(first) {
                written.added.push((*path).to_owned());
            } else if !equal {
                written.changed.push((*path).to_owned());
            }
        }
        if let Some(files) = held {
            written.removed =
                files.iter().filter(|p| !set.contains_key(p.as_str())).cloned().collect();
            same &= written.removed.is_empty();
        }
        Ok((written, same && current.is_some()))
    }

    /// Makes a generation with all its files.
    fn build(&self, generation: &str, set: &Set<'_>) -> Result<()> {
        let failed = |error| self.directory.failed_at("make", generation, error);
        let root = make_folder(self.at(), generation).map_err(failed)?;
        let flush = Flush::of(set.len(), self.directory.is_memory());
        let mut there = BTreeSet::new();
        let mut folders = Folders::below(&root);
        for (path, file) in set {
            make_folders(root.as_fd(), path, &mut there)
                .and_then(|()| folders.of(path))
                .and_then(|(at, name)| create(at, name, file, self.owner, flush == Flush::Each))
                .map_err(|error| self.directory.failed_at("write", path, error))?;
        }
        flush.once(root.as_fd()).map_err(failed)?;
        for path in there.into_iter().rev().filter(|_| flush == Flush::Each) {
            folder(root.as_fd(), path)
                .and_then(|opened| self.flush(opened.as_fd()))
                .map_err(|error| self.directory.failed_at("flush", path, error))?;
        }
        self.flush(root.as_fd()).and_then(|()| self.flush(self.at())).map_err(failed)
    }

    /// The one rename.
    fn show(&self, generation: &str) -> Result<()> {
        symlinkat(generation, self.at(), NEW_DATA)
            .and_then(|()| renameat(self.at(), NEW_DATA, self.at(), DATA))
            .map_err(|error| self.directory.failed_at("replace", DATA, error))
    }

    /// Whether the name is a link as this layout has them.
    fn is_our_link(&self, name: &str) -> Result<bool, Errno> {
        let target = link_target(self.at(), name)?;
        Ok(target.is_some_and(|target| {
            target.strip_prefix(DATA).and_then(|rest| rest.strip_prefix('/')) == Some(name)
        }))
    }

    /// Removes our files of a generation, then its folders. What else somebody put there stays, and is
    /// theirs from then on. False when one of our files cannot be removed yet: something is mounted on
    /// it, or it was made immutable.
    fn remove_generation(&self, name: &str, files: &BTreeSet<String>) -> Result<bool> {
        let failed = |error| self.directory.failed_at("remove", name, error);
        let root: OwnedFd = match folder(self.at(), name) {
            Ok(root) => root,
            Err(error) if is_no_folder(error) => return Ok(true),
            Err(error) => return Err(failed(error)),
        };
        let mut opened = Folders::below(&root);
        let mut all = true;
        for path in files {
            match opened.of(path).and_then(|(at, name)| remove(at, name, AtFlags::empty())) {
                Err(Errno::ISDIR | Errno::PERM | Errno::BUSY) => {
                    // A directory in its place is not ours.
                    let there = look_below(&mut opened, path).map_err(failed)?;
                    all &= !there.is_some_and(|found| is_file(&found));
                }
                // A folder of it is none any more.
                Err(error) if is_no_folder(error) => {}
                outcome => outcome.map_err(failed)?,
            }
        }
        let shown = printable(name, 64);
        let directory = self.directory.shown();
        if !all {
            tracing::warn!(directory, generation = shown, "old values cannot be removed yet");
            return Ok(false);
        }
        let inner = folders(files.iter().map(String::as_str));
        for path in inner.into_iter().rev() {
            let (parent, last) = split(path);
            let gone = folder(root.as_fd(), parent)
                .and_then(|at| remove(at.as_fd(), last, AtFlags::REMOVEDIR));
            match gone {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {}
                Err(error) if is_no_folder(error) => {}
                outcome => outcome.map_err(failed)?,
            }
        }
        match remove(self.at(), name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {
                tracing::warn!(
                    directory,
                    generation = shown,
                    "others have put something among our files: it is left there"
                );
            }
            outcome => outcome.map_err(failed)?,
        }
        Ok(true)
    }

    fn flush(&self, opened: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.directory.is_memory() { Ok(()) } else { rustix::fs::fsync(opened) }
    }
}

/// The first path elements: the names of the visible links.
fn firsts<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    paths.map(|path| path.split('/').next().unwrap_or(path)).collect()
}

/// A name for a new generation, in kubelet's form.
fn name() -> Result<String> {
    let time = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let mut bytes = [0; 4];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::new(Code::Internal, "the system gives no random numbers"))?;
    Ok(format!("{time}.{}", u32::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_named_as_kubelet_names_them() {
        let name = name().unwrap();
        let (time, random) = name.split_once('.').and(name.rsplit_once('.')).unwrap();
        assert_eq!(time.len(), "..2026_01_31_12_00_00".len(), "{name}");
        assert!(random.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
        assert_eq!(time.matches('_').count(), 5, "{name}");
    }
}
