//! The real `akvfs sync`: what it writes, what it keeps, and what it tells.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};

use akvfs::class::ObjectKind;
use akvfs::emulator::{Seed, Service, Trouble, Where};
use serde_json::{Value, json};

use crate::azure::Azure;
use crate::canary;
use crate::files::watch::Watch;
use crate::support::{eventually, run};

pub const VAULT: &str = "akvfs-dev";

/// An Azure of three secrets, a class of two of them, and a /run of the test's own.
pub struct Site {
    pub azure: Azure,
    pub one: String,
    pub two: String,
}

impl Site {
    pub fn new() -> Self {
        let (one, two) = (canary::value("one"), canary::value("two"));
        let three = canary::value("three");
        let seed = Seed::default()
            .secret("one", &[&one])
            .secret("two", &[&two])
            .secret("three", &[&three]);
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        let azure = Azure::with(|config| config.seed = seed.clone());
        let site = Self { azure, one, two };
        site.class("class.yaml", &["one", "two"]);
        site
    }

    pub fn class(&self, file: &str, names: &[&str]) -> PathBuf {
        let mut text = String::from(
            "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\n\
             metadata:\n  name: app\nspec:\n  provider: azure\n  parameters:\n    \
             useVMManagedIdentity: \"true\"\n    keyvaultName: akvfs-dev\n    \
             tenantID: 7e7a7700-0000-4000-8000-00000000dead\n    objects: |\n      array:\n",
        );
        for name in names {
            let object = format!(
                "        - |\n          objectName: {name}\n          objectType: secret\n          \
                 filePermission: \"0440\"\n"
            );
            text.push_str(&object);
        }
        let path = self.azure.path(file);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn source(&self) -> String {
        self.azure.path("class.yaml").to_str().unwrap().to_owned()
    }

    pub fn dir(&self) -> PathBuf {
        self.azure.path("files")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.file(name)).ok()
    }

    pub fn rotate(&self, name: &str) -> String {
        let value = canary::value(name);
        self.azure.emulator.control().set_secret(VAULT, name, value.as_str()).unwrap();
        value
    }

    /// A run to its end. Nothing that sync, status and refresh print may be a value.
    pub fn akvfs(&self, args: &[&str]) -> Output {
        let output = self.azure.output(args);
        canary::record("akvfs-stdout", &String::from_utf8_lossy(&output.stdout));
        output
    }

    /// `akvfs sync` of the class to its directory.
    fn sync(&self, options: &[&str]) -> Output {
        let (source, dir) = (self.source(), self.dir());
        self.akvfs(&[&["sync", &source, dir.to_str().unwrap()], options].concat())
    }

    /// `akvfs sync --watch`, which looks every second.
    pub fn watch(&self, options: &[&str]) -> Watching {
        self.watch_every("1s", options)
    }

    pub fn watch_every(&self, interval: &str, options: &[&str]) -> Watching {
        let (source, dir) = (self.source(), self.dir());
        let args = ["sync", &source, dir.to_str().unwrap(), "--watch"];
        let args = [&args[..], &["--refresh-interval", interval], options].concat();
        Watching::start(self.azure.akvfs(&args))
    }
}

/// A process that stays, and everything it says.
pub struct Watching(Child);

impl Watching {
    pub fn start(mut command: Command) -> Self {
        command.stdout(canary::emitted("watch-stdout")).stderr(canary::emitted("watch-stderr"));
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &["-s", signal, &self.pid().to_string()]);
    }

    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the end of a process", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for what in ["cmdline", "environ"] {
            let shown = std::fs::read(format!("/proc/{}/{what}", self.pid()));
            canary::record("watch-proc", &String::from_utf8_lossy(&shown.unwrap_or_default()));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}: {}", output.status, said(output)))
}

/// What `--json` printed.
pub fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

/// Names in the directory that no class could have asked for do not count.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

