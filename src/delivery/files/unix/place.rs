//! The directory that is written: found safely, checked, and held by its descriptor.
//!
//! A directory is safe when nobody but root and ourselves can put something else in its place or into
//! it: that is asked of the directory and of everything above it, as sshd does for its key files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RawMode, Stat, fstat, openat};
use rustix::io::Errno;

use super::super::Place;
use super::super::ledger::OWN;
use super::beneath::{FOLDER, is_no_folder, look, make_folder, names, words};
use crate::error::{Code, Error, Result, printable};

/// The directory.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    /// Where it was, without links.
    path: PathBuf,
    /// Whether its files are only in memory.
    memory: bool,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    /// Finds, checks and opens the directory; a user's is made when it is absent.
    pub(super) fn open(path: &Path, place: Place) -> Result<Self> {
        let path = without_links(path)?;
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (walk(parent)?, name),
            _ => return Err(refused(&path, "cannot hold our files").fix("give another directory")),
        };
        if look(parent.as_fd(), name).map_err(|error| failed("look at", &path, error))?.is_none()
            && place == Place::Directory
        {
            match make_folder(parent.as_fd(), name) {
                // Somebody was faster; it is checked like any other.
                Ok(_) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("make", &path, error)),
            }
        }
        let fd = openat(&parent, name, FOLDER, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => refused(&path, "is a symbolic link, or no directory")
                .fix("give the directory itself"),
            error => failed("open", &path, error),
        })?;
        let found = fstat(&fd).map_err(|error| failed("look at", &path, error))?;
        let memory = in_memory(fd.as_fd());
        let directory = Self { fd, path, memory };
        match place {
            Place::Directory => is_safe(&found, &directory.path, false)?,
            Place::CsiTarget => {
                let above = fstat(&parent).map_err(|e| failed("look at", &directory.path, e))?;
                directory.is_csi_target(&found, &above)?;
            }
        }
        Ok(directory)
    }

    /// The driver's tmpfs: mounted here, and holding nothing or what we wrote.
    fn is_csi_target(&self, found: &Stat, above: &Stat) -> Result<()> {
        if !self.memory || found.st_dev == above.st_dev {
            return Err(refused(&self.path, "is not the tmpfs that the CSI driver mounts").fix(
                "share the kubelet's pods directory with the provider, with mount propagation \
                 HostToContainer",
            ));
        }
        // Its root is for everybody to write, but only root gets there from the host.
        is_safe(found, &self.path, true)?;
        let names = names(self.as_fd()).map_err(|error| self.failed("list", error))?;
        let foreign = names.iter().find(|name| name.to_bytes() != OWN.as_bytes());
        let ours = foreign.is_none() || super::ledger::is_in(self)?;
        match foreign.filter(|_| !ours) {
            None => Ok(()),
            Some(name) => Err(refused(
                &self.path,
                &format!(
                    "holds {}, which akvfs did not write",
                    printable(&name.to_string_lossy(), 256)
                ),
            )
            .fix("a pod keeps the mount mode it began with: start it anew")),
        }
    }

    /// Whether files here are only in memory, so that they need no flushing and leave no trace.
    pub(super) fn is_memory(&self) -> bool {
        self.memory
    }

    /// Fails when the path leads somewhere else by now.
    pub(super) fn still_named(&self) -> Result<()> {
        let same = |found: Stat| {
            fstat(&self.fd)
                .is_ok_and(|own| (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
        };
        let found = rustix::fs::statat(CWD, &self.path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(same) {
            return Ok(());
        }
        Err(refused(&self.path, "was replaced while akvfs wrote it")
            .fix("let nothing else rename or mount over the directory, and start again"))
    }

    /// The error of something that was done in the directory.
    pub(super) fn failed(&self, what: &str, error: Errno) -> Error {
        failed(what, &self.path, error)
    }

    /// The same of something in it.
    pub(super) fn failed_at(&self, what: &str, name: &str, error: Errno) -> Error {
        failed(what, &self.path.join(name), error)
    }

    /// The error of something that is not ours and stands where ours should.
    pub(super) fn in_the_way(&self, name: &str) -> Error {
        refused(&self.path.join(name), "is in the way: akvfs did not write it")
            .fix("move it away, or give the object another objectAlias")
    }

    /// The error of too many old generations that cannot be removed.
    pub(super) fn full_of_old(&self) -> Error {
        refused(&self.path, "holds too many old values that cannot be removed")
            .fix("unmount what is mounted on its files (findmnt), and make none of them immutable")
    }

    /// Fails when others may write a folder, or put another in its place.
    pub(super) fn folder_is_safe(&self, name: &str, found: &Stat) -> Result<()> {
        let own = fstat(&self.fd).map_err(|error| self.failed("look at", error))?;
        if own.st_dev != found.st_dev {
            return Err(refused(&self.path.join(name), "is another file system"));
        }
        is_safe(found, &self.path.join(name), false)
    }

    /// Its path, for messages.
    pub(super) fn shown(&self) -> String {
        shown(&self.path)
    }
}

/// Fails unless the directory belongs to root or to us and nobody else may write it.
fn is_safe(found: &Stat, path: &Path, sticky_is_enough: bool) -> Result<()> {
    if found.st_uid != 0 && found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refused(path, &format!("belongs to the user with number {}", found.st_uid))
            .fix("give it to the user that akvfs runs as, or run akvfs as its owner"));
    }
    let (others, sticky): (RawMode, RawMode) = (0o022, 0o1000);
    if found.st_mode & others != 0 && !(sticky_is_enough && found.st_mode & sticky != 0) {
        let mode = found.st_mode & 0o7777;
        return Err(refused(
            path,
            &format!("may be written by its group or by others (mode {mode:o})"),
        )
        .fix(format!("chmod go-w {}", shown(path))));
    }
    Ok(())
}

