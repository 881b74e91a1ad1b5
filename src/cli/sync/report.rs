//! What a write did, for people on stderr or for scripts as a line of JSON on stdout.

use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::cli::{note, say};
use crate::control::wire;
use crate::delivery::files::Written;
use crate::error::{Code, Error, Result, printable};
use crate::view::{ObjectStatus, View};

/// Names of fields stay; new ones may come.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    directory: String,
    /// RFC 3339.
    at: Option<String>,
    /// Of the view; only those that differ from what was there are written.
    generation: u32,
    added: &'a [String],
    changed: &'a [String],
    removed: &'a [String],
    /// Objects that never had a file, since the vault says so.
    failed: Vec<Failed<'a>>,
}

#[derive(Serialize)]
struct Failed<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    code: &'static str,
    message: String,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        directory: &Path,
        view: &View,
        written: &'a Written,
        refused: &'a [ObjectStatus],
    ) -> Self {
        let failed = refused.iter().filter_map(|object| {
            let error = &object.failure.as_ref()?.error;
            Some(Failed {
                kind: object.kind.as_str(),
                name: &object.name,
                code: error.code().as_str(),
                message: error.to_string(),
            })
        });
        let Written { added, changed, removed } = written;
        Self {
            directory: directory.to_string_lossy().into_owned(),
            at: wire::time(SystemTime::now()),
            generation: view.status().birth,
            added,
            changed,
            removed,
            failed: failed.collect(),
        }
    }

    pub(super) fn tell(&self, json: bool) -> Result<()> {
        if json {
            let text = serde_json::to_string(self)
                .map_err(|_| Error::new(Code::Internal, "the report cannot be written as JSON"))?;
            return say(&format!("{text}\n"));
        }
        note(&format!("{}: {}", printable(&self.directory, 4096), self.summary()));
        Ok(())
    }

    fn summary(&self) -> String {
        let counts = [("added", self.added), ("changed", self.changed), ("removed", self.removed)];
        let some = counts.iter().filter(|(_, names)| !names.is_empty());
        let some: Vec<String> =
            some.map(|(what, names)| format!("{} {what}", names.len())).collect();
        if some.is_empty() { "nothing has changed".to_owned() } else { some.join(", ") }
    }
}
