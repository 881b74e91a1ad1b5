//! Records of opens: who opened what, whatever came of it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use akvfs::Code;
use akvfs::class::ObjectKind;
use akvfs::delivery::fuse;
use akvfs::delivery::fuse::audit::{self, Sink};
use akvfs::view::{Layout, Limits};
use rustix::io::Errno;
use serde_json::Value;

use super::canary;
use super::support::{Fake, Tree, eventually, is_root, plan, run};
use super::sync::{Site, code, said};

fn audited(
    vault: &Arc<Fake>,
    objects: &[&str],
    sink: Sink,
    required: bool,
    change: impl FnOnce(&mut fuse::Options),
) -> Tree {
    let mut options = fuse::Options {
        audit: Some(audit::Options { sink, required }),
        open_timeout: Duration::from_secs(20),
        ..fuse::Options::default()
    };
    change(&mut options);
    Tree::with(vault, plan(Layout::Flat, objects), options, Limits::default())
}

/// A file for records, in a directory that nobody else has.
fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("opens.log");
    (dir, file)
}

/// Every line of the file is a record.
fn records(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    canary::record("audit", &text);
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

fn tally(tree: &Tree) -> Arc<audit::Tally> {
    tree.mounted.as_ref().unwrap().audit().unwrap()
}

fn id(value: &str) -> Value {
    Value::from(value.parse::<u32>().unwrap())
}

mount_test! {
    fn every_open_is_audited_with_who_and_what() {
        let value = canary::value("audited");
        let vault = Fake::new(&[("one", value.as_bytes()), ("two", b""), ("slow", b"")]);
        let (_dir, log) = file();
        let tree = audited(&vault, &["one=app/one", "two", "slow"], Sink::File(log.clone()), false, |options| {
            options.file_mode = Some(0o444);
            options.open_timeout = Duration::from_millis(300);
        });
        // Names and attributes are no opens.
        run("ls", &["-lR", tree.dir().to_str().unwrap()]);
        assert!(records(&log).is_empty());

        // Root is another user for this; a plain user is itself.
        let (mut cat, uid, gid) = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=1234", "--regid=2345", "--clear-groups", "cat"]);
            (command, "1234", "2345")
        } else {
            (Command::new("cat"), "65534", "65534")
        };
        let child = cat.arg(tree.path("app/one")).stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        assert!(child.wait_with_output().unwrap().stdout == value.as_bytes());
        let record = records(&log).pop().unwrap();
        let cat = std::fs::canonicalize("/usr/bin/cat").unwrap();
        for (field, expected) in [
            ("mount", Value::from(tree.dir().to_str().unwrap())),
            ("file", "app/one".into()),
            ("type", "secret".into()),
            ("name", "one".into()),
            ("version", format!("{:032x}", 1).into()),
            ("uid", id(uid)),
            ("gid", id(gid)),
            ("pid", pid.into()),
            ("decision", "allowed".into()),
            ("errno", 0.into()),
            ("cache_hit", false.into()),
        ] {
            assert_eq!(record[field], expected, "{field} of {record}");
        }
        // A plain user cannot look at a process that was another's, and root can at all.
        assert_eq!(record["exe"], cat.to_str().unwrap(), "{record}");
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(own.contains(record["cgroup"].as_str().unwrap()), "{record}");

        // This process, by one of its threads.
        std::thread::scope(|scope| {
            scope.spawn(|| std::fs::read(tree.path("app/one")).unwrap());
        });
        let record = records(&log).pop().unwrap();
        assert_eq!((record["pid"].clone(), record["cache_hit"].clone()), (std::process::id().into(), true.into()));

        vault.fail("two", Some(Code::Forbidden));
        assert_eq!(tree.open_error("two"), Errno::ACCESS.raw_os_error());
        let record = records(&log).pop().unwrap();
        assert_eq!((record["name"].clone(), record["decision"].clone()), ("two".into(), "forbidden".into()));
        assert_eq!((record["errno"].clone(), record["version"].clone()), (13.into(), Value::Null));

        vault.hold("slow");
        assert_eq!(tree.open_error("slow"), Errno::IO.raw_os_error());
        let record = records(&log).pop().unwrap();
        assert_eq!((record["name"].clone(), record["decision"].clone()), ("slow".into(), "timed_out".into()));
        assert!(record["latency_us"].as_u64().unwrap() >= 300_000, "{record}");
        assert!(record["exe"].as_str().unwrap().contains("/root-"), "{record}");

        let tally = tally(&tree);
        assert_eq!((tally.records(), tally.missing(), tally.problem()), (4, 0, None));
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(!text.contains(&value));
    }
}

