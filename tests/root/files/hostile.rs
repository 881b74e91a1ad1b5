//! Things that others put in the way, links that lead outside, and names that are swapped meanwhile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use akvfs::Code;
use akvfs::delivery::files::{File, Layout, Writer};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{LAYOUTS, in_memory, is_tidy, options, readable};
use crate::support::scale;

fn file<'a>(path: &'a str, text: &'a str) -> File<'a> {
    File { path, mode: 0o444, contents: text.as_bytes() }
}

/// All that is in a directory, ours or not.
fn listing(root: &Path) -> Vec<String> {
    let output = std::process::Command::new("find")
        .args([".", "-printf", "%p %y %m %i %T@ %l\n"])
        .current_dir(root)
        .output()
        .unwrap();
    let mut lines: Vec<_> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

root_test! {
    fn what_stands_in_the_way_is_named_and_stays() {
        let outside = in_memory();
        fs::write(outside.path().join("victim"), "outside").unwrap();
        let kinds: [fn(&Path, &Path); 5] = [
            |at, _| fs::write(at, "foreign").unwrap(),
            |at, _| fs::create_dir(at).unwrap(),
            |at, outside| symlink(outside, at).unwrap(),
            |at, outside| symlink(outside.join("victim"), at).unwrap(),
            |at, _| rustix::fs::mknodat(CWD, at, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
        ];
        // Where something stands, and whether a folder there is fine.
        let places = [
            (Layout::Atomic, "..data", false),
            (Layout::Atomic, "..data_tmp", false),
            (Layout::Atomic, "a", false),
            (Layout::Atomic, "d", false),
            (Layout::Flat, "a", false),
            (Layout::Flat, "d", true),
            (Layout::Flat, "d/e", true),
            (Layout::Flat, "d/e/f", false),
        ];
        let before = listing(outside.path());
        for ((layout, place, folder), put) in places.iter().flat_map(|p| kinds.iter().map(move |k| (*p, k))) {
            let dir = in_memory();
            let at = dir.path().join(place);
            let wanted = [file("a", "1"), file("d/e/f", "1"), file("g", "1")];
            // Before the first write, and instead of what an earlier one has made.
            for earlier in [false, true] {
                let mut writer = Writer::open(dir.path(), options(layout)).unwrap();
                if earlier {
                    writer.write(&wanted).unwrap();
                    match fs::symlink_metadata(&at) {
                        Ok(data) if data.is_dir() => fs::remove_dir_all(&at).unwrap(),
                        Ok(_) => fs::remove_file(&at).unwrap(),
                        Err(_) => {}
                    }
                }
                if let Some(parent) = at.parent() {
                    fs::create_dir_all(parent).unwrap();
                }
                put(&at, outside.path());
                let there = listing(dir.path());
                let outcome = writer.write(&[file("a", "2"), file("d/e/f", "2"), file("g", "2")]);
                let kind = fs::symlink_metadata(&at).unwrap().file_type();
                if (folder && kind.is_dir()) || (earlier && kind.is_file() && layout == Layout::Flat && !folder) {
                    // A folder that was there is used; a file in the place of ours is ours.
                    outcome.unwrap();
                } else {
                    let error = outcome.unwrap_err();
                    assert_eq!(error.code(), Code::PlaceRefused, "{place}: {error}");
                    let named = format!("{place} is in the way: akvfs did not write it");
                    assert!(error.message().ends_with(&named), "{place}: {error}");
                    assert_eq!(listing(dir.path()), there, "{place}");
                }
                assert_eq!(listing(outside.path()), before);
                drop(writer);
                if fs::symlink_metadata(&at).unwrap().is_dir() {
                    fs::remove_dir_all(&at).unwrap();
                } else {
                    fs::remove_file(&at).unwrap();
                }
                // Once it is gone all goes on.
                let mut writer = Writer::open(dir.path(), options(layout)).unwrap();
                writer.write(&wanted).unwrap();
                assert_eq!(readable(dir.path()).len(), 3);
                is_tidy(dir.path(), layout);
                drop(writer);
                fs::remove_dir_all(dir.path().join("..akvfs")).unwrap();
                for entry in fs::read_dir(dir.path()).unwrap() {
                    let path = entry.unwrap().path();
                    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
                }
            }
        }
    }
}

root_test! {
    fn links_in_our_own_folder_are_not_followed() {
        let outside = in_memory();
        let victim = outside.path().join("victim");
        fs::write(&victim, "outside").unwrap();
        for layout in LAYOUTS {
            let dir = in_memory();
            let own = dir.path().join("..akvfs");
            symlink(outside.path(), &own).unwrap();
            let error = Writer::open(dir.path(), options(layout)).unwrap_err();
            assert!(error.message().ends_with("..akvfs is in the way: akvfs did not write it"), "{error}");
            fs::remove_file(&own).unwrap();

            let mut writer = Writer::open(dir.path(), options(layout)).unwrap();
            writer.write(&[file("a", "1")]).unwrap();
            for name in ["ledger.tmp", "new.0", "new.1"] {
                symlink(&victim, own.join(name)).unwrap();
            }
            // Noticed by a writer that is open, removed by the next write or start.
            let _ = writer.write(&[file("a", "2"), file("b", "2")]);
            writer.write(&[file("a", "3"), file("b", "3")]).unwrap();
            drop(writer);
            symlink(&victim, own.join("new.7")).unwrap();
            drop(Writer::open(dir.path(), options(layout)).unwrap());
            assert_eq!(readable(dir.path()).len(), 2);
            is_tidy(dir.path(), layout);
            assert_eq!(fs::read(&victim).unwrap(), b"outside");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        }
    }
}

root_test! {
    fn a_directory_or_folder_that_is_swapped_for_a_link_leads_nowhere_else() {
        let outside = in_memory();
        for name in ["a", "c", "..data"] {
            fs::write(outside.path().join(name), "outside").unwrap();
        }
        let before = listing(outside.path());
        for (layout, inner) in [(LAYOUTS[0], ""), (LAYOUTS[1], ""), (LAYOUTS[1], "b")] {
            let dir = in_memory();
            let target = dir.path().join("target");
            let one = [file("a", "1"), file("b/c", "1"), file("d", "1")];
            let two = [file("a", "2"), file("b/c", "2")];
            Writer::open(&target, options(layout)).unwrap().write(&one).unwrap();
            let swapped = if inner.is_empty() { target.clone() } else { target.join(inner) };
            let link = dir.path().join("link");
            symlink(outside.path(), &link).unwrap();
            let end = AtomicBool::new(false);
            let (mut wrote, mut failed, mut swaps) = (0_usize, 0_usize, 0_usize);
            std::thread::scope(|scope| {
                let swapping = scope.spawn(|| {
                    let mut swaps = 0;
                    while !end.load(Ordering::Relaxed) {
                        renameat_with(CWD, &link, CWD, &swapped, RenameFlags::EXCHANGE).unwrap();
                        swaps += 1;
                    }
                    swaps
                });
                for n in 0..1000 * scale() {
                    let files = if n % 2 == 0 { &two[..] } else { &one[..] };
                    match Writer::open(&target, options(layout)).and_then(|mut w| w.write(files)) {
                        Ok(_) => wrote += 1,
                        Err(_) => failed += 1,
                    }
                }
                end.store(true, Ordering::Relaxed);
                swaps = swapping.join().unwrap();
            });
            assert!(failed > 0 && swaps > 1000, "{wrote} written, {failed} failed, {swaps} swaps");
            assert_eq!(listing(outside.path()), before);
            if fs::symlink_metadata(&swapped).unwrap().is_symlink() {
                renameat_with(CWD, &link, CWD, &swapped, RenameFlags::EXCHANGE).unwrap();
            }
            Writer::open(&target, options(layout)).unwrap().write(&one).unwrap();
            assert_eq!(readable(&target).len(), 3);
            is_tidy(&target, layout);
        }
    }
}
