//! The real `akvfs status`, `refresh` and `unmount`, and who may ask whom.

mod hostile;
mod unmount;
mod users;

use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use akvfs::emulator::{Service, Trouble, Where};
use serde_json::{Value, json};

use crate::support::{eventually, run};
use crate::sync::{Site, Watching, code, parsed, said};

const SOCKETS: &str = "/run/akvfs";
const NOBODY: u32 = 65534;

fn sockets(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn served(site: &Site) -> Vec<Value> {
    let status = site.akvfs(&["status", "--json"]);
    assert_eq!(code(&status), 0, "{}", said(&status));
    parsed(&status)["served"].as_array().unwrap().clone()
}

network_test! {
    fn mounts_and_syncs_are_shown_and_refreshed() {
        let site = Site::new();
        let watching = site.watch_every("1h", &[]);
        let (source, tree) = (site.source(), site.azure.path("tree"));
        std::fs::create_dir(&tree).unwrap();
        let place = tree.to_str().unwrap();
        let mounted = site.akvfs(&["mount", &source, place, "--refresh-interval", "1h"]);
        assert_eq!(code(&mounted), 0, "{}", said(&mounted));
        eventually("both", || served(&site).len() == 2);
        eventually("files", || site.file("two").exists());
        let all = served(&site);
        let (sync, mount) = (&all[0], &all[1]);
        assert_eq!((&sync["kind"], &mount["kind"]), (&json!("sync"), &json!("mount")));
        assert_eq!((&sync["pid"], &sync["uid"]), (&json!(watching.pid()), &json!(0)));
        assert_eq!(mount["directory"], json!(tree.canonicalize().unwrap()));
        assert_eq!(mount["identity"], "system-assigned identity");
        assert_eq!(mount["source"], "class app, vault https://akvfs-dev.vault.azure.net");
        // A tree fetches when it is opened.
        assert_eq!((&mount["objects"][0]["version"], &sync["generation"]), (&Value::Null, &json!(1)));
        assert!(sync["objects"][1]["version"].is_string());
        let table = String::from_utf8(site.akvfs(&["status"]).stdout).unwrap();
        for part in ["  (mount of uid 0, process ", "secret/one  -            0  not fetched yet", "vault.azure.net"] {
            assert!(table.contains(part), "{part}: {table}");
        }

        assert_eq!(std::fs::read_to_string(tree.join("one")).unwrap(), site.one);
        let opens = || served(&site).iter().map(|one| one["objects"][0]["opens"].clone()).collect::<Vec<_>>();
        assert_eq!(opens(), [Value::Null, json!(1)]);
        assert_eq!(std::fs::read_to_string(tree.join("one")).unwrap(), site.one);
        assert_eq!(opens(), [Value::Null, json!(2)]);
        let link = site.azure.path("link");
        symlink(&tree, &link).unwrap();
        let nothing = site.akvfs(&["refresh", link.to_str().unwrap()]);
        assert_eq!((code(&nothing), nothing.stdout.len()), (0, 0));
        let new = site.rotate("one");
        for dir in [&site.dir(), &tree] {
            // However short ago the last look was.
            let done = site.akvfs(&["refresh", dir.to_str().unwrap()]);
            assert_eq!((code(&done), &done.stdout[..]), (0, &b"one\n"[..]), "{}", said(&done));
            assert_eq!(std::fs::read_to_string(dir.join("one")).unwrap(), new);
        }
        let control = site.azure.emulator.control();
        control.always(Where::service(Service::Vault), Trouble::Status(503));
        let failed = site.akvfs(&["refresh", "--json", place]);
        assert_eq!(code(&failed), 1);
        let report = parsed(&failed);
        assert_eq!((&report["changed"], &report["failures"][0]["code"]), (&json!([]), &json!("unavailable")));
        for other in ["/run", "/no/such/directory"] {
            let refused = site.akvfs(&["refresh", other]);
            assert_eq!(code(&refused), 1, "{other}: {}", said(&refused));
        }
        assert_eq!(code(&site.akvfs(&["unmount", place])), 0);
        eventually("the mount's end", || served(&site).len() == 1);
    }
}

network_test! {
    fn a_process_that_hangs_is_told_of_and_a_dead_one_forgotten() {
        let site = Site::new();
        let mut hangs = site.watch(&[]);
        eventually("a process", || served(&site).len() == 1);
        hangs.signal("STOP");
        for args in [&["status", "--json"][..], &["refresh", site.dir().to_str().unwrap()]] {
            let output = site.akvfs(args);
            assert_eq!(code(&output), 1);
            assert!(said(&output).contains(SOCKETS), "{}", said(&output));
        }
        let status = parsed(&site.akvfs(&["status", "--json"]));
        assert_eq!(status["silent"][0]["pid"], json!(hangs.pid()));
        hangs.signal("CONT");
        eventually("an answer", || served(&site).len() == 1);
        hangs.signal("KILL");
        assert_eq!(hangs.ended().code(), None);
        assert_eq!(sockets(SOCKETS).len(), 1);
        assert_eq!((served(&site).len(), sockets(SOCKETS).len()), (0, 0));
    }
}

/// Connects, asks, and prints what it got.
const ASK: &str = "
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
try:
    s.send(b'{\"akvfs\":1,\"request\":\"status\"}\\n')
    print(len(s.recv(100)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
";

fn ask_as(uid: u32, socket: &Path) -> String {
    let mut command = std::process::Command::new("python3");
    let output = command.args(["-c", ASK]).arg(socket).uid(uid).gid(uid).output().unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

network_test! {
    fn another_user_is_not_answered() {
        let site = Site::new();
        let _watching = site.watch(&[]);
        eventually("a process", || served(&site).len() == 1);
        let socket = sockets(SOCKETS).remove(0);
        assert!(ask_as(NOBODY, &socket).contains("PermissionError"));
        // Not even where the file's modes would let it.
        for path in [Path::new(SOCKETS), &socket] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(ask_as(NOBODY, &socket), "0\n");
        assert_eq!(ask_as(0, &socket), "100\n");
        // What root serves is not for others to know.
        let mut status = site.azure.akvfs(&["status", "--json"]);
        let status = status.uid(NOBODY).gid(NOBODY).output().unwrap();
        assert_eq!((code(&status), &parsed(&status)["served"]), (0, &json!([])));
        // Where others may write nobody looks.
        std::fs::set_permissions(SOCKETS, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(served(&site).len(), 0);
    }
}

/// A /tmp of the test's own. What the test needs stays where it is, below /tmp or not: the program, and
/// the place where everything that is said is recorded.
fn empty_tmp() {
    let set = |name: &str, otherwise: &str| {
        std::env::var_os(name).map_or_else(|| PathBuf::from(otherwise), PathBuf::from)
    };
    let program = set("AKVFS_TEST_BINARY", env!("CARGO_BIN_EXE_akvfs"));
    let records = set("AKVFS_CANARY_DIR", env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&records).unwrap();
    let needed = [program.parent().unwrap(), &records];
    let held = needed.map(|path| std::fs::File::open(path).unwrap());
    run("mount", &["-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp"]);
    for (path, held) in needed.iter().zip(&held) {
        if !path.exists() {
            std::fs::create_dir_all(path).unwrap();
            let held = format!("/proc/self/fd/{}", held.as_raw_fd());
            rustix::mount::mount_bind(held, *path).unwrap();
        }
    }
}

network_test! {
    fn root_sees_a_users_processes_and_follows_no_link_of_theirs() {
        empty_tmp();
        let site = Site::new();
        let user = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(user.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let dir = user.path().join("files");
        let mut command = site.azure.akvfs(&["sync", "dev:", dir.to_str().unwrap(), "--watch"]);
        command.uid(NOBODY).gid(NOBODY).env_remove("XDG_RUNTIME_DIR");
        let mut watching = Watching::start(command);
        eventually("a user's process", || served(&site).len() == 1);
        assert_eq!((&served(&site)[0]["uid"], &served(&site)[0]["pid"]), (&json!(NOBODY), &json!(watching.pid())));
        // A listener that must not be reached through a link.
        let listener = UnixListener::bind("/run/other.sock").unwrap();
        listener.set_nonblocking(true).unwrap();
        let theirs = format!("/tmp/akvfs-{NOBODY}");
        let link = format!("{theirs}/1-link.sock");
        symlink("/run/other.sock", &link).unwrap();
        let status = site.akvfs(&["status", "--json"]);
        assert_eq!((code(&status), parsed(&status)["served"].as_array().unwrap().len()), (0, 1));
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        watching.signal("KILL");
        watching.ended();
        // Theirs to remove.
        assert_eq!((served(&site).len(), sockets(&theirs).len()), (0, 2));
    }
}
