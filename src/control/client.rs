//! Asking the processes of this host.
//!
//! One's own come first, and are trusted to end. What root then asks of other users is bounded in every
//! way, each directory by itself and all together: any of them may hold sockets without number that
//! never answer, or never stop.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::directory::{self, Directory, Place, Sockets};
use super::wire::{Answer, PROTOCOL, Request};
use super::{Asked, Silent, server};
use crate::error::{Code, Error, Result, printable};

const MIB: u64 = 1024 * 1024;
const AT_A_TIME: usize = 64;
/// Directories of other users, with all their sockets.
const OTHERS_AT_A_TIME: usize = 8;
/// All other users together are not asked for longer.
const OTHERS_TIME: Duration = Duration::from_secs(10);
/// What another user's process may take for an unmount: twice what an open waits for its value if nothing
/// else is said.
const OTHERS_UNMOUNT: Duration = Duration::from_secs(20);
/// Bytes of all their answers, and of those of one directory.
const OTHERS_BYTES: u64 = 32 * MIB;
const DIRECTORY_BYTES: u64 = 4 * MIB;

/// What is asked of one directory.
struct Bounds {
    sockets: usize,
    /// A process answers from memory: one that takes longer hangs.
    patience: Duration,
    /// Of one answer.
    bytes: u64,
}

/// An answer is above what 10,000 names with an error each come to.
const OWN: Bounds = Bounds { sockets: 1000, patience: Duration::from_secs(5), bytes: 64 * MIB };
const OTHERS: Bounds = Bounds { sockets: 16, patience: Duration::from_secs(3), bytes: MIB };

/// A process with a socket.
pub(crate) struct Peer {
    place: Place,
    name: String,
    own: bool,
    /// Of the process, as the kernel says.
    pid: Option<i32>,
}

impl Peer {
    fn new(directory: &Directory, name: &str, own: bool) -> Self {
        let place = Place { path: directory.path.clone(), owner: directory.owner };
        Self { place, name: name.to_owned(), own, pid: None }
    }

    /// Whose process it is.
    pub(crate) fn uid(&self) -> u32 {
        self.place.owner
    }

    /// Whether this user started it. What others say of themselves is theirs to say.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// Nothing: it is in a container that this process cannot see.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> String {
        printable(&self.place.path.join(&self.name).to_string_lossy(), 256)
    }

    fn bounds(&self) -> &'static Bounds {
        if self.own { &OWN } else { &OTHERS }
    }

    fn silent(&self, error: String) -> Silent {
        let (socket, pid, uid, own) = (self.socket(), self.pid, self.uid(), self.own);
        Silent { socket, pid, uid, error, own }
    }
}

/// Asks every process that this user may ask: root everybody's, others their own. Own sockets that nobody
/// listens on are removed.
///
/// # Errors
/// None on this platform.
pub(crate) async fn ask_all(request: &Request) -> Result<Asked> {
    Ok(ask_in(directory::owns(), directory::others(), request).await)
}

/// Asks one's own processes, and those of this other user where one is root.
///
/// # Errors
/// None on this platform.
pub(crate) async fn ask_own_and(user: Option<u32>, request: &Request) -> Result<Asked> {
    let others = user.map(directory::of_other).unwrap_or_default();
    Ok(ask_in(directory::owns(), others, request).await)
}