/// The path with every link above its last name resolved.
fn without_links(path: &Path) -> Result<PathBuf> {
    let resolve = |path: &Path| {
        std::fs::canonicalize(path).map_err(|error| {
            failed("find", path, Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
    };
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent == Path::new("") => {
            Ok(resolve(Path::new("."))?.join(name))
        }
        (Some(parent), Some(name)) => Ok(resolve(parent)?.join(name)),
        _ => resolve(path),
    }
}

/// Looking is enough for what lies above the directory.
#[cfg(any(target_os = "linux", target_os = "android"))]
const PASS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const PASS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW);

/// Opens a directory step by step from the root and checks each step.
fn walk(path: &Path) -> Result<OwnedFd> {
    let mut so_far = PathBuf::from("/");
    let mut current = openat(CWD, "/", PASS | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open", &so_far, error))?;
    let check = |fd: &OwnedFd, path: &Path| {
        let found = fstat(fd).map_err(|error| failed("look at", path, error))?;
        is_safe(&found, path, true)
    };
    check(&current, &so_far)?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        so_far.push(name);
        current = openat(&current, name, PASS | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open", &so_far, error))?;
        check(&current, &so_far)?;
    }
    Ok(current)
}

#[cfg(target_os = "linux")]
fn in_memory(fd: BorrowedFd<'_>) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    // The type's width differs between platforms.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    rustix::fs::fstatfs(fd).is_ok_and(|found| matches!(found.f_type as i64, TMPFS | RAMFS))
}

/// Unknown elsewhere.
#[cfg(not(target_os = "linux"))]
fn in_memory(_: BorrowedFd<'_>) -> bool {
    false
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy(), 512)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(Code::PlaceRefused, format!("{} {why}", shown(path)))
}

/// The error of a system call, with what usually helps.
fn failed(what: &str, path: &Path, error: Errno) -> Error {
    let text = format!("cannot {what} {}: {}", shown(path), words(error));
    let fix = match error {
        Errno::NOSPC | Errno::DQUOT => "make room there, or make the file system larger",
        Errno::ROFS => "mount the file system read-write, or give another directory",
        Errno::ACCESS | Errno::PERM => "run akvfs as root or as the directory's owner",
        Errno::NOENT if what == "find" => "make the parent directory first",
        Errno::NOENT => "let no other program remove files there",
        Errno::NAMETOOLONG => "give the objects shorter names by objectAlias",
        Errno::XDEV => "unmount what is mounted in the directory",
        Errno::MFILE | Errno::NFILE => "raise the limit of open files",
        error if is_no_folder(error) => "let no other program change files there",
        _ => "see the system's log",
    };
    Error::new(Code::Local, text).fix(fix)
}
