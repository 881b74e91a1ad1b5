//! Making, finding and ending mounts.
//!
//! As root the mount is made by us, detached, and appears at its directory only when it is served.
//! Its superblock stays read-write (a rotation is announced by operations of our own, through a copy of
//! the mount that is in no table); the mount that everybody sees is read-only. A plain user's mount is made by fusermount3. Nothing here asks the
//! mounted filesystem itself: the kernel's mount table tells whose a mount is, and cannot hang.

use std::fs::OpenOptions;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, open, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::path::Arg;

use super::Options;
use crate::error::{Code, Error, Result, printable};
use crate::process;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
const HELPER_OPTIONS: &str = "rw,nosuid,nodev,noexec,noatime,default_permissions,subtype=akvfs";
/// The kernel takes 256 bytes for a mount's source, a NUL among them; the helper has not much more room.
const MAX_SOURCE: usize = 255;
/// Type of our mounts in the mount table.
const TYPE: &str = "fuse.akvfs";
/// What the types of all FUSE mounts begin with.
const FUSE: &[u8] = b"fuse";
/// fusermount3 and a stat of an old mount get this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether this process mounts by itself.
pub(super) fn privileged() -> bool {
    rustix::process::geteuid().is_root()
}

/// A mount that has no place yet.
pub(super) struct Detached(OwnedFd);

/// Makes a mount without a place, and the device to serve it.
pub(super) fn detached(source: &str) -> Result<(OwnedFd, Detached)> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(no_device)?;
    let made = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", shortened(source))?;
        fsconfig_set_string(&context, "subtype", "akvfs")?;
        fsconfig_set_string(&context, "fd", device.as_raw_fd().to_string())?;
        fsconfig_set_string(&context, "rootmode", "40000")?;
        fsconfig_set_string(&context, "user_id", rustix::process::geteuid().as_raw().to_string())?;
        fsconfig_set_string(&context, "group_id", rustix::process::getegid().as_raw().to_string())?;
        fsconfig_set_flag(&context, "default_permissions")?;
        fsconfig_set_flag(&context, "allow_other")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let mount = made().map_err(|error| {
        unavailable(format!("the kernel refuses a FUSE mount: {}", io::Error::from(error).kind()))
            .fix("mounting needs CAP_SYS_ADMIN (a privileged container) and Linux 5.2 or newer")
    })?;
    Ok((device.into(), Detached(mount)))
}

/// As much of a source as the kernel takes.
fn shortened(source: &str) -> &str {
    if source.len() <= MAX_SOURCE {
        return source;
    }
    (0..=MAX_SOURCE).rev().find_map(|end| source.get(..end)).unwrap_or_default()
}

impl Detached {
    /// Puts the mount at its place.
    pub(super) fn attach(self, dir: &Path) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.0, "", CWD, dir, flags).map_err(|error| {
            Error::new(
                Code::Local,
                format!("cannot mount at {}: {}", dir.display(), io::Error::from(error).kind()),
            )
        })
    }
}

/// Mounts by fusermount3 and returns the device to serve the mount.
pub(super) fn by_helper(dir: &Path, options: &Options) -> Result<OwnedFd> {
    if let Err(error) = std::fs::metadata(DEVICE) {
        return Err(no_device(error));
    }
    let local = |error: io::Error| Error::new(Code::Local, format!("{HELPER}: {}", error.kind()));
    let (ours, theirs) = UnixStream::pair().map_err(local)?;
    ours.set_read_timeout(Some(PATIENCE)).map_err(local)?;
    // The helper's end of the socket is its stdin: passed on without leaking into other children.
    let child = process::stranger(HELPER)
        .args(["-o", &helper_options(options), "--"])
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_helper)?;
    let received = receive(&ours);
    drop(ours);
    let output = child.wait_with_output().map_err(local)?;
    received.ok_or_else(|| {
        let said = printable(&String::from_utf8_lossy(&output.stderr), 512);
        let fix = REFUSALS.iter().find(|(part, _)| said.contains(part)).map(|(_, fix)| *fix);
        unavailable(format!("{HELPER} did not mount {}: {}", dir.display(), said.trim()))
            .fix(fix.unwrap_or(YOURS))
    })
}

