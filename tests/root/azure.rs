//! The real binary where everything is as on an Azure machine: the public cloud's names, port 443,
//! IMDS at 169.254.169.254. The emulator answers, in a network namespace of the test's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use akvfs::csi::client;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use akvfs::csi::proto::{MountRequest, MountResponse, VersionRequest};
use akvfs::emulator::{Config, Emulator, Names, Seed, USER_IDENTITY, WorkloadToken};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::canary;
use crate::support::{
    PLAIN_USER, end_with_thread, eventually, is_root, open_device_to_all, run, table,
};

const AKVFS: &str = env!("CARGO_BIN_EXE_akvfs");
const IMDS: &str = "169.254.169.254:80";

/// The program at a place that everybody can reach.
const FOR_ALL: &str = "akvfs";

/// Takes root's rights from this thread, for ever.
fn as_user(user: u32, body: impl FnOnce()) {
    // The library's calls are for all threads of the process, the kernel's for the one that calls.
    // SAFETY: three system calls without pointers that are followed.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()),
            libc::syscall(libc::SYS_setresgid, user, user, user),
            libc::syscall(libc::SYS_setresuid, user, user, user),
        ]
    };
    assert_eq!(results, [0; 3]);
    body();
}

/// The namespace's Azure.
pub struct Azure {
    pub runtime: Runtime,
    pub emulator: Emulator,
    dir: tempfile::TempDir,
    /// Of `secret1`.
    pub value: String,
}

