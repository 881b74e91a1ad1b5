//! The lines of the control socket, and so the fields of `akvfs status --json`.
//!
//! Names of fields stay; new ones may come. A line says which protocol it is of (`akvfs`): whoever does
//! not know that one says so, instead of guessing.

use serde::{Deserialize, Serialize};

use super::Entry;
pub(crate) use crate::clock::rfc3339 as time;
use crate::error::{Code, Error, printable};
use crate::view::{CollectionStatus, Failure, ObjectStatus, Refreshed, Status};

pub(crate) const PROTOCOL: u32 = 1;
/// Names in one answer: files, of objects or of what changed.
const MAX_NAMES: usize = 10_000;
/// Of one error's text.
const MAX_TEXT: usize = 1024;

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Request {
    pub(crate) akvfs: u32,
    /// `status`, `refresh` or `unmount`; text, so that an unknown one gets an answer that says so.
    pub(crate) request: String,
    /// Of a refresh or an unmount: which of the served ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<String>,
    /// The device of the mount there: of several that were mounted at one directory it tells which. The
    /// name alone counts where this is missing, as it does for an older akvfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
}

impl Request {
    pub(crate) fn status() -> Self {
        Self { akvfs: PROTOCOL, request: "status".to_owned(), directory: None, device: None }
    }

    pub(crate) fn refresh(directory: String, device: Option<String>) -> Self {
        let directory = Some(directory);
        Self { akvfs: PROTOCOL, request: "refresh".to_owned(), directory, device }
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn unmount(directory: String, device: String) -> Self {
        let (directory, device) = (Some(directory), Some(device));
        Self { akvfs: PROTOCOL, request: "unmount".to_owned(), directory, device }
    }
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Answer {
    pub(crate) akvfs: u32,
    /// Version of the program that answers.
    pub(crate) version: String,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

impl Answer {
    pub(crate) fn new(outcome: Outcome) -> Self {
        Self { akvfs: PROTOCOL, version: crate::version::VERSION.to_owned(), outcome }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Served(Vec<Served>),
    Refreshed(RefreshReport),
    Unmounted { directory: String },
    Error(Problem),
}

/// How what is served reaches its readers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Mount,
    Sync,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Mount => "mount",
            Kind::Sync => "sync",
        }
    }
}

/// A directory that is served.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Served {
    pub(crate) kind: Kind,
    pub(crate) directory: String,
    /// Of a mount: the number of its device, `MAJOR:MINOR`.
    #[serde(default)]
    pub(crate) device: Option<String>,
    pub(crate) source: String,
    pub(crate) identity: String,
    /// Number of what is shown now, from 1.
    pub(crate) generation: u32,
    /// When it came, RFC 3339.
    pub(crate) published: Option<String>,
    /// When the last look for new versions ended, RFC 3339.
    pub(crate) checked: Option<String>,
    /// When the next one begins.
    pub(crate) next_check: Option<String>,
    /// The vault does not answer: until then opens of what has to be fetched fail at once.
    #[serde(default)]
    pub(crate) left_alone_until: Option<String>,
    /// Replaced generations that are still readable.
    pub(crate) retired: usize,
    /// Bytes of values held.
    pub(crate) bytes: usize,
    /// Most that may be held.
    #[serde(default)]
    pub(crate) most_bytes: usize,
    /// Why the directory does not show what was fetched.
    pub(crate) error: Option<String>,
    /// Of a whole vault: its lists.
    #[serde(default)]
    pub(crate) collections: Vec<Collection>,
    /// Nothing: opens are not audited.
    #[serde(default)]
    pub(crate) audit: Option<Audit>,
    pub(crate) objects: Vec<Object>,
    /// Objects that had no room in the answer.
    pub(crate) omitted: usize,
}

/// All names of a kind in a whole vault.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Collection {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// In the last list.
    pub(crate) names: usize,
    /// When the vault was asked for that.
    pub(crate) listed: Option<String>,
    /// Since when the vault does not give a newer one.
    pub(crate) stale_since: Option<String>,
    /// Why, or why not all names are shown.
    pub(crate) error: Option<Problem>,
}

