//! Connections of a blocking Unix socket, for a system where tokio has none.
//!
//! One thread accepts. An accepted socket is handed to tokio as if it were TCP's ([`Carrier::Reactor`]): its
//! reads, writes and polls do not care for the family. Should the system's poll not work for it after
//! all, `bridge` carries the bytes by two threads of its own ([`Carrier::Threads`]). Nobody asks such a
//! stream for an address: that is where the disguise would show.
//!
//! The thread ends with its [`Incoming`]. Connections are bounded; one too many is closed at once, so that
//! its client hears of it.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::bridge::{self, Bridged};

/// Most connections at a time: the driver has one, the liveness probe one at a time.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Accepted and not yet taken by the server.
const MAX_WAITING: usize = 16;
/// After an accept that failed, or a connection too many: the next one may fail at once, too.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that the system holds until they are accepted.
const BACKLOG: i32 = 128;

/// How bytes come from a socket to tokio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// By tokio's own reactor.
    Reactor,
    /// By two threads for each connection.
    Threads,
}

/// A Unix socket that is bound, and does not listen yet.
pub(super) fn bound(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Connects to the socket at `path`.
pub(crate) async fn connect(path: PathBuf, carrier: Carrier) -> io::Result<Connection> {
    let socket = tokio::task::spawn_blocking(move || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok::<_, io::Error>(socket)
    });
    Connection::new(socket.await.map_err(io::Error::other)??, carrier, None)
}

/// Accepted connections.
#[derive(Debug)]
pub struct Incoming {
    accepted: mpsc::Receiver<(Socket, OwnedSemaphorePermit)>,
    carrier: Carrier,
    thread: Arc<Thread>,
    path: PathBuf,
}

/// What the accepting thread and its [`Incoming`] share.
#[derive(Debug)]
struct Thread {
    socket: Socket,
    stopped: AtomicBool,
}

impl Incoming {
    /// Listens on a socket that is bound to `path`, and begins to accept.
    pub(super) fn listen(socket: Socket, path: &Path, carrier: Carrier) -> io::Result<Self> {
        socket.listen(BACKLOG)?;
        let (sender, accepted) = mpsc::channel(MAX_WAITING);
        let thread = Arc::new(Thread { socket, stopped: AtomicBool::new(false) });
        let shared = thread.clone();
        std::thread::Builder::new().name("accept".to_owned()).spawn(move || shared.run(&sender))?;
        Ok(Self { accepted, carrier, thread, path: path.to_owned() })
    }
}

impl Thread {
    fn run(&self, sender: &mpsc::Sender<(Socket, OwnedSemaphorePermit)>) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = self.socket.accept();
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            match (accepted, room.clone().try_acquire_owned()) {
                (Ok((socket, _)), Ok(permit)) => {
                    if sender.blocking_send((socket, permit)).is_err() {
                        return;
                    }
                }
                (Ok(_), Err(_)) => {
                    tracing::warn!(
                        most = MAX_CONNECTIONS,
                        "refused a connection: there are too many"
                    );
                    std::thread::sleep(PAUSE);
                }
                (Err(error), _) => {
                    tracing::warn!(err = %error, "a connection cannot be accepted");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}

impl Drop for Incoming {
    /// Wakes the thread out of its accept: on Linux by the first way, on Windows by the second, which a
    /// successor's socket at the same path would defeat; then the thread ends with the process.
    fn drop(&mut self) {
        self.thread.stopped.store(true, Ordering::Release);
        let _ = self.thread.socket.shutdown(std::net::Shutdown::Both);
        if cfg!(windows)
            && let (Ok(socket), Ok(path)) =
                (Socket::new(Domain::UNIX, Type::STREAM, None), SockAddr::unix(&self.path))
            // A full backlog needs no more connections, and is not to be waited for.
            && socket.set_nonblocking(true).is_ok()
        {
            let _ = socket.connect(&path);
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some((socket, permit)) = ready!(self.accepted.poll_recv(cx)) else {
                return Poll::Ready(None);
            };
            match Connection::new(socket, self.carrier, Some(permit)) {
                Ok(connection) => return Poll::Ready(Some(Ok(connection))),
                Err(error) => tracing::warn!(err = %error, "a connection cannot be served"),
            }
        }
    }
}

/// One connection, as tokio reads and writes it.
#[derive(Debug)]
pub struct Connection {
    carried: Carried,
    /// Of an accepted one. A bridge keeps it until its threads have ended.
    _place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Carried {
    Reactor(TcpStream),
    Threads(Bridged),
}

impl Connection {
    /// Must be called in a tokio runtime.
    fn new(
        socket: Socket,
        carrier: Carrier,
        place: Option<OwnedSemaphorePermit>,
    ) -> io::Result<Self> {
        Ok(match carrier {
            Carrier::Reactor => {
                socket.set_nonblocking(true)?;
                let stream = TcpStream::from_std(socket.into())?;
                Self { carried: Carried::Reactor(stream), _place: place }
            }
            Carrier::Threads => {
                Self { carried: Carried::Threads(bridge::start(socket, place)?), _place: None }
            }
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.carried {
            Carried::Reactor(stream) => Pin::new(stream).poll_read(cx, buffer),
            Carried::Threads(stream) => Pin::new(stream.end()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.carried {
            Carried::Reactor(stream) => Pin::new(stream).poll_write(cx, bytes),
            Carried::Threads(stream) => Pin::new(stream.end()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carried {
            Carried::Reactor(stream) => Pin::new(stream).poll_flush(cx),
            Carried::Threads(stream) => Pin::new(stream.end()).poll_flush(cx),
        }
    }

    /// Ends this direction only: the peer may still be sending.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carried {
            Carried::Reactor(stream) => Pin::new(stream).poll_shutdown(cx),
            Carried::Threads(stream) => Pin::new(stream.end()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