impl Azure {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With an emulator that differs.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["address", "replace", "169.254.169.254/32", "dev", "lo"]);
        canary::capture_logs();
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        let names = "127.0.0.1 localhost login.microsoftonline.com akvfs-dev.vault.azure.net\n";
        std::fs::write(&hosts, names).unwrap();
        // Nothing can be mounted on a file of a machine before this one, which is gone.
        for _ in table(Path::new("/etc/hosts")) {
            run("umount", &["/etc/hosts"]);
        }
        run("mount", &["--bind", hosts.to_str().unwrap(), "/etc/hosts"]);
        let value = canary::value("secret1");
        let seed = Seed::default_seed().unwrap().secret("secret1", &["an older value", &value]);
        let mut config = Config {
            seed,
            https: "127.0.0.1:443".parse().unwrap(),
            imds: IMDS.parse().unwrap(),
            nmi: "127.0.0.1:2579".parse().unwrap(),
            names: Names::AzurePublic,
            ..Config::default()
        };
        change(&mut config);
        let runtime = Runtime::new().unwrap();
        let emulator = runtime.block_on(Emulator::start(config)).unwrap();
        canary::note("client secret", emulator.service_principal().1.expose());
        std::fs::write(dir.path().join("ca.pem"), emulator.ca_pem()).unwrap();
        Self { runtime, emulator, dir, value }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// akvfs as a node would run it: only the CA is ours. `AKVFS_TEST_BINARY` names another build of it.
    pub fn akvfs(&self, args: &[&str]) -> Command {
        let program = std::env::var_os("AKVFS_TEST_BINARY").unwrap_or_else(|| AKVFS.into());
        let mut command = Command::new(program);
        if !is_root() {
            command = Command::new(self.path(FOR_ALL));
            command.env("XDG_RUNTIME_DIR", self.path("run"));
        }
        command.args(args).env("SSL_CERT_FILE", self.path("ca.pem"));
        command
    }

    /// Does it once more as a plain user, who owns this machine's directory from then on: on a thread with
    /// that user's rights, and so are the programs that it starts.
    pub fn as_a_plain_user(&self, body: impl FnOnce() + Send) {
        open_device_to_all();
        canary::open_to_all();
        run("chmod", &["755", self.dir.path().to_str().unwrap()]);
        std::fs::create_dir_all(self.path("run")).unwrap();
        let owned = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        for path in owned.chain([self.dir.path().to_owned()]) {
            std::os::unix::fs::lchown(path, Some(PLAIN_USER), Some(PLAIN_USER)).unwrap();
        }
        // The program may lie where users cannot go.
        std::fs::write(self.path(FOR_ALL), "").unwrap();
        run("mount", &["--bind", AKVFS, self.path(FOR_ALL).to_str().unwrap()]);
        let done = std::thread::scope(|scope| scope.spawn(|| as_user(PLAIN_USER, body)).join());
        run("umount", &["--lazy", self.path(FOR_ALL).to_str().unwrap()]);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    }

    pub fn output(&self, args: &[&str]) -> Output {
        let output = self.akvfs(args).output().unwrap();
        canary::record("akvfs-stderr", &String::from_utf8_lossy(&output.stderr));
        output
    }

    fn provider(&self) -> Provider {
        self.provider_with(&[])
    }

    pub fn provider_with(&self, extra: &[&str]) -> Provider {
        let socket = self.path("azure.sock");
        let endpoint = format!("--endpoint=unix://{}", socket.display());
        // As upstream's DaemonSet has it, and as loud as it gets.
        let args = [
            &endpoint,
            "--construct-pem-chain=true",
            "--healthz-port=8989",
            "--healthz-path=/healthz",
            "--healthz-timeout=5s",
            "-v=5",
            "-log-format-json",
        ];
        let mut command = self.akvfs(&args);
        command.args(extra);
        Provider::start(command, socket)
    }

    /// Attributes of the classic documentation's pod.
    pub fn attributes(&self, class: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut attributes: BTreeMap<String, String> =
            class.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        for (key, value) in [
            ("csi.storage.k8s.io/pod.name", "busybox"),
            ("csi.storage.k8s.io/pod.namespace", "default"),
            ("csi.storage.k8s.io/pod.uid", "5e1f"),
            ("csi.storage.k8s.io/serviceAccount.name", "app"),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("secretProviderClass", "azure-kv"),
            ("keyvaultName", "akvfs-dev"),
            ("cloudName", ""),
            ("objects", OBJECTS),
        ] {
            attributes.insert(key.to_owned(), value.to_owned());
        }
        attributes
    }

    pub fn mount(&self, provider: &Provider, attributes: &Value, secrets: &Value) -> MountResponse {
        self.mount_at(&provider.socket, attributes, secrets)
    }

    pub fn mount_at(&self, socket: &Path, attributes: &Value, secrets: &Value) -> MountResponse {
        let request = MountRequest {
            attributes: attributes.to_string(),
            secrets: secrets.to_string(),
            target_path: "/var/lib/kubelet/pods/5e1f/volumes/kubernetes.io~csi/v/mount".to_owned(),
            permission: "420".to_owned(),
            current_object_version: Vec::new(),
        };
        self.runtime.block_on(async {
            let channel = client::connect(socket.to_owned()).await.unwrap();
            let mut driver = CsiDriverProviderClient::new(channel);
            let version = driver.version(VersionRequest { version: "v1alpha1".to_owned() }).await;
            assert_eq!(version.unwrap().into_inner().version, "v1alpha1");
            driver.mount(request).await.unwrap().into_inner()
        })
    }

    /// Mounts the class by FUSE and returns the bytes of its files.
    fn tree(&self, class: &str, options: &[&str]) -> Vec<(String, Vec<u8>)> {
        let (manifest, dir) = (self.path("class.yaml"), self.path("mnt"));
        std::fs::write(&manifest, class).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        let mut args = vec!["mount", manifest.to_str().unwrap(), dir.to_str().unwrap()];
        args.extend(options);
        let output = self.output(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut files: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".."))
            .map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap()))
            .collect();
        files.sort();
        assert!(self.output(&["unmount", dir.to_str().unwrap()]).status.success());
        files
    }
}

pub struct Provider {
    child: Child,
    pub socket: PathBuf,
}

