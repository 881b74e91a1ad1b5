//! Telling systemd (`Type=notify`) that the mount is there: sd_notify's datagram.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::cli::note;

const SOCKET: &str = "NOTIFY_SOCKET";
/// For a manager whose queue is full.
const PATIENCE: Duration = Duration::from_secs(5);

/// The mount is there.
pub(super) fn ready(what: &str) {
    tell(&format!("READY=1\nSTATUS={}\n", what.replace('\n', " ")));
}

/// It will not be there much longer.
pub(super) fn stopping() {
    tell("STOPPING=1\n");
}

/// Nobody who wants to know is no reason to end, nor is one who does not listen.
fn tell(message: &str) {
    let Some(socket) = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(socket.as_bytes(), message.as_bytes()) {
        note(&format!("note: the service manager cannot be told: {}", error.kind()));
    }
}

/// To a path, or to a name that is in no directory, written with an `@`.
fn send(socket: &[u8], message: &[u8]) -> io::Result<()> {
    let address = match socket.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket))?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that is busy, as it is when a machine starts, reads it somewhat later.
    sender.set_write_timeout(Some(PATIENCE))?;
    sender.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("akvfs-notify-test-{}", std::process::id());
        let named = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        for (socket, receiver) in [
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{abstract_name}"), UnixDatagram::bind_addr(&named).unwrap()),
        ] {
            send(socket.as_bytes(), b"READY=1\n").unwrap();
            let mut buffer = [0; 64];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\n", "{socket}");
        }
        assert!(send(b"/no/such/socket", b"READY=1\n").is_err());
    }

    #[test]
    fn a_busy_manager_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let others = UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        let mut queued = 0;
        while others.send_to(b"x", &path).is_ok() {
            queued += 1;
            assert!(queued < 1_000_000);
        }
        let (told, hears) = std::sync::mpsc::channel();
        let at = path.clone();
        std::thread::spawn(move || told.send(send(at.as_os_str().as_bytes(), b"READY=1\n")));
        // It waits while nobody reads: too short a look would only miss that it does not.
        assert!(hears.recv_timeout(Duration::from_millis(200)).is_err());
        let mut buffer = [0; 64];
        for _ in 0..queued {
            manager.recv(&mut buffer).unwrap();
        }
        hears.recv().unwrap().unwrap();
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\n");
    }
}
