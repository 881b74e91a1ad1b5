//! Two threads that carry a blocking socket's bytes to and from a pipe in memory, whose other end tokio
//! reads and writes. It asks of the system only that a blocking read and a blocking write work.
//!
//! Each direction ends by itself, as on a socket: an end that is read is passed on as an end of writing.
//! When tokio's end is dropped, what it wrote is still sent, and then the socket is closed in both
//! directions, which ends the thread that reads.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use socket2::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes on their way, in each direction.
const PIPE: usize = 64 * 1024;
/// A peer that takes nothing for so long has hung; its connection ends.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// tokio's end.
#[derive(Debug)]
pub(super) struct Bridged {
    end: DuplexStream,
    /// Its end tells the threads that nobody is here any more.
    _alive: mpsc::Sender<()>,
}

impl Bridged {
    pub(super) fn end(&mut self) -> &mut DuplexStream {
        &mut self.end
    }
}

/// What both threads hold: the connection's place is free when both have ended.
struct Shared {
    socket: Socket,
    runtime: Handle,
    _place: Option<OwnedSemaphorePermit>,
}

/// Starts the threads. Must be called in a tokio runtime.
pub(super) fn start(socket: Socket, place: Option<OwnedSemaphorePermit>) -> io::Result<Bridged> {
    socket.set_nonblocking(false)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    let (end, far) = tokio::io::duplex(PIPE);
    let (from_tokio, to_tokio) = tokio::io::split(far);
    let (alive, gone) = mpsc::channel();
    let shared = Arc::new(Shared { socket, runtime: Handle::current(), _place: place });
    let receiving = shared.clone();
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("socket-send").spawn(move || shared.send(from_tokio, &gone))?;
    // Without this one the other ends as well, when `end` is dropped.
    thread("socket-receive").spawn(move || receiving.receive(to_tokio))?;
    Ok(Bridged { end, _alive: alive })
}

impl Shared {
    fn receive(&self, mut to: WriteHalf<DuplexStream>) {
        let mut buffer = zeroize::Zeroizing::new(vec![0; PIPE]);
        loop {
            let read = match (&self.socket).read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            if self.runtime.block_on(to.write_all(bytes)).is_err() {
                break;
            }
        }
        let _ = self.runtime.block_on(to.shutdown());
    }

    fn send(&self, mut from: ReadHalf<DuplexStream>, gone: &mpsc::Receiver<()>) {
        let mut buffer = zeroize::Zeroizing::new(vec![0; PIPE]);
        let sent = loop {
            let read = match self.runtime.block_on(from.read(&mut buffer)) {
                Ok(0) | Err(_) => break true,
                Ok(read) => read,
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            if (&self.socket).write_all(bytes).is_err() {
                break false;
            }
        };
        if sent {
            let _ = self.socket.shutdown(Shutdown::Write);
            // Ends when tokio's end is dropped: nothing is ever sent here.
            let _ = gone.recv();
        }
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
