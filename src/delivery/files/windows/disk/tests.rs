//! The whole writer on a real disk: run on Windows, or by scripts/test-wine.

use super::super::super::{File as Given, Layout, Options, Writer, Written};
use super::*;

const CSI: Options = Options { layout: Layout::Flat, place: Place::CsiTarget, owner: None };
const USERS: Options = Options { layout: Layout::Flat, place: Place::Directory, owner: None };

fn write(writer: &mut Writer, files: &[(&str, &str)]) -> Result<Written> {
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| Given { path, mode: 0o644, contents: text.as_bytes() })
        .collect();
    writer.write(&files)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn paths_are_given_to_windows_as_they_are() {
    for (path, form) in [
        (r"C:\a\b", Some(r"\\?\C:\a\b")),
        (r"C:\", Some(r"\\?\C:\")),
        (r"c:/a/./b", Some(r"\\?\c:\a\b")),
        (r"\\server\share\a", Some(r"\\?\UNC\server\share\a")),
        (r"\\?\C:\a", Some(r"\\?\C:\a")),
        (r"\\.\pipe\a", None),
        (r"a\b", None),
    ] {
        assert_eq!(verbatim(Path::new(path)).as_deref(), form.map(Path::new), "{path}");
    }
}

#[test]
fn files_come_change_and_go() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("secrets");
    let mut writer = Writer::open(&directory, USERS).unwrap();
    let written = write(&mut writer, &[("a", "1"), (r"b\c", "2")]).unwrap();
    assert_eq!(written.added, ["a", r"b\c"]);
    assert_eq!(
        (text(&directory.join("a")), text(&directory.join(r"b\c"))),
        ("1".into(), "2".into())
    );
    let error = Writer::open(&directory, USERS).unwrap_err();
    assert!(error.message().ends_with("is written by another akvfs"), "{error}");
    drop(writer);
    let mut writer = Writer::open(&directory, USERS).unwrap();
    let written = write(&mut writer, &[("a", "new"), ("A.txt", "3")]).unwrap();
    assert_eq!(written.changed, ["a"]);
    assert_eq!(written.removed, ["b/c"]);
    assert_eq!(text(&directory.join("a")), "new");
    assert!(!directory.join("b").exists());
    assert_eq!(write(&mut writer, &[("a", "new"), ("A.txt", "3")]).unwrap(), Written::default());
    std::fs::write(directory.join("Theirs"), "x").unwrap();
    let error = write(&mut writer, &[("theirs", "1")]).unwrap_err();
    assert!(error.message().ends_with("akvfs did not write it"), "{error}");
    assert_eq!(text(&directory.join("Theirs")), "x");
}

/// A path of more than 260 characters, which only the verbatim form can name.
#[test]
fn paths_may_be_long() {
    let above = tempfile::tempdir().unwrap();
    let name = format!("{0}/{0}/{0}", "n".repeat(100));
    let mut writer = Writer::open(&above.path().join("secrets"), USERS).unwrap();
    write(&mut writer, &[(&name, "1")]).unwrap();
    assert_eq!(write(&mut writer, &[(&name, "1")]).unwrap(), Written::default());
    assert_eq!(write(&mut writer, &[]).unwrap().removed, [name]);
}

#[test]
fn a_file_that_is_held_open_is_never_said_to_be_replaced() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("secrets");
    let mut writer = Writer::open(&directory, USERS).unwrap();
    write(&mut writer, &[("a", "1"), ("b", "1")]).unwrap();
    let held = OpenOptions::new()
        .read(true)
        .share_mode(FILE_SHARE_READ)
        .open(directory.join("a"))
        .unwrap();
    let error = write(&mut writer, &[("a", "2"), ("b", "2")]).unwrap_err();
    assert!(error.message().contains(r"\a is in use"), "{error}");
    assert_eq!((text(&directory.join("a")), text(&directory.join("b"))), ("1".into(), "2".into()));
    drop(held);
    assert_eq!(write(&mut writer, &[("a", "2"), ("b", "2")]).unwrap().changed, ["a", "b"]);
    assert_eq!(text(&directory.join("a")), "2");
}

#[test]
fn a_csi_target_is_empty_or_ours() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("mount");
    assert!(Writer::open(&directory, CSI).is_err(), "the driver makes it");
    std::fs::create_dir(&directory).unwrap();
    let mut writer = Writer::open(&directory, CSI).unwrap();
    write(&mut writer, &[("a", "1")]).unwrap();
    drop(writer);
    assert!(Writer::open(&directory, CSI).is_ok());
    let other = above.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("theirs"), "x").unwrap();
    let error = Writer::open(&other, CSI).unwrap_err();
    assert!(error.message().contains("holds theirs"), "{error}");
}

#[test]
fn who_may_read_follows_from_the_directory() {
    let above = tempfile::tempdir().unwrap();
    let made = above.path().join("made");
    let mut writer = Writer::open(&made, USERS).unwrap();
    write(&mut writer, &[("a", "1")]).unwrap();
    let ours = security::ourselves().unwrap();
    for path in [made.clone(), made.join("a")] {
        let list = security::list(&path).unwrap();
        assert_eq!(sddl::judge(&list, Some(&ours)).writer, None, "{list}");
        assert!(!list.contains(";;;WD)") && !list.contains(";;;BU)"), "{list}");
    }
    let open = above.path().join("open");
    std::fs::create_dir(&open).unwrap();
    security::protect(&open, "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;WD)").unwrap();
    let error = Writer::open(&open, USERS).unwrap_err();
    assert!(error.message().contains("may be written by others"), "{error}");
    let error = Writer::open(&open.join("below"), USERS).unwrap_err();
    assert!(error.message().contains("replace what is in it"), "{error}");
    assert!(!open.join("below").exists());
}