pub(super) async fn ask_in(own: Vec<Directory>, others: Vec<Place>, request: &Request) -> Asked {
    let mut asked = Asked::default();
    for directory in &own {
        let Sockets { names, more } = directory.sockets(OWN.sockets);
        let ask = |name: String| async move {
            let mut peer = Peer::new(directory, &name, true);
            let work = async {
                let stream = connect(directory, directory.way_to(&name), &name).await?;
                match stream {
                    Some(stream) => exchange(&mut peer, stream, request, None).await.map(Some),
                    None => Ok(None),
                }
            };
            let result = tokio::time::timeout(OWN.patience, work).await;
            (peer, result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
        };
        let mut answers = stream::iter(names).map(ask).buffered(AT_A_TIME);
        while let Some((peer, answer)) = answers.next().await {
            asked.note(peer, answer);
        }
        if more {
            let whole = Peer::new(directory, "", true);
            asked.silent.push(whole.silent(too_many(&OWN)));
        }
    }
    ask_others(others, request, &mut asked).await;
    asked
}

async fn ask_others(places: Vec<Place>, request: &Request, asked: &mut Asked) {
    let end = Instant::now() + OTHERS_TIME;
    let left = AtomicU64::new(OTHERS_BYTES);
    let ask = |place: Place| {
        let left = &left;
        async move { ask_other(place, request, left).await }
    };
    let mut answers = stream::iter(places.clone()).map(ask).buffered(OTHERS_AT_A_TIME);
    // They come in this order.
    for place in &places {
        match tokio::time::timeout_at(end.into(), answers.next()).await {
            Ok(Some(one)) => {
                asked.answers.extend(one.answers);
                asked.silent.extend(one.silent);
            }
            Ok(None) => return,
            Err(_) => {
                let limit = OTHERS_TIME.as_secs();
                let error = format!(
                    "neither this directory nor one of a higher user was asked to the end: all \
                     together may take {limit} s"
                );
                return asked.silent.push(place.silent(error));
            }
        }
    }
}

/// Asks the processes of one directory of another user.
async fn ask_other(place: Place, request: &Request, all: &AtomicU64) -> Asked {
    let end = Instant::now() + OTHERS.patience;
    let left = Left { directory: AtomicU64::new(DIRECTORY_BYTES), all };
    let mut asked = Asked::default();
    let opening = place.clone();
    // The directory can be of a filesystem that hangs.
    let opened = tokio::task::spawn_blocking(move || {
        // Most users have none.
        let directory = Directory::open_other(&opening).ok()?;
        let Sockets { names, more } = directory.sockets(OTHERS.sockets);
        let ways = names.into_iter().map(|name| (directory.way_to(&name), name)).collect();
        Some((directory, ways, more))
    });
    let opened: Option<(_, Vec<_>, _)> = match tokio::time::timeout_at(end.into(), opened).await {
        Ok(opened) => opened.unwrap_or_default(),
        Err(_) => {
            asked.silent.push(place.silent("the directory hangs".to_owned()));
            None
        }
    };
    let Some((directory, ways, more)) = opened else { return asked };
    let ask = |(way, name): (Way, String)| {
        let (directory, left) = (&directory, &left);
        async move {
            let mut peer = Peer::new(directory, &name, false);
            let work = async {
                match connect(directory, way, &name).await? {
                    Some(stream) => {
                        exchange(&mut peer, stream, request, Some(left)).await.map(Some)
                    }
                    None => Ok(None),
                }
            };
            let result = tokio::time::timeout_at(end.into(), work).await;
            (peer, result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
        }
    };
    let mut answers = stream::iter(ways).map(ask).buffered(OTHERS.sockets);
    while let Some((peer, answer)) = answers.next().await {
        asked.note(peer, answer);
    }
    if more {
        asked.silent.push(place.silent(too_many(&OTHERS)));
    }
    asked
}

fn too_many(bounds: &Bounds) -> String {
    format!("it holds more than {} sockets: the others are not asked", bounds.sockets)
}

impl Place {
    /// About a directory of another user as a whole.
    fn silent(&self, error: String) -> Silent {
        Silent { socket: self.shown(), pid: None, uid: self.owner, error, own: false }
    }
}

impl Asked {
    fn note(&mut self, peer: Peer, answer: io::Result<Option<Answer>>) {
        match answer {
            Ok(Some(answer)) => self.answers.push((peer, answer)),
            Ok(None) => {}
            Err(error) => self.silent.push(peer.silent(told(&error))),
        }
    }
}

/// Our own words, or the system's; never the peer's.
fn told(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Exceeded>()) {
        Some(exceeded) => exceeded.to_string(),
        None => error.kind().to_string(),
    }
}

/// What a refresh or an unmount may take, and a little. Another user's word is not waited for so long where
/// it changes nothing: root unmounts without it.
fn patience(own: bool, request: &Request) -> Duration {
    match (request.request.as_str(), own) {
        ("unmount", true) => server::UNMOUNT + OWN.patience * 2,
        ("unmount", false) => OTHERS_UNMOUNT,
        _ => server::LIMIT + OWN.patience * 2,
    }
}

/// Asks one of them, and waits as long as a refresh or an unmount may take.
///
/// # Errors
/// It gives no answer.
pub(crate) async fn ask(peer: &Peer, request: &Request) -> Result<Answer> {
    let mut peer =
        Peer { place: peer.place.clone(), name: peer.name.clone(), own: peer.own, pid: None };
    let failed = |what: &str| {
        Error::new(Code::Unavailable, format!("the process at {} {what}", peer.socket()))
    };
    let (gone, silent) = (failed("is gone"), failed("does not answer"));
    let limit = patience(peer.own, request);
    let work = async {
        let (place, name, own) = (peer.place.clone(), peer.name.clone(), peer.own);
        let opened = tokio::task::spawn_blocking(move || {
            let directory = if own {
                Directory::open(&place.path, place.owner)
            } else {
                Directory::open_other(&place)
            };
            let directory = directory.ok()?;
            Some((directory.way_to(&name), directory))
        });
        let Ok(Some((way, directory))) = opened.await else { return Ok(None) };
        match connect(&directory, way, &peer.name.clone()).await? {
            Some(stream) => exchange(&mut peer, stream, request, None).await.map(Some),
            None => Ok(None),
        }
    };
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(gone),
        Ok(Err(_)) | Err(_) => Err(silent),
    }
}

