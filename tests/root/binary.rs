//! The real `akvfs mount` and `akvfs unmount`.

use std::process::{Command, Output};

use super::support::{eventually, run, served, table};

use std::os::unix::net::UnixDatagram;

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");

fn akvfs(args: &[&str]) -> Output {
    let output = Command::new(AKVFS).args(args).output().unwrap();
    for said in [&output.stdout, &output.stderr] {
        crate::canary::record("akvfs-root", &String::from_utf8_lossy(said));
    }
    output
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

#[cfg(feature = "emulator")]
root_test! {
    fn of_several_options_the_last_counts_however_each_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        for (options, owner) in [
            (&["--uid", "1", "-o", "uid=2"][..], "2"),
            (&["-o", "uid=1,uid=2", "--uid", "3"], "3"),
            (&["--uid=1", "-o", "uid=2,gid=9", "-ouid=4"], "4"),
        ] {
            run(AKVFS, &[&["mount"], options, &["dev:", place]].concat());
            assert_eq!(run("stat", &["-c", "%u", place]), format!("{owner}\n").into_bytes());
            run(AKVFS, &["unmount", place]);
            eventually("the end of the serving process", || !served(dir.path()));
        }
        let refused = akvfs(&["mount", "-o", "uid=1,frobnicate", "dev:", place]);
        assert_eq!(refused.status.code(), Some(64));
    }
}

#[cfg(feature = "emulator")]
root_test! {
    fn a_mount_below_nohup_outlives_the_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        let script = r#"trap "" HUP; exec "$@""#;
        let mut child =
            Command::new("sh").args(["-c", script, "sh", AKVFS, "mount", "-f", "dev:", place]).spawn().unwrap();
        eventually("a mount", || table(dir.path()).len() == 1);
        run("kill", &["-s", "HUP", &child.id().to_string()]);
        let mut secrets = std::fs::read_dir(dir.path().join("secrets")).unwrap().flatten();
        assert!(secrets.any(|entry| std::fs::read(entry.path()).is_ok()));
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 1, 1, "{ignored}");
        run("kill", &["-s", "TERM", &child.id().to_string()]);
        assert!(child.wait().unwrap().success());
    }
}

#[cfg(feature = "emulator")]
root_test! {
    fn the_service_manager_is_told_when_the_mount_is_there_and_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (place, socket) = (dir.path().join("tree"), dir.path().join("notify"));
        std::fs::create_dir(&place).unwrap();
        let receiver = UnixDatagram::bind(&socket).unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let heard = || {
            let mut buffer = [0; 1024];
            let length = receiver.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let mut command = Command::new(AKVFS);
        command.args(["mount", "-f", "dev:"]).arg(&place).env("NOTIFY_SOCKET", &socket);
        let mut child = command.spawn().unwrap();
        let ready = heard();
        assert!(ready.starts_with("READY=1\nSTATUS=embedded vault "), "{ready}");
        assert_eq!(table(&place).len(), 1);
        run("kill", &["-s", "TERM", &child.id().to_string()]);
        assert_eq!(heard(), "STOPPING=1\n");
        assert!(child.wait().unwrap().success());
    }
}

#[cfg(feature = "emulator")]
root_test! {
    fn a_mount_can_be_made_in_another_mount_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        let helper = dir.path().with_extension("helper");
        std::fs::create_dir(&helper).unwrap();
        let program = helper.join("mount.akvfs");
        std::os::unix::fs::symlink(AKVFS, &program).unwrap();
        let mut other =
            Command::new("unshare").args(["--mount", "--propagation", "private", "sleep", "100"]).spawn().unwrap();
        let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let namespace = format!("/proc/{}/ns/mnt", other.id());
        eventually("a namespace", || std::fs::read_link(&namespace).is_ok_and(|other| other != own));
        run(program.to_str().unwrap(), &["dev:", place, "-N", &namespace]);
        assert_eq!(table(dir.path()).len(), 0);
        let theirs = std::fs::read_to_string(format!("/proc/{}/mountinfo", other.id())).unwrap();
        assert!(theirs.contains(&format!(" {place} ")), "{theirs}");
        run("nsenter", &[&format!("--mount={namespace}"), "umount", place]);
        eventually("the end of the serving process", || !served(dir.path()));
        other.kill().unwrap();
        other.wait().unwrap();
        std::fs::remove_dir_all(helper).unwrap();
    }
}
