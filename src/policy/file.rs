//! The file of `--policy`: read at start, and again whenever it has changed.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result, printable};

use super::Policy;

/// Largest policy, in bytes.
const MAX: u64 = 1024 * 1024;
/// A file that changed so shortly before it was read may change again without a new time.
const SETTLED: Duration = Duration::from_secs(2);

/// A policy that follows its file.
///
/// The file is looked at for each mount: a change counts from the next one on. A file that cannot be
/// read or understood changes nothing, and is logged as an error, once for each such state.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    policy: Arc<Policy>,
    /// The text of `policy`.
    text: String,
    /// Of the file that was read last, good or not; `None`: look inside again.
    stamp: Option<Stamp>,
    /// A text that cannot be used (empty when it cannot even be read), and why.
    problem: Option<(String, String)>,
}

/// What changes when a file is written or another one takes its place.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(found);
        #[cfg(not(unix))]
        let inode = 0;
        Self { modified: found.modified().ok(), length: found.len(), inode }
    }

    fn settled(self) -> Option<Self> {
        let age = self.modified.and_then(|at| at.elapsed().ok());
        age.is_some_and(|age| age > SETTLED).then_some(self)
    }
}

impl PolicyFile {
    /// Reads the policy.
    ///
    /// # Errors
    /// ClassInvalid when it cannot be read or is not a policy; with the place in the file.
    pub fn open(path: PathBuf) -> Result<Self> {
        let (text, stamp) = read(&path)?;
        let policy = Policy::parse(&text).map_err(|error| error.context(shown(&path)))?;
        tracing::info!(path = shown(&path), rules = policy.rules.len(), "policy");
        let stamp = stamp.settled();
        let state = State { policy: Arc::new(policy), text, stamp, problem: None };
        Ok(Self { path, state: Mutex::new(state) })
    }

    /// The policy of now. Reads the file when it has changed, which may take a moment.
    pub fn current(&self) -> Arc<Policy> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = |stamp: &Stamp| {
            std::fs::metadata(&self.path).is_ok_and(|found| Stamp::of(&found) == *stamp)
        };
        if !state.stamp.as_ref().is_some_and(unchanged) {
            self.refresh(&mut state);
        }
        state.policy.clone()
    }

    fn refresh(&self, state: &mut State) {
        let path = shown(&self.path);
        state.stamp = None;
        let problem = match read(&self.path) {
            Err(error) => Some((String::new(), error.to_string())),
            Ok((text, stamp)) => {
                state.stamp = stamp.settled();
                // Read again only because it was young.
                if text == state.text {
                    None
                } else {
                    match Policy::parse(&text) {
                        Ok(policy) => {
                            tracing::info!(path, rules = policy.rules.len(), "new policy");
                            (state.policy, state.text) = (Arc::new(policy), text);
                            None
                        }
                        Err(error) => Some((text, error.context(&path).to_string())),
                    }
                }
            }
        };
        if problem != state.problem {
            match &problem {
                Some((_, error)) => tracing::error!(
                    path,
                    error,
                    "the changed policy cannot be used: the one before stays in force"
                ),
                None => tracing::info!(path, "the policy can be used again"),
            }
            state.problem = problem;
        }
    }
}

fn read(path: &Path) -> Result<(String, Stamp)> {
    let failed = |why: &dyn std::fmt::Display| {
        Error::class(format!("cannot read the policy {}: {why}", shown(path)))
            .fix("--policy names a YAML file of at most 1 MiB")
    };
    let kind = |error: std::io::Error| failed(&error.kind());
    // Before it is opened: a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(kind)?.is_file() {
        return Err(failed(&"not a regular file"));
    }
    let file = File::open(path).map_err(kind)?;
    // Before it is read: what is written meanwhile has a later time.
    let stamp = Stamp::of(&file.metadata().map_err(kind)?);
    let mut text = Vec::new();
    file.take(MAX + 1).read_to_end(&mut text).map_err(kind)?;
    if text.len() as u64 > MAX {
        return Err(failed(&"larger than 1 MiB"));
    }
    let text = String::from_utf8(text).map_err(|_| failed(&"not text (UTF-8)"))?;
    Ok((text, stamp))
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy(), 256)
}