network_test! {
    fn once_writes_the_bytes_with_mode_and_owner_and_says_what_it_did() {
        let site = Site::new();
        let done = site.sync(&["--json", "--owner", "1234:4321"]);
        assert_eq!(code(&done), 0, "{}", said(&done));
        let report = parsed(&done);
        assert_eq!(report["added"], json!(["one", "two"]));
        assert_eq!((&report["removed"], &report["failed"]), (&json!([]), &json!([])));
        assert_eq!((site.read("one"), site.read("two")), (Some(site.one.clone()), Some(site.two.clone())));
        let found = std::fs::metadata(site.file("one")).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o440, 1234, 4321));
        assert_eq!(names(&site.dir()), ["one", "two"]);
        // Nobody runs now.
        let status = site.akvfs(&["status", "--json"]);
        assert_eq!((code(&status), parsed(&status)), (0, json!({"served": [], "silent": []})));

        let again = site.sync(&["--json", "--owner", "1234:4321"]);
        assert_eq!((code(&again), &parsed(&again)["changed"]), (0, &json!([])));
        let new = site.rotate("two");
        let changed = parsed(&site.sync(&["--json", "--owner", "1234:4321"]));
        assert_eq!((&changed["changed"], &changed["added"]), (&json!(["two"]), &json!([])));
        assert_eq!((site.read("one"), site.read("two")), (Some(site.one.clone()), Some(new)));
    }
}

