//! `akvfs mount` of people who are not root: by fusermount3, or as root of a user namespace of theirs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::support::{PLAIN_USER, eventually, open_device_to_all, run, served, table};

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");

/// A machine whose users may use FUSE, with a directory of one of them.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        // A configuration of the test's own.
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let machine = Self { dir };
        open_device_to_all();
        std::fs::write(machine.path("fuse.conf"), "").unwrap();
        run("mount", &["--bind", machine.path("fuse.conf").to_str().unwrap(), "/etc/fuse.conf"]);
        // The program may lie where users cannot go.
        std::fs::write(machine.path("akvfs"), "").unwrap();
        run("mount", &["--bind", AKVFS, machine.path("akvfs").to_str().unwrap()]);
        std::fs::write(machine.path("seed.yaml"), "secrets: {one: value}\n").unwrap();
        for name in ["tree", "run"] {
            std::fs::create_dir(machine.path(name)).unwrap();
            chown(machine.path(name), Some(PLAIN_USER), Some(PLAIN_USER)).unwrap();
        }
        std::fs::set_permissions(machine.path("run"), std::fs::Permissions::from_mode(0o700))
            .unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn user(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.uid(PLAIN_USER).gid(PLAIN_USER).env("XDG_RUNTIME_DIR", self.path("run"));
        command
    }

    fn mount(&self, options: &[&str]) -> Output {
        let source = format!("dev:{}", self.path("seed.yaml").display());
        let mut command = self.user(self.path("akvfs"));
        command.arg("mount").args(options).arg(source).arg(self.path("tree")).output().unwrap()
    }

    /// What is said of a mount that must not come about.
    fn refusal(&self, options: &[&str], code: i32) -> String {
        let output = self.mount(options);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{options:?}: {said}");
        assert_eq!(table(&self.path("tree")).len(), 0, "{options:?}");
        said
    }

    fn unmount(&self) {
        let akvfs = self.path("akvfs");
        let tree = self.path("tree");
        let output = self.user(akvfs).arg("unmount").arg(&tree).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eventually("the server's end", || !served(&tree));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path("tree")).output();
    }
}

fn errno(path: &Path) -> Option<i32> {
    std::fs::read(path).err().and_then(|error| error.raw_os_error())
}

