//! Between the view's types and the kernel's.

use std::time::Duration;

use fuser::{Errno, FileAttr, FileType, INodeNo};

use super::Options;
use crate::error::{Error, errno};
use crate::view::{Attr, Kind, NodeId, NotServed};

/// Names and attributes are cached for long: what changes is announced.
pub(super) const TTL: Duration = Duration::from_secs(3600);
/// Names that do not exist. Shorter, since these are of the reader's choosing.
pub(super) const NEGATIVE_TTL: Duration = Duration::from_secs(60);
/// Block size for stat and statfs.
pub(super) const BLOCK: u32 = 4096;

pub(super) fn inode(id: NodeId) -> INodeNo {
    INodeNo(u64::from(id.birth) << 32 | u64::from(id.index))
}

pub(super) fn node(inode: INodeNo) -> NodeId {
    let low = inode.0 & u64::from(u32::MAX);
    // Both halves fit by construction.
    let half = |bits: u64| u32::try_from(bits).unwrap_or(u32::MAX);
    NodeId { birth: half(inode.0 >> 32), index: half(low) }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

pub(super) fn attributes(attr: Attr, options: &Options) -> FileAttr {
    FileAttr {
        ino: inode(attr.id),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.modified,
        mtime: attr.modified,
        ctime: attr.modified,
        crtime: attr.modified,
        kind: file_type(attr.kind),
        perm: u16::try_from(permissions(attr, options) & 0o777).unwrap_or(0),
        // One for directories too: "the number of subdirectories is not told here".
        nlink: 1,
        uid: options.uid,
        gid: options.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn permissions(attr: Attr, options: &Options) -> u32 {
    match attr.kind {
        Kind::File => options.file_mode.map_or(attr.mode, |mode| mode & 0o555),
        Kind::Directory => options.dir_mode & 0o555 | 0o200,
        Kind::Link => attr.mode,
    }
}

pub(super) fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.code().errno())
}

impl From<NotServed> for Errno {
    fn from(why: NotServed) -> Self {
        match why {
            NotServed::Stale => Errno::ESTALE,
            // A handle of what is not there any more is stale, not a name that is not found.
            NotServed::Refused(code) if code.errno() == errno::EACCES => Errno::EACCES,
            NotServed::Refused(_) => Errno::ESTALE,
            NotServed::Directory => Errno::EISDIR,
            NotServed::OtherKind => Errno::EINVAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_are_birth_and_index_and_the_root_is_one() {
        assert_eq!(inode(NodeId::ROOT), INodeNo::ROOT);
        for id in [NodeId { birth: 3, index: 9 }, NodeId { birth: u32::MAX, index: u32::MAX }] {
            assert_eq!(node(inode(id)), id);
        }
        assert_eq!(inode(NodeId { birth: 2, index: 5 }).0, 2 << 32 | 5);
    }
}