network_test! {
    fn once_writes_everything_of_a_class_or_nothing_and_names_what_failed() {
        let site = Site::new();
        site.class("class.yaml", &["one", "missing", "two", "absent"]);
        let failed = site.sync(&["--json"]);
        let text = said(&failed);
        assert_eq!((code(&failed), failed.stdout.len()), (1, 0), "{text}");
        for name in ["objectName:missing", "objectName:absent", "2 of 4 objects"] {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(!text.contains("objectName:one"), "{text}");
        assert_eq!(names(&site.dir()), [""; 0]);

        site.class("class.yaml", &["one", "two"]);
        assert_eq!(code(&site.sync(&[])), 0);
        site.rotate("one");
        site.class("class.yaml", &["one", "missing"]);
        assert_eq!(code(&site.sync(&[])), 1);
        assert_eq!((site.read("one"), site.read("two")), (Some(site.one.clone()), Some(site.two.clone())));
        // A file that the class does not name any more goes.
        site.class("class.yaml", &["two"]);
        let done = site.sync(&["--json"]);
        assert_eq!(parsed(&done)["removed"], json!(["one"]));
        assert_eq!(names(&site.dir()), ["two"]);
    }
}

network_test! {
    fn a_class_in_the_flat_layout_is_written_wholly_or_not_at_all() {
        let site = Site::new();
        assert_eq!(code(&site.sync(&["--layout", "flat"])), 0);
        let control = site.azure.emulator.control();
        let before = (Some(site.one.clone()), Some(site.two.clone()));
        site.rotate("one");
        for trouble in [Trouble::Firewall, Trouble::Status(403), Trouble::Status(404)] {
            control.always(Where::vault(VAULT).path("/secrets/two"), trouble);
            let failed = site.sync(&["--layout", "flat", "--json"]);
            let text = said(&failed);
            assert_eq!((code(&failed), failed.stdout.len()), (1, 0), "{text}");
            assert!(text.contains("1 of 2 objects"), "{text}");
            assert_eq!((site.read("one"), site.read("two")), before);
            control.clear_faults();
        }
    }
}

network_test! {
    fn of_a_vault_a_file_goes_when_its_object_is_refused_twice() {
        let site = Site::new();
        let control = site.azure.emulator.control();
        let dir = site.dir();
        let url = format!("https://{VAULT}.vault.azure.net/secrets");
        let args = ["sync", &url, dir.to_str().unwrap(), "--identity", "managed", "--json"];
        let written = || names(&dir.join("secrets"));
        assert_eq!(code(&site.akvfs(&args)), 0);
        assert_eq!(written(), ["one", "three", "two"]);
        // What the vault's firewall says is about the network.
        control.always(Where::vault(VAULT).path("/secrets/one"), Trouble::Firewall);
        assert_eq!(code(&site.akvfs(&args)), 1);
        assert_eq!(written(), ["one", "three", "two"]);
        control.clear_faults();
        let refuse = |times| {
            control.times(times, Where::vault(VAULT).path("/secrets/one"), Trouble::Status(403));
        };
        refuse(1);
        let done = site.akvfs(&args);
        assert_eq!((code(&done), &parsed(&done)["removed"]), (0, &json!([])), "{}", said(&done));
        refuse(2);
        let done = site.akvfs(&args);
        let report = parsed(&done);
        assert_eq!((code(&done), &report["removed"]), (1, &json!(["secrets/one"])), "{}", said(&done));
        assert_eq!(report["failed"][0]["name"], "one");
        // One that had no file is asked once, and a process that stays says what failed, too.
        control.always(Where::vault(VAULT).path("/secrets/one"), Trouble::Status(403));
        let told = site.azure.path("told");
        let mut watch = site.azure.akvfs(&args);
        watch.arg("--watch").stdout(std::fs::File::create(&told).unwrap());
        let mut watching = Watching(watch.spawn().unwrap());
        let report = || serde_json::from_slice::<Value>(&std::fs::read(&told).unwrap()).ok();
        eventually("a report", || report().is_some());
        assert_eq!(report().unwrap()["failed"][0]["name"], "one");
        watching.signal("TERM");
        assert_eq!(watching.ended().code(), Some(0));
    }
}

network_test! {
    fn of_a_vault_what_may_be_read_is_written_and_the_rest_is_an_error() {
        let site = Site::new();
        let control = site.azure.emulator.control();
        control.enable(VAULT, ObjectKind::Secret, "two", "", false).unwrap();
        let dir = site.dir();
        let url = format!("https://{VAULT}.vault.azure.net/secrets");
        let args =
            ["sync", &url, dir.to_str().unwrap(), "--identity", "managed", "--json"];
        let done = site.akvfs(&args);
        let text = said(&done);
        // Whether a list has what is disabled is the vault's business; whether a value is shown, ours.
        assert_eq!(names(&dir.join("secrets")), ["one", "three"], "{text}");
        assert_eq!(site.read("secrets/one"), Some(site.one.clone()));
        let failed = parsed(&done)["failed"].as_array().unwrap().len();
        assert_eq!(code(&done), i32::from(failed > 0), "{text}");
        // An outage is no answer: nothing is written, and nothing is taken away.
        control.always(Where::vault(VAULT).path("/secrets/one"), Trouble::Status(403));
        control.always(Where::vault(VAULT).path("/secrets/three"), Trouble::Status(503));
        assert_eq!(code(&site.akvfs(&args)), 1);
        assert_eq!(names(&dir.join("secrets")), ["one", "three"]);
        control.clear_faults();
        control.delete(VAULT, ObjectKind::Secret, "three").unwrap();
        let done = parsed(&site.akvfs(&args));
        assert_eq!(done["removed"], json!(["secrets/three"]));
        assert_eq!(names(&dir.join("secrets")), ["one"]);
    }
}

network_test! {
    fn a_wrong_command_line_is_refused_before_anything_is_done() {
        let site = Site::new();
        for wrong in [
            &["--retry"][..],
            &["--owner", "root"],
            &["--refresh-interval", "1ms"],
            &["--on-change-timeout", "9000h"],
            &["--on-change", "true"],
            &["--on-change", "/no/such/program"],
            &["--layout", "round"],
            &["--", "an argument of nothing"],
        ] {
            assert_eq!(code(&site.sync(wrong)), 64, "{wrong:?}");
        }
        assert!(!site.dir().exists());
        assert!(site.azure.emulator.control().requests().is_empty());
    }
}

/// Writes what it was told to a file, and fails.
const TELL: &str = r#"
    env > "$0.proc"; tr '\0' '\n' < /proc/$$/cmdline >> "$0.proc"
    echo "run $AKVFS_DIRECTORY $(echo $AKVFS_CHANGED_FILES)" >> "$0"; exit 3
"#;

network_test! {
    fn a_watch_writes_each_rotation_and_runs_the_program_once_for_each() {
        let site = Site::new();
        let told = site.azure.path("told");
        let (source, dir) = (site.source(), site.dir());
        let args = ["sync", &source, dir.to_str().unwrap(), "--watch", "--refresh-interval", "1s"];
        let mut command = site.azure.akvfs(&args);
        command.args(["--on-change", "/bin/sh", "--", "-c", TELL]).arg(&told);
        command.env("AZURE_CLIENT_SECRET", canary::value("environment"));
        command.env("AKVFS_ON_CHANGE_TIMEOUT", "30s");
        let mut watching = Watching::start(command);
        let runs = || std::fs::read_to_string(&told).unwrap_or_default();
        let here = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        let first = format!("run {} one two\n", here.display());
        eventually("the first run", || runs() == first);
        assert_eq!((site.read("one"), site.read("two")), (Some(site.one.clone()), Some(site.two.clone())));
        let mut expected = first;
        for name in ["two", "one"] {
            let value = site.rotate(name);
            eventually("the new value", || site.read(name).as_ref() == Some(&value));
            expected += &format!("run {} {name}\n", here.display());
            eventually("a run", || runs() == expected);
        }
        // It gets no credential, no option of ours, and no value.
        let shown = std::fs::read_to_string(told.with_extension("proc")).unwrap();
        canary::record("on-change", &shown);
        assert!(shown.contains("AKVFS_CHANGED_FILES=one\n"), "{shown}");
        assert!(!shown.contains("AZURE_CLIENT_SECRET") && !shown.contains("AKVFS_ON_CHANGE_TIMEOUT"));
        // That the program fails changes nothing.
        watching.signal("TERM");
        assert_eq!(watching.ended().code(), Some(0));
        assert_eq!(names(&dir), ["one", "two"]);
        assert_eq!(runs(), expected);
    }
}

/// A line for each run.
const LINE: &str = r#"echo "run $(echo $AKVFS_CHANGED_FILES)" >> "$0""#;

network_test! {
    fn a_watch_runs_the_program_at_its_start_whoever_wrote_the_files() {
        let site = Site::new();
        let told = site.azure.path("told");
        // As when an earlier process was killed between its write and the program's run.
        assert_eq!(code(&site.sync(&[])), 0);
        let told_as = told.to_str().unwrap();
        let program = ["--on-change", "/bin/sh", "--", "-c", LINE, told_as];
        let runs = || std::fs::read_to_string(&told).unwrap_or_default();
        let mut watching = site.watch(&program);
        eventually("a run", || runs() == "run one two\n");
        watching.signal("TERM");
        assert_eq!(watching.ended().code(), Some(0));
        assert_eq!(runs(), "run one two\n");
    }
}

network_test! {
    fn a_single_run_that_is_asked_to_stop_does_not_wait_for_its_program() {
        let site = Site::new();
        let told = site.azure.path("told");
        let (source, dir) = (site.source(), site.dir());
        let script = "echo $$ > \"$1.new\"; mv \"$1.new\" \"$1\"; sleep 600; true";
        let mut command = site.azure.akvfs(&["sync", &source, dir.to_str().unwrap()]);
        command.args(["--on-change-timeout", "1h", "--on-change", "/bin/sh", "--", "-c", script, "sh"]);
        command.arg(&told);
        let mut running = Watching::start(command);
        eventually("the program", || told.exists());
        running.signal("TERM");
        assert_eq!(running.ended().code(), Some(1));
        assert_eq!(site.read("one").unwrap(), site.one);
        let id = std::fs::read_to_string(&told).unwrap();
        let place = format!("/proc/{}", id.trim());
        eventually("the program's end", || !Path::new(&place).exists());
        // One that ends in time has done what was to be done.
        site.rotate("one");
        std::fs::remove_file(&told).unwrap();
        let script = "trap : TERM; : > \"$1\"; while [ -e \"$1\" ]; do sleep 0.05; done";
        let mut command = site.azure.akvfs(&["sync", &source, dir.to_str().unwrap()]);
        command.args(["--on-change", "/bin/sh", "--", "-c", script, "sh"]).arg(&told);
        let mut running = Watching::start(command);
        eventually("the program", || told.exists());
        running.signal("TERM");
        std::fs::remove_file(&told).unwrap();
        assert!(running.ended().success());
    }
}

network_test! {
    fn a_watch_goes_on_and_runs_the_program_when_nobody_reads_its_stdout() {
        let site = Site::new();
        let told = site.azure.path("told");
        let (source, dir) = (site.source(), site.dir());
        let args = ["sync", &source, dir.to_str().unwrap(), "--watch", "--refresh-interval", "1s"];
        let mut command = site.azure.akvfs(&args);
        command.args(["--json", "--on-change", "/bin/sh", "--", "-c", LINE]).arg(&told);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let said = site.azure.path("said");
        command.stdout(full).stderr(std::fs::File::create(&said).unwrap());
        let mut watching = Watching(command.spawn().unwrap());
        let runs = || std::fs::read_to_string(&told).unwrap_or_default();
        eventually("the first run", || runs() == "run one two\n");
        let mut expected = runs();
        for name in ["two", "one"] {
            let value = site.rotate(name);
            expected += &format!("run {name}\n");
            eventually("a run", || runs() == expected);
            assert_eq!(site.read(name), Some(value));
        }
        watching.signal("TERM");
        assert_eq!(watching.ended().code(), Some(0));
        let said = std::fs::read_to_string(said).unwrap();
        canary::record("watch-stderr", &said);
        assert_eq!(said.matches("is not reported").count(), 1, "{said}");
        // One that writes once fails, and the program runs all the same.
        site.rotate("one");
        let mut once = site.azure.akvfs(&["sync", &source, dir.to_str().unwrap(), "--json"]);
        once.args(["--on-change", "/bin/sh", "--", "-c", LINE]).arg(&told);
        once.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert_eq!(once.status().unwrap().code(), Some(1));
        assert_eq!(runs(), expected + "run one\n");
    }
}

network_test! {
    fn watchers_of_a_sync_see_what_kubelet_shows_them() {
        let site = Site::new();
        let _watching = site.watch(&[]);
        eventually("the first files", || site.read("two").is_some());
        let watcher = Watch::new(&site.dir());
        let value = site.rotate("one");
        eventually("the new value", || site.read("one").as_ref() == Some(&value));
        let mut events = Vec::new();
        eventually("the end of the rotation", || {
            events.extend(watcher.events());
            events.last().is_some_and(|last| last == "delete ..GENERATION/")
        });
        let expected = ["create ..GENERATION/", "attributes ..GENERATION/", "create ..data_tmp",
            "from ..data_tmp", "to ..data", "delete ..GENERATION/"];
        assert_eq!(events, expected);
    }
}

network_test! {
    fn a_watch_keeps_its_files_through_an_outage_and_takes_away_what_is_deleted() {
        let site = Site::new();
        let _watching = site.watch(&[]);
        eventually("files", || names(&site.dir()) == ["one", "two"]);
        let control = site.azure.emulator.control();
        control.always(Where::service(Service::Vault), Trouble::Status(503));
        let objects = || {
            let status = site.akvfs(&["status", "--json"]);
            assert_eq!(code(&status), 0, "{}", said(&status));
            parsed(&status)["served"][0]["objects"].clone()
        };
        eventually("an error in the status", || objects()[0]["error"]["code"] == "unavailable");
        let stale = objects();
        assert!(stale[0]["stale_since"].is_string() && stale[0]["version"].is_string(), "{stale}");
        assert_eq!((site.read("one"), site.read("two")), (Some(site.one.clone()), Some(site.two.clone())));
        control.clear_faults();
        eventually("no error", || objects()[0]["error"].is_null() && objects()[0]["stale_since"].is_null());

        control.delete(VAULT, ObjectKind::Secret, "two").unwrap();
        eventually("the file's end", || names(&site.dir()) == ["one"]);
        assert_eq!(objects()[1]["withdrawn"], "not_found");
        assert_eq!(site.read("one"), Some(site.one.clone()));
    }
}

network_test! {
    fn a_watch_of_a_history_shows_the_version_that_comes_with_those_before() {
        let site = Site::new();
        let path = site.class("class.yaml", &["one"]);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text + "          objectVersionHistory: 3\n").unwrap();
        let _watching = site.watch(&[]);
        let mut values = vec![site.one.clone()];
        for _ in 0..3 {
            let shown = || (0..4).map_while(|n| site.read(&format!("one/{n}"))).collect::<Vec<_>>();
            let newest: Vec<_> = values.iter().rev().take(3).cloned().collect();
            eventually("the versions that there are", || shown() == newest);
            values.push(site.rotate("one"));
        }
    }
}

