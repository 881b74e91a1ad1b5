//! The least that a filesystem of this crate can do: files in one directory, from memory, everything
//! cached by the kernel for long. Names are `name-NNNNN`, inodes 2 and up.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
    SessionACL,
};

use super::Outcome;

const TTL: Duration = Duration::from_secs(3600);
const FIRST: u64 = 2;

struct Bare {
    files: Vec<Vec<u8>>,
    born: SystemTime,
}

/// Serves so many files of this size at a directory, until what is returned is dropped.
pub fn mount(dir: &Path, files: usize, size: usize) -> Outcome<BackgroundSession> {
    let bare = Bare { files: vec![vec![b'x'; size]; files], born: SystemTime::now() };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("bare".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    Ok(fuser::spawn_mount(bare, dir, &config)?)
}

impl Bare {
    fn file(&self, ino: INodeNo) -> Option<&[u8]> {
        let at = usize::try_from(ino.0.checked_sub(FIRST)?).ok()?;
        self.files.get(at).map(Vec::as_slice)
    }

    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, size, perm) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0, 0o755),
            _ => (FileType::RegularFile, self.file(ino)?.len() as u64, 0o400),
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: self.born,
            mtime: self.born,
            ctime: self.born,
            crtime: self.born,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Position, inode and name of the entries from an offset.
    fn entries(&self, offset: u64) -> impl Iterator<Item = (u64, INodeNo, String)> {
        let files = (FIRST..).take(self.files.len());
        let files = files.map(|ino| (INodeNo(ino), format!("name-{:05}", ino - FIRST)));
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, name.to_owned()));
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let all = dots.into_iter().chain(files);
        (1..).zip(all).skip(from).map(|(position, (ino, name))| (position, ino, name))
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO;
        let _ = config.add_capabilities(wanted);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.strip_prefix("name-")?.parse::<u64>().ok());
        match number.and_then(|number| self.attr(INodeNo(number + FIRST))) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(ino.0), flags);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.file(ino).unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        reply.data(bytes.get(start..end).unwrap_or_default());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(ino.0), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (position, ino, name) in self.entries(offset) {
            let kind =
                if ino == INodeNo::ROOT { FileType::Directory } else { FileType::RegularFile };
            if reply.add(ino, position, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for (position, ino, name) in self.entries(offset) {
            let Some(attr) = self.attr(ino) else { continue };
            if reply.add(ino, position, name, &TTL, &attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}
