//! The ledger: what in the directory is ours. The same text as on other systems, for the flat layout:
//! `..akvfs/ledger.json`. It names a thing before the thing is there and until it is gone, and holds no
//! value and no hash of one.

use serde::{Deserialize, Serialize};

use super::super::ledger::{Flat, MAX, VERSION};
use crate::class::FilePath;
use crate::class::paths::Rules;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    flat: Ledger,
}

/// What is ours. Marks are the files' numbers.
pub(super) type Ledger = Flat<u64>;

/// Reads one; `None` when we could not have written it: its names are used without another check.
pub(super) fn read(text: &[u8]) -> Option<Ledger> {
    let text: Text = serde_json::from_slice(text).ok()?;
    let Text { version: VERSION, flat } = text else { return None };
    let clean = |path: &String| FilePath::parse_with(path, Rules::Windows).is_ok();
    if flat.paths().all(clean) { Some(flat) } else { None }
}

pub(super) fn text(ledger: &Ledger) -> Option<Vec<u8>> {
    let text = Text { version: VERSION, flat: ledger.clone() };
    serde_json::to_vec(&text).ok().filter(|text| text.len() <= MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_could_have_written_is_read() {
        let mut ledger = Ledger::default();
        assert_eq!(
            String::from_utf8(text(&ledger).unwrap()).unwrap(),
            r#"{"version":1,"flat":{"files":[],"folders":[]}}"#
        );
        ledger.files.insert("a/b".to_owned());
        ledger.folders.insert("a".to_owned());
        ledger.adding.insert("c".to_owned(), 7);
        ledger.removing.insert("d".to_owned(), u64::MAX);
        assert_eq!(read(&text(&ledger).unwrap()), Some(ledger));
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
            assert_eq!(read(bad.as_bytes()), None, "{bad}");
        }
    }
}
