//! A writer that is killed before each of its changes in turn, and once more while the next one cleans
//! up. Readers see old files or new ones, never half of one, and the next writer leaves no trace of it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use akvfs::Code;
use akvfs::delivery::files::{Layout, Writer};

use super::ptrace::{End, run_until};
use super::{Files, LAYOUTS, given, is_tidy, options, readable};
use crate::support::scale;

/// A small generator of numbers: schedules are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// A set of files. Some names are folders in one set and files in another.
fn set(numbers: &mut Numbers, generation: usize) -> Files {
    let names = ["a", "a/b", "a/b/c", "d/e", "d/f", "d", "g.h", "i/j/k/l", "i/j", "m"];
    let mut files = Files::new();
    for name in names {
        let meets = files.keys().any(|other| {
            other.starts_with(&format!("{name}/")) || name.starts_with(&format!("{other}/"))
        });
        if meets || numbers.below(5) < 2 {
            continue;
        }
        let mode = [0o400, 0o440, 0o644][numbers.below(3)];
        // One in three is the same in every generation.
        let which = if numbers.below(3) == 0 { 0 } else { generation };
        let contents = format!("{name} of {which};").repeat(1 + numbers.below(3)).into_bytes();
        files.insert(name.to_owned(), (mode, contents));
    }
    files
}

fn write(root: &Path, layout: Layout, files: &Files) -> bool {
    let written = Writer::open(root, options(layout)).and_then(|mut w| w.write(&given(files)));
    if let Err(error) = &written {
        eprintln!("{error}");
    }
    written.is_ok()
}

/// What others have put into the directory, and what is in it.
const FOREIGN: [(&str, &str); 2] = [("theirs", "not ours"), ("folder/theirs", "not ours either")];

fn prepare(root: &Path, layout: Layout, old: &Files) {
    fs::create_dir(root.join("folder")).unwrap();
    for (path, text) in FOREIGN {
        fs::write(root.join(path), text).unwrap();
    }
    // With no files yet the writer that is killed is the first one ever.
    assert!(old.is_empty() || write(root, layout, old));
}

/// Readers' files but for those of others, which must be as they were.
fn ours(root: &Path) -> Files {
    let mut files = readable(root);
    for (path, text) in FOREIGN {
        assert_eq!(files.remove(path).map(|file| file.1), Some(text.into()), "{path}");
    }
    files
}

fn first(path: &str) -> &str {
    path.split('/').next().unwrap()
}

/// The state that a kill has left is one that readers may see.
fn is_whole(root: &Path, layout: Layout, states: &[&Files]) {
    let seen = ours(root);
    if layout == Layout::Flat {
        for (path, file) in &seen {
            let known = states.iter().any(|state| state.get(path) == Some(file));
            assert!(known, "{path} is torn: {file:?}");
        }
        // A file of all states never goes, not even for a moment.
        for path in states[0].keys().filter(|path| states.iter().all(|s| s.contains_key(*path))) {
            assert!(seen.contains_key(path), "{path} is lost");
        }
        return;
    }
    let generation = match fs::symlink_metadata(root.join("..data")) {
        Ok(_) => readable(&root.join("..data")),
        Err(_) => Files::new(),
    };
    assert!(states.contains(&&generation), "torn: {generation:?}");
    for (path, file) in &seen {
        assert_eq!(generation.get(path), Some(file), "{path}");
    }
    let always: BTreeSet<&str> = generation
        .keys()
        .map(|path| first(path))
        .filter(|name| states.iter().all(|state| state.keys().any(|path| first(path) == *name)))
        .collect();
    for path in generation.keys().filter(|path| always.contains(first(path))) {
        assert!(seen.contains_key(path), "{path} is lost");
    }
}

