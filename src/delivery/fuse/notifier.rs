//! Telling the kernel what to forget, from threads of their own.
//!
//! A notification can block for as long as a request in the same directory or inode is pending, so
//! it is never sent from a session thread or a tokio worker, and never with a lock held. One about a
//! name blocks while anybody lists its directory (so does an operation of our own there), and a lister can take as long as it wants (its buffer
//! may be slow memory): OPENs, which wait for notifications about inodes, must not wait for that.

mod untold;

use std::ffi::OsString;
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::sync::{mpsc, oneshot};

use self::untold::Untold;
use super::announce::Announcer;
use super::translate::inode;
use crate::error::{Code, Error, Result};
use crate::view::{Announcement, NodeId};

/// Notifications about inodes that wait for their thread.
const QUEUE: usize = 1024;
/// Longest wait for the thread for inodes. An OPEN whose attributes were not dropped by then gets an error:
/// its reader may see the placeholder size.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether a directory that somebody holds is free again.
const LOOK: Duration = Duration::from_millis(50);

/// What the thread for inodes is told. None of it waits for a directory.
struct Told {
    what: What,
    done: oneshot::Sender<()>,
}

enum What {
    /// Drop the attributes of an inode; make it as large as its last byte says.
    Attributes { inode: INodeNo, last: Option<(u64, u8)> },
    /// Drop pages and attributes of all of these.
    Withdrawn(Vec<NodeId>),
}

/// The way to the notifier threads, which end when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Notices {
    inodes: mpsc::Sender<Told>,
    names: mpsc::Sender<Untold>,
}

impl Notices {
    /// Queues without their threads: those need the session, the session's handler needs this.
    pub(super) fn queue() -> (Self, Queue) {
        let (inodes, told) = mpsc::channel(QUEUE);
        let (names, announcements) = mpsc::channel(1);
        (Self { inodes, names }, Queue { told, announcements })
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
        if self.tell(What::Attributes { inode, last }).await {
            return Ok(());
        }
        let what = "the kernel did not take a notification in time";
        tracing::warn!("an open failed: {what}");
        Err(Error::new(Code::TimedOut, what))
    }

    /// Whether it was done in time.
    async fn tell(&self, what: What) -> bool {
        let (done, told) = oneshot::channel();
        let tell = async {
            self.inodes.send(Told { what, done }).await.ok()?;
            told.await.ok()
        };
        matches!(tokio::time::timeout(PATIENCE, tell).await, Ok(Some(())))
    }

    /// Passes announcements on until the view or the session is gone.
    pub(super) async fn pass_on(self, mut announcements: mpsc::Receiver<Announcement>) {
        let mut waiting: Option<Untold> = None;
        loop {
            let next = tokio::select! {
                biased;
                room = self.names.reserve(), if waiting.is_some() => {
                    let Ok(room) = room else { return };
                    if let Some(untold) = waiting.take() {
                        room.send(untold);
                    }
                    continue;
                }
                next = announcements.recv() => next,
            };
            let Some(mut announcement) = next else { break };
            // First, and whoever holds a directory: a revocation does not wait for a lister.
            let withdrawn = std::mem::take(&mut announcement.withdrawn);
            if !withdrawn.is_empty() && !self.tell(What::Withdrawn(withdrawn)).await {
                tracing::warn!("the kernel was not told in time what the vault has taken back");
            }
            waiting = Some(match waiting {
                None => Untold::Whole(announcement),
                Some(untold) => untold.and(announcement),
            });
        }
        if let Some(untold) = waiting {
            let _ = self.names.send(untold).await;
        }
    }
}

/// What the threads read.
pub(super) struct Queue {
    told: mpsc::Receiver<Told>,
    announcements: mpsc::Receiver<Untold>,
}

impl Queue {
    pub(super) fn serve(self, notifier: Notifier, mut announcer: Announcer) -> std::io::Result<()> {
        let Queue { mut told, mut announcements } = self;
        let names = notifier.clone();
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("akvfs-inodes").spawn(move || {
            while let Some(Told { what, done }) = told.blocking_recv() {
                forget(&notifier, what);
                let _ = done.send(());
            }
        })?;
        thread("akvfs-names").spawn(move || {
            while let Some(told) = announcements.blocking_recv() {
                pass_on(&names, &mut announcer, told, || announcements.is_closed());
            }
        })?;
        Ok(())
    }
}

