//! The socket of this process.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::directory::{self, Directory};
use super::wire::{Answer, Outcome, PROTOCOL, Problem, RefreshReport, Request, Served};
use super::{Entry, client};
use crate::error::{Code, Error, Result, printable};
use crate::peer::is_welcome;

const MAX_REQUEST: u64 = 64 * 1024;
const MAX_CONNECTIONS: u32 = 16;
/// For the request to come, for what is put back, and again for the answer to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a refresh that runs already to end, and again for the one that was asked for.
const PATIENCE_FOR_EACH: Duration = Duration::from_secs(60);
/// For opens to end before an unmount.
pub(super) const UNMOUNT: Duration = Duration::from_secs(60);
/// Whatever was asked for is told by then: two refreshes, what is put back, and a little.
pub(super) const LIMIT: Duration = Duration::from_secs(2 * 60 + 10 + 5);
/// After an accept that failed: with no descriptor left the next one fails at once, too.
const PAUSE: Duration = Duration::from_millis(100);

/// A process that ends gives running answers so long.
const GOODBYE: Duration = Duration::from_secs(2);

/// The socket. It goes when this is dropped.
pub(crate) struct Serving {
    path: PathBuf,
    accepting: JoinHandle<()>,
    places: Arc<Semaphore>,
}

impl Serving {
    /// Takes no more requests, and waits shortly for the answers that are under way.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) async fn finish(self) {
        self.accepting.abort();
        // Whoever holds every place knows that nobody else holds one.
        let all = self.places.acquire_many(MAX_CONNECTIONS);
        let _ = tokio::time::timeout(GOODBYE, all).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers for these from now on. Must be called on a tokio runtime.
///
/// # Errors
/// There is no place for the socket.
pub(crate) fn serve(entries: Vec<Entry>) -> Result<Serving> {
    let directory = directory::own()?;
    let serving = serve_in(&directory, entries)?;
    tokio::spawn(async move { client::sweep(&directory).await });
    Ok(serving)
}

pub(super) fn serve_in(directory: &Directory, entries: Vec<Entry>) -> Result<Serving> {
    let (unfinished, path) = directory.new_names()?;
    let listener = bind(&unfinished, &path).map_err(|error| {
        let _ = std::fs::remove_file(&unfinished);
        let place = printable(&path.to_string_lossy(), 256);
        Error::new(Code::Local, format!("control socket {place}: {}", error.kind()))
    })?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let accepting = tokio::spawn(accept(listener, places.clone(), entries.into()));
    Ok(Serving { path, accepting, places })
}

/// Has its name only once it listens: one that refuses connections belongs to nobody any more.
fn bind(unfinished: &Path, path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(unfinished)?;
    std::fs::set_permissions(unfinished, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(unfinished, path)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, places: Arc<Semaphore>, entries: Arc<[Entry]>) {
    loop {
        // Whoever comes when all are taken waits in the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) if is_welcome(&stream, "a control connection") => {
                let entries = entries.clone();
                tokio::spawn(async move {
                    let _place = place;
                    // Whoever went away needs no answer.
                    let _ = converse(stream, &entries).await;
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(err = %error.kind(), "a control connection cannot be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, entries: &[Entry]) -> io::Result<()> {
    let mut line = Vec::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST + 1));
    tokio::time::timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let outcome = outcome(&line, entries).await;
    let outcome = outcome.unwrap_or_else(|error| Outcome::Error(Problem::from(&error)));
    let mut answer = serde_json::to_vec(&Answer::new(outcome))?;
    answer.push(b'\n');
    tokio::time::timeout(PATIENCE, stream.write_all(&answer)).await??;
    stream.shutdown().await
}

async fn outcome(line: &[u8], entries: &[Entry]) -> Result<Outcome> {
    if line.len() as u64 > MAX_REQUEST {
        return Err(Error::new(Code::TooLarge, "the request is longer than 64 KiB"));
    }
    let request: Request = serde_json::from_slice(line)
        .map_err(|_| Error::class("the request is not a line of the control protocol"))?;
    if request.akvfs != PROTOCOL {
        return Err(Error::class(format!("this process speaks control protocol {PROTOCOL} only"))
            .fix("use the akvfs that it was started from"));
    }
    match request.request.as_str() {
        "status" => Ok(Outcome::Served(entries.iter().map(Served::of).collect())),
        "refresh" => {
            let entry = named(entries, &request)?;
            let done = entry.view.refresh_in_turn(PATIENCE_FOR_EACH).await;
            // What cannot be written is the entry's problem.
            let _ = tokio::time::timeout(PATIENCE, entry.restore.run()).await;
            Ok(Outcome::Refreshed(RefreshReport::of(done, entry)))
        }
        "unmount" => {
            unmount(named(entries, &request)?).await?;
            Ok(Outcome::Unmounted { directory: request.directory.unwrap_or_default() })
        }
        _ => Err(Error::class("this process knows the requests status, refresh and unmount")),
    }
}

async fn unmount(entry: &Entry) -> Result<()> {
    let place = printable(&entry.directory.to_string_lossy(), 4096);
    match tokio::time::timeout(UNMOUNT, entry.ending.run()).await {
        Ok(Some(ended)) => ended,
        Ok(None) => Err(Error::new(Code::Local, format!("{place} is not a mount"))
            .fix("end akvfs sync --watch by SIGTERM; its files stay")),
        Err(_) => {
            Err(Error::new(Code::TimedOut, format!("{place}: opens wait for the vault still"))
                .fix("the mount goes when they have ended, at the latest after --open-timeout"))
        }
    }
}

/// The one that a request is about. A name alone can be that of another mount: of one in another mount
/// namespace, or of one that was mounted there before.
fn named<'a>(entries: &'a [Entry], request: &Request) -> Result<&'a Entry> {
    let wanted = request.directory.as_deref().unwrap_or_default();
    let is_meant = |entry: &&Entry| {
        entry.directory.to_string_lossy() == wanted
            && (request.device.is_none() || request.device == entry.device)
    };
    let entry = entries.iter().find(is_meant);
    entry.ok_or_else(|| Error::new(Code::NotFound, "this process serves another directory"))
}