mount_test! {
    fn a_thousand_opens_by_eight_threads_are_a_thousand_whole_records() {
        let names: Vec<String> = (0..8).map(|n| format!("name{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let values: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"value"[..])).collect();
        let vault = Fake::new(&values);
        let (_dir, log) = file();
        let tree = audited(&vault, &names, Sink::File(log.clone()), true, |_| {});
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (tree, names) = (&tree, &names);
                scope.spawn(move || {
                    for n in 0..125 {
                        assert_eq!(tree.read(names[(thread + n) % 8]), b"value");
                    }
                });
            }
        });
        let records = records(&log);
        assert_eq!(records.len(), 1000);
        for name in &names {
            let of_name = records.iter().filter(|record| record["name"] == *name);
            assert_eq!(of_name.count(), 125, "{name}");
        }
        assert!(records.iter().all(|record| record["decision"] == "allowed"));
    }
}

root_test! {
    fn a_full_audit_sink_is_counted_or_refuses_opens() {
        for required in [false, true] {
            let vault = Fake::new(&[("one", b"first")]);
            let (dir, _) = file();
            let disk = dir.path().to_str().unwrap();
            run("mount", &["-t", "tmpfs", "-o", "size=4k", "tmpfs", disk]);
            let log = dir.path().join("opens.log");
            let tree = audited(&vault, &["one"], Sink::File(log.clone()), required, |_| {});
            let tally = tally(&tree);
            let mut refused = 0;
            for _ in 0..30 {
                match std::fs::read(tree.path("one")) {
                    Ok(bytes) => assert_eq!(bytes, b"first"),
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(5));
                        refused += 1;
                    }
                }
            }
            assert_eq!(tally.records() + tally.missing(), 30);
            assert!(tally.records() > 0 && tally.missing() > 5, "{tally:?}");
            assert_eq!(refused, if required { tally.missing() } else { 0 });
            assert!(tally.problem().unwrap().contains("storage"), "{tally:?}");
            // What was written is whole, but for the line that met the end of the disk.
            let text = std::fs::read_to_string(&log).unwrap();
            let whole = |text: &str| {
                text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count() as u64
            };
            assert_eq!(whole(&text), tally.records());

            // There is room again.
            run("mount", &["-o", "remount,size=64k", disk]);
            assert_eq!(tree.read("one"), b"first");
            assert_eq!(tally.problem(), None);
            let text = std::fs::read_to_string(&log).unwrap();
            assert_eq!(whole(&text), tally.records());
            assert!(text.lines().count() as u64 <= tally.records() + 1);
            // No open that was refused has left anything behind.
            vault.rotate("one", b"second");
            assert_eq!(tree.refresh().changed, ["one"]);
            assert_eq!(tree.read("one"), b"second");
            drop(tree);
            run("umount", &["--lazy", disk]);
        }
    }
}

root_test! {
    fn a_file_that_logrotate_moves_away_is_followed_by_a_new_one() {
        let vault = Fake::new(&[("one", b"first")]);
        let (dir, log) = file();
        let tree = audited(&vault, &["one"], Sink::File(log.clone()), true, |_| {});
        tree.read("one");
        let old = dir.path().join("opens.log.1");
        std::fs::rename(&log, &old).unwrap();
        eventually("a new file", || {
            tree.read("one");
            log.exists()
        });
        let (before, after) = (records(&old).len(), records(&log).len());
        assert!(before >= 1 && after >= 1);
        assert_eq!((before + after) as u64, tally(&tree).records());
    }
}

