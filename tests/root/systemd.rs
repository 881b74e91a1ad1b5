//! The units of deploy/systemd: judged by systemd-analyze, and their commands run as systemd would, with the
//! capabilities that they leave. systemd itself does not run here.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use super::support::{end_with_thread, eventually, run, table};
use super::sync::Site;

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");
const SERVICE: &str = include_str!("../../deploy/systemd/akvfs@.service");

/// The values of a key of the service, one for each line.
fn values(key: &str) -> Vec<&'static str> {
    let lines = SERVICE.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(found, _)| *found == key).map(|(_, value)| value).collect()
}

root_test! {
    fn systemd_finds_nothing_wrong_with_the_units() {
        if Command::new("systemd-analyze").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "CI installs systemd-analyze");
            eprintln!("SKIPPED, there is no systemd-analyze");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", path]);
        // Where the units look for the program.
        for name in ["upper", "work", "units"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(AKVFS, dir.path().join("upper/akvfs")).unwrap();
        let options = format!("lowerdir=/usr/bin,upperdir={path}/upper,workdir={path}/work");
        run("mount", &["-t", "overlay", "-o", &options, "overlay", "/usr/bin"]);
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
        let mut judged = Command::new("systemd-analyze");
        judged.arg("verify");
        for name in ["akvfs@.service", "run-vault-app.mount", "run-vault-app.automount"] {
            let copy = dir.path().join("units").join(name.replace('@', "@app"));
            std::fs::copy(units.join(name), &copy).unwrap();
            judged.arg(copy);
        }
        let output = judged.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
        // It does find what is wrong.
        let wrong = dir.path().join("units/wrong.service");
        std::fs::write(&wrong, SERVICE.replace("NoNewPrivileges=yes", "NoNewPrivilege=yes")).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(&wrong).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("NoNewPrivilege"));
    }
}

/// Options by which systemd gives a service a mount namespace of its own.
const NAMESPACES: [&str; 30] = [
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "InaccessiblePaths",
    "LogNamespace",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateTmp",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
    "RootHash",
    "ExtensionImages",
];

#[test]
fn the_unit_leaves_its_service_in_the_machines_mount_namespace() {
    for key in NAMESPACES {
        assert!(values(key).is_empty(), "{key} would hide the mount");
    }
}

/// A command of the unit, with the class and the program of the test.
fn command(site: &Site, line: &str) -> Command {
    let line = line.trim_start_matches('-').replace("/etc/akvfs/%i.yaml", &site.source());
    let line = line.replace("/run/vault/%i", "/run/vault/app").replace("/usr/bin/akvfs", AKVFS);
    let capabilities = values("CapabilityBoundingSet").concat().to_lowercase();
    let left: String =
        capabilities.split_whitespace().map(|name| name.replace("cap_", ",+")).collect();
    let mut command = Command::new("setpriv");
    command.args([format!("--bounding-set=-all{left}"), "--no-new-privs".to_owned()]);
    command.args(line.split_whitespace()).env("SSL_CERT_FILE", site.azure.path("ca.pem"));
    command
}

fn finish(site: &Site, key: &str) {
    for line in values(key) {
        assert!(line.starts_with('-'), "{line} may fail");
        command(site, line).output().unwrap();
    }
}

fn start(site: &Site, socket: &Path) -> Child {
    finish(site, "ExecStartPre");
    let [line] = values("ExecStart")[..] else { panic!("one command") };
    end_with_thread(command(site, line).env("NOTIFY_SOCKET", socket)).spawn().unwrap()
}

network_test! {
    fn the_units_commands_mount_and_repair_with_the_capabilities_that_it_leaves() {
        let site = Site::new();
        let socket = site.azure.path("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let heard = || {
            let mut buffer = [0; 1024];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let tree = Path::new("/run/vault/app");
        for _ in 0..2 {
            let mut child = start(&site, &socket);
            assert!(heard().starts_with("READY=1\n"));
            assert_eq!(std::fs::read_to_string(tree.join("one")).unwrap(), site.one);
            let mut status = String::new();
            eventually("its capabilities", || {
                status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
                status.contains("CapEff:\t0000000000200002")
            });
            // A second start is refused, and the first mount stays.
            let refused = start(&site, &socket).wait_with_output().unwrap();
            assert!(!refused.status.success());
            finish(&site, "ExecStopPost");
            assert_eq!(std::fs::read_to_string(tree.join("one")).unwrap(), site.one);
            // Killed, it leaves a dead mount: the next start mounts again.
            child.kill().unwrap();
            child.wait().unwrap();
            finish(&site, "ExecStopPost");
        }
        let new = site.rotate("one");
        let mut child = start(&site, &socket);
        assert!(heard().starts_with("READY=1\n"));
        assert_eq!(std::fs::read_to_string(tree.join("one")).unwrap(), new);
        assert_eq!(table(tree).len(), 1);
        run("kill", &["-s", "TERM", &child.id().to_string()]);
        assert_eq!(heard(), "STOPPING=1\n");
        assert!(child.wait().unwrap().success());
        finish(&site, "ExecStopPost");
        assert_eq!(table(tree).len(), 0);
        // What lay below the mount is there again after a stop.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run/vault/app"]);
        let mut child = start(&site, &socket);
        assert!(heard().starts_with("READY=1\n"));
        assert_eq!(table(tree).len(), 2);
        run("kill", &["-s", "TERM", &child.id().to_string()]);
        assert!(child.wait().unwrap().success());
        finish(&site, "ExecStopPost");
        assert_eq!(table(tree).len(), 1);
        run("umount", &["/run/vault/app"]);
    }
}
