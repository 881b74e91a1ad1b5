//! Unix: tokio's own listener.
//!
//! The socket is bound in a private directory beside its place and renamed over it, so that it never
//! exists with a wider mode and a restart replaces the old file in one step. The peer's uid is
//! checked again on each connection.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

use crate::error::{Code, Error, Result};
use crate::peer::is_welcome;

/// The socket's name until it is renamed to its place.
const INNER: &str = "s";
/// After an accept that failed: with no descriptor left the next one fails at once, too.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepted connections whose peer may talk to us.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Binds the socket, mode 0700, in place of a stale one.
///
/// # Errors
/// The directory is missing or not ours to write, or the path is not free for a socket.
pub fn bind(path: &Path) -> Result<Listener> {
    let failed = |what: &str, error: std::io::Error| {
        Error::new(Code::Local, format!("socket {}: {what}: {}", path.display(), error.kind())).fix(
            "the directory must exist and be writable; socket paths are short, 90 bytes are safe",
        )
    };
    if path.file_name().is_none() {
        return Err(failed("no file name", std::io::ErrorKind::InvalidInput.into()));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) => {
            use std::os::unix::fs::FileTypeExt;
            if !found.file_type().is_socket() {
                return Err(failed("the path is in use", std::io::ErrorKind::AlreadyExists.into()));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("stat", error)),
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let private = parent.join(format!(".akvfs-{}", std::process::id()));
    // Left behind by a killed process with our pid: it can only be an empty private directory.
    let _ = std::fs::remove_file(private.join(INNER));
    let _ = std::fs::remove_dir(&private);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&private)
        .map_err(|error| failed("private directory", error))?;
    // A short name: the path of a socket is bounded, and this one has a directory more.
    let inner = private.join(INNER);
    let bound = UnixListener::bind(&inner)
        .and_then(|listener| {
            std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o700))?;
            std::fs::rename(&inner, path)?;
            Ok(listener)
        })
        .map_err(|error| failed("bind", error));
    let _ = std::fs::remove_file(&inner);
    let _ = std::fs::remove_dir(&private);
    bound.map(|socket| Listener { socket, pause: None })
}

impl Stream for Listener {
    type Item = std::io::Result<UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.socket.poll_accept(cx)) {
                Ok((stream, _)) if is_welcome(&stream, "a connection") => {
                    return Poll::Ready(Some(Ok(stream)));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(err = %error, "a connection cannot be accepted");
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_file_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("azure.sock");
        drop(bind(&path).unwrap());
        let _live = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "the private directory is gone"
        );
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }
}