/// What the helper says when it refuses, and what can be done.
const REFUSALS: [(&str, &str); 8] = [
    (
        "user_allow_other",
        "mount without allow_other, or let root write the line user_allow_other into /etc/fuse.conf",
    ),
    ("mount_max", "unmount what is not needed, or let root raise mount_max in /etc/fuse.conf"),
    ("write access", YOURS),
    ("not owned", YOURS),
    ("is forbidden", "choose a directory of an ordinary filesystem"),
    ("modprobe", "let root load the module: modprobe fuse"),
    (
        "open /dev/fuse",
        "let root open the device to users, as most systems do: chmod 666 /dev/fuse",
    ),
    (
        "Operation not permitted",
        "fusermount3 must belong to root and be setuid (in a container it may not help itself so): \
         reinstall the package fuse3, or mount as root",
    ),
];
const YOURS: &str = "the directory must be yours, and writable: mkdir one in your home";

/// In one piece: of several `-o` the helper takes the last.
fn helper_options(options: &Options) -> String {
    let others = if options.allow_other { ",allow_other" } else { "" };
    // The helper takes a backslash for the sign that the next character is none of its own.
    let source = shortened(&options.source).replace('\\', "\\\\").replace(',', "\\,");
    format!("{HELPER_OPTIONS}{others},fsname={source}")
}

/// The descriptor that the helper sends, if it does.
fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = [0_u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

fn unavailable(message: String) -> Error {
    Error::new(Code::FuseUnavailable, message)
}

fn no_device(error: io::Error) -> Error {
    let error_text = format!("cannot open {DEVICE}: {}", error.kind());
    unavailable(error_text).fix(match error.kind() {
        io::ErrorKind::NotFound => {
            "load the module (modprobe fuse), or give the container the device"
        }
        _ => "allow this process to use the device (in a container: --device /dev/fuse)",
    })
}

fn no_helper(error: io::Error) -> Error {
    unavailable(format!("cannot run {HELPER}: {}", error.kind()))
        .fix("install the package fuse3, or mount as root")
}

/// The directory's real path, also where a dead mount stands on it.
pub(super) fn resolve(dir: &Path) -> Result<PathBuf> {
    let failed = |error: io::Error| {
        Error::new(Code::Local, format!("cannot use {}: {}", dir.display(), error.kind()))
            .fix("name an existing directory")
    };
    match std::fs::canonicalize(dir) {
        Ok(path) => Ok(path),
        Err(error) => match (dir.parent(), dir.file_name()) {
            (Some(parent), Some(name)) if error.raw_os_error() == Some(NOT_CONNECTED) => {
                let parent = if parent == Path::new("") { Path::new(".") } else { parent };
                Ok(std::fs::canonicalize(parent).map_err(failed)?.join(name))
            }
            _ => Err(failed(error)),
        },
    }
}

/// ENOTCONN: the process that served the mount is gone.
const NOT_CONNECTED: i32 = rustix::io::Errno::NOTCONN.raw_os_error();

/// Makes sure that the directory can be mounted on: an old mount of ours whose server died is taken
/// away, a live one is refused.
pub(super) fn clear(dir: &Path) -> Result<()> {
    if let Some(mount) = found(dir)?.filter(|mount| mount.ours) {
        if state(dir) != State::Dead {
            return Err(Error::new(Code::Local, format!("{} is mounted already", dir.display()))
                .fix(format!("akvfs unmount {}", dir.display())));
        }
        tracing::warn!(dir = %dir.display(), "removing a mount whose server has died");
        detach(dir, &mount)?;
    }
    match state(dir) {
        State::Directory => Ok(()),
        _ => Err(Error::new(Code::Local, format!("{} is not a directory", dir.display()))),
    }
}

#[derive(PartialEq)]
enum State {
    Directory,
    Dead,
    Other,
}

/// What stands at the path. Asked on a thread of its own: a mount that hangs must not hang us.
fn state(dir: &Path) -> State {
    let (sender, receiver) = mpsc::channel();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        // The attributes of a dead mount's root may be cached still; statfs always asks the server.
        let asked = rustix::fs::statfs(&dir).map_err(io::Error::from);
        // Nobody listens any more when this took too long.
        let _ = sender.send(asked.and_then(|_| std::fs::metadata(dir)));
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(metadata)) if metadata.is_dir() => State::Directory,
        Ok(Err(error)) if error.raw_os_error() == Some(NOT_CONNECTED) => State::Dead,
        _ => State::Other,
    }
}

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The kernel's number for the mount.
    pub(super) id: u32,
    /// Its device number as text: mount numbers are used again soon.
    device: Box<[u8]>,
    /// Whether its type is ours.
    pub(super) ours: bool,
    /// Who made it, if it is a FUSE mount.
    user: Option<u32>,
}