impl Provider {
    /// Starts a command that serves this socket. It ends with this thread at the latest, which is the one
    /// that is to drop the provider: a watchdog kills tests without giving them time for that.
    pub fn start(mut command: Command, socket: PathBuf) -> Self {
        let child = end_with_thread(&mut command)
            .stdout(canary::emitted("provider-stdout"))
            .stderr(canary::emitted("provider-stderr"))
            .spawn()
            .unwrap();
        eventually("the provider's socket", || socket.exists());
        Self { child, socket }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        for what in ["cmdline", "environ"] {
            let shown = std::fs::read(format!("/proc/{}/{what}", self.child.id()));
            canary::record("provider-proc", &String::from_utf8_lossy(&shown.unwrap_or_default()));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `objects` as the classic pages write it.
const OBJECTS: &str = r#"
array:
  - |
    objectName: secret1
    objectType: secret
    objectVersion: ""
  - |
    objectName: key1
    objectAlias: KEY_1
    objectType: key
    objectVersion: ""
  - |
    objectName: pemcert1
    objectType: cert
"#;

/// The identity parts of the classic classes, with the client that must be seen at the vault.
const SYSTEM: &[(&str, &str)] = &[
    ("usePodIdentity", "false"),
    ("useVMManagedIdentity", "true"),
    ("userAssignedIdentityID", ""),
    ("resourceGroup", "rg"),
    ("subscriptionId", "00000000-0000-0000-0000-000000000000"),
    ("tenantId", "7e7a7700-0000-4000-8000-00000000dead"),
];
const USER: &[(&str, &str)] = &[
    ("usepodidentity", "false"),
    ("useVMManagedIdentity", "true"),
    ("userAssignedIdentityID", USER_IDENTITY),
    ("tenantID", "7e7a7700-0000-4000-8000-00000000dead"),
];
const PRINCIPAL: &[(&str, &str)] =
    &[("usePodIdentity", "false"), ("tenantID", "7e7a7700-0000-4000-8000-00000000dead")];

/// The same parameters as a manifest.
fn manifest(parameters: &[(&str, &str)]) -> String {
    let mut text = String::from(
        "apiVersion: secrets-store.csi.x-k8s.io/v1alpha1\nkind: SecretProviderClass\n\
         metadata:\n  name: azure-kv\nspec:\n  provider: azure\n  parameters:\n",
    );
    for (key, value) in parameters {
        text.push_str(&format!("    {key}: \"{value}\"\n"));
    }
    text.push_str("    keyvaultName: \"akvfs-dev\"\n    cloudName: \"\"\n    objects: |\n");
    OBJECTS.lines().for_each(|line| text.push_str(&format!("      {line}\n")));
    text
}

pub fn secret_file(path: &Path, value: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(0o600).open(path);
    std::io::Write::write_all(&mut file.unwrap(), value).unwrap();
}

network_test! {
    fn the_classic_classes_work_unchanged_through_mount_and_as_a_tree() {
        let azure = Azure::new();
        let provider = azure.provider();
        let (client_id, client_secret) = azure.emulator.service_principal();
        let client_secret = client_secret.expose_str().unwrap();
        let token = azure.emulator.workload_token(&WorkloadToken::default()).unwrap();
        canary::note("service account token", token.expose());
        let workload_id = azure.emulator.workload_client_id();
        let workload = [("clientID", workload_id), ("tenantID", azure.emulator.tenant())];

        std::fs::create_dir(azure.path("secrets")).unwrap();
        secret_file(&azure.path("secrets/clientid"), client_id.as_bytes());
        secret_file(&azure.path("secrets/clientsecret"), client_secret.as_bytes());
        secret_file(&azure.path("token"), token.expose());
        let (secrets, token_file) = (azure.path("secrets"), azure.path("token"));

        let principal = json!({"clientid": client_id, "clientsecret": client_secret});
        let tokens = json!({"api://AzureADTokenExchange": {
            "token": token.expose_str().unwrap(), "expirationTimestamp": "2030-01-01T00:00:00Z"}});
        for (class, secrets, options) in [
            (SYSTEM, Value::Null, vec![]),
            (USER, Value::Null, vec![]),
            (PRINCIPAL, principal, vec!["--secrets-file", secrets.to_str().unwrap()]),
            (&workload[..], Value::Null, vec!["--token-file", token_file.to_str().unwrap()]),
        ] {
            let mut attributes = azure.attributes(class);
            attributes
                .insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens.to_string());
            let response = azure.mount(&provider, &json!(attributes), &secrets);
            let mut files: Vec<_> = response
                .files
                .iter()
                .map(|file| (file.path.clone(), file.contents.clone()))
                .collect();
            files.sort();
            let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["KEY_1", "pemcert1", "secret1"], "{class:?}");
            assert_eq!(files[2].1, azure.value.as_bytes(), "{class:?}");
            assert!(files[0].1.starts_with(b"-----BEGIN PUBLIC KEY-----\n"), "{class:?}");
            assert_eq!(azure.tree(&manifest(class), &options), files, "{class:?}");
        }
        // Each mode got its own token from its own service.
        let tokens = azure.emulator.control().counters().tokens;
        let modes: Vec<_> = tokens.keys().copied().collect();
        assert_eq!(modes, ["managed", "service-principal", "workload"]);
    }
}

network_test! {
    fn get_and_check_read_a_real_vault_by_its_url() {
        let azure = Azure::new();
        let url = "https://akvfs-dev.vault.azure.net";
        let got = azure.output(&["get", "--identity", "managed", url, "secret1"]);
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        assert_eq!(got.stdout, azure.value.as_bytes());
        let checked = azure.output(&["check", &format!("{url}/certificates")]);
        let report = String::from_utf8(checked.stdout).unwrap();
        canary::record("check-stdout", &report);
        assert!(checked.status.success(), "{report}");
        assert!(report.contains("certificates/pemcert1"), "{report}");
        let checked = azure.output(&["check", "--json", &format!("{url}/keys")]);
        let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
        canary::record("check-stdout", &report.to_string());
        let disabled = report.as_array().unwrap().iter().find(|row| row["file"] == "keys/disabled-key");
        // Disabled objects are not listed, so they are no names either.
        assert!(disabled.is_none() && checked.status.success(), "{report}");
    }
}

network_test! {
    fn a_whole_vault_is_mounted_by_its_url() {
        let azure = Azure::new();
        let dir = azure.path("vault");
        std::fs::create_dir(&dir).unwrap();
        let place = dir.to_str().unwrap();
        let url = "https://akvfs-dev.vault.azure.net/";
        let output = azure.output(&["mount", "--identity", "managed", url, place]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let control = azure.emulator.control();
        let names = |collection: &str| std::fs::read_dir(dir.join(collection)).unwrap().count();
        // More than one page of secrets; disabled ones are no names.
        assert!(names("secrets") > 25 && names("keys") >= 4 && names("certificates") >= 5);
        assert!(!dir.join("secrets/disabled").exists());
        assert_eq!(control.counters().all_reads(), 0);
        assert_eq!(std::fs::read(dir.join("secrets/secret1")).unwrap(), azure.value.as_bytes());
        assert_eq!(control.counters().all_reads(), 1);
        let key = std::fs::read(dir.join("keys/ec-p256")).unwrap();
        assert!(key.starts_with(b"-----BEGIN PUBLIC KEY-----"));
        assert!(azure.output(&["unmount", place]).status.success());
    }
}

network_test! {
    fn without_imds_or_a_vault_the_error_names_the_hop_and_the_fix() {
        let azure = Azure::new();
        let url = "https://akvfs-dev.vault.azure.net";
        let said = |args: &[&str]| {
            let output = azure.output(args);
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8(output.stderr).unwrap()
        };
        let unknown = said(&["get", "https://no-such-vault.vault.azure.net", "x"]);
        assert!(unknown.contains("the name cannot be resolved"), "{unknown}");
        run("ip", &["address", "del", "169.254.169.254/32", "dev", "lo"]);
        let managed = said(&["get", "--identity", "managed", url, "secret1"]);
        assert!(managed.contains("managed identity needs an Azure machine"), "{managed}");
        std::fs::create_dir(azure.path("secrets")).unwrap();
        secret_file(&azure.path("secrets/clientid"), b"id");
        secret_file(&azure.path("secrets/clientsecret"), canary::value("unused").as_bytes());
        let secrets = azure.path("secrets");
        let mut untrusted = azure.akvfs(&["get", "--identity", "service-principal"]);
        untrusted.args(["--tenant-id", "t", "--secrets-file"]).arg(secrets).args([url, "secret1"]);
        let output = untrusted.env_remove("SSL_CERT_FILE").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        canary::record("akvfs-stderr", &said);
        assert!(said.contains("TLS failed"), "{said}");
        assert!(said.contains("SSL_CERT_FILE"), "{said}");
    }
}

network_test! {
    fn the_provider_stops_cleanly_while_a_mount_runs() {
        use akvfs::emulator::{Service, Trouble, Where};
        let azure = Azure::new();
        let mut provider = azure.provider();
        let slow = Trouble::Delay(Duration::from_millis(500));
        azure.emulator.control().always(Where::service(Service::Vault), slow);
        let attributes = json!(azure.attributes(SYSTEM));
        let pid = provider.child.id().to_string();
        let response = std::thread::scope(|scope| {
            scope.spawn(|| {
                let asked = || azure.emulator.control().counters().vault_requests > 0;
                eventually("the vault is being asked", asked);
                run("kill", &["-TERM", &pid]);
            });
            azure.mount(&provider, &attributes, &Value::Null)
        });
        assert_eq!(response.files.len(), 3);
        let mut status = None;
        eventually("the provider's end", || {
            status = provider.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success());
    }
}
