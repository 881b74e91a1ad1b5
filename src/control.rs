//! The control socket: what runs on this host, and requests to look for new versions now or to unmount.
//!
//! Every process that stays (`akvfs mount`, `akvfs sync --watch`) has one socket in a directory of its
//! user ([`directory`]); whoever asks (`akvfs status`, `refresh`, `unmount`) goes through that directory and
//! asks each socket. A connection carries one line of JSON each way ([`wire`]): the request, at most
//! 64 KiB, and the answer, at most 10,000 names. Only root and the socket's own user are answered.
//! There are names, versions, times and errors in an answer, and never a value.
//!
//! This module knows what is served by [`View`] alone: nothing of FUSE, nothing of files. Windows has no
//! control socket yet: there, what serves one is not used.
#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

#[cfg(unix)]
mod client;
#[cfg(unix)]
mod directory;
#[cfg(unix)]
mod server;
#[cfg(all(test, unix))]
mod tests;
#[cfg(not(unix))]
mod unavailable;
pub(crate) mod wire;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(unix)]
pub(crate) use client::{Peer, ask, ask_all, ask_own_and};
#[cfg(unix)]
pub(crate) use server::{Serving, serve};
#[cfg(not(unix))]
pub(crate) use unavailable::{Peer, Serving, ask, ask_all, ask_own_and, serve};

use tokio::sync::{mpsc, oneshot};

use crate::error::Result;
use crate::view::View;
use wire::Answer;

/// What a process serves.
pub(crate) struct Entry {
    pub(crate) kind: wire::Kind,
    /// Without symbolic links.
    pub(crate) directory: PathBuf,
    /// Of a mount: its device number, which no other mount of this machine has.
    pub(crate) device: Option<String>,
    /// Class and vault, for people.
    pub(crate) source: String,
    /// Who asks the vault, for people.
    pub(crate) identity: String,
    pub(crate) view: Arc<View>,
    pub(crate) problem: Problem,
    pub(crate) restore: Restore,
    pub(crate) ending: Ending,
    /// What became of the records of opens, where they are audited.
    pub(crate) audit: Option<AuditReport>,
}

pub(crate) type AuditReport = Arc<dyn Fn() -> wire::Audit + Send + Sync>;

/// Why what the view has is not what the directory shows: set and cleared by the delivery.
#[derive(Clone, Default)]
pub(crate) struct Problem(Arc<Mutex<Option<String>>>);

impl Problem {
    pub(crate) fn set(&self, problem: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How somebody who asks for a refresh has the delivery put its files back as they are to be. A delivery
/// that has none does nothing.
#[derive(Clone, Default)]
pub(crate) struct Restore(Arc<Mutex<Option<mpsc::Sender<oneshot::Sender<()>>>>>);

impl Restore {
    /// What the delivery is asked for from now on: it answers when it is done, or drops the sender.
    pub(crate) fn listen(&self) -> mpsc::Receiver<oneshot::Sender<()>> {
        let (sender, receiver) = mpsc::channel(1);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Returns when it is done.
    pub(crate) async fn run(&self) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(sender) = sender else { return };
        let (done, wait) = oneshot::channel();
        if sender.send(done).await.is_ok() {
            let _ = wait.await;
        }
    }
}

/// Who asks for the end of a mount, and waits for what comes of it.
pub(crate) type EndAsked = oneshot::Sender<Result<()>>;

/// How somebody ends what is served. What nobody listens for is no mount.
#[derive(Clone, Default)]
pub(crate) struct Ending(Arc<Mutex<Option<mpsc::Sender<EndAsked>>>>);

impl Ending {
    /// What the delivery is asked for from now on: it answers whether it has ended, or goes.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn listen(&self) -> mpsc::Receiver<EndAsked> {
        let (sender, receiver) = mpsc::channel(1);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Returns when it has ended, or why it does not. Nothing: it is no mount.
    pub(crate) async fn run(&self) -> Option<Result<()>> {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (done, wait) = oneshot::channel();
        // One that has gone has ended.
        if sender.send(done).await.is_err() {
            return Some(Ok(()));
        }
        Some(wait.await.unwrap_or(Ok(())))
    }
}

/// Whom this user may ask has been asked.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) answers: Vec<(Peer, Answer)>,
    pub(crate) silent: Vec<Silent>,
}

/// A process that is there and gives no answer.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Silent {
    /// Its socket; or a directory of which not all sockets were asked.
    pub(crate) socket: String,
    pub(crate) pid: Option<i32>,
    pub(crate) uid: u32,
    pub(crate) error: String,
    /// Whether this user started it: else it may be silent on purpose.
    #[serde(skip)]
    pub(crate) own: bool,
}