impl Found {
    pub(super) fn device(&self) -> String {
        String::from_utf8_lossy(&self.device).into_owned()
    }
}

/// The topmost mount at a directory.
pub(super) fn found(dir: &Path) -> Result<Option<Found>> {
    Ok(topmost(&table()?, dir, reached(dir)))
}

/// Who made the FUSE mount that stands at the directory, as the kernel knows; the filesystem itself may
/// say anything, or nothing to others.
///
/// # Errors
/// The mount table cannot be read.
pub(crate) fn owner(dir: &Path) -> Result<Option<u32>> {
    Ok(found(dir)?.and_then(|mount| mount.user))
}

/// Where the mount is by now: somebody may have moved it. Nothing: it is gone.
///
/// # Errors
/// It is there, and no path leads to it.
pub(super) fn place(mount: &Found) -> Result<Option<PathBuf>> {
    let table = table()?;
    let Some((point, _)) = lines(&table).find(|(_, found)| found == mount) else { return Ok(None) };
    if found(&point)?.as_ref() == Some(mount) {
        return Ok(Some(point));
    }
    let dir = point.display();
    let what = format!("cannot unmount {dir}: another mount stands on it, or on a directory above");
    Err(Error::new(Code::Local, what)
        .fix(format!("unmount that one, then run akvfs unmount {dir}")))
}

/// The root of our mount, writable; for a short time, since a plain user's mount is in use meanwhile.
///
/// Fails where the path does not lead to our mount: it was moved or unmounted, or another one hides it. It
/// asks no filesystem anything but the directories on the way.
pub(super) fn writable(dir: &Path, mount: &Found) -> io::Result<OwnedFd> {
    if found(dir).ok().flatten().as_ref() != Some(mount) {
        return Err(elsewhere());
    }
    if !privileged() {
        return root(dir, mount);
    }
    // A copy is a mount of its own, without a place: the public one stays as it is, and can be unmounted.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    let root = open_tree(CWD, dir, flags)?;
    if !is_on(&known(&root, "", AtFlags::EMPTY_PATH)?, mount) {
        return Err(elsewhere());
    }
    let change = libc::mount_attr {
        attr_set: 0,
        attr_clr: libc::MOUNT_ATTR_RDONLY,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, the text ends with a zero, and the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of_val(&change),
        )
    };
    if result == 0 { Ok(root) } else { Err(io::Error::last_os_error()) }
}

fn elsewhere() -> io::Error {
    io::Error::other("the path does not lead to this mount")
}

