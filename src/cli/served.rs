//! The process that serves a directory, for the commands that ask one.
//!
//! Anybody may say to serve anything, and root can ask everybody. So only those are asked who can be
//! meant: one's own processes, and those of the user whose the directory is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::wire::{Answer, Outcome, Request};
use crate::control::{self, Peer};
use crate::error::{Code, Error, Result, printable};

/// A directory whose process hangs may never be resolved.
const PATIENCE: Duration = Duration::from_secs(5);

/// As the serving process knows it: without symbolic links. Whether something is there does not matter.
pub(super) async fn resolve(dir: &Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        let dir = printable(&dir.to_string_lossy(), 256);
        Error::new(Code::Local, format!("cannot find {dir}: {}", error.kind()))
    };
    let absolute = std::path::absolute(dir).map_err(failed)?;
    let wanted = absolute.clone();
    let task = tokio::task::spawn_blocking(move || wanted.canonicalize());
    let resolved = match tokio::time::timeout(PATIENCE, task).await {
        Ok(Ok(Ok(resolved))) => resolved,
        Ok(Ok(Err(error))) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(failed(error));
        }
        // A mount that hangs or is dead: its name may do.
        _ => absolute,
    };
    Ok(resolved.to_string_lossy().into_owned())
}

/// The process that serves the directory.
pub(super) async fn find(directory: &str) -> Result<Peer> {
    let asked = control::ask_own_and(owner(directory).await, &Request::status()).await?;
    let serves = |answer: &Answer| match &answer.outcome {
        Outcome::Served(served) => served.iter().any(|one| one.directory == directory),
        _ => false,
    };
    let found = asked.answers.into_iter().filter(|(_, answer)| serves(answer));
    if let Some((peer, _)) = found.min_by_key(|(peer, _)| !peer.is_own()) {
        return Ok(peer);
    }
    let directory = printable(directory, 4096);
    if asked.silent.is_empty() {
        let what = format!("no akvfs mount or sync --watch that you may ask serves {directory}");
        return Err(Error::new(Code::NotFound, what).fix("akvfs status lists them"));
    }
    let silent: Vec<&str> = asked.silent.iter().map(|silent| silent.socket.as_str()).collect();
    let what =
        format!("{directory} is served by nobody who answers; silent: {}", silent.join(", "));
    Err(Error::new(Code::Unavailable, what))
}

/// Whose the directory is; nothing where that cannot be found out in time.
async fn owner(directory: &str) -> Option<u32> {
    let directory = PathBuf::from(directory);
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
