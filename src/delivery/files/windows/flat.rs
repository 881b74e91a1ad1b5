//! Plain files, each replaced on its own by one rename.
//!
//! New contents are written into our own folder first, so that a full disk is noticed before anything is
//! seen. Then the ledger names what is about to appear and to go, with the files' numbers:
//! [`Flat::settle`] can tell after a crash which of two files of one name is ours. What stands where a new
//! file or folder goes is removed first, the rest last. Folders that were there already are used and never
//! removed. Names are compared as Windows does, without their case.
//!
//! A file that a reader holds open often cannot be replaced. That is tried again for a while, and then is an
//! error that names the file: it keeps its old contents, and the others are what they should be.

mod survey;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::super::ledger::{MAX, OWN, is_below, parents};
use super::super::{File, Place, Written};
use super::ledger::{self, Ledger};
use super::{Disk, Kind};
use crate::class::paths::Rules;
use crate::error::{Code, Error, Result, printable};
use survey::{Set, Work, wanted};

const LEDGER: &str = "..akvfs/ledger.json";
const LEDGER_STAGED: &str = "..akvfs/ledger.tmp";
const LOCK: &str = "..akvfs/lock";
/// How long files in use are waited for, all of one write together.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A directory and what in it is ours.
pub(super) struct Flat<D> {
    disk: D,
    /// The directory, for messages.
    shown: String,
    ledger: Ledger,
    /// What failed writes have done: the next one that succeeds tells it.
    untold: Written,
}

/// What went wrong with single files. The first one is told.
#[derive(Default)]
struct Failures {
    first: Option<(String, io::Error)>,
    more: usize,
    waited: Duration,
}

impl<D: Disk> Flat<D> {
    /// Takes the directory, and removes what a crash has left.
    pub(super) fn open(disk: D, place: Place, shown: String) -> Result<Self> {
        let mut flat = Self { disk, shown, ledger: Ledger::default(), untold: Written::default() };
        let names = flat.disk.names("").map_err(|error| flat.failed("list", "", &error))?;
        match flat.look(OWN)? {
            Some(Kind::Folder) => {}
            Some(_) => return Err(flat.in_the_way(OWN)),
            None => {
                if let (Place::CsiTarget, Some(name)) = (place, names.first()) {
                    let name = printable(name, 256);
                    return Err(flat
                        .refused("", &format!("holds {name}, which akvfs did not write"))
                        .fix("a pod keeps the mount mode it began with: start it anew"));
                }
                let made = flat.disk.make_folder(OWN);
                made.map_err(|error| flat.failed("make", OWN, &error))?;
            }
        }
        flat.disk.lock(LOCK).map_err(|error| match is_in_use(&error) {
            true => flat
                .refused("", "is written by another akvfs")
                .fix("stop the other one, or give each a directory of its own"),
            false => flat.failed("lock", LOCK, &error),
        })?;
        flat.ledger = flat.load()?;
        flat.settle()?;
        flat.clean()?;
        Ok(flat)
    }