/// What became of the records of opens.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Audit {
    /// `stderr`, `journald` or a file.
    pub(crate) sink: String,
    /// Whether an open fails whose record cannot be written.
    pub(crate) required: bool,
    pub(crate) written: u64,
    /// Records that could not be written.
    pub(crate) lost: u64,
    /// Why they cannot be written now.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Object {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Below the directory.
    pub(crate) files: Vec<String>,
    /// Nothing: not fetched yet.
    pub(crate) version: Option<String>,
    /// Its bytes were let go of, since the tree is full; the next open fetches this version again.
    #[serde(default)]
    pub(crate) let_go: bool,
    /// The generation that brought it.
    pub(crate) generation: u32,
    /// How often a file of it was opened since the mount began. Nothing: that of plain files is not known.
    #[serde(default)]
    pub(crate) opens: Option<u64>,
    /// Of the version, as the vault says; RFC 3339. It is shown whatever they say.
    pub(crate) created: Option<String>,
    pub(crate) expires: Option<String>,
    pub(crate) not_before: Option<String>,
    /// When the vault was asked for its last good answer about it.
    pub(crate) checked: Option<String>,
    /// Since when the vault cannot be asked about it.
    pub(crate) stale_since: Option<String>,
    /// Why it is not shown any more: `not_found`, `forbidden`, `disabled`, `unavailable`.
    pub(crate) withdrawn: Option<String>,
    /// The last failure, until the next success.
    pub(crate) error: Option<Problem>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Problem {
    /// Stable, as in logs.
    pub(crate) code: String,
    pub(crate) message: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RefreshReport {
    /// Objects that the vault was asked about.
    pub(crate) checked: usize,
    /// Files with new content, new ones and vanished ones.
    pub(crate) changed: Vec<String>,
    pub(crate) failures: Vec<Problem>,
    /// Changed files and failures that had no room in the answer.
    pub(crate) omitted: usize,
}

impl Served {
    pub(crate) fn of(entry: &Entry) -> Self {
        let status = entry.view.status();
        let Status { birth, born, retired, bytes, most_bytes, looked, next_look, .. } = status;
        let (left_alone_until, collections) = (status.left_alone_until, status.collections);
        let objects = status.objects;
        let all = objects.len();
        let mut names = 0;
        let objects =
            objects.into_iter().map(|one| Object::of(one, entry.kind)).take_while(|object| {
                names += object.files.len().max(1);
                names <= MAX_NAMES
            });
        let objects: Vec<Object> = objects.collect();
        Self {
            kind: entry.kind,
            directory: entry.directory.to_string_lossy().into_owned(),
            device: entry.device.clone(),
            source: entry.source.clone(),
            identity: entry.identity.clone(),
            generation: birth,
            published: time(born),
            checked: looked.and_then(time),
            next_check: next_look.and_then(time),
            left_alone_until: left_alone_until.and_then(time),
            retired,
            bytes,
            most_bytes,
            error: entry.problem.get().map(|text| printable(&text, MAX_TEXT)),
            audit: entry.audit.as_ref().map(|audit| audit()),
            omitted: all - objects.len(),
            collections: collections.into_iter().map(Collection::from).collect(),
            objects,
        }
    }
}

impl From<CollectionStatus> for Collection {
    fn from(status: CollectionStatus) -> Self {
        Self {
            kind: status.kind.as_str().to_owned(),
            names: status.names,
            listed: status.listed.and_then(time),
            stale_since: status.stale.and_then(time),
            error: status.failure.map(Problem::from),
        }
    }
}

impl From<Failure> for Problem {
    fn from(Failure { at, error }: Failure) -> Self {
        Self { at: time(at), ..Self::from(&error) }
    }
}

impl Object {
    fn of(status: ObjectStatus, kind: Kind) -> Self {
        Self {
            kind: status.kind.as_str().to_owned(),
            name: status.name,
            files: status.files,
            version: status.version,
            let_go: status.let_go,
            generation: status.birth,
            opens: (kind == Kind::Mount).then_some(status.opens),
            created: status.created.and_then(time),
            expires: status.expires.and_then(time),
            not_before: status.not_before.and_then(time),
            checked: status.checked.and_then(time),
            stale_since: status.stale.and_then(time),
            withdrawn: status.withdrawn.map(|code| code.as_str().to_owned()),
            error: status.failure.map(Problem::from),
        }
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        Self {
            code: error.code().as_str().to_owned(),
            message: printable(&error.to_string(), MAX_TEXT),
            at: None,
        }
    }
}

impl RefreshReport {
    pub(crate) fn of(done: Refreshed, entry: &Entry) -> Self {
        let Refreshed { checked, mut changed, failures } = done;
        let mut failures: Vec<Problem> = failures.iter().map(Problem::from).collect();
        failures.extend(entry.problem.get().map(|text| Problem {
            code: Code::Local.as_str().to_owned(),
            message: printable(&text, MAX_TEXT),
            at: None,
        }));
        let all = changed.len() + failures.len();
        failures.truncate(MAX_NAMES);
        changed.truncate(MAX_NAMES - failures.len());
        Self { checked, omitted: all - changed.len() - failures.len(), changed, failures }
    }
}
