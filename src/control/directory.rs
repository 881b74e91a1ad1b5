//! Where control sockets are.
//!
//! Root's are in /run/akvfs. A plain user's are in `$XDG_RUNTIME_DIR/akvfs`, or where there is no such
//! directory in /tmp/akvfs-UID: anybody may have made that one, so it is used only when it is the
//! user's own and nobody else may write in it. A socket is named `PID-RANDOM.sock`; processes in
//! different containers can have the same id.
//!
//! Root also looks into the directories of other users. What is in there is theirs: it is opened
//! without following links, never removed, and may be more than anybody wants to look at, or hang.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat};

use crate::error::{Code, Error, Result, printable};

const ROOTS: &str = "/run/akvfs";
const SUFFIX: &str = ".sock";
/// Until a socket has its name, it begins with this.
const UNFINISHED: &str = ".";
/// Entries of /run/user and /tmp that are looked at.
const MAX_ENTRIES: usize = 100_000;
/// Entries of a directory that are looked at for each of the sockets that are wanted of it.
const ENTRIES_PER_SOCKET: usize = 100;
/// Type of a filesystem that a program serves.
#[cfg(target_os = "linux")]
const FUSE: rustix::fs::FsWord = 0x6573_5546;
/// An unfinished socket that is older was left behind.
const FINISHED: Duration = Duration::from_secs(60);

/// Where a directory of sockets may be, and whose it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) owner: u32,
}

impl Place {
    pub(super) fn shown(&self) -> String {
        shown(&self.path)
    }
}

/// A directory of sockets, checked.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) owner: u32,
    fd: OwnedFd,
    inode: (u64, u64),
}

/// Names of sockets.
pub(super) struct Sockets {
    pub(super) names: Vec<String>,
    /// There is more in the directory than was looked at.
    pub(super) more: bool,
}

/// This user's directory, made if it is not there.
pub(super) fn own() -> Result<Directory> {
    let uid = uid();
    let mut reasons = Vec::new();
    for path in places(uid, std::env::var_os("XDG_RUNTIME_DIR")) {
        let made = DirBuilder::new().mode(0o700).create(&path);
        let opened = match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error.kind().to_string())
            }
            _ => Directory::open(&path, uid),
        };
        match opened {
            Ok(directory) => return Ok(directory),
            Err(reason) => reasons.push(format!("{}: {reason}", shown(&path))),
        }
    }
    Err(Error::new(Code::Local, format!("no place for a control socket: {}", reasons.join("; "))))
}

/// This user's own directories.
pub(super) fn owns() -> Vec<Directory> {
    let uid = uid();
    let mut places = places(uid, std::env::var_os("XDG_RUNTIME_DIR"));
    places.extend([user(uid), temporary(uid)]);
    let mut found: Vec<Directory> = Vec::new();
    for path in places {
        if let Ok(directory) = Directory::open(&path, uid)
            && found.iter().all(|other| other.inode != directory.inode)
        {
            found.push(directory);
        }
    }
    found
}

/// Where other users' directories may be; only root may look into them. Users come in the order of their
/// numbers: the many that a user may have in a namespace of its own are high ones, and come last.
pub(super) fn others() -> Vec<Place> {
    if uid() != 0 {
        return Vec::new();
    }
    let users: BTreeSet<u32> =
        numbered("/run/user", "").chain(numbered("/tmp", "akvfs-")).collect();
    users.into_iter().flat_map(of_other).collect()
}

/// Where the directories of this other user may be.
pub(super) fn of_other(owner: u32) -> Vec<Place> {
    if uid() != 0 || owner == 0 {
        return Vec::new();
    }
    [user(owner), temporary(owner)].map(|path| Place { path, owner }).into()
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Where a user's directory is to be, the best place first.
fn places(uid: u32, runtime: Option<OsString>) -> Vec<PathBuf> {
    if uid == 0 {
        return vec![ROOTS.into()];
    }
    let runtime = runtime.map(PathBuf::from).filter(|path| path.is_absolute());
    runtime.map(|path| path.join("akvfs")).into_iter().chain([temporary(uid)]).collect()
}

fn user(uid: u32) -> PathBuf {
    format!("/run/user/{uid}/akvfs").into()
}

fn temporary(uid: u32) -> PathBuf {
    format!("/tmp/akvfs-{uid}").into()
}

/// Users with an entry of this name in a directory.
fn numbered(directory: &str, prefix: &'static str) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().take(MAX_ENTRIES).flatten();
    entries.filter_map(move |entry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok())
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy(), 256)
}