    /// Makes the directory hold exactly these files. What it says includes what was done by writes before it
    /// that failed.
    pub(super) fn write(&mut self, files: &[File<'_>]) -> Result<Written> {
        let set = wanted(files)?;
        let work = self.survey(&set)?;
        if work.is_empty() {
            return Ok(std::mem::take(&mut self.untold));
        }
        let mut written = Written::default();
        let done = self.stage(&work).and_then(|()| {
            self.announce(&work)?;
            self.carry_out(&set, &work, &mut written)
        });
        // Whatever has happened, the ledger says what is there, and nothing staged stays.
        let settled = self.settle();
        let cleaned = self.clean();
        written.also(std::mem::take(&mut self.untold));
        match done.and(settled).and(cleaned) {
            Ok(()) => Ok(written),
            Err(error) => {
                self.untold = written;
                Err(error)
            }
        }
    }

    /// What failed writes have done, and nobody was told.
    pub(super) fn take_untold(&mut self) -> Written {
        std::mem::take(&mut self.untold)
    }

    /// Writes the new contents where nobody looks.
    fn stage(&mut self, work: &Work<'_>) -> Result<()> {
        // Files that are not named by the stored ledger are removed by `clean` only.
        let mut adding = BTreeMap::new();
        for (index, file) in work.new_files().enumerate() {
            let number = self
                .disk
                .create(&staged(index), file.contents)
                .map_err(|error| self.failed("write", &file.path, &error))?;
            if index < work.adding.len() {
                adding.insert(file.path.clone(), number);
            }
        }
        self.ledger.adding = adding;
        Ok(())
    }

    /// Stores what is about to be done.
    fn announce(&mut self, work: &Work<'_>) -> Result<()> {
        self.ledger.removing = work.removing.clone();
        let ledger = &mut self.ledger;
        ledger.files.retain(|path| !work.gone.contains(path) && !ledger.adding.contains_key(path));
        self.ledger.folders.extend(work.folders.iter().cloned());
        self.store()
    }

    fn carry_out(&self, set: &Set<'_>, work: &Work<'_>, written: &mut Written) -> Result<()> {
        let mut failures = Failures::default();
        let (first, last): (Vec<_>, Vec<_>) =
            work.removing.keys().partition(|path| in_the_way_of(path, set));
        self.remove(&first, &mut failures, written);
        let stands_for_a_file = |folder: &&String| {
            let folder = id(folder);
            set.contains_key(&folder) || parents(&folder).any(|above| set.contains_key(above))
        };
        for folder in self.ledger.folders.iter().rev().filter(stands_for_a_file) {
            // One that is not empty is noticed by the rename.
            let _ = self.disk.remove_folder(folder);
        }
        for folder in &work.folders {
            match self.disk.make_folder(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    failures.note(folder, error);
                }
                _ => {}
            }
        }
        for (index, file) in work.new_files().enumerate() {
            let replaces = index >= work.adding.len();
            let renamed = self.patiently(&mut failures.waited, || {
                self.disk.rename(&staged(index), &file.path, replaces)
            });
            match renamed {
                Ok(()) if replaces => written.changed.push(file.given.to_owned()),
                Ok(()) => written.added.push(file.given.to_owned()),
                Err(error) => failures.note(&file.path, error),
            }
        }
        self.remove(&last, &mut failures, written);
        match failures.first {
            None => Ok(()),
            Some((path, error)) => Err(self.not_written(&path, &error, failures.more)),
        }
    }

    fn remove(&self, paths: &[&String], failures: &mut Failures, written: &mut Written) {
        for path in paths {
            match self.patiently(&mut failures.waited, || self.disk.remove_file(path)) {
                Ok(()) => written.removed.push((*path).clone()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    written.removed.push((*path).clone());
                }
                Err(error) => failures.note(path, error),
            }
        }
    }

    /// Makes the ledger say what is there, after a write or a crash, and removes emptied folders of ours.
    fn settle(&mut self) -> Result<()> {
        let before = self.ledger.clone();
        for (path, number) in std::mem::take(&mut self.ledger.adding) {
            if self.is_file(&path, number)? {
                self.ledger.files.insert(path);
            }
        }
        for (path, number) in std::mem::take(&mut self.ledger.removing) {
            if !self.is_file(&path, number)? {
                self.ledger.files.remove(&path);
            }
        }
        let needed = |folder: &str| self.ledger.files.iter().any(|file| is_below(file, folder));
        let unneeded: Vec<String> =
            self.ledger.folders.iter().rev().filter(|f| !needed(f)).cloned().collect();
        for folder in unneeded {
            let gone = match self.look(&folder)? {
                Some(Kind::Folder) => match self.disk.remove_folder(&folder) {
                    Ok(()) => true,
                    Err(error) => error.kind() == io::ErrorKind::NotFound,
                },
                // Nothing, or something that is not ours.
                _ => true,
            };
            if gone {
                self.ledger.folders.remove(&folder);
            }
        }
        if self.ledger != before { self.store() } else { Ok(()) }
    }

    fn is_file(&self, path: &str, number: u64) -> Result<bool> {
        let found = self.disk.look(path).map_err(|error| self.failed("look at", path, &error))?;
        Ok(found.is_some_and(|found| found.kind == Kind::File && found.number == number))
    }

    fn look(&self, path: &str) -> Result<Option<Kind>> {
        let found = self.disk.look(path).map_err(|error| self.failed("look at", path, &error))?;
        Ok(found.map(|found| found.kind))
    }

    fn load(&self) -> Result<Ledger> {
        match self.look(LEDGER)? {
            None => return Ok(Ledger::default()),
            Some(Kind::File) => {}
            Some(_) => return Err(self.in_the_way(LEDGER)),
        }
        let text = self.disk.read(LEDGER, MAX + 1);
        let text = text.map_err(|error| self.failed("read", LEDGER, &error))?;
        ledger::read(&text).ok_or_else(|| {
            self.refused("", r"has a ledger (..akvfs\ledger.json) that this akvfs cannot read").fix(
                "remove everything in the directory, with its hidden names, or give another one",
            )
        })
    }

