//! File operations below an opened directory. Nothing here follows a symbolic link, leaves the
//! directory or crosses into another file system, and no path is looked up twice for one purpose: a
//! folder is opened once, and what is done in it is done by its descriptor and one plain name.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::super::File;
use super::super::Owner;
use super::super::ledger::parents;
use super::super::set::split;

/// What every folder is opened with.
pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Mode of the folders that are made, as kubelet's: the files' own modes guard them.
pub(super) const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);

/// Opens a folder by its path below the root; the empty path is the root.
pub(super) fn folder(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags;
        let here = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(root, here, FOLDER, Mode::empty(), resolve) {
            // Before Linux 5.6, and below container runtimes that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => {}
            outcome => return outcome,
        }
    }
    step_by_step(root, path)
}

/// The same where the kernel cannot be told how to look a path up.
fn step_by_step(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let device = rustix::fs::fstat(root)?.st_dev;
    let mut current = openat(root, ".", FOLDER, Mode::empty())?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        current = openat(&current, name, FOLDER, Mode::empty())?;
        if rustix::fs::fstat(&current)?.st_dev != device {
            return Err(Errno::XDEV);
        }
    }
    Ok(current)
}

/// Opens the folders of many files, each folder once as long as its files follow each other.
pub(super) struct Folders<'a> {
    root: BorrowedFd<'a>,
    last: Option<(String, OwnedFd)>,
}

impl<'a> Folders<'a> {
    pub(super) fn below(root: &'a impl AsFd) -> Self {
        Self { root: root.as_fd(), last: None }
    }

    /// The file's folder, opened, and its name there.
    pub(super) fn of<'p>(&mut self, path: &'p str) -> Result<(BorrowedFd<'_>, &'p str), Errno> {
        let (parent, name) = split(path);
        if parent.is_empty() {
            return Ok((self.root, name));
        }
        let kept = self.last.take().filter(|(path, _)| path == parent);
        let opened = match kept {
            Some(kept) => kept,
            None => (parent.to_owned(), folder(self.root, parent)?),
        };
        let (_, fd) = &*self.last.insert(opened);
        Ok((fd.as_fd(), name))
    }
}

