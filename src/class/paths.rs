//! File names of a mount: where an object may be written, on any platform.
//!
//! The rules are a value, not a `cfg`: a name that is a device on Windows is tested on Linux too.
//! Unix rules hold everywhere; Windows adds what its file systems read differently.

use crate::error::{Error, Result, printable};

/// Bounds of the CSI driver and of Linux.
const MAX_PATH: usize = 4096;
const MAX_COMPONENT: usize = 255;

/// Whose file systems a path must be safe on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rules {
    /// Linux and other Unix systems: a backslash and a colon are ordinary characters.
    Unix,
    /// Windows: drive letters, streams, devices and names that it would quietly shorten are refused.
    Windows,
}

impl Rules {
    /// Those of the platform this was built for.
    pub const fn native() -> Self {
        if cfg!(windows) { Rules::Windows } else { Rules::Unix }
    }

    /// What two paths must differ in to be two files; folders end in `/`.
    pub(crate) fn identity(self, path: &str) -> String {
        match self {
            Rules::Unix => path.to_owned(),
            Rules::Windows => path.replace('\\', "/").chars().map(folded).collect(),
        }
    }
}

/// A clean relative path of a file in the mount: no empty, `.` or `..` component, no NUL, every
/// component at most 255 bytes, at most 4096 in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilePath {
    text: String,
    rules: Rules,
}

impl FilePath {
    /// Checks a path by the rules of this platform.
    ///
    /// # Errors
    /// ClassInvalid, with upstream's texts where upstream refuses too.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, Rules::native())
    }

    /// Checks a path by these rules.
    ///
    /// # Errors
    /// As [`FilePath::parse`].
    pub fn parse_with(text: &str, rules: Rules) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::class("file name must not be empty"));
        }
        if text.starts_with('/') || (rules == Rules::Windows && is_rooted_on_windows(text)) {
            return Err(Error::class("file name must be a relative path"));
        }
        // Any `..` at all, as upstream: `a..b` too. So no component begins with `..` either, which
        // belongs to the writers' own `..data`.
        if text.contains("..") {
            return Err(Error::class("file name must not contain '..'"));
        }
        is_short_enough(text)?;
        if text.chars().any(char::is_control) {
            return Err(Error::class("file name must not contain control characters"));
        }
        for component in text.split('/') {
            component_is_clean(component)?;
            if rules == Rules::Windows {
                component_is_plain_on_windows(component)?;
            }
        }
        Ok(Self { text: text.to_owned(), rules })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A file of a version history, in the folder of this path. On Windows all of it is written with
    /// backslashes, as upstream does: classes name such files in `secretObjects`.
    pub(crate) fn version(&self, position: u32) -> Self {
        let text = match self.rules {
            Rules::Unix => format!("{}/{position}", self.text),
            Rules::Windows => format!("{}\\{position}", self.text.replace('/', "\\")),
        };
        Self { text, rules: self.rules }
    }
}

impl FilePath {
    /// The file beside this one whose name has more at its end.
    ///
    /// # Errors
    /// ClassInvalid when that is too long for a file name.
    pub(crate) fn with(&self, suffix: &str) -> Result<Self> {
        let text = format!("{}{suffix}", self.text);
        is_short_enough(&text)?;
        let separators: &[char] = if self.rules == Rules::Windows { &['/', '\\'] } else { &['/'] };
        text.rsplit(separators).next().map_or(Ok(()), component_is_clean)?;
        Ok(Self { text, rules: self.rules })
    }

    /// What two paths must differ in to be two files; folders end in `/`.
    pub(crate) fn identity(&self) -> String {
        self.rules.identity(&self.text)
    }
}

impl std::fmt::Display for FilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The directory of a version history: upstream joins an index to the alias, which cleans it, so
/// `./x/` means `x` there (and only there).
pub(super) fn joined(text: &str) -> String {
    let rooted = if text.starts_with('/') { "/" } else { "" };
    let parts: Vec<_> =
        text.split('/').filter(|component| !component.is_empty() && *component != ".").collect();
    format!("{rooted}{}", parts.join("/"))
}

fn is_short_enough(text: &str) -> Result<()> {
    if text.len() > MAX_PATH {
        return Err(Error::class("file name must not be longer than 4096 bytes"));
    }
    Ok(())
}

fn component_is_clean(component: &str) -> Result<()> {
    if component.is_empty() || component == "." {
        return Err(Error::class("file name must be a clean path")
            .fix("no leading './', no '//' and no '/' at the end"));
    }
    if component.len() > MAX_COMPONENT {
        return Err(Error::class(format!(
            "file name must not have an element longer than {MAX_COMPONENT} bytes"
        )));
    }
    Ok(())
}

