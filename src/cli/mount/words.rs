//! `-o`: options as mount(8) and fstab give them.
//!
//! There is one table of options, the command line's own: `-o uid=7,allow_other` is `--uid=7
//! --allow-other`, put in its place, so that of several the last counts however each was given. Words that
//! mean something to mount(8) or to systemd, and those for what every mount of akvfs is anyway, are let
//! through and change nothing; `rw`, `suid`, `dev` and `exec` weaken nothing. Of a word that is not known
//! only its name is told: its value may be what nobody should see.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::{Error, Result, printable};

use super::Args;

/// Words without a meaning here, some of them with a value: those of mount(8), fstab and systemd; what each
/// mount is anyway, and what it cannot be; and what is about writing, times and the like.
const WITHOUT_EFFECT: [&str; 3] = [
    "defaults auto noauto user users nouser owner noowner group nogroup nofail _netdev comment",
    "ro rw suid nosuid dev nodev exec noexec default_permissions",
    "sync async dirsync atime noatime diratime nodiratime relatime norelatime strictatime \
     nostrictatime lazytime nolazytime iversion noiversion mand nomand silent loud acl noacl symfollow",
];

fn without_effect<'a>() -> impl Iterator<Item = &'a str> {
    WITHOUT_EFFECT.iter().flat_map(|words: &&'a str| words.split_whitespace())
}

/// Options that only make sense on the command line.
const NOT_BY_WORD: [&str; 3] = ["foreground", "help", "version"];

/// Most of an unknown name that an error quotes.
const QUOTED: usize = 64;

/// What to do about words that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    Refuse,
    /// mount(8)'s `-s`.
    Skip,
}

/// An option of the command line that `-o` can give too.
struct Known {
    long: String,
    names: Vec<String>,
    has_value: bool,
}

/// The command line's options.
fn table() -> Vec<Known> {
    let command = <Args as clap::Args>::augment_args(clap::Command::new("mount"));
    let by_word = |arg: &&clap::Arg| {
        !arg.is_hide_set() && arg.get_long().is_some_and(|long| !NOT_BY_WORD.contains(&long))
    };
    let known = |arg: &clap::Arg| Known {
        long: arg.get_long().unwrap_or_default().to_owned(),
        names: arg.get_long_and_visible_aliases().into_iter().flatten().map(word).collect(),
        has_value: arg.get_action().takes_values(),
    };
    command.get_arguments().filter(by_word).map(known).collect()
}

/// A long option's name as a word.
fn word(long: &str) -> String {
    long.replace('-', "_")
}

/// The long options that the words of one `-o` stand for. Names that were skipped are added to `skipped`.
pub(super) fn long_options(
    words: &OsStr,
    unknown: Unknown,
    skipped: &mut Vec<String>,
) -> Result<Vec<OsString>> {
    let table = table();
    let mut out = Vec::new();
    for text in split(words.as_bytes())? {
        let at = text.iter().position(|byte| *byte == b'=');
        let (name, value) = text.split_at(at.unwrap_or(text.len()));
        let name = String::from_utf8_lossy(name).into_owned();
        let found = table.iter().find(|known| known.names.contains(&word(&name)));
        match (found, value.split_first()) {
            (Some(known), value) if known.has_value => {
                let Some((_, value)) = value else {
                    return Err(Error::class(format!("the mount option {name} needs a value"))
                        .fix(format!("-o {name}=...")));
                };
                let mut option = OsString::from(format!("--{}=", known.long));
                option.push(OsStr::from_bytes(value));
                out.push(option);
            }
            (Some(known), None) => out.push(format!("--{}", known.long).into()),
            (Some(_), Some(_)) => {
                return Err(Error::class(format!("the mount option {name} takes no value"))
                    .fix(format!("-o {name}")));
            }
            (None, _) if is_without_effect(&name) => {}
            (None, _) if name == "remount" => {
                return Err(Error::class("a mount of akvfs cannot be remounted")
                    .fix("unmount it, and mount it again with other options"));
            }
            (None, _) if unknown == Unknown::Skip => skipped.push(printable(&name, QUOTED)),
            (None, _) => return Err(refused(&name, &table)),
        }
    }
    Ok(out)
}

fn is_without_effect(name: &str) -> bool {
    without_effect().any(|known| known == name) || name.starts_with("x-") || name.starts_with("X-")
}

