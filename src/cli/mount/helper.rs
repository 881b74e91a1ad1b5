//! `mount.akvfs`: what mount(8) starts for a line of fstab, as a name of the same program.
//!
//! mount(8) calls `/sbin/mount.TYPE SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]`: for
//! the type `akvfs` that is mount.akvfs, for `fuse.akvfs` mount.fuse.akvfs. It hands on the exit code, which
//! is therefore one of its own.
//!
//! Where mount.fuse.akvfs is missing, mount(8) starts libfuse's mount.fuse for that type, which runs `akvfs
//! SOURCE DIR -o OPTIONS`: no command of ours looks like that.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::error::{Error, Result};

use super::words::{Unknown, long_options};

/// Names under which the program is one that mount(8) starts.
const NAMES: [&str; 3] = ["mount.akvfs", "mount.fuse.akvfs", "fuse.akvfs"];
/// mount(8): incorrect invocation or permissions.
pub(in crate::cli) const USAGE: u8 = 1;
/// mount(8): mount failure.
pub(in crate::cli) const FAILED: u8 = 32;

/// Whether mount(8) has started the program.
pub(in crate::cli) fn is_meant(line: &[OsString]) -> bool {
    let Some((program, args)) = line.split_first() else { return false };
    let name = Path::new(program).file_name();
    if name.is_some_and(|name| NAMES.iter().any(|known| name == *known)) {
        return true;
    }
    let args = match args.split_first() {
        Some((first, rest)) if first == super::REPORT_READY => rest,
        _ => args,
    };
    // A path or a URL is no command's name.
    let is_source = |source: &OsString| {
        let bytes = source.as_bytes();
        !bytes.starts_with(b"-") && bytes.iter().any(|byte| b"/:".contains(byte))
    };
    matches!(args, [source, _, flag, _] if flag == "-o" && is_source(source))
}

/// The arguments of `akvfs mount` for those that mount(8) gave.
pub(super) fn command_line(args: impl Iterator<Item = OsString>) -> Result<Vec<OsString>> {
    let mut args = args.peekable();
    let (mut out, mut places, mut words) = (Vec::new(), Vec::new(), Vec::new());
    let (mut unknown, mut skipped) = (Unknown::Refuse, Vec::new());
    let child = args.next_if(|arg| arg == super::REPORT_READY);
    let is_child = child.is_some();
    out.extend(child);
    while let Some(arg) = args.next() {
        if arg == "--" {
            places.extend(args);
            break;
        }
        if arg == "-h" || arg == "--help" {
            return Ok(vec![arg]);
        }
        let Some(flags) = arg.as_bytes().strip_prefix(b"-").filter(|flags| !flags.is_empty())
        else {
            places.push(arg);
            continue;
        };
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            match flag {
                b's' => unknown = Unknown::Skip,
                b'f' => out.push("--fake".into()),
                b'v' => out.push("--verbose".into()),
                // About a file that no system has any more.
                b'n' => {}
                b'o' | b't' | b'N' => {
                    let value = match flags.as_slice() {
                        [] => args.next().ok_or_else(|| wrong(flags_of(&arg), "needs a value"))?,
                        rest => OsString::from_vec(rest.to_vec()),
                    };
                    match flag {
                        b'o' => words.push(value),
                        b'N' => out.push(joined("--namespace=", &value)),
                        _ => {}
                    }
                    break;
                }
                _ => return Err(wrong(flags_of(&arg), "is no flag of a mount helper")),
            }
        }
    }
    for words in words {
        out.extend(long_options(&words, unknown, &mut skipped)?);
    }
    // The process that only waits for its child has said so already.
    if !skipped.is_empty() && !is_child {
        crate::cli::note(&format!("note: mount options without effect: {}", skipped.join(", ")));
    }
    out.push("--".into());
    out.extend(places);
    Ok(out)
}

fn joined(option: &str, value: &OsStr) -> OsString {
    let mut joined = OsString::from(option);
    joined.push(value);
    joined
}

fn flags_of(arg: &OsStr) -> String {
    crate::error::printable(&arg.to_string_lossy(), 32)
}

fn wrong(flag: String, why: &str) -> Error {
    Error::class(format!("{flag} {why}"))
        .fix("mount.akvfs SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> Result<Vec<OsString>> {
        command_line(args.iter().map(OsString::from))
    }

    #[test]
    fn the_programs_name_is_the_last_part_of_its_path() {
        let meant = |line: &[&str]| is_meant(&line.iter().map(OsString::from).collect::<Vec<_>>());
        for name in ["mount.akvfs", "/sbin/mount.fuse.akvfs", "/usr/local/bin/fuse.akvfs"] {
            assert!(meant(&[name]), "{name}");
        }
        for name in ["akvfs", "/mount.akvfs/akvfs", "mount.akvfs2", ""] {
            assert!(!meant(&[name]), "{name}");
        }
        assert!(!meant(&[]));
        assert!(meant(&["akvfs", "/etc/a.yaml", "/mnt", "-o", "rw"]));
        assert!(meant(&["akvfs", "--report-ready", "dev:", "/mnt", "-o", "rw"]));
        for args in
            [&["get", "dev:", "x"][..], &["-v", "dev:", "-o", "rw"], &["mount", "a/b", "-o", "rw"]]
        {
            assert!(!meant(&[&["akvfs"], args].concat()), "{args:?}");
        }
    }

    #[test]
    fn what_mount_gives_is_the_command_line_of_mount() {
        assert_eq!(
            line(&["/etc/a.yaml", "/mnt", "-o", "rw,uid=7,nofail", "-t", "fuse.akvfs"]).unwrap(),
            ["--uid=7", "--", "/etc/a.yaml", "/mnt"]
        );
        assert_eq!(
            line(&["--report-ready", "a", "b", "-fnvs", "-oallow_other,foo"]).unwrap(),
            ["--report-ready", "--fake", "--verbose", "--allow-other", "--", "a", "b"]
        );
        assert_eq!(
            line(&["-N", "/ns", "--", "-a", "b"]).unwrap(),
            ["--namespace=/ns", "--", "-a", "b"]
        );
        for bad in
            [&["a", "b", "-x"][..], &["a", "b", "-o"], &["a", "--uid=7", "b"], &["a", "-o", "foo"]]
        {
            assert!(line(bad).is_err(), "{bad:?}");
        }
    }
}