network_test! {
    fn a_watch_whose_directory_is_replaced_says_so_and_writes_the_new_one() {
        let site = Site::new();
        let _watching = site.watch(&[]);
        eventually("files", || names(&site.dir()) == ["one", "two"]);
        // Two that write one directory would take each other's files away.
        assert_eq!(code(&site.sync(&[])), 1);
        let old = site.azure.path("old");
        std::fs::rename(site.dir(), &old).unwrap();
        std::fs::write(site.dir(), "a file").unwrap();
        let new = site.rotate("one");
        let error = || parsed(&site.akvfs(&["status", "--json"]))["served"][0]["error"].clone();
        eventually("an error in the status", || error().is_string());
        let dir = site.dir();
        let refreshed = site.akvfs(&["refresh", dir.to_str().unwrap()]);
        assert_eq!(code(&refreshed), 1, "{}", said(&refreshed));
        assert_eq!(std::fs::read_to_string(&dir).unwrap(), "a file");
        std::fs::remove_file(&dir).unwrap();
        eventually("the new value", || site.read("one").as_ref() == Some(&new));
        assert_eq!((site.read("two"), error()), (Some(site.two.clone()), Value::Null));
        assert_eq!(std::fs::read_to_string(old.join("one")).unwrap(), site.one);
    }
}

