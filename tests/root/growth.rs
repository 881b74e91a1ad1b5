//! What a mounted tree holds in memory: with many files, and after a long time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use akvfs::class::{FilePath, ObjectKind, ObjectName, ObjectSpec};
use akvfs::clock::Clock;
use akvfs::delivery::fuse;
use akvfs::fetch::{Demand, ObjectRef, Origin};
use akvfs::vault::{Body, ListedVersion, Names, ObjectVersion, Urgency};
use akvfs::view::{Layout, Limits, Plan, View};
use akvfs::{Result, Secret, render};
use futures_util::future::BoxFuture;

use super::soak::Figures;
use super::support::{eventually, scale};

const KIB: usize = 1024;
const MINUTE: Duration = Duration::from_secs(60);

/// Every object has a value of 1 KiB, and all of them change together.
struct Vault {
    clock: Clock,
    version: AtomicU32,
}

impl Origin for Vault {
    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn get(
        &self,
        object: ObjectRef,
        _: Demand,
        _: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
        let version = self.version.load(Ordering::Relaxed);
        Box::pin(async move {
            Ok(Arc::new(ObjectVersion {
                kind: object.kind,
                name: object.name.to_string(),
                version: format!("{version:032x}"),
                created: Some(1_700_000_000 + i64::from(version)),
                expires: None,
                not_before: None,
                body: Body::Secret {
                    value: Secret::new(vec![u8::try_from(version % 200).unwrap(); KIB]),
                    content_type: None,
                    kid: None,
                },
            }))
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

fn plan(objects: usize, layout: Layout) -> Plan {
    let objects = (0..objects).map(|index| {
        let name = format!("name-{index:05}");
        let (path, name) = (FilePath::parse(&name).unwrap(), ObjectName::parse(&name).unwrap());
        ObjectSpec::newest(index, ObjectKind::Secret, name, path, 0o400)
    });
    Plan::new(objects.collect(), layout).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

mount_test! {
    fn ten_thousand_files_stay_within_their_budget() {
        let runtime = runtime();
        let dir = tempfile::tempdir().unwrap();
        let before = Figures::of(std::process::id());
        let vault = Arc::new(Vault { clock: Clock::system(), version: AtomicU32::new(1) });
        let view = View::new(
            plan(10_000, Layout::Flat), vault, render::Options::default(), Limits::default(),
        );
        let mount = fuse::mount(view.clone(), dir.path(), fuse::Options::default());
        let mounted = runtime.block_on(mount).unwrap();
        for index in 0..10_000 {
            let value = std::fs::read(dir.path().join(format!("name-{index:05}"))).unwrap();
            assert_eq!(value.len(), KIB);
        }
        let listed = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(listed, 10_000);
        let after = Figures::of(std::process::id());
        let grown = after.anonymous.saturating_sub(before.anonymous);
        println!("10,000 files of 1 KiB: {grown} KiB of memory");
        // A filesystem that does nothing else holds the values too. 40 MiB above that is the goal.
        assert!(grown < 50 * KIB, "{grown} KiB");
        // The kernel remembers what was read, and no request is needed for it: all is held only once.
        assert!(view.status().bytes <= 10_000 * KIB, "{}", view.status().bytes);
        drop(mounted);
    }
}

mount_test! {
    fn days_of_refreshes_do_not_grow_a_tree() {
        for layout in [Layout::Atomic, Layout::Flat] {
            let runtime = runtime();
            let dir = tempfile::tempdir().unwrap();
            let vault = Arc::new(Vault { clock: Clock::adjustable(), version: AtomicU32::new(1) });
            let clock = vault.clock.clone();
            let view = View::new(
                plan(50, layout), vault.clone(), render::Options::default(), Limits::default(),
            );
            let mount = fuse::mount(view.clone(), dir.path(), fuse::Options::default());
            let mounted = runtime.block_on(mount).unwrap();
            let read_all = || {
                for index in 0..50 {
                    let value = std::fs::read(dir.path().join(format!("name-{index:05}"))).unwrap();
                    assert_eq!(value.len(), KIB);
                }
            };
            read_all();
            let refresher = runtime.spawn(view.clone().keep_fresh(MINUTE));
            let days = scale().min(7);
            let mut settled = None;
            for hour in 0..24 * days {
                // A vault that rotates everything every hour, before readers who come back.
                vault.version.fetch_add(1, Ordering::Relaxed);
                for _ in 0..60 {
                    eventually("a schedule", || view.status().next_look.is_some());
                    let looked = view.status().looked;
                    // Pauses differ by a tenth.
                    clock.advance(MINUTE * 11 / 10);
                    eventually("a look", || view.status().looked > looked);
                }
                read_all();
                // What is kept for those who come late is bounded.
                assert!(view.status().retired <= 16, "{}", view.status().retired);
                assert!(view.status().bytes <= 17 * 50 * KIB, "{}", view.status().bytes);
                if hour == 2 {
                    settled = Some(Figures::of(std::process::id()));
                }
            }
            let (settled, end) = (settled.unwrap(), Figures::of(std::process::id()));
            let grown = end.anonymous.saturating_sub(settled.anonymous);
            println!("{layout:?}: {days} days of refreshes: {grown} KiB more");
            assert!(grown < 3 * KIB, "{grown} KiB more after {days} days: {settled:?} {end:?}");
            assert_eq!(end.descriptors, settled.descriptors);
            assert!(end.threads <= settled.threads, "{settled:?} {end:?}");
            refresher.abort();
            drop(mounted);
        }
    }
}
