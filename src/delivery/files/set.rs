//! The set of files that a caller gives, checked: what follows relies on clean paths that can stand
//! beside each other.

use std::collections::{BTreeMap, BTreeSet};

use super::File;
use super::ledger::parents;
use crate::class::FilePath;
use crate::error::{Error, Result, printable};

/// The files by path.
pub(super) type Set<'a> = BTreeMap<&'a str, File<'a>>;

/// Checks every path and mode, and that no file is given twice or is another's folder.
pub(super) fn checked<'a>(files: &[File<'a>]) -> Result<Set<'a>> {
    let mut set = Set::new();
    for file in files {
        let shown = || printable(file.path, 256);
        FilePath::parse(file.path).map_err(|error| error.context(shown()))?;
        if file.mode & !0o777 != 0 {
            return Err(Error::class(format!("{}: mode {:o} is not 0 to 777", shown(), file.mode)));
        }
        if set.insert(file.path, *file).is_some() {
            return Err(Error::class(format!("{}: two files of one path", shown())));
        }
    }
    match folders(set.keys().copied()).into_iter().find(|folder| set.contains_key(folder)) {
        Some(both) => {
            Err(Error::class(format!("{}: both a file and a folder", printable(both, 256))))
        }
        None => Ok(set),
    }
}

/// Every folder that these files stand in, parents before what is in them.
pub(super) fn folders<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    paths.flat_map(parents).collect()
}

/// Splits a path into its folder (empty: the directory itself) and its name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> File<'_> {
        File { path, mode: 0o400, contents: b"" }
    }

    #[test]
    fn what_cannot_stand_in_one_directory_is_refused() {
        let refused = |paths: &[&str]| {
            let files: Vec<_> = paths.iter().map(|path| file(path)).collect();
            checked(&files).unwrap_err().message().to_owned()
        };
        assert_eq!(refused(&["a", "b", "a"]), "a: two files of one path");
        assert_eq!(refused(&["a/b/c", "a.b", "a/b"]), "a/b: both a file and a folder");
        assert_eq!(refused(&["a/../b"]), "a/../b: file name must not contain '..'");
        assert_eq!(refused(&["..akvfs"]), "..akvfs: file name must not contain '..'");
        let odd = File { path: "a", mode: 0o4755, contents: b"" };
        assert_eq!(checked(&[odd]).unwrap_err().message(), "a: mode 4755 is not 0 to 777");
        // Names that differ only by prefix are apart.
        assert_eq!(
            checked(&[file("a"), file("a.b"), file("ab/a"), file("ab.c")]).unwrap().len(),
            4
        );
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let found: Vec<_> = folders(["x", "b/c/d", "b/a"].into_iter()).into_iter().collect();
        assert_eq!(found, ["b", "b/c"]);
        assert_eq!(split("b/c/d"), ("b/c", "d"));
        assert_eq!(split("x"), ("", "x"));
    }
}
