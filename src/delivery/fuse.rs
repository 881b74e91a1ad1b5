//! A view as a FUSE tree.
//!
//! The handler is a thin shell: it translates, and answers from the view's memory. Only OPEN of a
//! file that nobody opened before uses the network, on a tokio task, so a slow vault delays nobody
//! else. An inode is one slot of one birth (`birth << 32 | index`, the root is 1): its content never
//! changes, so the kernel may cache everything for long; a name that changes leads to another inode.
//! The names thread moves it there by operations of our own, which watchers see, or tells the kernel to
//! look again.
//!
//! A size is not known before the first OPEN. Until then files show 4096 bytes; just before the
//! first OPEN is answered the kernel is told to drop the file's attributes, so that the reader's next
//! fstat sees the true size.

mod announce;
pub mod audit;
mod failures;
mod handler;
mod mountpoint;
mod notifier;
mod opening;
mod session;
mod translate;
mod xattr;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use mountpoint::unmount;
pub(crate) use mountpoint::{device, owner};
pub use session::Mounted;

use crate::class::FuseCache;
use crate::error::{Code, Error, Result};
use crate::view::View;

/// How a tree is shown.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the mount table calls it: where the files come from.
    pub source: String,
    /// Longest wait of an OPEN for its value.
    pub open_timeout: Duration,
    /// Owner of everything in the tree.
    pub uid: u32,
    /// Group of everything in the tree.
    pub gid: u32,
    /// Mode of every file, in place of the plan's. Bits beyond 0o555 do not count.
    pub file_mode: Option<u32>,
    /// Mode of every directory. Of the bits for writing the owner's is always there, and no other: without
    /// it a plain user's own server could not announce a rotation.
    pub dir_mode: u32,
    /// Whether others than the mounting user may use the mount, as modes and owner let them. Of no
    /// meaning to root, whose mounts others may always use.
    pub allow_other: bool,
    /// What the kernel keeps of what was read.
    pub cache: FuseCache,
    /// Whether files have attributes `user.akvfs.*` that describe their object. Listing takes more
    /// requests then.
    pub xattr: bool,
    /// Whether and where every open is recorded.
    pub audit: Option<audit::Options>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: "akvfs".to_owned(),
            open_timeout: Duration::from_secs(10),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            file_mode: None,
            dir_mode: 0o755,
            allow_other: false,
            cache: FuseCache::Keep,
            xattr: false,
            audit: None,
        }
    }
}

/// Mounts the view at a directory and serves it. Must be called on a tokio runtime, which then runs
/// the fetches. As root the mount is read-only, nosuid, nodev, noexec, noatime, and open to all users
/// that the files' modes admit; a plain user's is made by fusermount3 and open to that user only, unless
/// the options allow others and `/etc/fuse.conf` lets them.
///
/// # Errors
/// [`Code::FuseUnavailable`] where FUSE cannot work; [`Code::Local`] where the directory is the
/// problem. Nothing is mounted then.
pub async fn mount(view: Arc<View>, dir: &Path, options: Options) -> Result<Mounted> {
    let runtime = tokio::runtime::Handle::current();
    let dir = dir.to_owned();
    view.settle();
    // Mounting and the handshake with the kernel block.
    tokio::task::spawn_blocking(move || session::start(view, &dir, options, runtime))
        .await
        .unwrap_or_else(|_| Err(Error::new(Code::Internal, "mounting failed")))
}