/// The root of this mount and no other, whatever becomes of the path: between two looks at it another may
/// stand there. Asks no filesystem anything but the directories on the way.
fn root(dir: &Path, mount: &Found) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = open(dir, flags, Mode::empty())?;
    let known = known(&root, "", AtFlags::EMPTY_PATH)?;
    // Where the kernel does not number mounts, no other filesystem has this device.
    let same = mnt_id(&known).is_none_or(|id| id == u64::from(mount.id)) && is_on(&known, mount);
    if same { Ok(root) } else { Err(elsewhere()) }
}

/// Whether it is on the device of the mount.
fn is_on(known: &Statx, mount: &Found) -> bool {
    *format!("{}:{}", known.stx_dev_major, known.stx_dev_minor).as_bytes() == *mount.device
}

fn table() -> Result<Vec<u8>> {
    std::fs::read("/proc/self/mountinfo").map_err(|error| {
        Error::new(Code::Local, format!("cannot read the mount table: {}", error.kind()))
    })
}

/// Number of the mount that the path leads to, where the kernel tells it (5.8). The table's order does
/// not: a mount may have been moved over a younger one, or be hidden by one on a parent directory.
fn reached(dir: &Path) -> Option<u64> {
    mnt_id(&known(CWD, dir, AtFlags::SYMLINK_NOFOLLOW).ok()?)
}

/// What the kernel knows by itself: the mount's server is not asked.
fn known(at: impl AsFd, path: impl Arg, flags: AtFlags) -> rustix::io::Result<Statx> {
    let flags = flags | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    statx(at, path, flags, StatxFlags::empty())
}

fn mnt_id(known: &Statx) -> Option<u64> {
    (known.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(known.stx_mnt_id)
}

fn topmost(table: &[u8], dir: &Path, reached: Option<u64>) -> Option<Found> {
    let is_meant = |mount: &Found| reached.is_none_or(|reached| reached == u64::from(mount.id));
    // Later lines are mounted over earlier ones, mostly.
    let mut at = lines(table).filter(|(point, mount)| point == dir && is_meant(mount));
    at.next_back().map(|(_, mount)| mount)
}

/// The mounts of a table, each with its place.
fn lines(table: &[u8]) -> impl DoubleEndedIterator<Item = (PathBuf, Found)> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id: u32 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = fields.nth(1)?.into();
        let point = unescaped(fields.nth(1)?);
        // Optional fields end with a dash; the type follows.
        let mut fields = fields.skip_while(|field| *field != b"-");
        let kind = fields.nth(1)?;
        // The source, and then the filesystem's own options.
        let mut options = fields.nth(1).unwrap_or_default().split(|byte| *byte == b',');
        let user = options.find_map(|option| option.strip_prefix(b"user_id="));
        let user = user.and_then(|user| std::str::from_utf8(user).ok()?.parse().ok());
        let user = user.filter(|_| kind.starts_with(FUSE));
        Some((point, Found { id, device, ours: kind == TYPE.as_bytes(), user }))
    })
}

/// The table writes blanks, newlines and backslashes as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *byte == b'\\');
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        (rest, _) = match code {
            Some(code) => (after.get(3..).unwrap_or_default(), bytes.push(code)),
            None => (after, bytes.push(*byte)),
        };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Takes this mount away, which was found at the directory; files that are open stay readable until they
