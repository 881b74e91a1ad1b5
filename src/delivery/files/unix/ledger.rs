//! The ledger: what in the directory is ours.
//!
//! It stands in our own folder `..akvfs` (0700), so that who watches the directory sees nothing of it.
//! It names a thing before the thing is made and until it is gone, and holds no value and no hash of
//! one. The same folder takes files before a rename shows them, and is what two writers of one
//! directory lock.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, fstat, openat, renameat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::super::ledger::{self as shared, MAX, OWN, VERSION};
use super::super::{File, Layout};
use super::beneath::{create, folder, kind, look, names, remove};
use super::place::Directory;
use crate::class::FilePath;
use crate::error::{Code, Error, Result};

const NAME: &str = "ledger.json";
const TEMPORARY: &str = "ledger.tmp";

/// What is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) atomic: Option<Atomic>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) flat: Option<Flat>,
}

/// In the atomic layout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Atomic {
    /// Generation directories and the files in each. More than one while something is
    /// written, or while an old one cannot be removed.
    pub(super) generations: BTreeMap<String, BTreeSet<String>>,
    /// Visible links.
    pub(super) links: BTreeSet<String>,
}

/// In the flat layout.
pub(super) type Flat = shared::Flat<Mark>;

/// Tells one file from another of the same name: its inode, whose number may be used again, and the
/// time in nanoseconds when it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark(u64, i64);

impl Mark {
    /// The types' widths differ between platforms.
    #[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap)]
    pub(super) fn of(found: &Stat) -> Self {
        let time = (found.st_mtime as i64).wrapping_mul(1_000_000_000);
        Self(found.st_ino as u64, time.wrapping_add(found.st_mtime_nsec as i64))
    }
}

impl From<Atomic> for Ledger {
    fn from(atomic: Atomic) -> Self {
        Self { version: VERSION, atomic: Some(atomic), flat: None }
    }
}

impl From<Flat> for Ledger {
    fn from(flat: Flat) -> Self {
        Self { version: VERSION, atomic: None, flat: Some(flat) }
    }
}

impl Ledger {
    fn new(layout: Layout) -> Self {
        match layout {
            Layout::Atomic => Atomic::default().into(),
            Layout::Flat => Flat::default().into(),
        }
    }

    /// Whether it could have been written by us: names are used without another check.
    fn is_sound(&self) -> bool {
        let clean = |path: &String| FilePath::parse(path).is_ok();
        self.atomic.iter().all(|atomic| {
            atomic.links.iter().all(|link| clean(link) && !link.contains('/'))
                && atomic
                    .generations
                    .iter()
                    .all(|(name, files)| is_generation(name) && files.iter().all(clean))
        }) && self.flat.iter().all(|flat| flat.paths().all(clean))
            && self.atomic.is_some() != self.flat.is_some()
    }
}

/// Two dots, a time and a random number.
fn is_generation(name: &str) -> bool {
    let digits = name.strip_prefix("..").unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_' || b == b'.')
}

/// Whether the directory shows a state of another atomic writer: `..data` names none of ours.
pub(super) fn is_anothers(directory: &Path) -> bool {
    let Ok(current) = std::fs::read_link(directory.join("..data")) else { return false };
    let ledger = std::fs::read(directory.join(OWN).join(NAME)).ok();
    let ledger = ledger.and_then(|text| serde_json::from_slice::<Ledger>(&text).ok());
    let atomic = ledger.and_then(|ledger| ledger.atomic);
    !current.to_str().zip(atomic).is_some_and(|(name, ours)| ours.generations.contains_key(name))
}

/// Our own folder, locked.
#[derive(Debug)]
pub(super) struct Own {
    fd: OwnedFd,
    durable: bool,
}

/// Whether the directory has a ledger.
pub(super) fn is_in(directory: &Directory) -> Result<bool> {
    let path = format!("{OWN}/{NAME}");
    super::beneath::look_below(&mut super::beneath::Folders::below(directory), &path)
        .map(|found| found.is_some())
        .map_err(|error| directory.failed_at("look at", &path, error))
}

