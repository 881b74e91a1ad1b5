//! How many requests the kernel makes of a tree for what programs do most. The counts are exact, so
//! they hold on every machine; `cargo bench --bench fuse` has what they cost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use akvfs::delivery::fuse::{self, Mounted};
use akvfs::render;
use akvfs::view::{Layout, Limits, View};
use tokio::runtime::Runtime;

use super::support::{Fake, plan, run};

/// The crate that speaks to the kernel logs every request, at a level that is off outside this test.
struct Kernel;

static REQUESTS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

impl log::Log for Kernel {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target().starts_with("fuser")
    }

    fn log(&self, record: &log::Record) {
        // `FUSE( 12) ino 0x0000000000000001 LOOKUP name "one" thread=...`
        let line = record.args().to_string();
        let Some(operation) = line
            .strip_prefix("FUSE(")
            .and_then(|rest| rest.split_once(" ino 0x"))
            .and_then(|(_, rest)| rest.split(' ').nth(1))
        else {
            return;
        };
        let mut requests = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry(operation.to_owned()).or_default() += 1;
    }

    fn flush(&self) {}
}

/// A flat tree of files that are named `NAME` in a folder `secrets`, each with one value.
pub struct Counted {
    dir: tempfile::TempDir,
    vault: Arc<Fake>,
    mounted: Option<Mounted>,
    _runtime: Runtime,
}

impl Counted {
    fn new(files: usize) -> Self {
        Self::with(files, fuse::Options::default())
    }

    pub fn with(files: usize, options: fuse::Options) -> Self {
        log::set_logger(&Kernel).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        let names: Vec<String> = (0..files).map(|n| format!("name-{n:05}")).collect();
        let values: Vec<(&str, &[u8])> =
            names.iter().map(|name| (name.as_str(), &b"value"[..])).collect();
        let objects: Vec<String> =
            names.iter().map(|name| format!("{name}=secrets/{name}")).collect();
        let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
        let vault = Fake::new(&values);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let view = View::new(
            plan(Layout::Flat, &objects),
            vault.clone(),
            render::Options::default(),
            Limits::default(),
        );
        let dir = tempfile::tempdir().unwrap();
        let mount = fuse::mount(view, dir.path(), options);
        let mounted = runtime.block_on(mount).unwrap();
        Self { dir, vault, mounted: Some(mounted), _runtime: runtime }
    }

    pub fn file(&self, number: usize) -> String {
        format!("{}/secrets/name-{number:05}", self.dir.path().display())
    }

    pub fn folder(&self) -> String {
        format!("{}/secrets", self.dir.path().display())
    }

    /// What the kernel asks for while this is done: all but what nobody waits for.
    pub fn requests(&self, done: impl FnOnce()) -> BTreeMap<String, usize> {
        let taken =
            || std::mem::take(&mut *REQUESTS.lock().unwrap_or_else(PoisonError::into_inner));
        taken();
        done();
        let mut requests = taken();
        for unwaited in ["RELEASE", "RELEASEDIR", "FORGET", "BATCHFORGET"] {
            requests.remove(unwaited);
        }
        requests
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        drop(self.mounted.take());
    }
}

fn total(requests: &BTreeMap<String, usize>) -> usize {
    requests.values().sum()
}

mount_test! {
    fn a_warm_read_is_one_request_and_a_warm_stat_none() {
        let tree = Counted::new(1);
        let file = tree.file(0);
        let cold = tree.requests(|| assert_eq!(std::fs::read(&file).unwrap(), b"value"));
        assert!(cold.contains_key("OPEN") && cold.contains_key("READ"), "{cold:?}");
        // The first stat after the first open learns the true size.
        std::fs::metadata(&file).unwrap();
        let one_open = BTreeMap::from([("OPEN".to_owned(), 1)]);
        for _ in 0..3 {
            let warm = tree.requests(|| assert_eq!(std::fs::read(&file).unwrap(), b"value"));
            assert_eq!(warm, one_open);
        }
        let stats = tree.requests(|| {
            for _ in 0..100 {
                std::fs::metadata(&file).unwrap();
            }
        });
        assert_eq!(total(&stats), 0, "{stats:?}");
        assert_eq!(tree.vault.requests().len(), 1);
    }
}

mount_test! {
    fn listing_ten_thousand_names_takes_few_requests() {
        let tree = Counted::new(10_000);
        let plain = tree.requests(|| drop(run("ls", &["-U", &tree.folder()])));
        assert!(total(&plain) <= 20, "{plain:?}");
        let tree_again = tree.requests(|| drop(run("ls", &[&tree.folder()])));
        assert!(total(&tree_again) <= 20, "{tree_again:?}");
        assert_eq!(tree.vault.requests().len(), 0);
    }
}

mount_test! {
    fn a_first_long_listing_of_ten_thousand_names_takes_few_requests() {
        let tree = Counted::new(10_000);
        let long = tree.requests(|| drop(run("ls", &["-l", &tree.folder()])));
        assert!(total(&long) <= 60, "{long:?}");
        assert_eq!(tree.vault.requests().len(), 0);
    }
}

mount_test! {
    fn a_name_that_is_not_there_is_asked_for_once() {
        let tree = Counted::new(1);
        let missing = format!("{}/none", tree.folder());
        let asked = tree.requests(|| {
            for _ in 0..100 {
                assert!(std::fs::metadata(&missing).is_err());
            }
        });
        // The folder and the name, and the root's attributes.
        assert_eq!(asked.get("LOOKUP"), Some(&2), "{asked:?}");
        assert!(total(&asked) <= 3, "{asked:?}");
        assert_eq!(tree.vault.requests().len(), 0);
    }
}
