//! A cloud of one's own without the public one: the real binary in a network where only the custom
//! cloud's names exist, and where a resolver writes down whatever else is asked for.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use akvfs::csi::client;
use akvfs::csi::proto::MountRequest;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::emulator::{Config, Emulator, Names, Seed, WorkloadToken};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::canary;
use crate::support::{eventually, run};

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");
const VAULT: &str = "akvfs-dev.vault.akvfs.test";
const LOGIN: &str = "login.akvfs.test";
const PUBLIC: &str = "login.microsoftonline.com";

/// The namespace's resolver: knows nothing, and remembers what it was asked.
#[derive(Clone, Default)]
struct Resolver(Arc<Mutex<Vec<String>>>);

impl Resolver {
    fn start() -> Self {
        let resolver = Self::default();
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        let asked = resolver.clone();
        // Ends with the process, which is the test's own.
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let query = &mut packet[..length];
                asked.0.lock().unwrap().push(name(query));
                // An answer with the code "no such name".
                (query[2], query[3]) = (0x81, 0x83);
                let _ = socket.send_to(query, from);
            }
        });
        resolver
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The name of a query's question.
fn name(query: &[u8]) -> String {
    let (mut labels, mut rest) = (Vec::new(), &query[12..]);
    while let Some((length @ 1.., tail)) = rest.split_first().map(|(length, tail)| (*length, tail))
    {
        let (label, tail) = tail.split_at(length.into());
        labels.push(String::from_utf8_lossy(label).into_owned());
        rest = tail;
    }
    labels.join(".")
}

fn bind_mount(dir: &Path, name: &str, text: &str) {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    run("mount", &["--bind", file.to_str().unwrap(), &format!("/etc/{name}")]);
}

pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

network_test! {
    fn a_custom_cloud_works_where_no_public_name_exists() {
        canary::capture_logs();
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["address", "add", "169.254.169.254/32", "dev", "lo"]);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        bind_mount(dir.path(), "hosts", &format!("127.0.0.1 localhost {LOGIN} {VAULT}\n"));
        bind_mount(dir.path(), "resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
        bind_mount(dir.path(), "nsswitch.conf", "hosts: files dns\n");
        let resolver = Resolver::start();

        let value = canary::value("airgapped");
        let config = Config {
            seed: Seed::default().secret("secret1", &[&value]),
            https: "127.0.0.1:443".parse().unwrap(),
            imds: "169.254.169.254:80".parse().unwrap(),
            names: Names::Akvfs,
            ..Config::default()
        };
        let runtime = Runtime::new().unwrap();
        let emulator = runtime.block_on(Emulator::start(config)).unwrap();
        std::fs::write(path("ca.pem"), emulator.ca_pem()).unwrap();
        let cloud = json!({
            "name": "AzureStackCloud",
            "activeDirectoryEndpoint": format!("https://{LOGIN}/"),
            "keyVaultEndpoint": "https://vault.akvfs.test/",
            "keyVaultDNSSuffix": "vault.akvfs.test",
            // As such files have them; nothing may come of it.
            "managementPortalURL": "https://portal.azure.com/",
            "resourceManagerEndpoint": "https://management.azure.com/",
            "galleryEndpoint": "https://gallery.azure.com/",
        });
        std::fs::write(path("cloud.json"), cloud.to_string()).unwrap();
        let akvfs = || {
            let mut command = Command::new(AKVFS);
            command.env("SSL_CERT_FILE", path("ca.pem"));
            command.env("AZURE_ENVIRONMENT_FILEPATH", path("cloud.json"));
            command
        };

        let socket = dir.path().join("azure.sock");
        let provider = akvfs()
            .arg(format!("--endpoint=unix://{}", socket.display()))
            .args(["-v=5", "--healthz-port=0", "--prometheus-port=0", "--cloud-name=AzureStackCloud"])
            .args(["--cloud-env-dir", dir.path().to_str().unwrap()])
            .stdout(canary::emitted("provider-stdout"))
            .stderr(canary::emitted("provider-stderr"))
            .spawn()
            .unwrap();
        let _provider = Killed(provider);
        eventually("the provider's socket", || socket.exists());

        let (client_id, client_secret) = emulator.service_principal();
        canary::note("client secret", client_secret.expose());
        let principal =
            json!({"clientid": client_id, "clientsecret": client_secret.expose_str().unwrap()});
        let token = emulator.workload_token(&WorkloadToken::default()).unwrap();
        canary::note("service account token", token.expose());
        let tokens = json!({"api://AzureADTokenExchange": {"token": token.expose_str().unwrap()}});
        let workload = emulator.workload_client_id();
        // The operator's cloud, and the class's own file; every identity that needs no other service.
        for file in ["", "cloud.json"] {
            for (class, secrets) in [
                (json!({"tenantID": emulator.tenant()}), principal.clone()),
                (json!({"tenantID": emulator.tenant(), "clientID": workload}), Value::Null),
                (json!({"tenantID": "any", "useVMManagedIdentity": "true"}), Value::Null),
            ] {
                let mut attributes = class.clone();
                for (key, value) in [
                    ("csi.storage.k8s.io/pod.name", "app-0"),
                    ("csi.storage.k8s.io/pod.namespace", "default"),
                    ("csi.storage.k8s.io/serviceAccount.tokens", tokens.to_string().as_str()),
                    ("keyvaultName", "akvfs-dev"),
                    ("cloudName", if file.is_empty() { "" } else { "AzureStackCloud" }),
                    ("cloudEnvFileName", file),
                    ("objects", "array:\n- |\n  objectName: secret1\n  objectType: secret\n"),
                ] {
                    attributes[key] = value.into();
                }
                let request = MountRequest {
                    attributes: attributes.to_string(),
                    secrets: secrets.to_string(),
                    target_path: "/target".to_owned(),
                    permission: "420".to_owned(),
                    current_object_version: Vec::new(),
                };
                let response = runtime.block_on(async {
                    let channel = client::connect(socket.clone()).await.unwrap();
                    CsiDriverProviderClient::new(channel).mount(request).await
                });
                let files = response.unwrap_or_else(|status| panic!("{class}: {status}"));
                assert_eq!(files.into_inner().files[0].contents, value.as_bytes(), "{class}");
            }
        }

        // The same class on a machine of that cloud.
        let manifest = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\n\
            metadata: {name: azure-kv}\nspec:\n  provider: azure\n  parameters:\n    \
            useVMManagedIdentity: \"true\"\n    keyvaultName: akvfs-dev\n    tenantID: any\n    \
            cloudName: AzureStackCloud\n    objects: |\n      array:\n      - |\n        \
            objectName: secret1\n        objectType: secret\n";
        std::fs::write(path("class.yaml"), manifest).unwrap();
        let checked = akvfs().args(["check", &path("class.yaml")]).output().unwrap();
        canary::record("akvfs-check", &format!("{checked:?}"));
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

        // Nobody else was asked, not even for an address.
        let hosts: Vec<_> =
            emulator.control().requests().into_iter().map(|request| request.host).collect();
        let known = [VAULT, LOGIN, "169.254.169.254"];
        assert!(hosts.iter().all(|host| known.contains(&host.as_str())), "{hosts:?}");
        known.iter().for_each(|host| assert!(hosts.iter().any(|asked| asked == host), "{host}"));
        assert_eq!(resolver.asked(), Vec::<String>::new());
        // And it would have been noticed.
        let found = Command::new("getent").args(["hosts", PUBLIC]).output().unwrap();
        assert!(!found.status.success());
        assert!(resolver.asked().iter().any(|name| name == PUBLIC), "{:?}", resolver.asked());
    }
}