/// Removes the sockets that nobody listens on: a process that is killed again and again leaves as many.
pub(super) async fn sweep(directory: &Directory) {
    for name in directory.sockets(OWN.sockets).names {
        let connected = connect(directory, directory.way_to(&name), &name);
        let _ = tokio::time::timeout(OWN.patience, connected).await;
    }
}

/// As [`Directory::way_to`] gives it.
type Way = Option<(PathBuf, Option<std::os::fd::OwnedFd>)>;

/// Nothing: no process is there any more; its socket is removed.
async fn connect(directory: &Directory, way: Way, name: &str) -> io::Result<Option<UnixStream>> {
    let Some((path, _held)) = way else { return Ok(None) };
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

async fn exchange(
    peer: &mut Peer,
    mut stream: UnixStream,
    request: &Request,
    left: Option<&Left<'_>>,
) -> io::Result<Answer> {
    let found = stream.peer_cred()?;
    if found.uid() != peer.place.owner {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    peer.pid = found.pid().filter(|pid| *pid > 0);
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let answer = received(stream, peer.bounds().bytes, left).await?;
    #[derive(serde::Deserialize)]
    struct Version {
        akvfs: u32,
    }
    let Version { akvfs } = serde_json::from_slice(&answer)?;
    if akvfs != PROTOCOL {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// An answer is longer than it may be.
#[derive(Debug, thiserror::Error)]
enum Exceeded {
    #[error("the answer is longer than {} MiB", .0 / MIB)]
    One(u64),
    #[error("the answers of its directory are longer than {} MiB", DIRECTORY_BYTES / MIB)]
    Directory,
    #[error("the answers of other users are longer than {} MiB", OTHERS_BYTES / MIB)]
    All,
}

/// Bytes that other users' answers may still have.
struct Left<'a> {
    directory: AtomicU64,
    all: &'a AtomicU64,
}

impl Left<'_> {
    fn take(&self, count: u64) -> std::result::Result<(), Exceeded> {
        let take = |left: &AtomicU64| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count))
        };
        take(&self.directory).map_err(|_| Exceeded::Directory)?;
        take(self.all).map(drop).map_err(|_| Exceeded::All)
    }
}

/// All that comes, at most so many bytes, and at most what is left for several.
async fn received(
    mut stream: UnixStream,
    most: u64,
    left: Option<&Left<'_>>,
) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut part = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut part).await?;
        let Some(bytes) = part.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(answer);
        };
        let count = bytes.len() as u64;
        if answer.len() as u64 + count > most {
            return Err(io::Error::other(Exceeded::One(most)));
        }
        left.map_or(Ok(()), |left| left.take(count)).map_err(io::Error::other)?;
        answer.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmount_is_waited_for_as_the_page_of_options_says() {
        let unmount = Request::unmount("/x".to_owned(), "0:1".to_owned());
        let limits = [true, false].map(|own| patience(own, &unmount).as_secs());
        let page = include_str!("../../docs/CONFIGURATION.md");
        let text = format!("within {} s (another user's within {} s)", limits[0], limits[1]);
        assert!(page.contains(&text), "{text}");
        // It has told by then that opens take too long.
        assert!(patience(true, &unmount) > server::UNMOUNT);
        let refresh = Request::refresh("/x".to_owned(), None);
        assert!([true, false].iter().all(|own| patience(*own, &refresh) > server::LIMIT));
    }
}
