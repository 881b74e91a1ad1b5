//! Both ends of the socket in one process.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::client::ask_in;
use super::directory::{Directory, Place};
use super::server::{Serving, serve_in};
use super::wire::{Kind, Outcome, Request};
use super::*;
use crate::class::{FilePath, ObjectKind, ObjectName, ObjectSpec};
use crate::error::{Code, Error, Result};
use crate::fetch::{Demand, ObjectRef, Origin};
use crate::render;
use crate::secret::Secret;
use crate::testing;
use crate::vault::{ListedVersion, Names, ObjectVersion, Urgency};
use crate::view::{Layout, Limits, Plan};

/// Every secret has this version; at 0 none is there.
struct Fake(AtomicU32);

impl Origin for Fake {
    fn get(
        &self,
        object: ObjectRef,
        _: Demand,
        _: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
        let version = self.0.load(Ordering::Relaxed);
        Box::pin(async move {
            if version == 0 {
                return Err(Error::new(Code::NotFound, "as the test says"));
            }
            let value = Secret::from(format!("canary {version}"));
            Ok(Arc::new(testing::secret(object.name.as_str(), &format!("v{version}"), value)))
        })
    }

    fn list(&self, _: ObjectKind, _: Urgency, _: Instant) -> BoxFuture<'_, Result<Names>> {
        Box::pin(async { Ok(Names::default()) })
    }

    fn versions(
        &self,
        _: ObjectKind,
        _: ObjectName,
        _: Demand,
        _: Instant,
    ) -> BoxFuture<'_, Result<Arc<Vec<ListedVersion>>>> {
        Box::pin(async { Ok(Arc::default()) })
    }
}

struct Process {
    dir: tempfile::TempDir,
    vault: Arc<Fake>,
    view: Arc<View>,
    problem: Problem,
    ending: Ending,
    _serving: Serving,
}

