//! Opens that hang: whom they delay (nobody), and how long they last (until their deadline).

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use akvfs::delivery::fuse;
use akvfs::view::{Layout, Limits};
use rustix::process::{Pid, Signal, kill_process};

use super::support::{Fake, Tree, eventually, plan};

const HUNG: usize = 90;
/// Of each open.
const DEADLINE: Duration = Duration::from_secs(8);
/// Far below the deadline, and far above what memory takes on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A tree with two values, and a vault that does not answer for ninety others.
fn tree(layout: Layout) -> (std::sync::Arc<Fake>, Tree) {
    let names: Vec<String> = (0..HUNG).map(|number| format!("hung-{number}")).collect();
    let mut values: Vec<(&str, &[u8])> =
        names.iter().map(|name| (name.as_str(), &b"late"[..])).collect();
    values.extend([("warm", &b"warm value"[..]), ("other", b"other value")]);
    let vault = Fake::new(&values);
    names.iter().for_each(|name| vault.hold(name));
    let objects: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let options = fuse::Options { open_timeout: DEADLINE, ..fuse::Options::default() };
    let tree = Tree::with(&vault, plan(layout, &objects), options, Limits::default());
    (vault, tree)
}

/// A program that waits in OPEN.
fn opener(tree: &Tree, name: &str) -> Child {
    Command::new("cat")
        .arg(tree.path(name))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether the process waits for an answer of a FUSE filesystem.
fn waits(child: &Child) -> bool {
    let place = fs::read_to_string(format!("/proc/{}/wchan", child.id()));
    place.is_ok_and(|place| place.contains("fuse") || place.contains("request_wait_answer"))
}

/// Does it, and fails when that takes as long as somebody who waits for a vault.
fn at_once<T>(what: &str, done: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = done();
    assert!(begin.elapsed() < AT_ONCE, "{what} took {:?}", begin.elapsed());
    result
}

mount_test! {
    fn ninety_hung_opens_delay_nobody_and_end_by_their_deadline() {
        for layout in [Layout::Flat, Layout::Atomic] {
            let (_vault, tree) = tree(layout);
            assert_eq!(tree.read("warm"), b"warm value");
            let begin = Instant::now();
            let mut openers: Vec<Child> =
                (0..HUNG).map(|number| opener(&tree, &format!("hung-{number}"))).collect();
            eventually("ninety opens that wait", || openers.iter().all(waits));
            // What the kernel asks of a filesystem, beside opens that get no answer: each row of what may
            // wait for what.
            let warm = at_once("a cached open", || File::open(tree.path("warm")).unwrap());
            at_once("a cached read", || assert_eq!(tree.read("warm"), b"warm value"));
            at_once("a stat of what is being opened", || fs::metadata(tree.path("hung-0")).unwrap());
            at_once("a name that nobody looked up", || fs::metadata(tree.path("other")).unwrap());
            at_once("a name that is not there", || fs::metadata(tree.path("none")).unwrap_err());
            let listed = at_once("a listing", || fs::read_dir(tree.dir()).unwrap().count());
            assert!(listed >= HUNG + 2, "{listed}");
            if layout == Layout::Atomic {
                at_once("a link", || fs::read_link(tree.path("..data")).unwrap());
            }
            at_once("statfs", || rustix::fs::statfs(tree.dir()).unwrap());
            // A signal does not wake who waits for an answer, but its deadline does.
            let killed = openers.swap_remove(0);
            kill_process(Pid::from_child(&killed), Signal::KILL).unwrap();
            let late = DEADLINE * 3;
            for (number, opener) in openers.iter_mut().chain([&mut { killed }]).enumerate() {
                let status = loop {
                    if let Some(status) = opener.try_wait().unwrap() {
                        break status;
                    }
                    assert!(begin.elapsed() < late, "an opener was not freed");
                    std::thread::sleep(Duration::from_millis(10));
                };
                // All but the last, which was killed.
                let expected = if number + 1 < HUNG { (Some(1), None) } else { (None, Some(9)) };
                assert_eq!((status.code(), status.signal()), expected);
            }
            let mut bytes = Vec::new();
            { warm }.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, b"warm value");
        }
    }
}

mount_test! {
    fn a_rotation_is_shown_while_opens_hang() {
        for layout in [Layout::Flat, Layout::Atomic] {
            let (vault, tree) = tree(layout);
            assert_eq!(tree.read("warm"), b"warm value");
            // Fewer than may ask the vault at a time.
            let mut openers: Vec<Child> =
                (0..8).map(|number| opener(&tree, &format!("hung-{number}"))).collect();
            eventually("opens that wait", || openers.iter().all(waits));
            vault.rotate("warm", b"new value");
            let done = at_once("a refresh", || tree.refresh());
            assert_eq!(done.changed, ["warm"]);
            at_once("the new value", || assert_eq!(tree.read("warm"), b"new value"));
            // And the first open of something else, which makes the kernel forget attributes.
            at_once("a cold open", || assert_eq!(tree.read("other"), b"other value"));
            assert!(openers.iter().any(waits), "{layout:?}: nothing hangs any more");
            for opener in &mut openers {
                opener.wait().unwrap();
            }
        }
    }
}