root_test! {
    fn a_plain_users_mount_lets_others_in_only_where_the_machine_allows_it() {
        let machine = Machine::new();
        let file = machine.path("tree/secrets/one");
        let output = machine.mount(&[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Not even root.
        assert_eq!(errno(&file), Some(13));
        assert!(machine.user("cat").arg(&file).output().unwrap().stdout == b"value");
        machine.unmount();
        let said = machine.refusal(&["-o", "allow_other"], 1);
        assert!(said.contains("likely fix: mount without allow_other, or let root write"), "{said}");
        std::fs::write(machine.path("fuse.conf"), "user_allow_other\n").unwrap();
        let output = machine.mount(&["-o", "allow_other"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line = table(&machine.path("tree")).pop().unwrap();
        assert!(line.contains("allow_other") && line.contains("nosuid,nodev,noexec"), "{line}");
        assert_eq!(std::fs::read(&file).unwrap(), b"value");
        machine.unmount();
    }
}

root_test! {
    fn a_plain_user_gives_files_to_nobody_else() {
        let machine = Machine::new();
        for option in ["uid=0", "gid=0", "uid=1000"] {
            let said = machine.refusal(&["-o", option], 64);
            assert!(said.contains("is not yours to give"), "{option}: {said}");
        }
        let output = machine.mount(&["-o", "uid=65534,gid=65534,file_mode=0644,dir_mode=0775"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains("nobody can write"), "{said}");
        let tree = machine.path("tree");
        let shown = machine.user("stat").args(["-c", "%u %g %a"]).arg(tree.join("secrets/one")).arg(&tree).output();
        assert_eq!(String::from_utf8(shown.unwrap().stdout).unwrap(), "65534 65534 444\n65534 65534 755\n");
        machine.unmount();
    }
}

root_test! {
    fn what_keeps_a_plain_user_from_mounting_is_said_with_its_fix() {
        let machine = Machine::new();
        let tree = machine.path("tree");
        // Too many mounts already: each FUSE mount of the machine counts.
        std::fs::write(machine.path("fuse.conf"), "mount_max = 0\n").unwrap();
        let said = machine.refusal(&[], 1);
        assert!(said.contains("raise mount_max in /etc/fuse.conf"), "{said}");
        std::fs::write(machine.path("fuse.conf"), "").unwrap();
        // A directory of somebody else.
        chown(&tree, Some(0), Some(0)).unwrap();
        let said = machine.refusal(&[], 1);
        assert!(said.contains("the directory must be yours"), "{said}");
        chown(&tree, Some(PLAIN_USER), Some(PLAIN_USER)).unwrap();
        // A device that is for root only.
        std::fs::set_permissions("/dev/fuse", std::fs::Permissions::from_mode(0o600)).unwrap();
        let said = machine.refusal(&[], 1);
        assert!(said.contains("let root open the device to users"), "{said}");
        std::fs::set_permissions("/dev/fuse", std::fs::Permissions::from_mode(0o666)).unwrap();
        // No helper.
        let source = format!("dev:{}", machine.path("seed.yaml").display());
        let mut command = machine.user(machine.path("akvfs"));
        let output = command.arg("mount").arg(source).arg(&tree).env("PATH", "/no/such").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("install the package fuse3"), "{said}");
        // A helper that is not root's: one that the user has copied.
        let copy = machine.path("run/fusermount3");
        std::fs::copy("/usr/bin/fusermount3", &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        let source = format!("dev:{}", machine.path("seed.yaml").display());
        let mut command = machine.user(machine.path("akvfs"));
        let output =
            command.arg("mount").arg(source).arg(&tree).env("PATH", machine.path("run")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("must belong to root and be setuid"), "{said}");
        assert_eq!(table(&tree).len(), 0);
        // No device at all.
        let devices = machine.path("devices");
        std::fs::create_dir(&devices).unwrap();
        let (devices, null) = (devices.to_str().unwrap(), machine.path("devices/null"));
        run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", devices]);
        run("mknod", &["-m", "666", null.to_str().unwrap(), "c", "1", "3"]);
        run("mount", &["--bind", devices, "/dev"]);
        let said = machine.refusal(&[], 1);
        assert!(said.contains("modprobe fuse"), "{said}");
    }
}

/// Mounts as root of a user namespace, tells, and waits to be told.
const IN_A_NAMESPACE: &str = r#"
    "$AKVFS" mount -o uid=1000 "$SOURCE" "$TREE" 2>&1 | grep -q "does not exist in this user namespace"
    "$AKVFS" mount -o uid=0,gid=0,file_mode=0444,dir_mode=0755 "$SOURCE" "$TREE"
    test "$(cat "$TREE/secrets/one")" = value
    test "$(stat -c '%u %g %a' "$TREE/secrets/one")" = "0 0 444"
    grep " $TREE ro,nosuid,nodev,noexec,noatime" /proc/self/mountinfo | grep -q allow_other
    echo mounted $$
    read -r _
    "$AKVFS" unmount "$TREE"
    echo unmounted
    read -r _
"#;

root_test! {
    fn root_of_a_user_namespace_mounts_by_himself_and_for_his_namespace_only() {
        let machine = Machine::new();
        let tree = machine.path("tree");
        let mut child = machine
            .user("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-euc", IN_A_NAMESPACE])
            .env("AKVFS", machine.path("akvfs"))
            .env("SOURCE", format!("dev:{}", machine.path("seed.yaml").display()))
            .env("TREE", &tree)
            .env("XDG_RUNTIME_DIR", machine.path("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let id: u32 = line.strip_prefix("mounted ").unwrap().parse().unwrap();
        // Whoever is outside of it is not among the others that are let in, not even root.
        let outside = PathBuf::from(format!("/proc/{id}/root{}/secrets/one", tree.display()));
        assert_eq!(errno(&outside), Some(13));
        assert_eq!(table(&tree).len(), 0);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "unmounted");
        stdin.write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
        eventually("the server's end", || !served(&tree));
    }
}
