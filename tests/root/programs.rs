//! Programs that open a cold file get all of it, whatever size they were shown before.

use std::process::{Command, Stdio};

use akvfs::view::Layout;

use super::support::{Fake, Tree, run};

/// Shell lines over `$F`, the cold file, `$D` its directory and `$N` its name; each must print
/// exactly the value.
const PROGRAMS: [&str; 16] = [
    "cat \"$F\"",
    "cp \"$F\" copy && cat copy",
    "cp --preserve=timestamps -L \"$F\" copy && cat copy",
    "tail -c +1 \"$F\"",
    "dd if=\"$F\" bs=512 status=none",
    "dd if=\"$F\" bs=64k iflag=fullblock status=none",
    "head -c \"$(wc -c < \"$F\")\" \"$F\"",
    "tail -c \"$(wc -c \"$F\" | cut -d' ' -f1)\" \"$F\"",
    "tar -chf t.tar -C \"$D\" \"$N\" && tar -xOf t.tar",
    "ls -l \"$D\" > /dev/null; stat -L \"$F\" > /dev/null; tar -chf - -C \"$D\" . | tar -xf - && cat \"$N\"",
    "python3 -c 'import sys; sys.stdout.buffer.write(open(sys.argv[1], \"rb\").read())' \"$F\"",
    "python3 -c 'import os, sys; os.stat(sys.argv[1]); sys.stdout.buffer.write(open(sys.argv[1], \"rb\", 0).readall())' \"$F\"",
    "python3 -c 'import mmap, sys; f = open(sys.argv[1], \"rb\"); sys.stdout.buffer.write(mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ))' \"$F\"",
    "python3 -c 'import mmap, sys; f = open(sys.argv[1], \"rb\"); sys.stdout.buffer.write(mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ))' \"$F\"",
    // These never ask how large the file is.
    "python3 -c 'import os, sys\nf = os.open(sys.argv[1], os.O_RDONLY)\nwhile os.sendfile(1, f, None, 100000): pass' \"$F\" | cat",
    "python3 -c 'import os, sys\nf = os.open(sys.argv[1], os.O_RDONLY)\nwhile os.splice(f, 1, 100000): pass' \"$F\" | cat",
];

fn value(size: usize) -> Vec<u8> {
    (0..size).map(|at| b"0123456789abcdefghijklmnopqrstuvwxyz\n"[at * 7 % 37]).collect()
}

fn check(layout: Layout, program: &str, size: usize) {
    let value = value(size);
    let vault = Fake::new(&[("file", &value)]);
    let tree = Tree::new(&vault, layout, &["file"]);
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", program])
        .env("F", tree.path("file"))
        .env("D", tree.dir())
        .env("N", "file")
        .current_dir(scratch.path())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{layout:?}, {size} bytes: {program}");
    // The value is the test's own; only its length is worth printing.
    assert_eq!(output.stdout.len(), size, "{layout:?}: {program}");
    assert!(output.stdout == value, "{layout:?}, {size} bytes: {program}");
    assert_eq!(vault.requests(), ["file"], "{program}");
}

root_test! {
    fn cold_files_are_read_whole_through_links() {
        for program in PROGRAMS {
            for size in [20, 4096, 24_000] {
                check(Layout::Atomic, program, size);
            }
        }
    }
}

root_test! {
    fn cold_files_are_read_whole_in_a_flat_tree() {
        for program in PROGRAMS {
            for size in [20, 4097] {
                check(Layout::Flat, program, size);
            }
        }
    }
}

root_test! {
    fn an_empty_value_is_an_empty_file() {
        check(Layout::Atomic, "cat \"$F\"", 0);
        let vault = Fake::new(&[("file", b"")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["file"]);
        let file = tree.path("file");
        let file = file.to_str().unwrap();
        // Not known yet: not shown as empty.
        run("test", &["-s", file]);
        assert_eq!(run("wc", &["-c", file]), format!("0 {file}\n").as_bytes());
        assert!(!Command::new("test").args(["-s", file]).status().unwrap().success());
    }
}
