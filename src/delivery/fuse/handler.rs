//! The kernel's requests: translate, answer from the view.
//!
//! Every method of the trait is here, since the crate's defaults warn and answer ENOSYS, which the
//! kernel takes for final in several cases. Nothing here may block: OPEN of an unfilled file moves its
//! reply into a task. Nothing can be written, but for the operations that the [`Gate`] expects.

use std::ffi::OsStr;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures_util::FutureExt;
use tokio::runtime::Handle;

use super::Options;
use super::announce::gate::{Gate, Operation};
use super::audit::Audit;
use super::failures::Failures;
use super::notifier::Notices;
use super::opening::{Opening, Openings, Refusal, handle};
use super::translate::{BLOCK, NEGATIVE_TTL, TTL, attributes, file_type, inode, node};
use super::xattr;
use crate::class::FuseCache;
use crate::error::{Error, Result};
use crate::view::{About, Attr, Kind, NodeId, NotServed, PLACEHOLDER, Slot, View};

/// Content never changes under an inode, and nothing is ever written back.
const CACHED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);
/// Each read asks.
const UNCACHED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_NOFLUSH);
/// Asked once, then the kernel answers by itself.
const NO_ATTRIBUTES: Errno = Errno::ENOSYS;
/// Requests carry no data worth a larger buffer.
const MAX_WRITE: u32 = 128 * 1024;
/// Longest name that a plan can have; the kernel lets longer ones through.
const MAX_NAME: u32 = 255;

pub(super) struct Handler {
    pub(super) view: Arc<View>,
    pub(super) options: Options,
    pub(super) notices: Notices,
    pub(super) gate: Arc<Gate>,
    pub(super) openings: Openings,
    pub(super) failures: Failures,
    /// Ends with the session.
    pub(super) _audit: Option<Audit>,
    pub(super) runtime: Handle,
    /// Whether the mount is open to others: the kernel wants that for id-mapped mounts.
    pub(super) shared: bool,
}

impl Handler {
    /// Answers an OPEN whose value may have to be fetched first.
    fn open_later(&self, mut opening: Opening, slot: Arc<Slot>) {
        let (view, notices) = (self.view.clone(), self.notices.clone());
        let deadline = Instant::now() + self.options.open_timeout;
        let openings = self.openings.clone();
        self.runtime.spawn(async move {
            let work = fill(&view, &notices, opening.id, &slot, openings.flags(), deadline);
            let filled = AssertUnwindSafe(work).catch_unwind().await;
            let outcome = match filled.unwrap_or_else(|_| Err(Error::task_failed())) {
                Ok(()) => {
                    opening.held = true;
                    Ok(slot)
                }
                Err(error) => Err(Refusal::from(&error)),
            };
            openings.answer(opening, outcome);
        });
    }

    /// Whether the request is the operation that is announced; else it is a write like any other.
    fn admit(&self, request: &Request, operation: Option<Operation>) -> Option<Option<Attr>> {
        self.gate.admit(request.pid(), &operation?)
    }

    /// Answers what the announcing thread creates, and refuses everything else.
    fn create_announced(&self, request: &Request, operation: Option<Operation>, reply: ReplyEntry) {
        match self.admit(request, operation).flatten() {
            Some(attr) => self.entry(attr, reply),
            None => reply.error(Errno::EROFS),
        }
    }

    fn entry(&self, attr: Attr, reply: ReplyEntry) {
        reply.entry(&TTL, &attributes(attr, &self.options), Generation(0));
    }

    /// The errno of what cannot be served, and a word in the log.
    fn failed(
        &self,
        operation: &'static str,
        request: &Request,
        id: NodeId,
        why: NotServed,
    ) -> Errno {
        let path = self.view.path(id);
        self.failures.tell(operation, &path, request.unique().0, &Refusal::from(why));
        why.into()
    }

