//! Mounts by mount(8): lines of fstab, `mount.akvfs`, and what it makes of them.
//!
//! Each test has its own /etc/fstab and its own /sbin/mount.akvfs: both only in its mount namespace.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::support::{eventually, run, table};

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");

/// The namespace's machine: where akvfs is installed, with a source and a place to mount.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        // Where mount(8) and akvfs leave word of what they did.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        let dir = tempfile::tempdir().unwrap();
        let overlay = dir.path().join("overlay");
        std::fs::create_dir(&overlay).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", overlay.to_str().unwrap()]);
        let (upper, work) = (overlay.join("upper"), overlay.join("work"));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        for name in ["mount.akvfs", "mount.fuse.akvfs"] {
            std::os::unix::fs::symlink(AKVFS, upper.join(name)).unwrap();
        }
        // mount(8) has the directory built in.
        let real = std::fs::canonicalize("/sbin").unwrap();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            real.display(),
            upper.display(),
            work.display()
        );
        run("mount", &["-t", "overlay", "-o", &options, "overlay", real.to_str().unwrap()]);
        let machine = Self { dir };
        std::fs::write(machine.path("seed.yaml"), "secrets: {one: value}\n").unwrap();
        std::fs::create_dir(machine.path("tree")).unwrap();
        std::fs::write(machine.path("fstab"), "").unwrap();
        run("mount", &["--bind", machine.path("fstab").to_str().unwrap(), "/etc/fstab"]);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// What fstab has in front of the type and the options.
    fn source(&self) -> String {
        format!("dev:{}", self.path("seed.yaml").display())
    }

    fn fstab(&self, kind: &str, options: &str) {
        let line = format!("{} {} {kind} {options} 0 0\n", self.source(), self.tree().display());
        std::fs::write("/etc/fstab", line).unwrap();
    }

    fn value(&self) -> Option<Vec<u8>> {
        std::fs::read(self.tree().join("secrets/one")).ok()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A server left behind would keep the namespace.
        let _ = Command::new("umount").arg(self.tree()).output();
    }
}

