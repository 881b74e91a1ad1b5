//! Separate certificate and key files: the provider's flag, and the same on the command line.

use serde_json::{Value, json};

use crate::azure::Azure;
use crate::canary;

const OBJECTS: &str = "array:
  - |
    objectName: pemcert1
    objectType: secret
    objectAlias: web/tls
  - |
    objectName: secret1
    objectType: secret
";

network_test! {
    fn the_flag_splits_certificates_of_a_mount_of_a_tree_and_of_get() {
        let azure = Azure::new();
        const FLAG: &str = "--write-cert-and-key-in-separate-files";
        let parameters = [
            ("useVMManagedIdentity", "true"),
            ("tenantID", "7e7a7700-0000-4000-8000-00000000dead"),
        ];
        let provider = azure.provider_with(&["-write-cert-and-key-in-separate-files=true"]);
        let mut attributes = azure.attributes(&parameters);
        attributes.insert("objects".to_owned(), OBJECTS.to_owned());
        let response = azure.mount(&provider, &json!(attributes), &Value::Null);
        let paths: Vec<_> = response.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["web/tls.crt", "web/tls.key", "web/tls", "secret1"]);

        let class = azure.path("class.yaml");
        let mut text = String::from(
            "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\n\
             metadata: {name: web}\nspec:\n  provider: azure\n  parameters:\n\
             \x20   keyvaultName: akvfs-dev\n    objects: |\n",
        );
        OBJECTS.lines().for_each(|line| text.push_str(&format!("      {line}\n")));
        parameters.iter().for_each(|(key, value)| text.push_str(&format!("    {key}: \"{value}\"\n")));
        std::fs::write(&class, text).unwrap();
        let dir = azure.path("mnt");
        std::fs::create_dir(&dir).unwrap();
        let (class, place) = (class.to_str().unwrap(), dir.to_str().unwrap());
        let output = azure.output(&["mount", FLAG, class, place]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let requests = azure.emulator.control().counters().all_reads();
        for file in &response.files {
            assert_eq!(std::fs::read(dir.join(&file.path)).unwrap(), file.contents, "{}", file.path);
            let got = azure.output(&["get", FLAG, class, &file.path]);
            assert_eq!(got.stdout, file.contents, "{}", file.path);
        }
        assert_eq!(std::fs::read_dir(dir.join("web")).unwrap().count(), 3);
        assert!(std::fs::metadata(dir.join("secret1.key")).is_err());
        // Four of get; the tree had fetched what its names depend on.
        assert_eq!(azure.emulator.control().counters().all_reads(), requests + 4);
        assert!(azure.output(&["unmount", place]).status.success());

        let named = azure.output(&["get", FLAG, class, "pemcert1"]);
        assert_eq!(named.stdout, response.files[2].contents, "an object's name is its own file");
        let none = azure.output(&["get", FLAG, class, "secret1.key"]);
        let said = String::from_utf8(none.stderr).unwrap();
        assert!(none.stdout.is_empty() && said.contains("no such file"), "{said}");
        let report = String::from_utf8(azure.output(&["check", FLAG, class]).stdout).unwrap();
        canary::record("check-stdout", &report);
        for file in &response.files {
            assert!(report.contains(&format!("\n{} ", file.path)), "{report}");
        }
        let vault = azure.output(&["mount", FLAG, "https://akvfs-dev.vault.azure.net", place]);
        let said = String::from_utf8(vault.stderr).unwrap();
        assert!(!vault.status.success() && said.contains("needs a class"), "{said}");
    }
}
