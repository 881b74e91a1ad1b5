//! What the ledgers of all systems have in common: their place, and what is ours in the flat layout.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Our own folder in each directory. No class can name it: a `..` is refused in every path.
pub(crate) const OWN: &str = "..akvfs";
/// Of a ledger's text.
pub(super) const VERSION: u32 = 1;
/// Most bytes of a ledger: far more than the names of the largest class need.
pub(super) const MAX: usize = 64 * 1024 * 1024;

/// What is ours in the flat layout. All paths have `/`. A mark of type `M` tells one file from another of
/// the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Flat<M> {
    pub(super) files: BTreeSet<String>,
    pub(super) folders: BTreeSet<String>,
    /// Files that are being added: after a crash one is ours only when it is that very file.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) adding: BTreeMap<String, M>,
    /// Files that are being removed: after a crash another one of that name is not ours.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) removing: BTreeMap<String, M>,
}

impl<M> Flat<M> {
    /// Every path: used without another check, so all of them must be clean.
    pub(super) fn paths(&self) -> impl Iterator<Item = &String> {
        let (adding, removing) = (self.adding.keys(), self.removing.keys());
        self.files.iter().chain(&self.folders).chain(adding).chain(removing)
    }
}

/// The folders of a path, the outermost first.
pub(super) fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(end, _)| path.get(..end))
}

/// Whether a path lies below a folder.
pub(super) fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