fn forget(notifier: &Notifier, what: What) {
    match what {
        What::Attributes { inode, last } => {
            if let Some((at, byte)) = last {
                // Bytes that are stored move the end of the file; the rest of the page is read still.
                logged(notifier.store(inode, at, &[byte]));
            }
            // A negative offset drops the attributes and leaves the pages.
            logged(notifier.inval_inode(inode, -1, 0));
        }
        // Whoever holds the file open asks again, and is refused.
        What::Withdrawn(nodes) => {
            for node in nodes {
                logged(notifier.inval_inode(inode(node), 0, 0));
            }
        }
    }
}

fn pass_on(notifier: &Notifier, announcer: &mut Announcer, told: Untold, ended: impl Fn() -> bool) {
    let (names, shown) = match told {
        Untold::Whole(one) => (announcer.announce(&one), vec![one.shown]),
        Untold::Merged(all) => {
            announcer.give_up(all.birth);
            (all.names.into_iter().collect(), all.shown)
        }
    };
    for (parent, name) in names {
        // On this side of the kernel: here the thread can be ended.
        while announcer.is_held(parent) {
            if ended() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        logged(notifier.inval_entry(inode(parent), &OsString::from(name)));
    }
    announcer.let_go();
    for shown in shown {
        let _ = shown.send(());
    }
}

/// After the end of the session every notification fails; before, none should.
fn logged(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(kind = %error.kind(), "the kernel refused a notification");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Move;

    fn file(index: u32) -> NodeId {
        NodeId { birth: 1, index }
    }

    fn announcement(birth: u32) -> (Announcement, oneshot::Receiver<()>) {
        let (shown, told) = oneshot::channel();
        let one = Move {
            directory: NodeId::ROOT,
            folder: String::new(),
            name: "..data".to_owned(),
            before: None,
            now: Some(file(2)),
        };
        let names =
            [format!("..2026_01_01.{birth}"), "..data".to_owned(), format!("name{}", birth % 5)];
        let names = names.map(|name| (NodeId::ROOT, name)).to_vec();
        let (moves, leavings) = (vec![one.clone()], vec![one]);
        (Announcement { birth, moves, leavings, names, withdrawn: vec![file(birth)], shown }, told)
    }

    #[tokio::test]
    async fn while_no_name_is_told_revocations_are_and_what_waits_stays_small() {
        const MANY: u32 = 3000;
        let (notices, Queue { mut told, announcements: mut names }) = Notices::queue();
        let (view, announcements) = mpsc::channel(16);
        let passing = tokio::spawn(notices.pass_on(announcements));
        let mut last = None;
        for birth in 1..=MANY {
            let (one, shown) = announcement(birth);
            view.send(one).await.unwrap();
            let Told { what, done } = told.recv().await.unwrap();
            assert!(matches!(what, What::Withdrawn(nodes) if nodes == [file(birth)]));
            done.send(()).unwrap();
            last = Some(shown);
        }
        drop(view);
        let Some(Untold::Whole(first)) = names.recv().await else { panic!("not the first one") };
        assert_eq!((first.birth, first.moves.len()), (1, 1));
        let Some(Untold::Merged(all)) = names.recv().await else { panic!("not the others") };
        let expected = (0..5).map(|n| format!("name{n}"));
        let expected =
            [format!("..2026_01_01.{MANY}"), "..data".to_owned()].into_iter().chain(expected);
        let found: Vec<String> = all.names.into_iter().map(|(_, name)| name).collect();
        assert_eq!((all.birth, found), (MANY, expected.collect()));
        // Of whoever waits still.
        assert!(all.shown.len() <= 3, "{}", all.shown.len());
        all.shown.into_iter().for_each(|shown| _ = shown.send(()));
        last.unwrap().await.unwrap();
        assert!(names.recv().await.is_none());
        passing.await.unwrap();
    }
}