    /// What is known of the object behind a file; nothing of a directory or link.
    fn about(&self, id: NodeId) -> std::result::Result<Option<About>, NotServed> {
        match self.view.slot(id) {
            Ok(slot) => Ok(self.view.about(id, Some(&slot))),
            Err(NotServed::Directory | NotServed::OtherKind) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// The entries of a directory from a position, `.` and `..` first.
    fn entries(
        &self,
        directory: NodeId,
        offset: u64,
        mut each: impl FnMut(u64, &str, Attr) -> bool,
    ) -> std::result::Result<(), NotServed> {
        if offset == 0 && !each(1, ".", self.view.attr(directory)?) {
            return Ok(());
        }
        if offset <= 1 && !each(2, "..", self.view.parent(directory)?) {
            return Ok(());
        }
        let from = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        // What an entry is told with is where the next one begins.
        let mut each = |at: usize, name: &str, attr| each(at as u64 + 3, name, attr);
        self.view.list(directory, from, |at, name, attr| match self.gate.listed(directory, name) {
            None => each(at, name, attr),
            Some(Some(attr)) => each(at, name, attr),
            // It goes, or has yet to come.
            Some(None) => true,
        })
    }
}

async fn fill(
    view: &Arc<View>,
    notices: &Notices,
    id: NodeId,
    slot: &Arc<Slot>,
    flags: FopenFlags,
    deadline: Instant,
) -> Result<()> {
    view.open(id, slot, deadline).await?;
    if !slot.settled() {
        // Every file of the object showed the placeholder; each open tells about its own, and the
        // slot is settled when its whole object was told.
        for file in view.siblings(id) {
            // Where the kernel keeps nothing, its idea of a file's end counts for nothing either.
            let last = match flags.contains(FopenFlags::FOPEN_DIRECT_IO) {
                true => None,
                false => beyond_placeholder(view, file),
            };
            let told = notices.drop_attributes(inode(file), last).await;
            told.inspect_err(|_| view.release(id))?;
        }
        slot.settle();
    }
    Ok(())
}

/// The last byte of a file that is larger than it was shown, and where it stands.
fn beyond_placeholder(view: &View, file: NodeId) -> Option<(u64, u8)> {
    let last = view.read(file, |bytes| {
        let bytes = bytes.expose();
        bytes.last().map(|byte| (bytes.len() as u64 - 1, *byte))
    });
    last.ok().flatten().filter(|(at, _)| *at >= PLACEHOLDER)
}

/// How the kernel is to treat an open file.
pub(super) fn opened(cache: FuseCache) -> FopenFlags {
    match cache {
        FuseCache::Keep => CACHED,
        FuseCache::None => UNCACHED,
    }
}

/// Names of the plan are text.
fn text(name: &OsStr) -> Option<String> {
    name.to_str().map(str::to_owned)
}

/// Methods that always answer the same.
macro_rules! refuse {
    ($($errno:ident: $name:ident($($arg:ty),*) $reply:ty;)*) => {$(
        fn $name(&self, _: &Request, $(_: $arg,)* reply: $reply) {
            reply.error(Errno::$errno);
        }
    )*};
}

impl Filesystem for Handler {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            // A link's inode belongs to one birth as well, so its target never changes.
            | InitFlags::FUSE_CACHE_SYMLINKS;
        if self.shared {
            wanted |= InitFlags::FUSE_ALLOW_IDMAP;
        }
        if let Err(missing) = config.add_capabilities(wanted) {
            // What is left is supported, so this cannot fail.
            let _ = config.add_capabilities(wanted - missing);
        }
        let _ = config.set_max_write(MAX_WRITE);
        Ok(())
    }

    fn destroy(&mut self) {}

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name.len() > MAX_NAME as usize {
            return reply.error(Errno::ENAMETOOLONG);
        }
        if let Some(leads) = self.gate.lookup(request.pid(), node(parent), name) {
            return match leads {
                // As it is by now, if it can be had.
                Some(attr) => self.entry(self.view.attr(attr.id).unwrap_or(attr), reply),
                None => reply.error(Errno::ENOENT),
            };
        }
        // Names of the plan are text; any other name is not there.
        let found = match name.to_str() {
            Some(name) => self.view.lookup(node(parent), name),
            None => Ok(None),
        };
        match found {
            Ok(Some(attr)) => self.entry(attr, reply),
            // Names of this kind come with a rotation; nobody is to remember that they were not there.
            Ok(None) if name.as_encoded_bytes().starts_with(b"..") => reply.error(Errno::ENOENT),
            Ok(None) => match self.view.attr(NodeId::ROOT) {
                // Inode 0 says "not there, and you may remember it".
                Ok(any) => {
                    let mut attr = attributes(any, &self.options);
                    attr.ino = INodeNo(0);
                    reply.entry(&NEGATIVE_TTL, &attr, Generation(0));
                }
                Err(_) => reply.error(Errno::ENOENT),
            },
            Err(why) => reply.error(self.failed("lookup", request, node(parent), why)),
        }
    }