fn said(output: &Output) -> String {
    for stream in [&output.stdout, &output.stderr] {
        crate::canary::record("akvfs-root", &String::from_utf8_lossy(stream));
    }
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn command(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

/// Processes that serve the directory.
pub fn servers(dir: &Path) -> Vec<u32> {
    let dir = dir.to_str().unwrap().as_bytes();
    let serves = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        *id != std::process::id() && line.windows(dir.len()).any(|part| part == dir)
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(serves).collect()
}

root_test! {
    fn mount_dir_mounts_a_line_of_fstab_and_umount_ends_its_server() {
        let machine = Machine::new();
        let tree = machine.tree();
        let place = tree.to_str().unwrap();
        for kind in ["akvfs", "fuse.akvfs"] {
            machine.fstab(
                kind,
                "rw,noauto,nofail,_netdev,x-systemd.automount,x-systemd.mount-timeout=30,comment=x,\
                 uid=7,gid=8,file_mode=0440,dir_mode=0550,refresh=5m,fuseCache=none",
            );
            run("mount", &[place]);
            assert_eq!(machine.value().unwrap(), b"value", "{kind}");
            let line = table(&tree).pop().unwrap();
            assert!(line.contains("ro,nosuid,nodev,noexec,noatime"), "{line}");
            assert!(line.contains(&format!(" - fuse.akvfs {} ", machine.source())), "{line}");
            let shown = run("stat", &["-c", "%u %g %a", tree.join("secrets/one").to_str().unwrap()]);
            assert_eq!(String::from_utf8(shown).unwrap(), "7 8 440\n");
            // A live one is not mounted over, and mount(8)'s code for that is 32.
            let again = command("mount", &[place]);
            assert_eq!(again.status.code(), Some(32), "{}", said(&again));
            assert!(said(&again).contains("is mounted already"), "{}", said(&again));
            run("umount", &[place]);
            assert_eq!(table(&tree).len(), 0);
            eventually("the end of the server", || servers(&tree).is_empty());
        }
    }
}

root_test! {
    fn mount_all_mounts_once() {
        let machine = Machine::new();
        machine.fstab("akvfs", "defaults,nofail");
        for _ in 0..3 {
            run("mount", &["-a"]);
            assert_eq!(table(&machine.tree()).len(), 1);
            assert_eq!(servers(&machine.tree()).len(), 1);
            assert_eq!(machine.value().unwrap(), b"value");
        }
        let shown = run("findmnt", &["-n", "-o", "SOURCE,FSTYPE", machine.tree().to_str().unwrap()]);
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(&machine.source()) && shown.contains("fuse.akvfs"), "{shown}");
    }
}

root_test! {
    fn mount_dir_repairs_a_dead_mount_of_fstab() {
        let machine = Machine::new();
        let tree = machine.tree();
        machine.fstab("akvfs", "noauto");
        run("mount", &[tree.to_str().unwrap()]);
        let server = servers(&tree);
        assert_eq!(server.len(), 1);
        run("kill", &["-s", "KILL", &server[0].to_string()]);
        eventually("a dead mount", || {
            std::fs::read_dir(&tree).is_err_and(|error| error.raw_os_error() == Some(107))
        });
        run("mount", &[tree.to_str().unwrap()]);
        assert_eq!(table(&tree).len(), 1);
        assert_eq!(machine.value().unwrap(), b"value");
    }
}

root_test! {
    fn what_mount_asks_that_cannot_be_is_told_and_mounts_nothing() {
        let machine = Machine::new();
        let tree = machine.tree();
        let place = tree.to_str().unwrap();
        for (options, code, text) in [
            ("alow_other", 1, "is allow_other meant?"),
            ("client_secret=hunter2", 1, "secrets_file=PATH"),
            ("file_mode=4755", 1, "expected an octal mode"),
            ("dir_mode=8", 1, "expected an octal mode"),
            ("fetch=sometimes", 1, "expected lazy or eager"),
        ] {
            machine.fstab("akvfs", options);
            let output = command("mount", &[place]);
            assert_eq!(output.status.code(), Some(code), "{options}: {}", said(&output));
            let told = said(&output);
            assert!(told.contains(text) && !told.contains("hunter2"), "{options}: {told}");
            assert_eq!(table(&tree).len(), 0);
        }
        // Where mount(8) is sloppy an unknown word is told, and no more.
        machine.fstab("akvfs", "alow_other");
        let output = command("mount", &["-s", place]);
        assert!(output.status.success() && said(&output).contains("alow_other"), "{}", said(&output));
        let output = command("mount", &["-o", "remount,uid=7", place]);
        assert!(!output.status.success() && said(&output).contains("cannot be remounted"), "{}", said(&output));
        assert_eq!(machine.value().unwrap(), b"value");
        run("umount", &[place]);
        // A failure is mount(8)'s 32, whoever waits for it.
        std::fs::write("/etc/fstab", format!("https://no-such.vault.azure.net {place} akvfs tenant_id=x,client_id=y,identity=workload,token_file=/no/such 0 0\n")).unwrap();
        let output = command("mount", &[place]);
        assert_eq!(output.status.code(), Some(32), "{}", said(&output));
        assert!(said(&output).lines().any(|line| line.starts_with("akvfs: ")), "{}", said(&output));
        eventually("no server", || servers(&tree).is_empty());
    }
}

root_test! {
    fn a_fake_mount_reads_everything_and_mounts_nothing() {
        let machine = Machine::new();
        let tree = machine.tree();
        let place = tree.to_str().unwrap();
        machine.fstab("akvfs", "uid=7");
        let output = command("mount", &["-f", "-v", place]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(&format!("would be at {place}")), "{}", said(&output));
        assert_eq!(table(&tree).len(), 0);
        let output = command("mount", &["-n", "-v", place]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(&format!("is at {place}")), "{}", said(&output));
        assert_eq!(machine.value().unwrap(), b"value");
    }
}

root_test! {
    fn a_fuse_line_without_a_helper_of_ours_is_mounted_by_libfuses() {
        let machine = Machine::new();
        let tree = machine.tree();
        let place = tree.to_str().unwrap();
        std::fs::remove_file("/sbin/mount.fuse.akvfs").unwrap();
        std::os::unix::fs::symlink(AKVFS, "/sbin/akvfs").unwrap();
        let mount = || command("mount", &[place]);
        machine.fstab("fuse.akvfs", "noauto,uid=7");
        let output = mount();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(machine.value().unwrap(), b"value");
        assert_eq!(mount().status.code(), Some(32));
        run("umount", &[place]);
        eventually("the end of the server", || servers(&tree).is_empty());
        // The older spelling of the same.
        let line = format!("akvfs#{} {place} fuse noauto 0 0\n", machine.source());
        std::fs::write("/etc/fstab", line).unwrap();
        let output = mount();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(machine.value().unwrap(), b"value");
    }
}

root_test! {
    fn a_users_line_is_mounted_and_unmounted_by_a_plain_user() {
        let machine = Machine::new();
        let tree = machine.tree();
        // The program and the device as users find them.
        std::fs::set_permissions(machine.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = machine.path("akvfs");
        std::fs::write(&program, "").unwrap();
        run("mount", &["--bind", AKVFS, program.to_str().unwrap()]);
        std::fs::remove_file("/sbin/mount.akvfs").unwrap();
        std::os::unix::fs::symlink(&program, "/sbin/mount.akvfs").unwrap();
        let devices = machine.path("devices");
        std::fs::create_dir(&devices).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", devices.to_str().unwrap()]);
        let device = devices.join("fuse");
        run("mknod", &["-m", "666", device.to_str().unwrap(), "c", "10", "229"]);
        run("mount", &["--bind", device.to_str().unwrap(), "/dev/fuse"]);
        let sockets = machine.path("run");
        for own in [&tree, &sockets] {
            std::fs::create_dir_all(own).unwrap();
            chown(own, Some(65534), Some(65534)).unwrap();
        }
        machine.fstab("akvfs", "noauto,user");
        let user = |program: &str| {
            let mut command = Command::new(program);
            command.arg(&tree).uid(65534).gid(65534).env("XDG_RUNTIME_DIR", &sockets);
            command.output().unwrap()
        };
        let output = user("mount");
        assert!(output.status.success(), "{}", said(&output));
        let line = table(&tree).pop().unwrap();
        assert!(line.contains("user_id=65534"), "{line}");
        assert!(!user("ls").stdout.is_empty());
        let output = user("umount");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(table(&tree).len(), 0);
        eventually("the end of the server", || servers(&tree).is_empty());
    }
}