/// are closed.
///
/// Whoever owns a directory on the way can have the path lead elsewhere at any time. So root takes the mount
/// by its own descriptor, and never by its path.
pub(super) fn detach(dir: &Path, mount: &Found) -> Result<()> {
    let failed =
        |why: String| Error::new(Code::Local, format!("cannot unmount {}: {why}", dir.display()));
    if privileged() {
        let unmounted = root(dir, mount).and_then(|root| {
            let way = format!("/proc/self/fd/{}", root.as_raw_fd());
            Ok(rustix::mount::unmount(way, UnmountFlags::DETACH)?)
        });
        return unmounted.map_err(|error| match error.kind() {
            io::ErrorKind::Other => failed(error.to_string()),
            kind => failed(kind.to_string()),
        });
    }
    if found(dir)?.as_ref() != Some(mount) {
        return Err(failed(elsewhere().to_string()));
    }
    let output = process::stranger(HELPER)
        .args(["-u", "-z", "--"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(no_helper)?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(printable(&String::from_utf8_lossy(&output.stderr), 512)))
}

/// The device number of the mount of akvfs that stands at the directory, if one does.
///
/// # Errors
/// The mount table cannot be read.
pub(crate) fn device(dir: &Path) -> Result<Option<String>> {
    Ok(found(dir)?.filter(|mount| mount.ours).map(|mount| mount.device()))
}

/// Ends a mount of akvfs. Its server notices and ends too.
///
/// # Errors
/// Nothing of akvfs is mounted there, or it belongs to another user.
pub fn unmount(dir: &Path) -> Result<()> {
    let dir = resolve(dir)?;
    match found(&dir)? {
        Some(mount) if mount.ours => detach(&dir, &mount),
        Some(_) if lines(&table()?).any(|(point, mount)| point == dir && mount.ours) => {
            let what = format!("cannot unmount {}: another mount stands on it", dir.display());
            Err(Error::new(Code::Local, what).fix("unmount that one first"))
        }
        Some(_) => {
            Err(Error::new(Code::Local, format!("the mount at {} is not akvfs's", dir.display())))
        }
        None => Err(Error::new(Code::Local, format!("nothing is mounted at {}", dir.display()))
            .fix("findmnt -t fuse.akvfs lists what is mounted; SIGTERM ends akvfs sync --watch")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:20 / / rw shared:1 - ext4 /dev/vda rw\n\
        40 22 0:41 / /mnt/with\\040blank rw,nosuid master:3 - fuse.akvfs akvfs rw,user_id=7,group_id=8\n\
        41 22 0:42 / /mnt/b rw - fuse.akvfs akvfs rw\n\
        42 41 0:43 / /mnt/b rw - tmpfs user_id=9 rw,user_id=9\n";

    #[test]
    fn the_topmost_mount_of_a_directory_is_found_by_its_real_name() {
        let at = |dir: &str| topmost(TABLE, Path::new(dir), None);
        let mount =
            |id, device: &[u8], ours, user| Some(Found { id, device: device.into(), ours, user });
        assert_eq!(at("/mnt/with blank"), mount(40, b"0:41", true, Some(7)));
        assert_eq!(at("/mnt/b"), mount(42, b"0:43", false, None));
        assert_eq!(at("/mnt"), None);
        // Where the kernel says which mount the path leads to, the table's order does not count.
        let b = Path::new("/mnt/b");
        assert_eq!(topmost(TABLE, b, Some(41)), mount(41, b"0:42", true, None));
        assert_eq!(topmost(TABLE, b, Some(22)), None);
        assert_eq!(at("/mnt/with\\040blank"), None);
    }

    #[test]
    fn a_source_is_no_option_of_the_helper() {
        let options = Options { source: "/a,suid\\b.yaml".to_owned(), ..Options::default() };
        let shown = helper_options(&options);
        assert_eq!(shown, format!("{HELPER_OPTIONS},fsname=/a\\,suid\\\\b.yaml"));
        let long = helper_options(&Options { source: ",".repeat(5000), ..options.clone() });
        assert!(long.len() < 700, "{}", long.len());
        let shown = helper_options(&Options { allow_other: true, ..options });
        assert!(shown.starts_with(&format!("{HELPER_OPTIONS},allow_other,fsname=")), "{shown}");
    }

    #[test]
    fn escapes_at_the_end_of_a_name_are_kept() {
        assert_eq!(unescaped(b"/a\\"), Path::new("/a\\"));
        assert_eq!(unescaped(b"/a\\134\\011"), Path::new("/a\\\t"));
    }
}