impl Directory {
    pub(super) fn open(path: &Path, owner: u32) -> std::result::Result<Self, String> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let failed = |error: rustix::io::Errno| std::io::Error::from(error).kind().to_string();
        let fd = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let found = fstat(&fd).map_err(failed)?;
        if found.st_uid != owner {
            return Err("it belongs to another user".to_owned());
        }
        if found.st_mode & 0o022 != 0 {
            return Err("others may write in it".to_owned());
        }
        #[allow(clippy::unnecessary_cast)]
        let inode = (found.st_dev as u64, found.st_ino as u64);
        Ok(Self { path: path.to_owned(), owner, fd, inode })
    }

    /// The same of another user. Blocks for as long as that user likes. What a program of the user
    /// serves is refused: a later connect would wait for it.
    pub(super) fn open_other(place: &Place) -> std::result::Result<Self, String> {
        let directory = Self::open(&place.path, place.owner)?;
        #[cfg(target_os = "linux")]
        if rustix::fs::fstatfs(&directory.fd).map_or(true, |found| found.f_type == FUSE) {
            return Err("it is not on a filesystem of this machine".to_owned());
        }
        Ok(directory)
    }

    /// Whether what is in it is this user's to remove.
    pub(super) fn is_own(&self) -> bool {
        self.owner == uid()
    }

    /// Names for a socket of this process: until it listens, and then.
    pub(super) fn new_names(&self) -> Result<(PathBuf, PathBuf)> {
        let mut random = [0; 8];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .map_err(|_| Error::new(Code::Local, "no random numbers"))?;
        let name = format!("{}-{}", std::process::id(), hex::encode(random));
        let unfinished = self.path.join(format!("{UNFINISHED}{name}"));
        Ok((unfinished, self.path.join(name + SUFFIX)))
    }

    /// Names of at most so many sockets in it. What was left behind before it listened is removed.
    pub(super) fn sockets(&self, most: usize) -> Sockets {
        let mut found = Sockets { names: Vec::new(), more: false };
        let Ok(entries) = rustix::fs::Dir::read_from(&self.fd) else { return found };
        for (number, entry) in entries.flatten().enumerate() {
            if number >= most.saturating_mul(ENTRIES_PER_SOCKET) {
                found.more = true;
                break;
            }
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.ends_with(SUFFIX) && !name.starts_with(UNFINISHED) {
                if found.names.len() >= most {
                    found.more = true;
                    break;
                }
                found.names.push(name.to_owned());
            } else if name.starts_with(UNFINISHED) && self.is_own() && self.was_left(name) {
                self.remove(name);
            }
        }
        found.names.sort();
        found
    }

    /// Takes away the socket of a process that is gone.
    pub(super) fn remove(&self, name: &str) {
        if self.is_own() && self.socket(name).is_some() {
            let _ = unlinkat(&self.fd, name, AtFlags::empty());
        }
    }

    /// The attributes of a socket, if it is one of the directory's owner.
    fn socket(&self, name: &str) -> Option<Stat> {
        let found = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (self.is_owners(&found)).then_some(found)
    }

    fn is_owners(&self, found: &Stat) -> bool {
        let kind = FileType::from_raw_mode(found.st_mode);
        kind == FileType::Socket && found.st_uid == self.owner
    }

    fn was_left(&self, name: &str) -> bool {
        let Some(found) = self.socket(name) else { return false };
        let then = u64::try_from(found.st_mtime).unwrap_or(0);
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(then);
        then.elapsed().is_ok_and(|age| age > FINISHED)
    }

    /// A path that leads to this socket and no other, while the descriptor lives.
    #[cfg(target_os = "linux")]
    pub(super) fn way_to(&self, name: &str) -> Option<(PathBuf, Option<OwnedFd>)> {
        use std::os::fd::AsRawFd;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = openat(&self.fd, name, flags, Mode::empty()).ok()?;
        if !self.is_owners(&fstat(&socket).ok()?) {
            return None;
        }
        Some((format!("/proc/self/fd/{}", socket.as_raw_fd()).into(), Some(socket)))
    }

    /// The same by name, where only the user's own directory is looked into.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn way_to(&self, name: &str) -> Option<(PathBuf, Option<OwnedFd>)> {
        self.is_own().then(|| self.socket(name)).flatten()?;
        Some((self.path.join(name), None))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn open(path: &Path) -> std::result::Result<Directory, String> {
        Directory::open(path, uid())
    }

    #[test]
    fn a_users_place_is_the_runtime_directory_or_tmp() {
        let places = |runtime: Option<&str>| places(1000, runtime.map(OsString::from));
        assert_eq!(places(Some("/run/user/1000"))[0], Path::new("/run/user/1000/akvfs"));
        for none in [None, Some(""), Some("relative")] {
            assert_eq!(places(none), [Path::new("/tmp/akvfs-1000")], "{none:?}");
        }
        assert_eq!(super::places(0, Some("/x".into())), [Path::new("/run/akvfs")]);
    }

    #[test]
    fn a_directory_that_others_may_change_or_that_is_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(open(path).is_ok());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(open(path).err().unwrap().contains("others may write"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Directory::open(path, uid() + 1).err().unwrap().contains("another user"));
        let link = path.join("link");
        symlink(path, &link).unwrap();
        assert!(open(&link).is_err());
        assert!(open(&path.join("missing")).is_err());
    }

    #[test]
    fn only_sockets_of_the_owner_are_found_and_what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path()).unwrap();
        let (unfinished, finished) = directory.new_names().unwrap();
        let _other = UnixListener::bind(&unfinished).unwrap();
        let _one = UnixListener::bind(&finished).unwrap();
        let name = finished.file_name().unwrap().to_str().unwrap().to_owned();
        symlink(&finished, dir.path().join("link.sock")).unwrap();
        std::fs::write(dir.path().join("file.sock"), "").unwrap();
        let found = directory.sockets(3);
        assert_eq!(found.names, [name.as_str(), "file.sock", "link.sock"]);
        assert!(!found.more);
        let found = directory.sockets(2);
        assert_eq!((found.names.len(), found.more), (2, true));
        assert!(directory.way_to(&name).is_some());
        for other in ["link.sock", "file.sock", "../x.sock", "none.sock"] {
            assert!(directory.way_to(other).is_none(), "{other}");
            directory.remove(other);
        }
        assert!(dir.path().join("link.sock").exists() && dir.path().join("file.sock").exists());
        // One that is being made stays, too.
        assert!(unfinished.exists());
        directory.remove(&name);
        assert!(!finished.exists());
    }
}