impl Process {
    fn new(objects: usize) -> Self {
        let vault = Arc::new(Fake(AtomicU32::new(1)));
        let objects = (0..objects).map(|index| {
            let name = format!("n{index}");
            let (path, name) = (FilePath::parse(&name).unwrap(), ObjectName::parse(&name).unwrap());
            ObjectSpec::newest(index, ObjectKind::Secret, name, path, 0o400)
        });
        let plan = Plan::new(objects.collect(), Layout::Atomic).unwrap();
        let view = View::new(plan, vault.clone(), render::Options::default(), Limits::default());
        let (problem, ending) = (Problem::default(), Ending::default());
        let entry = Entry {
            kind: Kind::Mount,
            directory: "/the/directory".into(),
            device: Some("0:41".to_owned()),
            source: "class x".to_owned(),
            identity: "somebody".to_owned(),
            view: view.clone(),
            problem: problem.clone(),
            restore: Restore::default(),
            ending: ending.clone(),
            audit: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let serving = serve_in(&open(dir.path()), vec![entry]).unwrap();
        Self { dir, vault, view, problem, ending, _serving: serving }
    }

    async fn ask(&self, request: &Request) -> Outcome {
        let mut asked = ask_in(vec![open(self.dir.path())], Vec::new(), request).await;
        assert!(asked.silent.is_empty(), "{:?}", asked.silent);
        let (peer, answer) = asked.answers.pop().unwrap();
        assert_eq!(peer.pid(), i32::try_from(std::process::id()).ok());
        assert!(asked.answers.is_empty() && peer.is_own());
        answer.outcome
    }

    fn socket(&self) -> std::path::PathBuf {
        std::fs::read_dir(self.dir.path()).unwrap().next().unwrap().unwrap().path()
    }

    /// What a client that writes these bytes, and no more, is told.
    async fn raw(&self, bytes: Vec<u8>) -> String {
        let socket = self.socket();
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            // The other end stops reading what is too long.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        });
        answer.await.unwrap()
    }
}

fn open(path: &Path) -> Directory {
    Directory::open(path, rustix::process::geteuid().as_raw()).unwrap()
}

fn place(path: &Path) -> Place {
    Place { path: path.to_owned(), owner: rustix::process::geteuid().as_raw() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_everything_but_the_value() {
    let process = Process::new(2);
    let mode = process.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    process.view.fill_all(soon()).await.unwrap();
    process.problem.set(Some("disk full".to_owned()));
    let said = process.raw(serde_json::to_vec(&Request::status()).unwrap()).await;
    assert!(said.starts_with("{\"akvfs\":1,") && !said.contains("canary"), "{said}");
    let Outcome::Served(served) = process.ask(&Request::status()).await else { panic!() };
    let served = &served[0];
    assert_eq!((served.kind, served.directory.as_str()), (Kind::Mount, "/the/directory"));
    assert_eq!((served.source.as_str(), served.identity.as_str()), ("class x", "somebody"));
    assert_eq!((served.generation, served.omitted, served.bytes), (1, 0, 16));
    assert_eq!(served.error.as_deref(), Some("disk full"));
    let object = &served.objects[1];
    assert_eq!((object.kind.as_str(), object.name.as_str()), ("secret", "n1"));
    assert_eq!((object.version.as_deref(), object.files.len()), (Some("v1"), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_says_what_changed_and_what_failed() {
    let process = Process::new(1);
    process.view.fill_all(soon()).await.unwrap();
    let refresh = Request::refresh("/the/directory".to_owned(), None);
    let Outcome::Refreshed(report) = process.ask(&refresh).await else { panic!() };
    assert_eq!((report.checked, report.changed.len(), report.failures.len()), (1, 0, 0));
    process.vault.0.store(2, Ordering::Relaxed);
    let Outcome::Refreshed(report) = process.ask(&refresh).await else { panic!() };
    assert_eq!((report.changed, report.failures.len()), (vec!["n0".to_owned()], 0));
    process.vault.0.store(0, Ordering::Relaxed);
    let Outcome::Refreshed(report) = process.ask(&refresh).await else { panic!() };
    assert_eq!((report.failures.len(), report.failures[0].code.as_str()), (1, "not_found"));
    // What was fetched and cannot be written has failed, too.
    process.vault.0.store(2, Ordering::Relaxed);
    process.problem.set(Some("disk full".to_owned()));
    let Outcome::Refreshed(report) = process.ask(&refresh).await else { panic!() };
    assert_eq!(report.failures[0].message, "disk full");
    let other = Request::refresh("/the/other".to_owned(), None);
    let Outcome::Error(problem) = process.ask(&other).await else { panic!() };
    assert_eq!(problem.code, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_an_error_and_the_next_one_an_answer() {
    let process = Process::new(1);
    for (bytes, code) in [
        (&b""[..], "class_invalid"),
        (b"\n", "class_invalid"),
        (b"GET / HTTP/1.1\r\n\r\n", "class_invalid"),
        (br#"{"akvfs":1,"request":"erase"}"#, "class_invalid"),
        (br#"{"akvfs":2,"request":"status"}"#, "class_invalid"),
        (br#"{"akvfs":1,"request":"refresh"}"#, "not_found"),
        (&[b'{'; 70_000], "too_large"),
    ] {
        let said = process.raw(bytes.to_vec()).await;
        assert!(said.contains(&format!("\"error\":{{\"code\":\"{code}\"")), "{said}");
    }
    assert!(matches!(process.ask(&Request::status()).await, Outcome::Served(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_holds_so_many_names_and_counts_the_others() {
    let process = Process::new(10_050);
    let Outcome::Served(served) = process.ask(&Request::status()).await else { panic!() };
    assert_eq!((served[0].objects.len(), served[0].omitted), (10_000, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_of_a_dead_process_is_removed_and_a_strange_answer_is_no_answer() {
    let process = Process::new(1);
    let own = process.socket();
    // Nobody listens once it is dropped.
    let stale = process.dir.path().join("1-stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let strange = process.dir.path().join("2-strange.sock");
    let listener = UnixListener::bind(&strange).unwrap();
    let stranger = std::thread::spawn(move || {
        for answer in ["", "nonsense\n", "{\"akvfs\":7}\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    for _ in 0..3 {
        let asked = ask_in(vec![open(process.dir.path())], Vec::new(), &Request::status()).await;
        assert_eq!((asked.answers.len(), asked.silent.len()), (1, 1));
        assert!(asked.silent[0].socket.ends_with("2-strange.sock"));
    }
    stranger.join().unwrap();
    assert!(own.exists() && !stale.exists());
    let stale = process.dir.path().join("3-stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    super::client::sweep(&open(process.dir.path())).await;
    assert!(own.exists() && !stale.exists());
    drop(process._serving);
    assert!(!own.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_another_user_that_are_many_or_silent_or_broken_end_and_hide_nobody() {
    let process = Process::new(1);
    let hostile = tempfile::tempdir().unwrap();
    // They listen, and nobody accepts.
    let listeners: Vec<_> = (0..40)
        .map(|number| UnixListener::bind(hostile.path().join(format!("{number}-x.sock"))).unwrap())
        .collect();
    let others = vec![place(hostile.path()), place(process.dir.path())];
    let asked = ask_in(Vec::new(), others, &Request::status()).await;
    assert_eq!((asked.answers.len(), asked.silent.len()), (1, 17));
    assert!(!asked.answers[0].0.is_own() && asked.silent.iter().all(|silent| !silent.own));
    let (whole, each) = asked.silent.split_last().unwrap();
    assert_eq!(whole.socket, hostile.path().to_str().unwrap());
    assert!(whole.error.contains("more than 16 sockets"), "{whole:?}");
    assert!(each.iter().all(|silent| silent.error == "timed out"), "{each:?}");
    drop(listeners);
    // Of one's own as many as there are get their answer.
    let own = ask_in(vec![open(process.dir.path())], Vec::new(), &Request::status()).await;
    assert!(own.answers[0].0.is_own());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmount_is_answered_when_the_mount_has_ended_or_with_why_it_has_not() {
    let process = Process::new(1);
    let unmount = Request::unmount("/the/directory".to_owned(), "0:41".to_owned());
    let Outcome::Error(problem) = process.ask(&unmount).await else { panic!() };
    assert!(problem.message.contains("/the/directory is not a mount"), "{}", problem.message);
    let mut asks = process.ending.listen();
    let mount = tokio::spawn(async move {
        let refused = asks.recv().await.unwrap();
        refused.send(Err(Error::new(Code::Local, "as the test says"))).unwrap();
        // It ends while somebody waits.
        let waits = asks.recv().await.unwrap();
        drop((waits, asks));
    });
    let Outcome::Error(problem) = process.ask(&unmount).await else { panic!() };
    assert!(problem.message.contains("as the test says"), "{}", problem.message);
    for _ in 0..2 {
        let Outcome::Unmounted { directory } = process.ask(&unmount).await else { panic!() };
        assert_eq!(directory, "/the/directory");
    }
    mount.await.unwrap();
    // By another name, or by the same name of another mount.
    for (name, device) in [("/the/other", "0:41"), ("/the/directory", "0:42")] {
        let other = Request::unmount(name.to_owned(), device.to_owned());
        let Outcome::Error(problem) = process.ask(&other).await else { panic!() };
        assert_eq!(problem.code, "not_found");
    }
    // The answer that is under way is given, and nobody is waited for who asks nothing.
    let silent = UnixStream::connect(process.socket()).unwrap();
    process._serving.finish().await;
    drop(silent);
}

/// Writes for as long as somebody reads, to each that connects.
fn endless(listener: UnixListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            while stream.write_all(&[b'x'; 65536]).is_ok() {}
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_user_that_never_ends_is_cut_off() {
    let process = Process::new(1);
    let hostile = tempfile::tempdir().unwrap();
    endless(UnixListener::bind(hostile.path().join("1-x.sock")).unwrap());
    let others = || vec![place(hostile.path()), place(process.dir.path())];
    let asked = ask_in(Vec::new(), others(), &Request::status()).await;
    assert_eq!((asked.answers.len(), asked.silent.len()), (1, 1));
    let silent = &asked.silent[0];
    assert!(silent.socket.ends_with("/1-x.sock"), "{silent:?}");
    assert_eq!(silent.error, "the answer is longer than 1 MiB");
    // Many such answers are no more than a few.
    for number in 2..16 {
        endless(UnixListener::bind(hostile.path().join(format!("{number}-x.sock"))).unwrap());
    }
    let asked = ask_in(Vec::new(), others(), &Request::status()).await;
    assert_eq!((asked.answers.len(), asked.silent.len()), (1, 15));
    let all = "the answers of its directory are longer than 4 MiB";
    assert!(asked.silent.iter().any(|silent| silent.error == all), "{:?}", asked.silent);
}