root_test! {
    fn records_go_to_journald_with_their_fields() {
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        std::fs::create_dir_all("/run/systemd/journal").unwrap();
        let path = "/run/systemd/journal/socket";
        let vault = Fake::new(&[("one", b"first"), ("two", b"")]);
        let options = fuse::Options {
            audit: Some(audit::Options { sink: Sink::Journald, required: false }),
            ..fuse::Options::default()
        };
        let journal = UnixDatagram::bind(path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let tree = Tree::with(&vault, plan(Layout::Flat, &["one", "two"]), options, Limits::default());
        let received = || {
            let mut bytes = [0; 65536];
            let length = journal.recv(&mut bytes).unwrap();
            let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
            let pairs = text.lines().map(|line| line.split_once('=').unwrap());
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
        };
        let field = |entry: &[(String, String)], name: &str| {
            let mut found = entry.iter().filter(|(field, _)| field == name);
            let value = found.next().unwrap().1.clone();
            assert!(found.next().is_none());
            value
        };
        tree.read("one");
        let entry = received();
        let message: Value = serde_json::from_str(&field(&entry, "MESSAGE")).unwrap();
        assert_eq!((message["name"].clone(), message["uid"].clone()), ("one".into(), 0.into()));
        let version = format!("{:032x}", 1);
        for (name, value) in [
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "akvfs"),
            ("AKVFS_TYPE", "secret"),
            ("AKVFS_NAME", "one"),
            ("AKVFS_VERSION", &version),
            ("AKVFS_FILE", "one"),
            ("AKVFS_UID", "0"),
            ("AKVFS_DECISION", "allowed"),
        ] {
            assert_eq!(field(&entry, name), value, "{name}");
        }
        vault.fail("two", Some(Code::NotFound));
        tree.open_error("two");
        let entry = received();
        assert_eq!((field(&entry, "PRIORITY"), field(&entry, "AKVFS_DECISION")), ("4".into(), "not_found".into()));

        // journald is started again, and takes records at the same place.
        std::fs::remove_file(path).unwrap();
        assert_eq!(tree.read("one"), b"first");
        assert_eq!((tally(&tree).records(), tally(&tree).missing()), (2, 1));
        let journal = UnixDatagram::bind(path).unwrap();
        assert_eq!(tree.read("one"), b"first");
        assert_eq!((tally(&tree).records(), tally(&tree).problem()), (3, None));
        // One that does not read: nobody waits for it.
        while tally(&tree).missing() < 2 {
            assert_eq!(tree.read("one"), b"first");
        }
        drop(journal);
    }
}

root_test! {
    fn an_audit_that_cannot_begin_lets_no_mount_begin() {
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        let place = tempfile::tempdir().unwrap();
        let (dir, log) = file();
        std::os::unix::fs::symlink("/etc/passwd", &log).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        for (sink, why) in [
            (Sink::Journald, "journald does not listen"),
            (Sink::File(log), "cannot write to "),
            (Sink::File(dir.path().join("no/such")), "cannot write to "),
            (Sink::File(place.path().join("opens.log")), "is where the tree is to be"),
        ] {
            let vault = Fake::new(&[("one", b"first")]);
            let view = akvfs::view::View::new(
                plan(Layout::Flat, &["one"]), vault, akvfs::render::Options::default(), Limits::default(),
            );
            let options = fuse::Options {
                audit: Some(audit::Options { sink, required: false }),
                ..fuse::Options::default()
            };
            let error = runtime.block_on(fuse::mount(view, place.path(), options)).err().unwrap();
            assert!(error.to_string().contains(why), "{error}");
            assert!(super::support::table(place.path()).is_empty());
            assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        }
    }
}

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");

/// A vault in the process.
const SEED: &str = "secrets: {one: value}";

fn audit_of(place: &Path) -> Value {
    let status: Value = serde_json::from_slice(&run(AKVFS, &["status", "--json"])).unwrap();
    let place = place.canonicalize().unwrap();
    let mut served = status["served"].as_array().unwrap().iter();
    let ours = served.find(|served| served["directory"] == place.to_str().unwrap());
    ours.unwrap()["audit"].clone()
}

