//! A namespace per test, a source of values under the test's control, and a mounted tree of it.

use std::collections::{HashMap, HashSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use akvfs::class::{FilePath, ObjectKind, ObjectName, ObjectSpec, Version};
use akvfs::clock::Clock;
use akvfs::delivery::fuse::{self, Mounted};
use akvfs::fetch::{Demand, ObjectRef, Origin};
use akvfs::render;
use akvfs::vault::{Body, ListedVersion, Names, ObjectVersion, Urgency};
use akvfs::view::{Layout, Limits, Plan, View};
use akvfs::{Code, Error, Result, Secret};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// Names the test that a process was started for.
pub const MARKER: &str = "AKVFS_ROOT_TEST";
/// Of a test whose repetitions are those of CI.
const WATCHDOG: Duration = Duration::from_secs(120);

/// How many times as often as in CI slow tests repeat: `AKVFS_TEST_SCALE`, 1 when it is not set.
pub fn scale() -> usize {
    std::env::var("AKVFS_TEST_SCALE").map_or(1, |scale| scale.parse().expect("AKVFS_TEST_SCALE"))
}

/// A test that runs in a mount namespace of its own, in a process of its own.
macro_rules! root_test {
    (fn $name:ident() $body:block) => {
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            crate::support::isolated(name, &["--mount"], || $body)
        }
    };
}

/// The same with a network namespace besides: loopback is its only network.
macro_rules! network_test {
    (fn $name:ident() $body:block) => {
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            crate::support::isolated(name, &["--mount", "--net"], || $body)
        }
    };
}

/// A test of a mounted tree that runs twice, each time in a process of its own: as root, and as a plain
/// user, who mounts by fusermount3.
macro_rules! mount_test {
    (fn $name:ident() $body:block) => {
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            crate::support::as_root_and_as_a_plain_user(name, || $body)
        }
    };
}

pub fn as_root_and_as_a_plain_user(path: &str, body: impl Fn()) {
    let name = path.split_once("::").unwrap().1;
    if std::env::var(MARKER).is_ok_and(|marker| marker == plain_marker(name)) {
        assert_eq!(rustix::process::geteuid().as_raw(), PLAIN_USER);
        return body();
    }
    isolated(path, &["--mount"], || {
        body();
        again_as_a_plain_user(name);
    });
}

pub const PLAIN_USER: u32 = 65534;

fn plain_marker(name: &str) -> String {
    format!("{name}, as a plain user")
}

/// Opens /dev/fuse to all users, as desktops do, in this mount namespace only.
pub fn open_device_to_all() {
    let devices = tempfile::tempdir().unwrap();
    let devices = devices.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", devices]);
    let device = format!("{devices}/fuse");
    run("mknod", &["-m", "666", &device, "c", "10", "229"]);
    run("mount", &["--bind", &device, "/dev/fuse"]);
    run("umount", &["--lazy", devices]);
}

/// Of this thread.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets connections be aborted by their owners, in this mount namespace.
pub fn show_connections() {
    let connections = Path::new("/sys/fs/fuse/connections");
    if is_root() && table(connections).is_empty() {
        run("mount", &["-t", "fusectl", "none", connections.to_str().unwrap()]);
    }
}

fn again_as_a_plain_user(name: &str) {
    open_device_to_all();
    show_connections();
    // What it emits is searched too, but the record belongs to root.
    let record = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(record.path(), Some(PLAIN_USER), Some(PLAIN_USER)).unwrap();
    let mut command = Command::new("/proc/self/exe");
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARKER, plain_marker(name))
        .env("AKVFS_CANARY_DIR", record.path())
        .env("TMPDIR", "/tmp")
        .uid(PLAIN_USER)
        .gid(PLAIN_USER);
    let output = end_with_thread(&mut command).output().unwrap();
    crate::canary::take_over(record.path());
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{name}, as a plain user:\n{said}\n{complained}");
}

