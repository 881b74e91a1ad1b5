//! `akvfs unmount`: end a mount, by its process where that answers, and else without it.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use crate::control;
use crate::control::wire::{Outcome, Request};
use crate::delivery::fuse;
use crate::error::{Code, Error, Result, printable};

use super::note;
use super::served::{device, find, resolve};

/// End a mount made by `akvfs mount`
///
/// Its process lets running opens end, takes the mount away and ends. The mount of a process that is gone
/// or does not answer is taken away without it.
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) async fn run(args: Args) -> Result<()> {
    if by_its_process(&args.dir).await? {
        return Ok(());
    }
    let task = tokio::task::spawn_blocking(move || fuse::unmount(&args.dir));
    task.await.unwrap_or_else(|_| Err(Error::task_failed()))
}

/// Whether the process that serves the directory has unmounted it.
async fn by_its_process(dir: &Path) -> Result<bool> {
    // What cannot be found is told by the other way.
    let Ok(directory) = resolve(dir).await else { return Ok(false) };
    // A process may serve another mount by this name, which is not to end.
    let Some(mounted) = device(&directory).await else { return Ok(false) };
    let Ok(peer) = find(&directory, Some(&mounted)).await else { return Ok(false) };
    let name = directory.to_string_lossy().into_owned();
    let why = match control::ask(&peer, &Request::unmount(name, mounted.clone())).await {
        // It may be gone because the mount is.
        Err(error) => error.to_string(),
        Ok(answer) => match answer.outcome {
            Outcome::Unmounted { .. } => String::new(),
            // An older akvfs, which does not know how.
            Outcome::Error(problem) if problem.code == Code::ClassInvalid.as_str() => String::new(),
            Outcome::Error(problem) => {
                let said = printable(&problem.message, 1024);
                // Another user has no say in what root does.
                if peer.is_own() {
                    return Err(Error::new(Code::Local, said));
                }
                said
            }
            Outcome::Served(_) | Outcome::Refreshed(_) => {
                "its process answered another question".to_owned()
            }
        },
    };
    // Its word alone does not count: the mount may be another one than that of here.
    let gone = device(&directory).await != Some(mounted);
    if !gone && !why.is_empty() {
        note(&format!("note: {why}; it is unmounted without its process"));
    }
    Ok(gone)
}