network_test! {
    fn a_background_mount_has_its_records_and_its_log_in_files() {
        let site = Site::new();
        let (source, place) = (site.source(), site.azure.path("tree"));
        std::fs::create_dir(&place).unwrap();
        let at = place.to_str().unwrap();
        let (_dir, opens) = file();
        let log = opens.with_file_name("akvfs.log");
        for wrong in [&["--audit", "stderr"][..], &["--audit", "opens.log"], &["--audit-required"]] {
            let refused = site.akvfs(&[&["mount", &source, at], wrong].concat());
            assert_eq!(code(&refused), 64, "{wrong:?}");
        }
        let words = format!("audit={},audit_required,xattr,log_file={}", opens.display(), log.display());
        let mounted = site.akvfs(&["mount", &source, at, "-o", &words]);
        assert_eq!(code(&mounted), 0, "{}", said(&mounted));
        assert_eq!(std::fs::read_to_string(place.join("one")).unwrap(), site.one);
        assert!(rustix::fs::getxattr(place.join("one"), "user.akvfs.version", &mut [0; 64]).unwrap() > 0);
        let control = site.azure.emulator.control();
        control.delete(site.azure.emulator.vault_name(), ObjectKind::Secret, "two").unwrap();
        for _ in 0..5 {
            let error = std::fs::File::open(place.join("two")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(2));
        }
        let records = records(&opens);
        assert_eq!(records.len(), 6);
        assert!(records[1..].iter().all(|record| record["decision"] == "not_found"), "{records:?}");
        let expected = serde_json::json!({
            "sink": opens.to_str().unwrap(), "required": true, "written": 6, "lost": 0, "error": null
        });
        assert_eq!(audit_of(&place), expected);
        let told = String::from_utf8(site.akvfs(&["status"]).stdout).unwrap();
        assert!(told.contains(&format!("  audit       {}, required, 6 records\n", opens.display())), "{told}");
        let logged = || std::fs::read_to_string(&log).unwrap();
        eventually("a line about the error", || logged().contains("error reply"));
        run(AKVFS, &["unmount", at]);
        canary::record("akvfs-log", &logged());
        let lines: Vec<String> = logged().lines().map(str::to_owned).collect();
        let replies: Vec<_> = lines.iter().filter(|line| line.contains("error reply")).collect();
        assert_eq!(replies.len(), 1, "{lines:?}");
        let request = format!(" request={}", records[1]["request"]);
        for part in [
            " operation=\"open\"", " file=\"two\"", " errno=2", " code=\"not_found\"", &request,
        ] {
            assert!(replies[0].starts_with('W') && replies[0].contains(part), "{part}: {}", replies[0]);
        }
    }
}

mount_test! {
    fn a_sink_that_hangs_holds_nobody_for_long() {
        let place = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let seed = scratch.path().join("seed.yaml");
        std::fs::write(&seed, SEED).unwrap();
        let source = format!("dev:{}", seed.display());
        let mut child = Command::new(AKVFS)
            .args(["mount", "-f", "--audit=stderr", &source, place.path().to_str().unwrap()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("a mount", || place.path().join("secrets").exists());
        // Nobody reads the records, so they soon fill the pipe.
        let begun = std::time::Instant::now();
        for _ in 0..400 {
            assert_eq!(std::fs::read(place.path().join("secrets/one")).unwrap(), b"value");
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        let audit = audit_of(place.path());
        let (written, lost) = (audit["written"].as_u64().unwrap(), audit["lost"].as_u64().unwrap());
        assert_eq!(written + lost, 400, "{audit}");
        assert!(lost > 0 && audit["error"].is_string(), "{audit}");
        // They are read again.
        let mut stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut said = String::new();
            std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
            said
        });
        eventually("records again", || {
            std::fs::read(place.path().join("secrets/one")).unwrap();
            audit_of(place.path())["error"].is_null()
        });
        run("kill", &[&child.id().to_string()]);
        assert!(child.wait().unwrap().success());
        let said = reader.join().unwrap();
        let records = said.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok());
        assert!(records.count() as u64 > written);
        assert!(said.contains("audit records cannot be written, opens go on: "), "no word of it");
    }
}