pub fn isolated(path: &str, namespaces: &[&str], body: impl FnOnce()) {
    // Without the crate's name, as libtest knows the test.
    let name = path.split_once("::").unwrap().1;
    if std::env::var(MARKER).is_ok_and(|marker| marker == name) {
        return body();
    }
    if !is_root() {
        let required = std::env::var("AKVFS_REQUIRE_ROOT").is_ok_and(|value| value == "1");
        assert!(!required, "AKVFS_REQUIRE_ROOT=1, but this is not root");
        eprintln!("{name}: SKIPPED, it needs root");
        return;
    }
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(namespaces)
        .args(["--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARKER, name)
        .stdout(output.as_file().try_clone().unwrap())
        .stderr(output.as_file().try_clone().unwrap());
    // `unshare` becomes the test; this thread waits for it.
    let passed = guard(end_with_thread(&mut command).spawn().unwrap());
    let said = std::fs::read_to_string(output.path()).unwrap_or_default();
    // A name that libtest does not know would pass as well, with no test run.
    assert!(passed && said.contains("1 passed"), "{name}, in its namespace:\n{said}");
}

/// Lets the kernel kill the command when the thread that starts it ends, however it does. (It is about
/// the thread, not the process.)
pub fn end_with_thread(command: &mut Command) -> &mut Command {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = rustix::process::getpid();
    let arm = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before that.
        if getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: two system calls, and nothing is allocated.
    unsafe { command.pre_exec(arm) }
}

/// Waits for a child, and says whether it succeeded. One that hangs in its own mount cannot even be
/// killed: its connections are aborted first.
fn guard(mut child: Child) -> bool {
    let patience = WATCHDOG * u32::try_from(scale()).unwrap();
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", child.id()));
    for line in table.unwrap_or_default().lines().filter(|line| line.contains(" fuse.akvfs ")) {
        let device = line.split(' ').nth(2).and_then(|device| device.split_once(':'));
        let script = format!(
            "mount -t fusectl none /sys/fs/fuse/connections; \
             echo 1 > /sys/fs/fuse/connections/{}/abort",
            device.unwrap().1
        );
        let _ = Command::new("unshare").args(["--mount", "sh", "-c", &script]).status();
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("hung for {patience:?}");
}

/// Polls until it holds; fails the test when it does not within the watchdog's patience.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A vault in memory. Counts requests; can fail or hold back each name.
pub struct Fake {
    /// Of ages and ends.
    pub clock: Clock,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Every version, the newest last.
    values: HashMap<String, Vec<Vec<u8>>>,
    failures: HashMap<String, Code>,
    held: HashSet<String>,
    lists: HashMap<ObjectKind, Vec<String>>,
    requests: Vec<String>,
    ends: Option<SystemTime>,
}

impl Fake {
    pub fn new(values: &[(&str, &[u8])]) -> Arc<Self> {
        let state = State {
            values: values.iter().map(|(n, v)| (n.to_string(), vec![v.to_vec()])).collect(),
            ..State::default()
        };
        let (state, changed) = (Mutex::new(state), watch::channel(()).0);
        Arc::new(Self { clock: Clock::adjustable(), state, changed })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.send_replace(());
        result
    }

    pub fn rotate(&self, name: &str, value: &[u8]) {
        self.change(|state| state.values.get_mut(name).unwrap().push(value.to_vec()));
    }

    pub fn fail(&self, name: &str, code: Option<Code>) {
        self.change(|state| match code {
            Some(code) => drop(state.failures.insert(name.to_owned(), code)),
            None => drop(state.failures.remove(name)),
        });
    }

    /// What the vault lists, whatever it gives.
    pub fn lists(&self, kind: ObjectKind, names: Vec<String>) {
        self.change(|state| state.lists.insert(kind, names));
    }

    /// Requests for the name get no answer until they are let go.
    pub fn hold(&self, name: &str) {
        self.change(|state| state.held.insert(name.to_owned()));
    }

    pub fn let_go(&self, name: &str) {
        self.change(|state| state.held.remove(name));
    }

    /// When the credential ends.
    pub fn ends(&self, at: SystemTime) {
        self.change(|state| state.ends = Some(at));
    }

    /// Names of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    async fn answer(&self, object: ObjectRef) -> Result<Arc<ObjectVersion>> {
        let name = object.name.as_str();
        let mut changed = self.changed.subscribe();
        self.change(|state| state.requests.push(name.to_owned()));
        loop {
            changed.mark_unchanged();
            if !self.state.lock().unwrap().held.contains(name) {
                break;
            }
            changed.changed().await.unwrap();
        }
        let state = self.state.lock().unwrap();
        if let Some(code) = state.failures.get(name) {
            return Err(Error::new(*code, "as the test says"));
        }
        let values = state.values.get(name).unwrap();
        let version = match &object.version {
            Version::Latest => values.len(),
            Version::Exact(version) => usize::from_str_radix(version, 16).unwrap(),
        };
        let value = &values[version - 1];
        Ok(Arc::new(ObjectVersion {
            kind: object.kind,
            name: name.to_owned(),
            version: format!("{version:032x}"),
            created: Some(1_700_000_000 + i64::try_from(version).unwrap()),
            expires: None,
            not_before: None,
            body: Body::Secret { value: Secret::new(value.clone()), content_type: None, kid: None },
        }))
    }
}

impl Origin for Fake {
    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn usable_until(&self) -> Option<SystemTime> {
        self.state.lock().unwrap().ends
    }

    fn get(
        &self,
        object: ObjectRef,
        _: Demand,
        _: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
        Box::pin(self.answer(object))
    }

    fn list(&self, kind: ObjectKind, _: Urgency, _: Instant) -> BoxFuture<'_, Result<Names>> {
        let names = self.change(|state| {
            state.requests.push(kind.collection().to_owned());
            state.lists.get(&kind).cloned().unwrap_or_default()
        });
        let names = names.iter().map(|name| ObjectName::parse(name).unwrap()).collect();
        Box::pin(async { Ok(Names { names, more: false }) })
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

/// An object of a class: `NAME`, or `NAME=PATH`.
pub fn object(index: usize, text: &str) -> ObjectSpec {
    let (name, path) = text.split_once('=').unwrap_or((text, text));
    let (name, path) = (ObjectName::parse(name).unwrap(), FilePath::parse(path).unwrap());
    ObjectSpec::newest(index, ObjectKind::Secret, name, path, 0o400)
}

pub fn plan(layout: Layout, objects: &[&str]) -> Plan {
    let objects = objects.iter().enumerate().map(|(index, text)| object(index, text)).collect();
    Plan::new(objects, layout).unwrap()
}

/// A mounted tree.
pub struct Tree {
    pub view: Arc<View>,
    pub mounted: Option<Mounted>,
    pub runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Tree {
    pub fn new(origin: &Arc<Fake>, layout: Layout, objects: &[&str]) -> Self {
        Self::with(origin, plan(layout, objects), fuse::Options::default(), Limits::default())
    }

    pub fn with(origin: &Arc<Fake>, plan: Plan, options: fuse::Options, limits: Limits) -> Self {
        Self::try_with(origin, plan, options, limits).unwrap()
    }

    /// The error of what must be there before the mount is.
    pub fn try_with(
        origin: &Arc<Fake>,
        plan: Plan,
        options: fuse::Options,
        limits: Limits,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        crate::canary::capture_logs();
        let dir = tempfile::tempdir().unwrap();
        let view = View::new(plan, origin.clone(), render::Options::default(), limits);
        let deadline = Instant::now() + Duration::from_secs(20);
        assert!(runtime.block_on(view.list_names(deadline)).is_empty());
        let mounted = runtime.block_on(async {
            if limits.eager {
                view.fill_all(deadline).await?;
            }
            fuse::mount(view.clone(), dir.path(), options).await
        })?;
        Ok(Self { view, mounted: Some(mounted), runtime, dir })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The errno of opening the file.
    pub fn open_error(&self, name: &str) -> i32 {
        std::fs::File::open(self.path(name)).unwrap_err().raw_os_error().unwrap()
    }

    pub fn refresh(&self) -> akvfs::view::Refreshed {
        self.runtime.block_on(self.view.refresh(Instant::now() + Duration::from_secs(20)))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Before the directory goes, and while the runtime lives.
        drop(self.mounted.take());
    }
}

/// Runs a program to its successful end and returns its stdout.
pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {} {said}", output.status);
    output.stdout
}

/// The mount table's lines for a directory, as this process sees it.
pub fn table(dir: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_str().unwrap();
    table.lines().filter(|line| line.split(' ').nth(4) == Some(dir)).map(str::to_owned).collect()
}

/// Whether a process works on the directory. One that has ended, reaped or not, has no arguments.
pub fn served(dir: &Path) -> bool {
    let dir = dir.to_str().unwrap().as_bytes();
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        entry.file_name() != own.as_str() && line.windows(dir.len()).any(|part| part == dir)
    })
}

/// What a directory has, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
