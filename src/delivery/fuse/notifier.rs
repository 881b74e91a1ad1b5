//! Telling the kernel what to forget, from a thread of its own.
//!
//! A notification can block for as long as a request in the same directory or inode is pending, so
//! it is never sent from a session thread or a tokio worker, and never with a lock held.

use std::ffi::OsString;
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::sync::{mpsc, oneshot};

use super::translate::inode;
use crate::error::{Code, Error, Result};
use crate::view::Announcement;

/// Notifications that wait for the thread.
const QUEUE: usize = 1024;
/// An OPEN waits this long for its attributes to be dropped. Later the reader may see the
/// placeholder size, so it gets an error instead.
const PATIENCE: Duration = Duration::from_secs(5);

enum Job {
    /// Drop the attributes of this inode; make it as large as its last byte says.
    Attributes(INodeNo, Option<(u64, u8)>, oneshot::Sender<()>),
    /// Look up these names again.
    Names(Announcement),
}

/// The way to the notifier thread, which ends when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Notices(mpsc::Sender<Job>);

impl Notices {
    /// A queue without its thread: the thread needs the session, the session's handler needs this.
    pub(super) fn queue() -> (Self, Queue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), Queue(receiver))
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
            self.0.send(Job::Attributes(inode, last, done)).await.ok()?;
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
            if self.0.send(Job::Names(announcement)).await.is_err() {
                return;
            }
        }
    }
}

/// What the thread reads.
pub(super) struct Queue(mpsc::Receiver<Job>);

impl Queue {
    pub(super) fn serve(mut self, notifier: Notifier) -> std::io::Result<()> {
        std::thread::Builder::new()
            .name("akvfs-notifier".to_owned())
            .spawn(move || {
                while let Some(job) = self.0.blocking_recv() {
                    notify(&notifier, job);
                }
            })
            .map(drop)
    }
}

fn notify(notifier: &Notifier, job: Job) {
    match job {
        Job::Attributes(inode, last, done) => {
            if let Some((at, byte)) = last {
                // Bytes that are stored move the end of the file; the rest of the page is read still.
                logged(notifier.store(inode, at, &[byte]));
            }
            // A negative offset drops the attributes and leaves the pages.
            logged(notifier.inval_inode(inode, -1, 0));
            let _ = done.send(());
        }
        Job::Names(announcement) => {
            for (parent, name) in announcement.names {
                logged(notifier.inval_entry(inode(parent), &OsString::from(name)));
            }
            let _ = announcement.shown.send(());
        }
    }
}

/// After the end of the session every notification fails; before, none should.
fn logged(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(kind = %error.kind(), "the kernel refused a notification");
    }
}
