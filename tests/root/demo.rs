//! `akvfs demo`, the first thing a newcomer runs. What it prints is its purpose, values included.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::{eventually, run};

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");

/// Places in its output, in order.
fn in_order(text: &str, places: &[&str]) {
    let mut rest = text;
    for place in places {
        let at =
            rest.find(place).unwrap_or_else(|| panic!("no {place:?} in its place in:\n{text}"));
        rest = &rest[at + place.len()..];
    }
}

const MOUNT: &[&str] = &[
    "4. The same class, asked for by the CSI driver",
    "with 4 files:",
    "0644     37 bytes  db-password        secret/db-password version ",
    "config/app.json",
    "key/key1 version ",
    "entra POST",
    "vault GET /secrets/db-password/ -> 200",
];

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

root_test! {
    fn the_demo_shows_both_deliveries_and_leaves_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let output = Command::new(AKVFS)
            .args(["demo", "--no-wait"])
            .env("TMPDIR", temporary.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && complaints.is_empty(), "{said}\n{complaints}");
        in_order(
            &said,
            &[
                "3. The class as a FUSE tree",
                "db-password",
                "requested so far: nothing",
                "$ cat ",
                "dev-only-db-password-",
                "entra POST",
                "vault GET /secrets/db-password/ -> 200",
                "dev-only-db-password-",
                "requested for the second cat: nothing",
            ],
        );
        in_order(&said, MOUNT);
        in_order(
            &said,
            &["5. db-password gets a new version", "$ cat ", "dev-only-this-is-the-new-password"],
        );
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
        assert!(!mounts().contains("fuse.akvfs"));
    }
}

root_test! {
    fn where_fuse_cannot_be_the_demo_says_so_and_shows_the_rest() {
        run("mount", &["--bind", "/dev/null", "/dev/fuse"]);
        let output = Command::new(AKVFS).args(["demo", "--no-wait"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        in_order(&said, &["FUSE is not possible here", "The rest works without it"]);
        in_order(&said, MOUNT);
        in_order(&said, &["5. db-password gets a new version", "with 4 files:"]);
    }
}

root_test! {
    fn ctrl_c_ends_the_demo_and_cleans_up() {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = Command::new(AKVFS)
            .arg("demo")
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let invited = lines.any(|line| line.unwrap().contains("6. Look around"));
        assert!(invited && mounts().contains("fuse.akvfs"));
        run("kill", &["-INT", &child.id().to_string()]);
        // Its last lines go somewhere.
        let rest = std::thread::spawn(move || lines.count());
        let mut status = None;
        eventually("the demo's end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success());
        rest.join().unwrap();
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
        assert!(!mounts().contains("fuse.akvfs"));
    }
}
