//! An OPEN from its arrival to its answer.

use std::sync::Arc;
use std::time::Instant;

use fuser::{Errno, FileHandle, FopenFlags, ReplyOpen, Request};

use super::audit::Auditor;
use super::failures::Failures;
use super::translate::{errno, inode};
use crate::error::Error;
use crate::view::{NodeId, NotServed, Slot, View};

/// An OPEN that has no answer yet. One that is dropped is answered EIO.
pub(super) struct Opening {
    pub(super) id: NodeId,
    /// The kernel's number of the request.
    pub(super) request: u64,
    /// Where opens are audited: who opens, and since when.
    pub(super) who: Option<Who>,
    /// The view keeps the bytes for it.
    pub(super) held: bool,
    reply: ReplyOpen,
}

impl Opening {
    /// What is opened was there already.
    pub(super) fn found(&mut self) {
        if let Some(who) = &mut self.who {
            who.cache_hit = true;
        }
    }
}

/// What the kernel says of whoever opens.
pub(super) struct Who {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) thread: u32,
    pub(super) arrived: Instant,
    /// Whether what is opened was there already.
    pub(super) cache_hit: bool,
}

/// Why an OPEN is refused.
pub(super) struct Refusal {
    pub(super) errno: Errno,
    /// Stable, as in logs.
    pub(super) code: &'static str,
    pub(super) cause: String,
}

impl Refusal {
    /// Nothing here can be written.
    pub(super) fn read_only() -> Self {
        let cause = "it is opened for writing".to_owned();
        Self { errno: Errno::EROFS, code: "read_only", cause }
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        Self { errno: errno(error), code: error.code().as_str(), cause: error.to_string() }
    }
}

impl From<NotServed> for Refusal {
    fn from(why: NotServed) -> Self {
        let (code, cause) = match why {
            NotServed::Stale => ("stale", "it was replaced too long ago"),
            NotServed::Refused(code) => {
                (code.as_str(), "it was taken away: akvfs status has the words")
            }
            NotServed::Directory => ("directory", "it is a directory"),
            NotServed::OtherKind => ("other_kind", "it is of another kind"),
        };
        Self { errno: why.into(), code, cause: cause.to_owned() }
    }
}

/// The slot that is opened, or why it is not.
pub(super) type Outcome = Result<Arc<Slot>, Refusal>;

/// How OPENs are answered: at once, or when their record is written.
#[derive(Clone)]
pub(super) struct Openings {
    answers: Answers,
    auditor: Option<Auditor>,
}

impl Openings {
    pub(super) fn new(answers: Answers, auditor: Option<Auditor>) -> Self {
        Self { answers, auditor }
    }

    pub(super) fn arrived(&self, id: NodeId, request: &Request, reply: ReplyOpen) -> Opening {
        let who = self.auditor.as_ref().map(|_| Who {
            uid: request.uid(),
            gid: request.gid(),
            thread: request.pid(),
            arrived: Instant::now(),
            cache_hit: false,
        });
        Opening { id, request: request.unique().0, who, held: false, reply }
    }

    /// What the kernel does with the pages of what is opened.
    pub(super) fn flags(&self) -> FopenFlags {
        self.answers.flags
    }

    pub(super) fn answer(&self, opening: Opening, outcome: Outcome) {
        match &self.auditor {
            None => self.answers.give(opening, outcome),
            Some(auditor) => auditor.submit(opening, outcome),
        }
    }
}

/// The answer itself. Never blocks.
#[derive(Clone)]
pub(super) struct Answers {
    pub(super) view: Arc<View>,
    pub(super) flags: FopenFlags,
    pub(super) failures: Failures,
}

impl Answers {
    pub(super) fn give(&self, opening: Opening, outcome: Outcome) {
        let Opening { id, request, held, reply, .. } = opening;
        match outcome {
            // Held until its RELEASE, which only an opened file has.
            Ok(_) => reply.opened(handle(id), self.flags),
            Err(refusal) => {
                if held {
                    self.view.release(id);
                }
                reply.error(refusal.errno);
                self.failures.tell("open", &self.view.path(id), request, &refusal);
            }
        }
    }
}

/// Handles carry no state.
pub(super) fn handle(id: NodeId) -> FileHandle {
    FileHandle(inode(id).0)
}
