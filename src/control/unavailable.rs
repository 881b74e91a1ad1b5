//! Where there is no control socket: nothing is registered, and whoever asks is told so.

use std::convert::Infallible;

use super::wire::{Answer, Request};
use super::{Asked, Entry};
use crate::error::{Code, Error, Result};

/// Never found on this platform.
pub(crate) struct Peer {
    never: Infallible,
}

impl Peer {
    pub(crate) fn uid(&self) -> u32 {
        match self.never {}
    }

    pub(crate) fn is_own(&self) -> bool {
        match self.never {}
    }

    pub(crate) fn socket(&self) -> String {
        match self.never {}
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        match self.never {}
    }
}

/// Nothing to end.
pub(crate) struct Serving;

pub(crate) fn serve(_: Vec<Entry>) -> Result<Serving> {
    Ok(Serving)
}

pub(crate) async fn ask_all(_: &Request) -> Result<Asked> {
    Err(Error::new(Code::Local, "there is no control socket on this platform yet")
        .fix("on Windows the log says what akvfs sync --watch does"))
}

pub(crate) async fn ask_own_and(_: Option<u32>, request: &Request) -> Result<Asked> {
    ask_all(request).await
}

pub(crate) async fn ask(peer: &Peer, _: &Request) -> Result<Answer> {
    match peer.never {}
}