network_test! {
    fn a_watch_puts_back_what_somebody_changed_or_removed() {
        let site = Site::new();
        for layout in ["atomic", "flat"] {
            let watching = site.watch(&["--layout", layout]);
            let whole = || (site.read("one"), site.read("two"));
            let wanted = (Some(site.one.clone()), Some(site.two.clone()));
            eventually("files", || whole() == wanted);
            let spoil = || {
                std::fs::remove_file(site.file("one")).unwrap();
                std::fs::write(site.file("two"), "changed").unwrap();
            };
            spoil();
            eventually("what was there", || whole() == wanted);
            drop(watching);
            // Nobody looks by itself here, but when it is asked to.
            let watching = site.watch_every("1h", &["--layout", layout]);
            let status = || parsed(&site.akvfs(&["status", "--json"]))["served"].clone();
            eventually("a process", || status()[0]["objects"][1]["version"].is_string());
            spoil();
            let dir = site.dir();
            eventually("what was there", || {
                let refreshed = site.akvfs(&["refresh", dir.to_str().unwrap()]);
                assert_eq!(code(&refreshed), 0, "{}", said(&refreshed));
                whole() == wanted
            });
            drop(watching);
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
}

network_test! {
    fn a_watch_tells_what_a_failed_write_changed_though_the_directory_was_away_since() {
        let site = Site::new();
        let told = site.azure.path("told");
        let program = ["--on-change", "/bin/sh", "--", "-c", LINE, told.to_str().unwrap()];
        let _watching = site.watch(&[&["--layout", "flat"][..], &program].concat());
        let runs = || std::fs::read_to_string(&told).unwrap_or_default();
        eventually("the first run", || runs() == "run one two\n");
        let failed = |text: &str| {
            eventually(text, || {
                let status = parsed(&site.akvfs(&["status", "--json"]));
                status["served"][0]["error"].as_str().is_some_and(|error| error.contains(text))
            });
        };
        // A file that cannot be replaced, after one that can.
        let over = site.azure.path("over");
        std::fs::write(&over, "over").unwrap();
        run("mount", &["--bind", over.to_str().unwrap(), site.file("two").to_str().unwrap()]);
        failed("cannot replace");
        let new = site.rotate("one");
        eventually("the new value", || site.read("one").as_ref() == Some(&new));
        // The error stays, so it is the directory that says when that write has ended.
        let own = site.dir().join("..akvfs");
        eventually("the end of the write", || names(&own) == ["ledger.json"]);
        let (dir, away) = (site.dir(), site.azure.path("away"));
        let exchange = || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, &dir, CWD, &away, RenameFlags::EXCHANGE).unwrap();
        };
        std::fs::write(&away, "a file").unwrap();
        exchange();
        failed("is a symbolic link, or no directory");
        run("umount", &[away.join("two").to_str().unwrap()]);
        exchange();
        eventually("a run", || runs() == "run one two\nrun one\n");
        assert_eq!((site.read("one"), site.read("two")), (Some(new), Some(site.two.clone())));
    }
}

