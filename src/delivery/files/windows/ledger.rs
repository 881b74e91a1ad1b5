//! The ledger: what in the directory is ours. The same text as on other systems, for the flat layout:
//! `..akvfs/ledger.json`. It names a thing before the thing is there and until it is gone, and holds no
//! value and no hash of one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::class::FilePath;
use crate::class::paths::Rules;

const VERSION: u32 = 1;
/// Far more than the names of the largest class need.
pub(super) const MAX: usize = 64 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    flat: Ledger,
}

/// What is ours. All paths have `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    pub(super) files: BTreeSet<String>,
    pub(super) folders: BTreeSet<String>,
    /// Files that are being added, by their numbers: after a crash one is ours only with its number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) adding: BTreeMap<String, u64>,
    /// Files that are being removed: after a crash another one of the name is not ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) removing: BTreeMap<String, u64>,
}

impl Ledger {
    /// Reads one; `None` when we could not have written it: its names are used without another check.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let text: Text = serde_json::from_slice(text).ok()?;
        let Text { version: VERSION, flat } = text else { return None };
        let (adding, removing) = (flat.adding.keys(), flat.removing.keys());
        let mut names = flat.files.iter().chain(&flat.folders).chain(adding).chain(removing);
        names.all(|path| FilePath::parse_with(path, Rules::Windows).is_ok()).then_some(flat)
    }

    pub(super) fn text(&self) -> Option<Vec<u8>> {
        let text = Text { version: VERSION, flat: self.clone() };
        serde_json::to_vec(&text).ok().filter(|text| text.len() <= MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_could_have_written_is_read() {
        let mut ledger = Ledger::default();
        assert_eq!(
            String::from_utf8(ledger.text().unwrap()).unwrap(),
            r#"{"version":1,"flat":{"files":[],"folders":[]}}"#
        );
        ledger.files.insert("a/b".to_owned());
        ledger.folders.insert("a".to_owned());
        ledger.adding.insert("c".to_owned(), 7);
        ledger.removing.insert("d".to_owned(), u64::MAX);
        assert_eq!(Ledger::read(&ledger.text().unwrap()), Some(ledger));
        for bad in [
            "",
            "{}",
            r#"{"version":2,"flat":{"files":[],"folders":[]}}"#,
            r#"{"version":1,"flat":{"files":["../a"],"folders":[]}}"#,
            r#"{"version":1,"flat":{"files":["C:\\a"],"folders":[]}}"#,
            r#"{"version":1,"flat":{"files":[],"folders":["nul"]}}"#,
            r#"{"version":1,"flat":{"files":[],"folders":[],"adding":{"..akvfs":1}}}"#,
            r#"{"version":1,"flat":{"files":[],"folders":[]},"more":1}"#,
            r#"{"version":1,"atomic":{"generations":{},"links":[]}}"#,
        ] {
            assert_eq!(Ledger::read(bad.as_bytes()), None, "{bad}");
        }
    }
}
