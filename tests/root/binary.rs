//! The real `akvfs mount` and `akvfs unmount`.

use std::path::Path;
use std::process::{Command, Output};

use super::support::{eventually, run, table};

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");

fn akvfs(args: &[&str]) -> Output {
    let output = Command::new(AKVFS).args(args).output().unwrap();
    for said in [&output.stdout, &output.stderr] {
        crate::canary::record("akvfs-root", &String::from_utf8_lossy(said));
    }
    output
}

/// Whether a process works on the directory. One that has ended, reaped or not, has no arguments.
fn served(dir: &Path) -> bool {
    let dir = dir.to_str().unwrap().as_bytes();
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        entry.file_name() != own.as_str() && line.windows(dir.len()).any(|part| part == dir)
    })
}

root_test! {
    fn a_background_mount_reports_its_failure_and_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        for args in [&["mount", "/no/such.yaml", place][..], &["mount", "-f", "/no/such.yaml", place]] {
            let output = akvfs(args);
            assert_eq!(output.status.code(), Some(64), "{args:?}");
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.starts_with("akvfs: cannot read /no/such.yaml: "), "{said}");
        }
        assert!(!served(dir.path()));
        let nothing = akvfs(&["unmount", place]);
        assert_eq!(nothing.status.code(), Some(1));
    }
}

#[cfg(feature = "emulator")]
root_test! {
    fn a_background_mount_is_there_when_the_command_returns_and_ends_with_unmount() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        run(AKVFS, &["mount", "dev:", place]);
        assert_eq!(table(dir.path()).len(), 1);
        assert!(served(dir.path()));
        let secrets = std::fs::read_dir(dir.path().join("secrets")).unwrap();
        let readable = secrets.flatten().filter(|entry| std::fs::read(entry.path()).is_ok());
        assert!(readable.count() > 0);
        let again = akvfs(&["mount", "dev:", place]);
        assert_eq!(again.status.code(), Some(1));
        assert!(String::from_utf8(again.stderr).unwrap().contains("mounted already"));
        run(AKVFS, &["unmount", place]);
        assert_eq!(table(dir.path()).len(), 0);
        eventually("the end of the serving process", || !served(dir.path()));
    }
}

#[cfg(feature = "emulator")]
root_test! {
    fn a_foreground_mount_ends_with_a_signal_or_an_unmount_from_outside() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        for how in ["TERM", "INT", "HUP", "umount"] {
            let mut child = Command::new(AKVFS).args(["mount", "-f", "dev:", place]).spawn().unwrap();
            eventually("a mount", || table(dir.path()).len() == 1);
            match how {
                "umount" => run("umount", &[place]),
                signal => run("kill", &["-s", signal, &child.id().to_string()]),
            };
            assert!(child.wait().unwrap().success(), "{how}");
            assert_eq!(table(dir.path()).len(), 0, "{how}");
        }
    }
}

#[cfg(feature = "emulator")]
root_test! {
    fn a_background_mount_keeps_none_of_its_callers_descriptors() {
        let place = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        // A lock around the command, and a source that only the caller has open.
        let script = r#"
            trap '"$AKVFS" unmount "$PLACE"' EXIT
            cd "$SCRATCH"; echo 'secrets: {one: value}' > seed.yaml
            ( flock 9; "$AKVFS" mount dev:/dev/fd/63 "$PLACE" 63< seed.yaml ) 9> lock
            flock --nonblock lock true
            test "$(cat "$PLACE/secrets/one")" = value
        "#;
        let script = Command::new("bash")
            .args(["-euc", script])
            .env("AKVFS", AKVFS)
            .env("PLACE", place.path())
            .env("SCRATCH", scratch.path())
            .output()
            .unwrap();
        assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
        for wrong in [["--open-timeout", "5000000000000000h"], ["--refresh-interval", "9000h"]] {
            let refused = akvfs(&[&["mount"], &wrong[..], &["dev:", place.path().to_str().unwrap()]].concat());
            assert_eq!(refused.status.code(), Some(64), "{wrong:?}");
        }
    }
}
