//! The process that serves a directory, for the commands that ask one.
//!
//! Anybody may say to serve anything, and root can ask everybody. So only those are asked who can be
//! meant: one's own processes, and those of the user whose the directory is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::wire::{Answer, Outcome, Request, Served};
use crate::control::{self, Peer};
use crate::error::{Code, Error, Result, printable};

/// A directory whose process hangs may never be resolved.
const PATIENCE: Duration = Duration::from_secs(5);

/// As the serving process knows it: without symbolic links. Whether something is there does not matter.
pub(super) async fn resolve(dir: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error| {
        let dir = printable(&dir.to_string_lossy(), 256);
        Error::new(Code::Local, format!("cannot find {dir}: {}", error.kind()))
    };
    let absolute = std::path::absolute(dir).map_err(failed)?;
    let wanted = absolute.clone();
    let task = tokio::task::spawn_blocking(move || wanted.canonicalize());
    match tokio::time::timeout(PATIENCE, task).await {
        Ok(Ok(Ok(resolved))) => Ok(resolved),
        Ok(Ok(Err(error))) if error.kind() == std::io::ErrorKind::NotFound => Err(failed(error)),
        // A mount that hangs or is dead: its name may do.
        _ => Ok(absolute),
    }
}

/// The process that serves the directory: of several that say so, that of the mount which stands there, if
/// one of ours does.
pub(super) async fn find(directory: &Path, device: Option<&str>) -> Result<Peer> {
    let asked = control::ask_own_and(owner(directory).await, &Request::status()).await?;
    let directory = directory.to_string_lossy();
    let is_meant = |one: &Served| {
        // An older akvfs says nothing of devices.
        let same = device.is_none() || one.device.is_none() || one.device.as_deref() == device;
        one.directory == directory && same
    };
    let serves = |answer: &Answer| match &answer.outcome {
        Outcome::Served(served) => served.iter().any(is_meant),
        _ => false,
    };
    let found = asked.answers.into_iter().filter(|(_, answer)| serves(answer));
    if let Some((peer, _)) = found.min_by_key(|(peer, _)| !peer.is_own()) {
        return Ok(peer);
    }
    let directory = printable(&directory, 4096);
    if asked.silent.is_empty() {
        let what = format!("no akvfs mount or sync --watch that you may ask serves {directory}");
        return Err(Error::new(Code::NotFound, what).fix("akvfs status lists them"));
    }
    let silent: Vec<&str> = asked.silent.iter().map(|silent| silent.socket.as_str()).collect();
    let what =
        format!("{directory} is served by nobody who answers; silent: {}", silent.join(", "));
    Err(Error::new(Code::Unavailable, what))
}

/// Device of the mount of ours that stands at the directory; nothing where none does, or that cannot be
/// found out in time.
#[cfg_attr(not(target_os = "linux"), allow(clippy::unused_async))]
pub(super) async fn device(directory: &Path) -> Option<String> {
    #[cfg(target_os = "linux")]
    {
        let directory = directory.to_owned();
        let look = move || crate::delivery::fuse::device(&directory).ok().flatten();
        let task = tokio::task::spawn_blocking(look);
        tokio::time::timeout(PATIENCE, task).await.ok()?.ok()?
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = directory;
        None
    }
}

/// Whose the directory is; nothing where that cannot be found out in time.
async fn owner(directory: &Path) -> Option<u32> {
    let directory = directory.to_owned();
    let task = tokio::task::spawn_blocking(move || owner_of(&directory));
    tokio::time::timeout(PATIENCE, task).await.ok()?.ok()?
}

#[cfg(unix)]
fn owner_of(directory: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    // A user's mount shows nothing to root.
    #[cfg(target_os = "linux")]
    if let Ok(Some(user)) = crate::delivery::fuse::owner(directory) {
        return Some(user);
    }
    Some(std::fs::symlink_metadata(directory).ok()?.uid())
}

/// There is no control socket to ask.
#[cfg(not(unix))]
fn owner_of(_: &Path) -> Option<u32> {
    None
}