fn is_rooted_on_windows(text: &str) -> bool {
    let mut bytes = text.bytes();
    let drive = bytes.next().is_some_and(|b| b.is_ascii_alphabetic()) && bytes.next() == Some(b':');
    drive || text.starts_with('\\')
}

fn component_is_plain_on_windows(component: &str) -> Result<()> {
    if component.contains('\\') {
        return Err(Error::class("file name must not contain '\\' on Windows")
            .fix("separate folders by '/'"));
    }
    if component.contains(['<', '>', ':', '"', '|', '?', '*']) {
        return Err(Error::class("file name must not contain any of < > : \" | ? * on Windows"));
    }
    if component.ends_with(['.', ' ']) {
        return Err(Error::class("file name must not end in a dot or a space on Windows"));
    }
    if is_device(component) {
        return Err(Error::class(format!(
            "file name must not be the Windows device {}",
            printable(component, 32)
        )));
    }
    if is_like_a_short_name(component) {
        return Err(Error::class(format!(
            "file name must not look like the short name of another file on Windows: {}",
            printable(component, 32)
        ))
        .fix("another objectAlias, without '~' before digits"));
    }
    Ok(())
}

/// A character without its case. Windows compares names unit by unit, by a table that each volume keeps
/// from the day it was formatted. This is Unicode's mapping of today where it gives one character, up and
/// down again: it holds a few characters for equal that a volume tells apart (the Kelvin sign and k, a
/// dotless i and i, scripts outside the basic plane), and none for different that an usual volume does not.
fn folded(c: char) -> char {
    fn only(mut mapped: impl Iterator<Item = char>, c: char) -> char {
        match (mapped.next(), mapped.next()) {
            (Some(one), None) => one,
            _ => c,
        }
    }
    let upper = only(c.to_uppercase(), c);
    only(upper.to_lowercase(), upper)
}

/// Whether this could be the short name (`LONGNA~1.TXT`) that Windows gives to another file. Eight
/// characters with a tilde and digits at their end, then at most three of an extension.
fn is_like_a_short_name(component: &str) -> bool {
    let (base, extension) = component.split_once('.').unwrap_or((component, ""));
    let Some((start, number)) = base.rsplit_once('~') else { return false };
    !start.is_empty()
        && base.chars().count() <= 8
        && extension.chars().count() <= 3
        && !extension.contains('.')
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
}

