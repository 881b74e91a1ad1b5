//! Version histories on the command line: a tree, one of its files, and what would be mounted.

use std::path::PathBuf;

use akvfs::class::ObjectKind::Secret;
use akvfs::emulator::{SYSTEM_IDENTITY, Service, Trouble, Verb, Where};

use crate::azure::Azure;
use crate::canary;
use crate::support::{eventually, names};

const CLASS: &str = r#"
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: history
spec:
  provider: azure
  parameters:
    useVMManagedIdentity: "true"
    keyvaultName: akvfs-dev
    tenantID: 7e7a7700-0000-4000-8000-00000000dead
    objects: |
      array:
        - |
          objectName: secret1
          objectType: secret
          objectVersionHistory: 3
        - |
          objectName: api-token
          objectType: secret
"#;

/// A machine with the class's file, and a directory to mount at.
fn site() -> (Azure, PathBuf, PathBuf) {
    let azure = Azure::new();
    let (class, dir) = (azure.path("class.yaml"), azure.path("mnt"));
    std::fs::write(&class, CLASS).unwrap();
    std::fs::create_dir(&dir).unwrap();
    (azure, class, dir)
}

network_test! {
    fn a_tree_follows_the_versions_of_its_vault() {
        let (azure, class, dir) = site();
        let (class, place) = (class.to_str().unwrap(), dir.to_str().unwrap());
        let control = azure.emulator.control();

        control.permit(SYSTEM_IDENTITY, Secret, Verb::List, false).unwrap();
        let refused = azure.output(&["mount", class, place]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains("objectVersionHistory"), "{said}");
        assert!(said.contains("Key Vault Secrets User"), "{said}");
        assert!(names(&dir).is_empty());
        control.permit(SYSTEM_IDENTITY, Secret, Verb::List, true).unwrap();

        let output = azure.output(&["mount", class, place, "--refresh-interval", "1s"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let folder = dir.join("secret1");
        assert_eq!(names(&folder), ["0", "1"]);
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        assert_eq!((read("0"), read("1")), (azure.value.clone().into(), b"an older value".into()));
        assert!(std::fs::metadata(folder.join("2")).is_err());

        let new = canary::value("rotated");
        control.set_secret("akvfs-dev", "secret1", new.as_str()).unwrap();
        eventually("the new version", || names(&folder).len() == 3);
        let expected = (new.clone().into(), azure.value.clone().into(), b"an older value".into());
        assert_eq!((read("0"), read("1"), read("2")), expected);
        // The newest of all is disabled, and the others move up.
        control.enable("akvfs-dev", Secret, "secret1", "", false).unwrap();
        eventually("the disabled one to go", || names(&folder).len() == 2);
        // Its bytes go first, and then the names move.
        eventually("the others to move up", || {
            std::fs::read(folder.join("0")).is_ok_and(|value| value == azure.value.as_bytes())
        });
        assert!(azure.output(&["unmount", place]).status.success());

        for (name, value) in [
            ("secret1/1", b"an older value".as_slice()),
            ("secret1/0", azure.value.as_bytes()),
            ("secret1", azure.value.as_bytes()),
        ] {
            assert_eq!(azure.output(&["get", class, name]).stdout, value, "{name}");
        }
        let none = azure.output(&["get", class, "secret1/2"]);
        let said = String::from_utf8(none.stderr).unwrap();
        assert!(said.contains("only 2 versions of the history are there"), "{said}");
        let report = String::from_utf8(azure.output(&["check", class]).stdout).unwrap();
        canary::record("check-stdout", &report);
        for row in ["secret1/0  secret/secret1/0  ", "secret1/1  secret/secret1/1  ", "api-token  "] {
            assert!(report.contains(row), "{report}");
        }
    }
}

network_test! {
    fn an_eager_tree_shows_no_version_that_is_not_fetched() {
        let (azure, class, dir) = site();
        let (class, place) = (class.to_str().unwrap(), dir.to_str().unwrap());
        let control = azure.emulator.control();
        let oldest = control.versions("akvfs-dev", Secret, "secret1")[0].clone();
        control.enable("akvfs-dev", Secret, "secret1", &oldest, false).unwrap();
        let eager = ["mount", "--fetch", "eager", class, place, "--refresh-interval", "1s"];
        let output = azure.output(&eager);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let folder = dir.join("secret1");
        assert_eq!(names(&folder), ["0"]);
        control.enable("akvfs-dev", Secret, "secret1", &oldest, true).unwrap();
        eventually("the other version", || names(&folder).len() == 2);
        control.always(Where::service(Service::Vault), Trouble::Status(503));
        assert_eq!(std::fs::read(folder.join("1")).unwrap(), b"an older value");
        assert!(azure.output(&["unmount", place]).status.success());
    }
}
