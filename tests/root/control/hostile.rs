//! Another user's sockets, of which root's commands ask only so much.

use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::json;

use super::{NOBODY, empty_tmp, served, users};
use crate::support::{eventually, run};
use crate::sync::{Site, Watching, code, parsed, said};

/// Makes sockets in the user's directory: `silent` ones that accept nothing, `endless` ones that answer
/// for ever, and ones that `claim` to serve a directory and note what else they are asked.
const SOCKETS: &str = r#"
import json, os, socket, sys, threading
kind, count, claimed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
place = '/tmp/akvfs-%d' % os.getuid()
os.mkdir(place, 0o700)
served = {'kind': 'mount', 'directory': claimed, 'source': 's', 'identity': 'i', 'generation': 1,
    'retired': 0, 'bytes': 0, 'objects': [], 'omitted': 0}
answer = json.dumps({'akvfs': 1, 'version': 'v', 'served': [served]}).encode()
def work(listener):
    while True:
        stream, _ = listener.accept()
        try:
            asked = stream.recv(4096)
            if b'"status"' not in asked:
                open(place + '/asked', 'wb').write(asked)
            while kind == 'endless':
                stream.sendall(b'x' * 65536)
            stream.sendall(answer)
        except OSError:
            pass
        stream.close()
for number in range(count):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place + '/%d-x.sock' % number)
    listener.listen(64)
    if kind == 'silent':
        globals()['keep%d' % number] = listener
    else:
        threading.Thread(target=work, args=[listener], daemon=True).start()
open(place + '/ready', 'w').close()
threading.Event().wait()
"#;

fn hostile(kind: &str, count: usize, claimed: &str) -> Watching {
    let mut command = Command::new("python3");
    command.args(["-c", SOCKETS, kind, &count.to_string(), claimed]).uid(NOBODY).gid(NOBODY);
    let process = Watching::start(command);
    let ready = format!("/tmp/akvfs-{NOBODY}/ready");
    eventually("another user's sockets", || std::path::Path::new(&ready).exists());
    process
}

network_test! {
    fn silent_sockets_of_others_are_a_note_and_ones_own_directory_is_refreshed_without_them() {
        empty_tmp();
        let site = Site::new();
        let _watching = site.watch(&[]);
        eventually("a process", || served(&site).len() == 1);
        let _hostile = hostile("silent", 30, "");
        let status = site.akvfs(&["status", "--json"]);
        assert_eq!(code(&status), 0, "{}", said(&status));
        let report = parsed(&status);
        let silent = report["silent"].as_array().unwrap();
        assert_eq!((report["served"].as_array().unwrap().len(), silent.len()), (1, 17));
        let place = format!("/tmp/akvfs-{NOBODY}");
        assert_eq!((&silent[16]["socket"], &silent[16]["uid"]), (&json!(place), &json!(NOBODY)));
        assert!(said(&status).contains("note: of uid 65534, no answer from "), "{}", said(&status));
        // They cannot serve it: they are not even asked.
        let done = site.akvfs(&["refresh", site.dir().to_str().unwrap()]);
        assert_eq!(code(&done), 0, "{}", said(&done));
        assert!(!said(&done).contains(&place), "{}", said(&done));
    }
}

network_test! {
    fn endless_answers_of_others_are_cut_off() {
        empty_tmp();
        let site = Site::new();
        let _watching = site.watch(&[]);
        eventually("a process", || served(&site).len() == 1);
        let _hostile = hostile("endless", 16, "");
        let status = site.akvfs(&["status", "--json"]);
        assert_eq!(code(&status), 0, "{}", said(&status));
        let report = parsed(&status);
        assert_eq!(report["served"].as_array().unwrap().len(), 1);
        let silent = report["silent"].as_array().unwrap();
        assert_eq!(silent.len(), 16);
        for one in silent {
            assert!(one["error"].as_str().unwrap().contains("longer than "), "{one}");
        }
    }
}

network_test! {
    fn who_only_says_to_serve_a_directory_is_not_asked_to_refresh_it() {
        empty_tmp();
        let site = Site::new();
        let dir = site.azure.path("files");
        std::fs::create_dir(&dir).unwrap();
        let dir = dir.to_str().unwrap();
        let _hostile = hostile("claims", 2, dir);
        // It is shown as what it is: another user's word.
        assert_eq!(served(&site)[0]["uid"], json!(NOBODY));
        let asked = format!("/tmp/akvfs-{NOBODY}/asked");
        let refused = site.akvfs(&["refresh", dir]);
        assert_eq!(code(&refused), 1);
        assert!(said(&refused).contains("that you may ask serves"), "{}", said(&refused));
        assert!(!std::path::Path::new(&asked).exists());
        // The directory's owner may serve it.
        run("chown", &[&NOBODY.to_string(), dir]);
        assert_eq!(code(&site.akvfs(&["refresh", dir])), 1);
        assert!(std::path::Path::new(&asked).exists());
    }
}

network_test! {
    fn root_refreshes_a_mount_that_only_its_user_can_look_into() {
        empty_tmp();
        let site = Site::new();
        let place = users::mount(&site);
        // Root is shown nothing of it.
        let hidden = std::fs::read_dir(&place).unwrap_err();
        assert_eq!(hidden.raw_os_error(), Some(13));
        let done = site.akvfs(&["refresh", place.to_str().unwrap()]);
        assert_eq!(code(&done), 0, "{}", said(&done));
        run("umount", &["--lazy", place.to_str().unwrap()]);
        eventually("the mount's end", || served(&site).is_empty());
    }
}