    // Inodes live as long as their generation; nothing is counted. `batch_forget` cannot be written
    // outside the crate, since its argument's type is private; its default calls this.
    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.attr(node(ino)) {
            Ok(attr) => {
                let moved = self.gate.leads_to(attr.id).filter(|_| attr.kind != Kind::Directory);
                let replaced = moved.map_or_else(|| self.view.is_replaced(attr.id), |there| !there);
                let mut attr = attributes(attr, &self.options);
                if replaced {
                    // As of a file that was removed: a watch on it ends when its last holder closes it.
                    attr.nlink = 0;
                }
                reply.attr(&TTL, &attr);
            }
            Err(why) => reply.error(self.failed("getattr", request, node(ino), why)),
        }
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.view.target(node(ino)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(why) => reply.error(self.failed("readlink", request, node(ino), why)),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut opening = self.openings.arrived(node(ino), request, reply);
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return self.openings.answer(opening, Err(Refusal::read_only()));
        }
        match self.view.slot(opening.id) {
            Ok(slot) if slot.settled() => {
                if self.view.hold(opening.id, &slot) {
                    opening.held = true;
                    opening.found();
                    return self.openings.answer(opening, Ok(slot));
                }
                // Its bytes were let go of.
                self.view.release(opening.id);
                self.open_later(opening, slot);
            }
            Ok(slot) => self.open_later(opening, slot),
            Err(why) => self.openings.answer(opening, Err(why.into())),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut reply = Some(reply);
        let sent = self.view.read(node(ino), |bytes| {
            let bytes = bytes.expose();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let end = start.saturating_add(size as usize).min(bytes.len());
            if let Some(reply) = reply.take() {
                reply.data(bytes.get(start..end).unwrap_or_default());
            }
        });
        if let (Err(why), Some(reply)) = (sent, reply) {
            reply.error(self.failed("read", request, node(ino), why));
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.view.release(node(ino));
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.view.attr(node(ino)) {
            Ok(attr) if attr.kind == Kind::Directory => {
                reply.opened(handle(attr.id), FopenFlags::empty());
            }
            Ok(_) => reply.error(Errno::ENOTDIR),
            Err(why) => reply.error(self.failed("opendir", request, node(ino), why)),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.entries(node(ino), offset, |position, name, attr| {
            !reply.add(inode(attr.id), position, file_type(attr.kind), name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(why) => reply.error(self.failed("readdir", request, node(ino), why)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.entries(node(ino), offset, |position, name, attr| {
            let attr = attributes(attr, &self.options);
            !reply.add(attr.ino, position, name, &TTL, &attr, Generation(0))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(why) => reply.error(self.failed("readdirplus", request, node(ino), why)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let totals = self.view.totals();
        let blocks = |bytes: usize| bytes as u64 / u64::from(BLOCK);
        // Of the bytes that may be held. Who is root and who is not makes no difference.
        let (all, free) = (blocks(totals.limit), blocks(totals.limit.saturating_sub(totals.bytes)));
        reply.statfs(all, free, free, totals.names as u64, 0, BLOCK, MAX_NAME, BLOCK);
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks modes itself (default_permissions); only writing is refused here.
        if mask.contains(AccessFlags::W_OK) {
            reply.error(Errno::EROFS);
        } else {
            reply.ok();
        }
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let id = node(ino);
        match name.to_str() {
            _ if !self.options.xattr => reply.error(NO_ATTRIBUTES),
            // Any other name, not only those of the kernel's own questions.
            Some(name) if xattr::possible(name) => match self.about(id) {
                Ok(about) => match about.and_then(|about| xattr::value(&about, name)) {
                    Some(value) => xattr::answer(reply, &value, size),
                    None => reply.error(Errno::NO_XATTR),
                },
                Err(why) => reply.error(self.failed("getxattr", request, id, why)),
            },
            _ => reply.error(Errno::EOPNOTSUPP),
        }
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.options.xattr {
            return reply.error(NO_ATTRIBUTES);
        }
        match self.about(node(ino)) {
            Ok(about) => {
                let names = about.as_ref().map(xattr::names).unwrap_or_default();
                xattr::answer(reply, &names, size);
            }
            Err(why) => reply.error(self.failed("listxattr", request, node(ino), why)),
        }
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(if self.options.xattr { Errno::EROFS } else { NO_ATTRIBUTES });
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(if self.options.xattr { Errno::EROFS } else { NO_ATTRIBUTES });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let operation = text(name)
            .zip(text(target.as_os_str()))
            .map(|(name, target)| Operation::Link { directory: node(parent), name, target });
        self.create_announced(request, operation, reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let regular = mode & libc::S_IFMT == libc::S_IFREG;
        let operation = text(name)
            .filter(|_| regular)
            .map(|name| Operation::File { directory: node(parent), name });
        self.create_announced(request, operation, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let plain = parent == new_parent && flags.is_empty();
        let operation = text(name)
            .zip(text(new_name))
            .filter(|_| plain)
            .map(|(from, to)| Operation::Rename { directory: node(parent), from, to });
        match self.admit(request, operation) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::EROFS),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let directory = node(parent);
        let operation = text(name).map(|name| Operation::Unlink { directory, name });
        match self.admit(request, operation) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::EROFS),
        }
    }

    refuse! {
        EROFS: setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>,
            Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>, Option<SystemTime>,
            Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) ReplyAttr;
        EROFS: mkdir(INodeNo, &OsStr, u32, u32) ReplyEntry;
        EROFS: rmdir(INodeNo, &OsStr) ReplyEmpty;
        EROFS: link(INodeNo, INodeNo, &OsStr) ReplyEntry;
        EROFS: create(INodeNo, &OsStr, u32, u32, i32) ReplyCreate;
        EROFS: write(
            INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>
        ) ReplyWrite;
        EROFS: fallocate(INodeNo, FileHandle, u64, u64, i32) ReplyEmpty;
        EROFS: copy_file_range(
            INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags
        ) ReplyWrite;
        // Asked once, then the kernel answers by itself: local seeking and locks.
        ENOSYS: lseek(INodeNo, FileHandle, i64, i32) ReplyLseek;
        ENOSYS: poll(INodeNo, FileHandle, PollNotifier, PollEvents, PollFlags) ReplyPoll;
        ENOSYS: getlk(INodeNo, FileHandle, LockOwner, u64, u64, i32, u32) ReplyLock;
        ENOSYS: setlk(INodeNo, FileHandle, LockOwner, u64, u64, i32, u32, bool) ReplyEmpty;
        ENOSYS: bmap(INodeNo, u32, u64) ReplyBmap;
        ENOTTY: ioctl(INodeNo, FileHandle, IoctlFlags, u32, &[u8], u32) ReplyIoctl;
    }
}