fn refused(name: &str, table: &[Known]) -> Error {
    let error = Error::class(format!("there is no mount option {}", printable(name, QUOTED)));
    let lower = name.to_ascii_lowercase();
    if ["secret", "password", "certificate"].iter().any(|word| lower.contains(word)) {
        return error.fix("everybody can read options: name a file with secrets_file=PATH");
    }
    let names = table.iter().flat_map(|known| &known.names).map(String::as_str);
    let known: Vec<&str> = names.chain(without_effect()).collect();
    let near = known.into_iter().map(|known| (distance(&word(name), known), known)).min();
    match near {
        Some((changes, known)) if changes <= 1 + name.len() / 5 => {
            error.fix(format!("is {known} meant?"))
        }
        _ => error.fix(
            "akvfs mount --help lists the options; each can be given by -o, with _ in place of -",
        ),
    }
}

/// How many letters differ, are missing or are too many.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) =
        (one.chars().take(QUOTED).collect(), other.chars().collect());
    // Of the letters so far of `one` to each beginning of `other`.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        for (there, pair) in other.iter().zip(row.windows(2)) {
            let (corner, above) = (pair.first().copied(), pair.last().copied());
            let changed =
                corner.unwrap_or_default() + usize::from(!letter.eq_ignore_ascii_case(there));
            let left = next.last().copied().unwrap_or_default();
            next.push(changed.min(above.unwrap_or_default() + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// Words between commas. As for mount(8), a comma within double quotes or after a backslash is part of its
/// word.
fn split(words: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (mut all, mut word, mut quoted) = (Vec::new(), Vec::new(), false);
    let mut rest = words.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match (byte, rest.peek()) {
            (b'\\', Some(next @ (b',' | b'"'))) => {
                word.push(*next);
                rest.next();
            }
            (b'"', _) => quoted = !quoted,
            (b',', _) if !quoted => all.push(std::mem::take(&mut word)),
            _ => word.push(byte),
        }
    }
    if quoted {
        // All that follows the quote would be part of one value.
        return Err(Error::class("a double quote among the mount options has no end")
            .fix("close it, or write \\\" for one that is part of a value"));
    }
    all.push(word);
    all.retain(|word| !word.is_empty());
    Ok(all)
}

/// Puts long options in the place of each `-o` among the arguments of `akvfs mount`.
pub(super) fn expanded(args: impl Iterator<Item = OsString>) -> Result<Vec<OsString>> {
    let mut args = args;
    let mut out = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let short = arg.as_bytes().strip_prefix(b"-").filter(|rest| !rest.starts_with(b"-"));
        let parts = short.and_then(|short| {
            let at = short.iter().position(|byte| *byte == b'o')?;
            Some((short.get(..at)?.to_vec(), short.get(at + 1..)?.to_vec()))
        });
        let Some((before, words)) = parts else {
            out.push(arg);
            continue;
        };
        // Flags before it, as in -fo.
        if !before.is_empty() {
            out.push(OsString::from_vec([b"-".to_vec(), before].concat()));
        }
        let words = match words.is_empty() {
            true => args.next().ok_or_else(|| Error::class("-o needs options"))?,
            false => OsString::from_vec(words),
        };
        out.extend(long_options(&words, Unknown::Refuse, &mut Vec::new())?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &str) -> Vec<String> {
        let found = long_options(OsStr::new(words), Unknown::Refuse, &mut Vec::new());
        found.unwrap().into_iter().map(|option| option.into_string().unwrap()).collect()
    }

    fn refusal(words: &str) -> String {
        long_options(OsStr::new(words), Unknown::Refuse, &mut Vec::new()).unwrap_err().to_string()
    }

    #[test]
    fn each_word_is_a_long_option_and_each_long_option_a_word() {
        assert_eq!(
            options("uid=7,allow_other,refresh=5m,fuseCache=none,fuse_cache=keep,tenant-id=x"),
            [
                "--uid=7",
                "--allow-other",
                "--refresh-interval=5m",
                "--fuse-cache=none",
                "--fuse-cache=keep",
                "--tenant-id=x"
            ]
        );
        let table = table();
        assert!(table.len() > 15, "{}", table.len());
        for known in &table {
            for name in &known.names {
                let text = if known.has_value { format!("{name}=v") } else { name.clone() };
                let long = &known.long;
                let option =
                    if known.has_value { format!("--{long}=v") } else { format!("--{long}") };
                assert_eq!(options(&text), [option]);
                assert!(!is_without_effect(name), "{name} has two meanings");
            }
        }
    }

    #[test]
    fn what_mount_and_fstab_add_changes_nothing() {
        let words = "rw,suid,dev,exec,defaults,noauto,user=fred,nofail,_netdev,x-systemd.automount,\
                     x-systemd.mount-timeout=30s,X-mount.mkdir,comment=a,noatime,relatime,,";
        assert_eq!(options(words), [""; 0]);
    }

    #[test]
    fn commas_of_a_value_are_quoted_or_escaped() {
        assert_eq!(options(r#"token_file="/a,b",uid=1"#), ["--token-file=/a,b", "--uid=1"]);
        assert_eq!(options(r"token_file=/a\,b,uid=1"), ["--token-file=/a,b", "--uid=1"]);
        assert_eq!(options(r"token_file=/a\b\\"), [r"--token-file=/a\b\\"]);
        assert_eq!(options("token_file=/a=b"), ["--token-file=/a=b"]);
        let bytes = OsStr::from_bytes(b"token_file=/\xff");
        let found = long_options(bytes, Unknown::Refuse, &mut Vec::new()).unwrap();
        assert_eq!(found, [OsStr::from_bytes(b"--token-file=/\xff")]);
    }

    #[test]
    fn an_unknown_word_is_refused_with_one_that_is_near_and_never_its_value() {
        for (words, said) in [
            ("alow_other", "is allow_other meant?"),
            ("Uid=7", "is uid meant?"),
            ("max_stail=1h", "is max_stale meant?"),
            ("nofial", "is nofail meant?"),
            ("client_secret=hunter2", "everybody can read options"),
            ("frobnicate=hunter2", "akvfs mount --help"),
            ("foreground", "there is no mount option foreground"),
            ("report_ready", "there is no mount option report_ready"),
            ("uid", "needs a value"),
            ("allow_other=hunter2", "takes no value"),
            ("remount,ro", "cannot be remounted"),
            ("token_file=\"/hunter2,uid=7", "has no end"),
        ] {
            let error = refusal(words);
            assert!(error.contains(said) && !error.contains("hunter2"), "{words}: {error}");
        }
        let mut skipped = Vec::new();
        let found = long_options(OsStr::new("foo=1,uid=2"), Unknown::Skip, &mut skipped).unwrap();
        assert_eq!((found, skipped), (vec![OsString::from("--uid=2")], vec!["foo".to_owned()]));
    }

    proptest::proptest! {
        /// Whatever stands in the fourth field of fstab: long options that are known, or an error that
        /// tells no value.
        #[test]
        fn any_words_are_options_or_refused_without_their_values(
            names in proptest::collection::vec("[a-z_]{0,12}|uid|allow_other|x-a", 0..6),
            noise in "[\\PC\"\\\\,=]{0,40}",
        ) {
            let longs: Vec<_> = table().into_iter().map(|known| format!("--{}", known.long)).collect();
            for words in [names.join("=HUNTER2,"), names.join(&noise), noise] {
                match long_options(OsStr::new(&words), Unknown::Refuse, &mut Vec::new()) {
                    Ok(options) => for option in options {
                        let option = option.into_string().unwrap();
                        let name = option.split('=').next().unwrap().to_owned();
                        proptest::prop_assert!(longs.contains(&name), "{}", option);
                    },
                    Err(error) => {
                        proptest::prop_assert!(!error.to_string().contains("HUNTER2"), "{}", error);
                    }
                }
            }
        }
    }

    #[test]
    fn options_stand_where_their_words_stood() {
        let line = |args: &[&str]| expanded(args.iter().map(OsString::from));
        assert_eq!(
            line(&["-o", "uid=1", "--uid", "2", "a", "-fouid=3,gid=4", "--", "-o", "b"]).unwrap(),
            ["--uid=1", "--uid", "2", "a", "-f", "--uid=3", "--gid=4", "--", "-o", "b"]
        );
        assert!(line(&["a", "b", "-o"]).is_err());
    }
}
