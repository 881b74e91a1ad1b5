//! A vault in trouble behind a mounted tree: the real binary, TLS, and the emulator's faults.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use akvfs::class::ObjectKind::Secret;
use akvfs::emulator::{SYSTEM_IDENTITY, Service, Trouble, Verb, Where};

use crate::azure::Azure;
use crate::canary;
use crate::support::eventually;

const VAULT: &str = "akvfs-dev";
const TROUBLES: usize = 10;
const IO: i32 = libc::EIO;
/// What an open may take with its deadline of 2 s, on a busy machine.
const BOUNDED: Duration = Duration::from_secs(12);

fn class(objects: &[String]) -> String {
    let objects: String = objects
        .iter()
        .map(|name| {
            format!("        - |\n          objectName: {name}\n          objectType: secret\n")
        })
        .collect();
    format!(
        "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata:\n  name: faults\n\
         spec:\n  provider: azure\n  parameters:\n    useVMManagedIdentity: \"true\"\n    \
         keyvaultName: {VAULT}\n    tenantID: 7e7a7700-0000-4000-8000-00000000dead\n    objects: |\n      array:\n{objects}"
    )
}

/// The errno of an open that fails, in bounded time.
fn refused(path: &Path) -> Option<i32> {
    let begin = Instant::now();
    let result = fs::read(path);
    assert!(begin.elapsed() < BOUNDED, "an open took {:?}", begin.elapsed());
    result.err().and_then(|error| error.raw_os_error())
}

/// Each object is cold once, so each round has its own.
fn names(round: &str) -> (Vec<String>, [String; 3]) {
    let cold = (0..TROUBLES).map(|number| format!("{round}-cold-{number}")).collect();
    (cold, ["gone", "forbidden", "disabled"].map(|name| format!("{round}-{name}")))
}

fn troubles() -> [(&'static str, Trouble); TROUBLES] {
    [
        ("429 with a pause", Trouble::Throttle(Some(1))),
        ("429 with a pause beyond the deadline", Trouble::Throttle(Some(5))),
        ("429 without", Trouble::Throttle(None)),
        ("500", Trouble::Status(500)),
        ("503", Trouble::Status(503)),
        ("a cut body", Trouble::CutBody),
        ("a slow body", Trouble::SlowBody(Duration::from_secs(1))),
        ("a firewall", Trouble::Firewall),
        (
            "a page of HTML",
            Trouble::Answer {
                status: 200,
                content_type: "text/html".to_owned(),
                body: "<html>not a secret</html>".to_owned(),
            },
        ),
        ("a hang", Trouble::Hang),
    ]
}

network_test! {
    fn faults_give_the_last_good_bytes_or_their_errno() {
        let value = canary::value("cold");
        let azure = Azure::with(|config| {
            for round in ["root", "user"] {
                let (cold, answers) = names(round);
                for name in cold.iter().chain(&answers) {
                    config.seed = config.seed.clone().secret(name, &[value.as_str()]);
                }
            }
        });
        round(&azure, "root", &value, azure.value.clone());
        let warm = canary::value("warm for a user");
        azure.emulator.control().set_secret(VAULT, "secret1", warm.as_str()).unwrap();
        azure.as_a_plain_user(|| round(&azure, "user", &value, warm));
    }
}

fn round(azure: &Azure, round: &str, value: &str, value_of_warm: String) {
    let (cold, answers) = names(round);
    let [gone, forbidden, disabled] = &answers;
    let all: Vec<String> =
        cold.iter().chain(&answers).cloned().chain(["secret1".to_owned()]).collect();
    let (manifest, dir) = (azure.path(&format!("{round}.yaml")), azure.path(round));
    fs::write(&manifest, class(&all)).unwrap();
    fs::create_dir(&dir).unwrap();
    let place = dir.to_str().unwrap();
    let mount = [
        "mount",
        manifest.to_str().unwrap(),
        place,
        "--refresh-interval",
        "1s",
        "--open-timeout",
        "2s",
    ];
    let output = azure.output(&mount);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let control = azure.emulator.control();
    let warm = dir.join("secret1");
    assert_eq!(fs::read(&warm).unwrap(), value_of_warm.as_bytes());

    for ((what, trouble), name) in troubles().into_iter().zip(&cold) {
        control.always(Where::service(Service::Vault), trouble);
        let errno = refused(&dir.join(name));
        // The vault's firewall refuses, and says nothing of the object.
        let expected = if what == "a firewall" { libc::EACCES } else { IO };
        assert_eq!(errno, Some(expected), "{what}");
        // What was read once stays, whatever becomes of refreshes.
        assert_eq!(fs::read(&warm).unwrap(), value_of_warm.as_bytes(), "{what}");
        let size = fs::metadata(&warm).unwrap().len();
        assert_eq!(size, value_of_warm.len() as u64, "{what}");
        control.clear_faults();
        let begin = Instant::now();
        eventually(what, || fs::read(dir.join(name)).is_ok_and(|bytes| bytes == value.as_bytes()));
        eprintln!("{what}: readable {:?} after its end", begin.elapsed());
    }

    // Answers, not faults.
    control.delete(VAULT, Secret, gone).unwrap();
    assert_eq!(refused(&dir.join(gone)), Some(libc::ENOENT));
    control.enable(VAULT, Secret, disabled, "", false).unwrap();
    assert_eq!(refused(&dir.join(disabled)), Some(libc::EACCES));
    control.permit(SYSTEM_IDENTITY, Secret, Verb::Get, false).unwrap();
    assert_eq!(refused(&dir.join(forbidden)), Some(libc::EACCES));
    control.permit(SYSTEM_IDENTITY, Secret, Verb::Get, true).unwrap();

    // A rotation at last: all this has not stopped the refreshes.
    let new = canary::value("rotated after faults");
    control.set_secret(VAULT, "secret1", new.as_str()).unwrap();
    eventually("the new value", || fs::read(&warm).is_ok_and(|bytes| bytes == new.as_bytes()));
    assert!(azure.output(&["unmount", place]).status.success());
}