/// After a kill and before the next start others take a name, of a file to come or of one that went: it
/// stays theirs.
fn others_take_a_name(root: &Path, layout: Layout, old: &Files, new: &Files, to_come: bool) {
    let free = |path: &&String| {
        let place = if layout == Layout::Atomic { first(path) } else { path };
        let parent = root.join(place).parent().unwrap().to_owned();
        parent.is_dir() && fs::symlink_metadata(root.join(place)).is_err()
    };
    let place = |path: &String| match layout {
        Layout::Atomic => root.join(first(path)),
        Layout::Flat => root.join(path),
    };
    // Where a new file has to go: in the way.
    if let Some(path) = new.keys().filter(|_| to_come).find(free) {
        let place = place(path);
        fs::write(&place, "taken").unwrap();
        let outcome =
            Writer::open(root, options(layout)).and_then(|mut writer| writer.write(&given(new)));
        assert_eq!(outcome.unwrap_err().code(), Code::PlaceRefused, "{path}");
        assert_eq!(fs::read(&place).unwrap(), b"taken");
        fs::remove_file(place).unwrap();
    }
    // Where an old file was removed: nobody's business.
    let meets = |path: &&String| new.keys().any(|other| first(other) == first(path));
    if let Some(path) = old.keys().filter(|path| !to_come && !meets(path)).find(free) {
        let place = place(path);
        fs::write(&place, "taken").unwrap();
        assert!(write(root, layout, new));
        assert_eq!(fs::read(&place).unwrap(), b"taken", "{path}");
        fs::remove_file(place).unwrap();
    }
}

/// Kills at every step of one write, and returns how many there were.
fn every_step(
    base: &str,
    layout: Layout,
    numbers: &mut Numbers,
    tally: &mut BTreeMap<&str, usize>,
) -> usize {
    let (mut old, new) = (set(numbers, 1), set(numbers, 2));
    if numbers.below(6) == 0 {
        old.clear();
    }
    let mut step = 0;
    loop {
        let dir = tempfile::tempdir_in(base).unwrap();
        let root = dir.path();
        prepare(root, layout, &old);
        if let End::Finished(count) = run_until(step, || write(root, layout, &new)) {
            assert_eq!(ours(root), new);
            assert_eq!(count, step);
            return step;
        }
        is_whole(root, layout, &[&old, &new]);
        let shown = ours(root);
        *tally
            .entry(if shown == old {
                "old"
            } else if shown == new {
                "new"
            } else {
                "both"
            })
            .or_default() += 1;
        match numbers.below(4) {
            0 | 2 => others_take_a_name(root, layout, &old, &new, numbers.below(3) == 0),
            // The next one wants something else, and is killed too.
            1 => {
                let next = set(numbers, 3);
                run_until(numbers.below(step + 2), || write(root, layout, &next));
                is_whole(root, layout, &[&old, &new, &next]);
            }
            _ => {}
        }
        let last = if numbers.below(2) == 0 { &old } else { &new };
        assert!(write(root, layout, last));
        assert_eq!(&ours(root), last);
        is_tidy(root, layout);
        step += 1;
    }
}

fn kills(base: &str, layout: Layout, at_least: usize) {
    let mut numbers = Numbers(u64::from(layout == Layout::Flat) + 7);
    let mut tally = BTreeMap::new();
    let mut schedules = 0;
    while schedules < at_least {
        schedules += every_step(base, layout, &mut numbers, &mut tally);
    }
    eprintln!("{base}, {layout:?}: {schedules} schedules, left as {tally:?}");
    // Kills came before and after what readers see of a write.
    assert!(tally["old"] > at_least / 10 && tally["new"] > at_least / 10, "{tally:?}");
}

root_test! {
    fn a_kill_at_any_step_of_an_atomic_write_leaves_the_old_files_or_the_new_ones() {
        kills("/dev/shm", Layout::Atomic, 500 * scale());
    }
}

root_test! {
    fn a_kill_at_any_step_of_a_flat_write_leaves_each_file_old_or_new() {
        kills("/dev/shm", Layout::Flat, 500 * scale());
    }
}

root_test! {
    // Where inodes are used again, and everything is flushed. The disk is a file in memory: a real one
    // takes too long.
    fn kills_on_a_disk_leave_no_more() {
        let dir = super::in_memory();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let (image, at) = (image.to_str().unwrap(), dir.path().join("at"));
        fs::create_dir(&at).unwrap();
        let at = at.to_str().unwrap();
        let does = |program: &str, arguments: &[&str]| {
            let status = std::process::Command::new(program).args(arguments).status();
            status.is_ok_and(|status| status.success())
        };
        if !does("mkfs.ext4", &["-q", image]) || !does("mount", &["-o", "loop,barrier=0", image, at]) {
            eprintln!("SKIPPED: it needs mkfs.ext4 and a loop device");
            return;
        }
        for layout in LAYOUTS {
            kills(at, layout, 60 * scale());
        }
        assert!(does("umount", &[at]));
    }
}
