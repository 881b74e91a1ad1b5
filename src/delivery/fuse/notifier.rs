//! Telling the kernel what to forget, from threads of their own.
//!
//! A notification can block for as long as a request in the same directory or inode is pending, so
//! it is never sent from a session thread or a tokio worker, and never with a lock held. One about a
//! name blocks while anybody lists its directory (so does an operation of our own there), and a lister can take as long as it wants (its buffer
//! may be slow memory): OPENs, which wait for notifications about inodes, must not wait for that.

use std::ffi::OsString;
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::sync::{mpsc, oneshot};

use super::announce::Announcer;
use super::translate::inode;
use crate::error::{Code, Error, Result};
use crate::view::Announcement;

/// Notifications that wait for their thread.
const QUEUE: usize = 1024;
/// An OPEN waits this long for its attributes to be dropped. Later the reader may see the
/// placeholder size, so it gets an error instead.
const PATIENCE: Duration = Duration::from_secs(5);

/// Drop the attributes of an inode; make it as large as its last byte says.
struct Attributes {
    inode: INodeNo,
    last: Option<(u64, u8)>,
    done: oneshot::Sender<()>,
}

/// The way to the notifier threads, which end when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Notices {
    attributes: mpsc::Sender<Attributes>,
    names: mpsc::Sender<Announcement>,
}

impl Notices {
    /// Queues without their threads: those need the session, the session's handler needs this.
    pub(super) fn queue() -> (Self, Queue) {
        let (attributes, inodes) = mpsc::channel(QUEUE);
        let (names, announcements) = mpsc::channel(QUEUE);
        (Self { attributes, names }, Queue { inodes, announcements })
    }

    /// Makes the kernel ask for the inode's attributes again; done when this returns.
    ///
    /// `last` is the last byte of a file that is larger than the placeholder, and its position: who
    /// never asks for attributes (sendfile, mmap) would find the file's end at the placeholder.
    pub(super) async fn drop_attributes(
        &self,
        inode: INodeNo,
        last: Option<(u64, u8)>,
    ) -> Result<()> {
        let (done, told) = oneshot::channel();
        let drop = async {
            self.attributes.send(Attributes { inode, last, done }).await.ok()?;
            told.await.ok()
        };
        match tokio::time::timeout(PATIENCE, drop).await {
            Ok(Some(())) => Ok(()),
            _ => {
                let what = "the kernel did not take a notification in time";
                tracing::warn!("an open failed: {what}");
                Err(Error::new(Code::TimedOut, what))
            }
        }
    }

    /// Passes announcements on until the view or the session is gone.
    pub(super) async fn pass_on(self, mut announcements: mpsc::Receiver<Announcement>) {
        while let Some(announcement) = announcements.recv().await {
            if self.names.send(announcement).await.is_err() {
                return;
            }
        }
    }
}

/// What the threads read.
pub(super) struct Queue {
    inodes: mpsc::Receiver<Attributes>,
    announcements: mpsc::Receiver<Announcement>,
}

impl Queue {
    pub(super) fn serve(self, notifier: Notifier, mut announcer: Announcer) -> std::io::Result<()> {
        let Queue { mut inodes, mut announcements } = self;
        let names = notifier.clone();
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("akvfs-inodes").spawn(move || {
            while let Some(told) = inodes.blocking_recv() {
                forget_attributes(&notifier, told);
            }
        })?;
        thread("akvfs-names").spawn(move || {
            while let Some(told) = announcements.blocking_recv() {
                pass_on(&names, &mut announcer, told);
            }
        })?;
        Ok(())
    }
}

fn forget_attributes(notifier: &Notifier, told: Attributes) {
    let Attributes { inode, last, done } = told;
    if let Some((at, byte)) = last {
        // Bytes that are stored move the end of the file; the rest of the page is read still.
        logged(notifier.store(inode, at, &[byte]));
    }
    // A negative offset drops the attributes and leaves the pages.
    logged(notifier.inval_inode(inode, -1, 0));
    let _ = done.send(());
}

fn pass_on(notifier: &Notifier, announcer: &mut Announcer, told: Announcement) {
    for file in &told.withdrawn {
        // Pages and attributes: who holds the file open asks again, and is refused.
        logged(notifier.inval_inode(inode(*file), 0, 0));
    }
    for (parent, name) in announcer.announce(&told) {
        logged(notifier.inval_entry(inode(parent), &OsString::from(name)));
    }
    let _ = told.shown.send(());
}

/// After the end of the session every notification fails; before, none should.
fn logged(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(kind = %error.kind(), "the kernel refused a notification");
    }
}