impl Own {
    /// Opens and locks it; makes it when it is absent.
    pub(super) fn open(directory: &Directory) -> Result<Self> {
        let failed = |error| directory.failed_at("open", OWN, error);
        match rustix::fs::mkdirat(directory, OWN, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => {}
            // Of a directory that cannot be written only what is there already counts.
            Err(error) if look(directory.as_fd(), OWN).is_ok_and(|found| found.is_none()) => {
                return Err(directory.failed("write in", error));
            }
            Ok(()) | Err(_) => {}
        }
        let fd = folder(directory.as_fd(), OWN).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP | Errno::XDEV => directory.in_the_way(OWN),
            error => failed(error),
        })?;
        directory.folder_is_safe(OWN, &fstat(&fd).map_err(failed)?)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::new(
                    Code::Local,
                    format!("another akvfs is writing {}", directory.shown()),
                )
                .fix("stop the other one, or give each a directory of its own"));
            }
            Err(error) => return Err(directory.failed_at("lock", OWN, error)),
        }
        let own = Self { fd, durable: !directory.is_memory() };
        own.still_there(directory)?;
        Ok(own)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Fails when the folder was removed, and with it the lock and the ledger.
    pub(super) fn still_there(&self, directory: &Directory) -> Result<()> {
        let own = fstat(&self.fd).map_err(|error| directory.failed_at("look at", OWN, error))?;
        match look(directory.as_fd(), OWN) {
            Ok(Some(found)) if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino) => Ok(()),
            _ => Err(Error::new(
                Code::PlaceRefused,
                format!("{} was emptied by another program", directory.shown()),
            )
            .fix("start again, and let no other program write there")),
        }
    }

    /// Reads the ledger; a new one when there is none.
    pub(super) fn load(&self, directory: &Directory, layout: Layout) -> Result<Ledger> {
        let path = format!("{OWN}/{NAME}");
        let failed = |error| directory.failed_at("read", &path, error);
        let unusable = |why: &str| {
            Error::new(Code::PlaceRefused, format!("{} {why}", directory.shown())).fix(
                "remove everything in the directory, with its hidden names, or give another one",
            )
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.fd, NAME, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Ledger::new(layout)),
            Err(Errno::LOOP) => return Err(directory.in_the_way(&path)),
            Err(error) => return Err(failed(error)),
        };
        let found = fstat(&file).map_err(failed)?;
        if kind(&found) != FileType::RegularFile {
            return Err(directory.in_the_way(&path));
        }
        let mut text = Vec::new();
        let mut limited = std::io::Read::take(std::fs::File::from(file), MAX as u64 + 1);
        std::io::Read::read_to_end(&mut limited, &mut text)
            .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        let ledger = serde_json::from_slice::<Ledger>(&text).ok().filter(Ledger::is_sound);
        let Some(ledger) = ledger.filter(|ledger| ledger.version == VERSION) else {
            return Err(unusable("has a ledger (..akvfs/ledger.json) that this akvfs cannot read"));
        };
        match (layout, &ledger.atomic) {
            (Layout::Atomic, Some(_)) | (Layout::Flat, None) => Ok(ledger),
            _ => Err(unusable("was written with the other layout")),
        }
    }

    /// Puts `next` in place of the ledger where it differs, on the disk first.
    pub(super) fn replace(
        &self,
        directory: &Directory,
        ledger: &mut Ledger,
        next: Ledger,
    ) -> Result<()> {
        if next != *ledger {
            self.store(directory, &next)?;
            *ledger = next;
        }
        Ok(())
    }

    /// Writes the ledger: the old one or the new one is there, whatever happens.
    fn store(&self, directory: &Directory, ledger: &Ledger) -> Result<()> {
        let failed = |error| directory.failed_at("write", &format!("{OWN}/{NAME}"), error);
        let text = serde_json::to_vec(ledger)
            .map_err(|_| Error::new(Code::Internal, "the ledger cannot be written as JSON"))?;
        if text.len() > MAX {
            return Err(Error::new(Code::TooLarge, "the files' names are too long together"));
        }
        let file = File { path: NAME, mode: 0o600, contents: &text };
        let stored = remove(self.as_fd(), TEMPORARY, AtFlags::empty())
            .and_then(|()| create(self.as_fd(), TEMPORARY, &file, None, self.durable))
            .and_then(|_| renameat(&self.fd, TEMPORARY, &self.fd, NAME))
            .and_then(|()| self.flush());
        stored.map_err(|error| {
            // The error counts; the next one to open the directory tries again.
            let _ = remove(self.as_fd(), TEMPORARY, AtFlags::empty());
            failed(error)
        })
    }

    fn flush(&self) -> Result<(), Errno> {
        if self.durable { rustix::fs::fsync(&self.fd) } else { Ok(()) }
    }

    /// Removes what a write that did not end has left in the folder.
    pub(super) fn clean(&self, directory: &Directory) -> Result<()> {
        let failed = |error| directory.failed_at("clean up", OWN, error);
        for name in names(self.as_fd()).map_err(failed)? {
            if name.to_bytes() != NAME.as_bytes() {
                match rustix::fs::unlinkat(&self.fd, name.as_c_str(), AtFlags::empty()) {
                    // A directory is nothing that we made.
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::PERM) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(())
    }
}