network_test! {
    fn a_watch_that_cannot_begin_ends_or_tries_again_as_it_is_told() {
        let site = Site::new();
        let control = site.azure.emulator.control();
        control.always(Where::vault(VAULT).path("/secrets/two"), Trouble::Status(404));
        let mut ends = site.watch(&[]);
        assert_eq!(ends.ended().code(), Some(1));
        let mut waits = site.watch(&["--retry"]);
        let served = || parsed(&site.akvfs(&["status", "--json"]))["served"].clone();
        eventually("an error in the status", || {
            served()[0]["objects"][1]["error"]["code"] == "not_found"
        });
        assert_eq!(names(&site.dir()), [""; 0]);
        control.clear_faults();
        eventually("files", || names(&site.dir()) == ["one", "two"]);
        waits.signal("INT");
        assert_eq!(waits.ended().code(), Some(0));
        // One that was to write once has failed when it is stopped.
        control.always(Where::vault(VAULT), Trouble::Hang);
        let (source, dir) = (site.source(), site.dir());
        let mut once =
            Watching::start(site.azure.akvfs(&["sync", &source, dir.to_str().unwrap()]));
        let before = control.requests().len();
        eventually("a request", || control.requests().len() > before);
        once.signal("TERM");
        assert_eq!(once.ended().code(), Some(1));
        control.clear_faults();
        // One that is still trying ends at once, and well.
        control.always(Where::vault(VAULT), Trouble::Hang);
        let mut waits = site.watch(&["--retry"]);
        eventually("a process", || served().as_array().unwrap().len() == 1);
        waits.signal("TERM");
        assert_eq!(waits.ended().code(), Some(0));
        assert_eq!(served(), json!([]));
    }
}