/// CON, PRN, AUX, NUL, CONIN$, CONOUT$, COM0-COM9 and LPT0-LPT9 (the superscripts 1 to 3 count as
/// digits), whatever extension follows.
fn is_device(component: &str) -> bool {
    let stem = component.split('.').next().unwrap_or(component).trim_end_matches(' ');
    let stem = stem.to_ascii_uppercase();
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let Some(number) = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) else {
        return false;
    };
    let mut number = number.chars();
    let digit = number
        .next()
        .is_some_and(|c| c.is_ascii_digit() || matches!(c, '\u{b9}' | '\u{b2}' | '\u{b3}'));
    digit && number.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, rules: Rules) -> String {
        match FilePath::parse_with(text, rules) {
            Ok(path) => panic!("{path} was accepted"),
            Err(error) => error.message().to_owned(),
        }
    }

    #[test]
    fn u55_upstream_texts() {
        for rules in [Rules::Unix, Rules::Windows] {
            assert_eq!(refused("/secret1", rules), "file name must be a relative path");
            assert_eq!(refused("secret1/..", rules), "file name must not contain '..'");
            assert_eq!(refused("../secret1", rules), "file name must not contain '..'");
            assert_eq!(refused("a..b", rules), "file name must not contain '..'");
            assert_eq!(refused("", rules), "file name must not be empty");
            assert_eq!(FilePath::parse_with("secret1", rules).unwrap().as_str(), "secret1");
        }
    }

    #[test]
    fn paths_are_clean_and_bounded() {
        for text in ["./x", "x/", "a//b", ".", "a/./b", "a/."] {
            assert_eq!(refused(text, Rules::Unix), "file name must be a clean path", "{text}");
        }
        for text in ["a\0b", "a\nb", "a\u{7f}", "a\u{85}b"] {
            assert_eq!(refused(text, Rules::Unix), "file name must not contain control characters");
        }
        let long = "n".repeat(256);
        assert!(refused(&long, Rules::Unix).contains("255 bytes"));
        assert!(refused(&"a/".repeat(2049), Rules::Unix).contains("4096 bytes"));
        let deepest = format!("{}b", "a/".repeat(2047));
        for good in ["a/b/c", ".hidden", "a.b", "a\\b", "c:x", "\u{e9}", "nul", deepest.as_str()] {
            assert_eq!(FilePath::parse_with(good, Rules::Unix).unwrap().as_str(), good);
        }
    }

    #[test]
    fn windows_refuses_what_it_reads_differently() {
        for text in [
            "C:\\x",
            "c:/x",
            "C:x",
            "c:",
            "\\x",
            "\\\\server\\share",
            "//server/share",
            "\\\\?\\C:\\x",
            "\\\\?\\UNC\\server\\share",
            "\\\\.\\pipe\\x",
            "\\??\\C:\\x",
            "//?/C:/x",
        ] {
            assert_eq!(
                refused(text, Rules::Windows),
                "file name must be a relative path",
                "{text}"
            );
        }
        for (text, why) in [
            ("a\\b", "'\\'"),
            ("file:stream", "any of"),
            ("a/b?c", "any of"),
            ("a.", "dot or a space"),
            ("dir /x", "dot or a space"),
            ("nul", "device"),
            ("x/CON.txt", "device"),
            ("Aux", "device"),
            ("com1", "device"),
            ("LPT\u{b2}.log", "device"),
            ("conout$", "device"),
            ("com0 .txt", "device"),
            ("CON.", "dot or a space"),
            ("prn.tar.gz", "device"),
            ("NUL.txt", "device"),
            ("CONIN$", "device"),
            ("conin$.x", "device"),
            ("COM9.log", "device"),
            ("com\u{b9}", "device"),
            ("Com\u{b3}.x", "device"),
            ("lpt0", "device"),
            ("LPT9.", "dot or a space"),
            ("a/lpt1/b", "device"),
            ("a ", "dot or a space"),
            ("a. .", "dot or a space"),
            ("ab::$DATA", "any of"),
            ("ab:x:$INDEX_ALLOCATION", "any of"),
            ("LONGNA~1", "short name"),
            ("longna~1.txt", "short name"),
            ("a~1.t", "short name"),
            ("x/AB12F3~9/y", "short name"),
            ("a~12345.pem", "short name"),
        ] {
            assert!(refused(text, Rules::Windows).contains(why), "{text}");
        }
        for good in [
            "a/b",
            "console",
            "com10",
            "com",
            "nul1",
            "a b",
            ".x",
            "com\u{2074}",
            "conin",
            "con-x",
            "~1",
            "a~b",
            "a~",
            "longname~1",
            "a~1.json",
            "a~1.t.x",
            "\u{e9}.txt",
            "#1",
            "a;b",
        ] {
            assert_eq!(FilePath::parse_with(good, Rules::Windows).unwrap().as_str(), good);
        }
    }

    #[test]
    fn windows_tells_names_apart_without_their_case() {
        for (one, other, same) in [
            ("a/B", "A/b", true),
            ("a\\b\\1", "A/b/1", true),
            ("\u{c9}", "\u{e9}", true),
            ("\u{3a3}", "\u{3c3}", true),
            // At a word's end lower case would be another character, which Windows does not look at.
            ("A\u{3a3}", "a\u{3c3}", true),
            ("a\u{3c2}", "A\u{3a3}", true),
            ("\u{1c4}", "\u{1c5}", true),
            // One character and not two, as on Windows: neither is the other.
            ("\u{df}", "ss", false),
            ("\u{130}", "i\u{307}", false),
            // Composed and decomposed.
            ("\u{e9}", "e\u{301}", false),
            ("a", "b", false),
        ] {
            let identity = |text| Rules::Windows.identity(text);
            assert_eq!(identity(one) == identity(other), same, "{one} {other}");
            assert_ne!(Rules::Unix.identity(one), Rules::Unix.identity(other));
        }
    }

    #[test]
    fn e8_files_of_a_history_are_written_as_the_platform_writes_paths() {
        for (rules, file) in [(Rules::Unix, "a/b/12"), (Rules::Windows, "a\\b\\12")] {
            let folder = FilePath::parse_with("a/b", rules).unwrap();
            assert_eq!(folder.version(12).as_str(), file);
        }
    }

    #[test]
    fn histories_join_as_upstream_does() {
        for (alias, directory) in
            [("x/", "x"), ("./x//y/", "x/y"), ("x", "x"), ("", ""), (".", ""), ("/x", "/x")]
        {
            assert_eq!(joined(alias), directory);
        }
    }
}
