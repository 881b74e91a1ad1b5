//! Windows: a Unix socket by way of [`accept`](super::accept).
//!
//! Connecting takes write access to the socket's file, so its access list is the guard: SYSTEM,
//! Administrators (the CSI driver runs as ContainerAdministrator) and our own account. The list is set
//! between bind and listen, when nobody can connect yet. A folder that we make has the same list; one that
//! is there stays as it is, since kubelet made it and other providers' sockets stand in it too.
//!
//! Windows leaves the file of an ended socket behind and refuses to bind over it: it is removed first.

use std::path::Path;

use super::accept::{self, Carrier, Incoming};
use crate::error::{Code, Error, Result};
use crate::windows::attributes::{self, Kind};
use crate::windows::{sddl, security};

/// Bytes of a socket's address, its NUL included.
const MAX_PATH: usize = 108;
/// To be set where the system's poll does not work for Unix sockets, which was never seen.
const THREADS: &str = "AKVFS_UNSTABLE_SOCKET_THREADS";

/// Accepted connections whose peer may talk to us.
pub type Listener = Incoming;

/// How bytes are carried in this process.
pub(crate) fn carrier() -> Carrier {
    match std::env::var_os(THREADS) {
        Some(value) if value == "true" => Carrier::Threads,
        _ => Carrier::Reactor,
    }
}

/// Binds the socket in place of a stale one.
///
/// # Errors
/// The path is too long or not free for a socket, or the system has no Unix sockets.
pub fn bind(path: &Path) -> Result<Listener> {
    let failed = |what: &str, error: std::io::Error| {
        Error::new(Code::Local, format!("socket {}: {what}: {error}", path.display()))
    };
    let length = path.as_os_str().len();
    if length >= MAX_PATH {
        let text = format!(
            "socket {}: the path has {length} bytes, a socket's has at most {}",
            path.display(),
            MAX_PATH - 1
        );
        return Err(Error::class(text).fix(r"--endpoint unix://C:\provider\azure.sock"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        match security::create_folder(folder, &sddl::private_folder()) {
            Ok(()) => tracing::info!(folder = %folder.display(), "made the socket's folder"),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => tell_of(folder),
            Err(error) => return Err(failed("the folder cannot be made", error)),
        }
    }
    let there = attributes::look(path);
    match there.map_err(|error| failed("the path cannot be looked at", error))? {
        None => {}
        Some((Kind::Socket, _)) => std::fs::remove_file(path)
            .map_err(|error| failed("the old socket cannot be removed", error))?,
        Some((Kind::File | Kind::Folder | Kind::Reparse, _)) => {
            return Err(failed("the path is in use", std::io::ErrorKind::AlreadyExists.into()));
        }
    }
    let socket = accept::bound(path).map_err(|error| {
        failed("bind", error).fix("Windows Server 2019 or newer has Unix sockets")
    })?;
    security::protect(path, &sddl::private_file()).map_err(|error| {
        failed("the access list cannot be set", error)
            .fix("the socket's file system must be NTFS, and the account must own the file")
    })?;
    Incoming::listen(socket, path, carrier()).map_err(|error| failed("listen", error))
}

/// A folder in which others may make files is told of once: they could put a socket of their own there
/// before we start.
fn tell_of(folder: &Path) {
    let list = security::list(folder);
    let ours = security::ourselves().ok();
    match list.map(|list| sddl::judge(&list, ours.as_deref()).writer) {
        Ok(None) => {}
        Ok(Some(account)) => tracing::info!(
            folder = %folder.display(),
            account,
            "others may make files in the socket's folder; the socket has an access list of its own"
        ),
        Err(error) => tracing::warn!(
            folder = %folder.display(),
            err = %error,
            "the access list of the socket's folder cannot be read"
        ),
    }
}