/// What stands at a name, itself and not what it points to.
pub(super) fn look(
    at: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> Result<Option<Stat>, Errno> {
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        // A folder on the way is gone, or has become something else.
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stands at a path below the root; nothing when a folder on the way is missing or is none.
pub(super) fn look_below(folders: &mut Folders<'_>, path: &str) -> Result<Option<Stat>, Errno> {
    match folders.of(path) {
        Ok((at, name)) => look(at, name),
        Err(error) if is_no_folder(error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a folder could not be opened since there is none.
pub(super) fn is_no_folder(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

pub(super) fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

pub(super) fn is_file(found: &Stat) -> bool {
    kind(found) == FileType::RegularFile
}

/// Whether a regular file is exactly as it should be.
pub(super) fn is_as(
    at: BorrowedFd<'_>,
    name: &str,
    file: &File<'_>,
    owner: Option<Owner>,
) -> Result<bool, Errno> {
    // A pipe that somebody put there must not be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match openat(at, name, flags, Mode::empty()) {
        Ok(opened) => opened,
        // One whose mode keeps even us out is written again.
        Err(Errno::ACCESS | Errno::LOOP | Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error),
    };
    let found = rustix::fs::fstat(&opened)?;
    let owned = owner.is_none_or(|owner| (found.st_uid, found.st_gid) == (owner.uid, owner.gid));
    if !is_file(&found)
        || found.st_mode & 0o7777 != rustix::fs::RawMode::try_from(file.mode).unwrap_or_default()
        || !owned
        || u64::try_from(found.st_size).ok() != u64::try_from(file.contents.len()).ok()
    {
        return Ok(false);
    }
    let mut buffer = Zeroizing::new(vec![0_u8; file.contents.len().clamp(1, 16 * 1024)]);
    let mut rest = file.contents;
    loop {
        let count = match rustix::io::read(&opened, &mut buffer[..]) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
            return Ok(rest.is_empty());
        };
        match rest.strip_prefix(read) {
            Some(after) => rest = after,
            None => return Ok(false),
        }
    }
}

/// Makes a file that is not there yet. Its mode and owner are final before it holds a byte.
pub(super) fn create(
    at: BorrowedFd<'_>,
    name: &str,
    file: &File<'_>,
    owner: Option<Owner>,
    durable: bool,
) -> Result<Stat, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(at, name, flags, Mode::from_raw_mode(0o600))?;
    // Whatever the umask is.
    let mode = rustix::fs::RawMode::try_from(file.mode).unwrap_or_default();
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
    if let Some(Owner { uid, gid }) = owner {
        let uid = rustix::fs::Uid::from_raw(uid);
        rustix::fs::fchown(&made, Some(uid), Some(rustix::fs::Gid::from_raw(gid)))?;
    }
    let mut rest = file.contents;
    while !rest.is_empty() {
        let count = match rustix::io::write(&made, rest) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        rest = rest.get(count..).unwrap_or_default();
    }
    if durable {
        rustix::fs::fsync(&made)?;
    }
    rustix::fs::fstat(&made)
}

/// How files that were just written are made to last on a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// In memory nothing has to be done.
    Never,
    /// Each file and folder by itself.
    Each,
    /// The whole file system, once: much faster for many files.
    Once,
}

impl Flush {
    /// What suits this many files.
    pub(super) fn of(count: usize, memory: bool) -> Self {
        match (memory, count) {
            (true, _) => Flush::Never,
            (false, 65..) if cfg!(target_os = "linux") => Flush::Once,
            (false, _) => Flush::Each,
        }
    }

    /// Flushes the file system if that is how it is done.
    pub(super) fn once(self, at: BorrowedFd<'_>) -> Result<(), Errno> {
        #[cfg(target_os = "linux")]
        if self == Flush::Once {
            return rustix::fs::syncfs(at);
        }
        let _ = at;
        Ok(())
    }
}

/// Makes a folder with its final mode, whatever the umask is, and opens it.
pub(super) fn make_folder(
    at: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o700))?;
    let made = openat(at, name, FOLDER, Mode::empty())?;
    rustix::fs::fchmod(&made, FOLDER_MODE)?;
    Ok(made)
}

/// Makes the folders of a path that are not in `there` yet, and adds them to it.
pub(super) fn make_folders<'p>(
    root: BorrowedFd<'_>,
    path: &'p str,
    there: &mut BTreeSet<&'p str>,
) -> Result<(), Errno> {
    for path in parents(path) {
        if !there.contains(path) {
            let (parent, name) = split(path);
            make_folder(folder(root, parent)?.as_fd(), name)?;
            there.insert(path);
        }
    }
    Ok(())
}

/// Removes a file, link or empty folder; one that is gone already is fine.
pub(super) fn remove(at: BorrowedFd<'_>, name: &str, flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(at, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

/// The target of a symbolic link; nothing when nothing is there or it is not a link.
pub(super) fn link_target(at: BorrowedFd<'_>, name: &str) -> Result<Option<String>, Errno> {
    match rustix::fs::readlinkat(at, name, Vec::new()) {
        // Never one of ours when it is not text.
        Ok(target) => Ok(Some(target.into_string().unwrap_or_default())),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names in a folder, but for `.` and `..`.
pub(super) fn names(at: BorrowedFd<'_>) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(at)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// The words for an errno.
pub(super) fn words(error: Errno) -> io::ErrorKind {
    io::Error::from(error).kind()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn both_ways_to_open_a_folder_follow_no_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::write(dir.path().join("a/file"), "").unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        symlink("/tmp", dir.path().join("a/out")).unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        for open in [folder, step_by_step] {
            let inode = |path| {
                let opened = open(root.as_fd(), path).map_err(|error| assert!(is_no_folder(error)));
                opened.ok().map(|opened| rustix::fs::fstat(opened).unwrap().st_ino)
            };
            let same = rustix::fs::stat(dir.path().join("a/b/c")).unwrap().st_ino;
            assert_eq!(inode("a/b/c"), Some(same));
            assert_eq!(inode(""), Some(rustix::fs::fstat(&root).unwrap().st_ino));
            for path in ["link", "link/b", "a/out", "a/out/x", "a/file", "a/no", "no/b"] {
                assert_eq!(inode(path), None, "{path}");
            }
        }
    }
}
