//! A view as a FUSE tree.
//!
//! The handler is a thin shell: it translates, and answers from the view's memory. Only OPEN of a
//! file that nobody opened before uses the network, on a tokio task, so a slow vault delays nobody
//! else. An inode is one slot of one birth (`birth << 32 | index`, the root is 1): its content never
//! changes, so the kernel may cache everything for long; a name that changes leads to another inode,
//! and the notifier tells the kernel to look again.
//!
//! A size is not known before the first OPEN. Until then files show 4096 bytes; just before the
//! first OPEN is answered the kernel is told to drop the file's attributes, so that the reader's next
//! fstat sees the true size.

mod handler;
mod mountpoint;
mod notifier;
mod session;
mod translate;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use mountpoint::unmount;
pub(crate) use mountpoint::{is_mounted, owner};
pub use session::Mounted;

use crate::error::{Code, Error, Result};
use crate::view::View;

/// How a tree is shown.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest wait of an OPEN for its value.
    pub open_timeout: Duration,
    /// Owner of everything in the tree.
    pub uid: u32,
    /// Group of everything in the tree.
    pub gid: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(10),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }
}

/// Mounts the view at a directory and serves it. Must be called on a tokio runtime, which then runs
/// the fetches. As root the mount is read-only, nosuid, nodev, noexec, noatime, and open to all users
/// that the files' modes admit; a plain user's is made by fusermount3 and open to that user only.
///
/// # Errors
/// [`Code::FuseUnavailable`] where FUSE cannot work; [`Code::Local`] where the directory is the
/// problem. Nothing is mounted then.
pub async fn mount(view: Arc<View>, dir: &Path, options: Options) -> Result<Mounted> {
    let runtime = tokio::runtime::Handle::current();
    let dir = dir.to_owned();
    // Mounting and the handshake with the kernel block.
    tokio::task::spawn_blocking(move || session::start(view, &dir, options, runtime))
        .await
        .unwrap_or_else(|_| Err(Error::new(Code::Internal, "mounting failed")))
}