    /// The old ledger or the new one is there, whatever happens.
    fn store(&self) -> Result<()> {
        let text = ledger::text(&self.ledger)
            .ok_or_else(|| Error::new(Code::TooLarge, "the files' names are too long together"))?;
        let mut waited = Duration::ZERO;
        let stored = match self.disk.remove_file(LEDGER_STAGED) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.disk.create(LEDGER_STAGED, &text).map(drop),
        };
        stored
            .and_then(|()| {
                self.patiently(&mut waited, || self.disk.rename(LEDGER_STAGED, LEDGER, true))
            })
            .map_err(|error| self.failed("write", LEDGER, &error))
    }

    /// Removes what was staged and not shown.
    fn clean(&self) -> Result<()> {
        let names = self.disk.names(OWN).map_err(|error| self.failed("list", OWN, &error))?;
        for name in names {
            if name.starts_with("new.") || name == "ledger.tmp" {
                let path = format!("{OWN}/{name}");
                match self.disk.remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(self.failed("remove", &path, &error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Tries again what another program keeps from being done, while the write still has time for it.
    fn patiently(
        &self,
        waited: &mut Duration,
        mut work: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut pause = PAUSE.0;
        loop {
            match work() {
                Err(error) if is_in_use(&error) && *waited + pause <= PATIENCE => {
                    self.disk.pause(pause);
                    *waited += pause;
                    pause = (pause * 2).min(PAUSE.1);
                }
                outcome => return outcome,
            }
        }
    }

    fn not_written(&self, path: &str, error: &io::Error, more: usize) -> Error {
        let and = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        let shown = self.at(path);
        if error.kind() == io::ErrorKind::AlreadyExists {
            return self.in_the_way(path);
        }
        if is_in_use(error) {
            let text = format!("{shown}{and} is in use, or its access list keeps akvfs out");
            return Error::new(Code::Local, text).fix(
                "programs that read it must share deletion (FILE_SHARE_DELETE) or close it; akvfs \
                 tries again at the next look",
            );
        }
        Error::new(Code::Local, format!("cannot write {shown}{and}: {error}"))
    }

    fn failed(&self, what: &str, path: &str, error: &io::Error) -> Error {
        Error::new(Code::Local, format!("cannot {what} {}: {error}", self.at(path)))
    }

    fn in_the_way(&self, path: &str) -> Error {
        self.refused(path, "is in the way: akvfs did not write it")
            .fix("move it away, or give the object another objectAlias")
    }

    fn refused(&self, path: &str, why: &str) -> Error {
        Error::new(Code::PlaceRefused, format!("{} {why}", self.at(path)))
    }

    fn at(&self, path: &str) -> String {
        match path {
            "" => self.shown.clone(),
            _ => format!("{}\\{}", self.shown, printable(&path.replace('/', "\\"), 512)),
        }
    }
}

impl Failures {
    fn note(&mut self, path: &str, error: io::Error) {
        match self.first {
            None => self.first = Some((path.to_owned(), error)),
            Some(_) => self.more += 1,
        }
    }
}

/// Whether something must go before the set can stand: a file where a folder goes, a file in a folder
/// where a file goes, or the same file in another spelling.
fn in_the_way_of(path: &str, set: &Set<'_>) -> bool {
    let path = id(path);
    set.contains_key(&path)
        || parents(&path).any(|folder| set.contains_key(folder))
        || set.keys().any(|file| is_below(file, &path))
}

fn id(path: &str) -> String {
    Rules::Windows.identity(path)
}

fn staged(index: usize) -> String {
    format!("{OWN}/new.{index}")
}

/// Windows' ways to say that somebody else has the file open. "Access denied" is one of them.
fn is_in_use(error: &io::Error) -> bool {
    const ACCESS_DENIED: i32 = 5;
    const SHARING_VIOLATION: i32 = 32;
    const LOCK_VIOLATION: i32 = 33;
    const DELETE_PENDING: i32 = 303;
    const USER_MAPPED_FILE: i32 = 1224;
    matches!(
        error.raw_os_error(),
        Some(
            ACCESS_DENIED | SHARING_VIOLATION | LOCK_VIOLATION | DELETE_PENDING | USER_MAPPED_FILE
        )
    )
}

#[cfg(test)]
mod tests;
