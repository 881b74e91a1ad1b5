//! Asking the processes of this host.

use std::io;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::directory::{self, Directory};
use super::wire::{Answer, PROTOCOL, Request};
use super::{Asked, Silent, server};
use crate::error::{Code, Error, Result, printable};

/// A process answers from memory: one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Above what 10,000 names with an error each come to.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
const AT_A_TIME: usize = 64;

/// A process with a socket.
pub(crate) struct Peer {
    directory: std::sync::Arc<Directory>,
    name: String,
    /// Of the process, as the kernel says.
    pid: Option<i32>,
}

impl Peer {
    /// Whose process it is.
    pub(crate) fn uid(&self) -> u32 {
        self.directory.owner
    }

    /// Whether this user started it. What others say of themselves is theirs to say.
    pub(crate) fn is_own(&self) -> bool {
        self.directory.is_own()
    }

    /// Nothing: it is in a container that this process cannot see.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> String {
        printable(&self.directory.path.join(&self.name).to_string_lossy(), 256)
    }
}

/// Asks every process that this user may ask. Sockets that nobody listens on are removed.
///
/// # Errors
/// None on this platform.
pub(crate) async fn ask_all(request: &Request) -> Result<Asked> {
    ask_in(directory::all(), request).await
}

pub(super) async fn ask_in(directories: Vec<Directory>, request: &Request) -> Result<Asked> {
    let mut peers = Vec::new();
    for directory in directories {
        let directory = std::sync::Arc::new(directory);
        let names = directory.sockets();
        peers.extend(names.into_iter().map(|name| Peer {
            directory: directory.clone(),
            name,
            pid: None,
        }));
    }
    let mut answers = stream::iter(peers)
        .map(|mut peer| async move {
            let asked = tokio::time::timeout(PATIENCE, exchange(&mut peer, request)).await;
            (peer, asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
        })
        .buffered(AT_A_TIME);
    let mut asked = Asked::default();
    while let Some((peer, answer)) = answers.next().await {
        match answer {
            Ok(Some(answer)) => asked.answers.push((peer, answer)),
            Ok(None) => {}
            Err(error) => asked.silent.push(Silent {
                socket: peer.socket(),
                pid: peer.pid,
                uid: peer.uid(),
                error: error.kind().to_string(),
            }),
        }
    }
    Ok(asked)
}

/// Asks one of them, and waits as long as a refresh may take.
///
/// # Errors
/// It gives no answer.
pub(crate) async fn ask(peer: &Peer, request: &Request) -> Result<Answer> {
    let mut peer =
        Peer { directory: peer.directory.clone(), name: peer.name.clone(), pid: peer.pid };
    let failed = |what: &str| {
        Error::new(Code::Unavailable, format!("the process at {} {what}", peer.socket()))
    };
    let (gone, silent) = (failed("is gone"), failed("does not answer"));
    let limit = server::REFRESH + PATIENCE * 2;
    match tokio::time::timeout(limit, exchange(&mut peer, request)).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(gone),
        Ok(Err(_)) | Err(_) => Err(silent),
    }
}

/// Removes the sockets that nobody listens on: a process that is killed again and again leaves as many.
pub(super) async fn sweep(directory: &Directory) {
    for name in directory.sockets() {
        let _ = tokio::time::timeout(PATIENCE, connect(directory, &name)).await;
    }
}

/// Nothing: no process is there any more; its socket is removed.
async fn connect(directory: &Directory, name: &str) -> io::Result<Option<UnixStream>> {
    let Some((path, _held)) = directory.way_to(name) else { return Ok(None) };
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            directory.remove(name);
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Nothing: no process is there any more.
async fn exchange(peer: &mut Peer, request: &Request) -> io::Result<Option<Answer>> {
    let Some(mut stream) = connect(&peer.directory, &peer.name).await? else { return Ok(None) };
    let found = stream.peer_cred()?;
    if found.uid() != peer.directory.owner {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    peer.pid = found.pid().filter(|pid| *pid > 0);
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    #[derive(serde::Deserialize)]
    struct Version {
        akvfs: u32,
    }
    let Version { akvfs } = serde_json::from_slice(&answer)?;
    if akvfs != PROTOCOL {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(Some(serde_json::from_slice(&answer)?))
}
