//! Mounts of many pods: no two of them are equal.

use std::collections::BTreeMap;
use std::time::Duration;

use akvfs::class::ObjectKind;
use akvfs::csi::proto::{MountRequest, MountResponse};
use akvfs::emulator::{Verb, WorkloadToken};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::azure::Azure;
use crate::canary;

pub const VAULT: &str = "akvfs-dev";
/// A client that may read nothing.
const FORBIDDEN: &str = "f0b1dde0-0000-4000-8000-00000000dead";

/// A Mount to be: attributes and secrets, of a pod with this number.
pub struct Pod {
    number: usize,
    attributes: BTreeMap<String, String>,
    secrets: Value,
}

impl Pod {
    /// One that asks for these secrets with no identity yet.
    pub fn new(azure: &Azure, number: usize, secrets: impl IntoIterator<Item = String>) -> Self {
        let entry = |name| format!("  - |\n    objectName: {name}\n    objectType: secret\n");
        let objects: String = secrets.into_iter().map(entry).collect();
        let mut pod = Self { number, attributes: BTreeMap::new(), secrets: Value::Null };
        let name = format!("pod-{number}");
        for (key, value) in [
            ("csi.storage.k8s.io/pod.name", name.as_str()),
            ("csi.storage.k8s.io/pod.namespace", &format!("space-{}", number % 50)),
            ("csi.storage.k8s.io/pod.uid", &format!("{number:08x}-5e1f")),
            ("csi.storage.k8s.io/serviceAccount.name", "app"),
            ("keyvaultName", VAULT),
            ("tenantID", azure.emulator.tenant()),
            ("objects", &format!("array:\n{objects}")),
        ] {
            pod.set(key, value);
        }
        pod
    }

    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.attributes.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn principal(&mut self, client: &str, secret: &str) -> &mut Self {
        self.secrets = json!({"clientid": client, "clientsecret": secret});
        self
    }

    pub fn workload(&mut self, client: &str, token: &str) -> &mut Self {
        let tokens = json!({"api://AzureADTokenExchange": {"token": token}});
        self.set("clientID", client);
        self.set("csi.storage.k8s.io/serviceAccount.tokens", &tokens.to_string())
    }

    pub fn call(&self, expected: Expected) -> Call {
        let target = format!(
            "/var/lib/kubelet/pods/{:08x}-5e1f/volumes/kubernetes.io~csi/v/mount",
            self.number
        );
        let request = MountRequest {
            attributes: json!(self.attributes).to_string(),
            secrets: self.secrets.to_string(),
            target_path: target,
            permission: "420".to_owned(),
            current_object_version: Vec::new(),
        };
        Call { request, expected }
    }
}

/// A Mount, and what must come of it.
pub struct Call {
    pub request: MountRequest,
    pub expected: Expected,
}

pub enum Expected {
    Refusal(Code),
    /// So many files, and the last one's bytes.
    Files(usize, String),
    /// No files, since they are written already, and so many objects.
    Written(usize),
}

impl Expected {
    pub fn check(&self, outcome: Result<MountResponse, Status>) {
        match (self, outcome) {
            (Expected::Refusal(code), Err(status)) => assert_eq!(status.code(), *code, "{status}"),
            (Expected::Files(count, last), Ok(response)) => {
                assert_eq!(response.files.len(), *count);
                assert!(response.files[count - 1].contents == last.as_bytes());
            }
            (Expected::Written(count), Ok(response)) => {
                assert_eq!((response.files.len(), response.object_version.len()), (0, *count));
            }
            (Expected::Refusal(code), Ok(_)) => panic!("mounted instead of {code:?}"),
            (Expected::Files(..) | Expected::Written(_), Err(status)) => {
                panic!("refused: {status}")
            }
        }
    }
}

/// A client id of its own for each number.
pub fn client(number: usize) -> String {
    format!("{number:08x}-50a4-4000-8000-00000000dead")
}

/// A client id that nobody has.
fn nobody(number: usize) -> String {
    format!("{number:08x}-50a4-4000-8000-000000000000")
}

/// Pods whose Mounts are refused, each in one of many ways.
pub struct Strangers<'a> {
    azure: &'a Azure,
    secret: String,
    wrong: String,
    token: String,
}

impl<'a> Strangers<'a> {
    pub fn new(azure: &'a Azure) -> Self {
        let control = azure.emulator.control();
        let secret = canary::value("forbidden-client");
        control.add_client(FORBIDDEN, Some(secret.as_str().into()), &[]);
        control.permit(FORBIDDEN, ObjectKind::Secret, Verb::Get, false).unwrap();
        let token = azure.emulator.workload_token(&WorkloadToken::default()).unwrap();
        canary::note("service account token", token.expose());
        let token = token.expose_str().unwrap().to_owned();
        Self { azure, secret, wrong: canary::value("wrong-secret"), token }
    }

    /// The Mount of this number.
    pub fn call(&self, number: usize) -> Call {
        let (id, good) = self.azure.emulator.service_principal();
        let good = good.expose_str().unwrap();
        let mut pod = Pod::new(self.azure, number, [format!("none-{number}")]);
        pod.principal(id, good);
        let wrong = format!("{}/{number}", self.wrong);
        // Rare ones first: a name that cannot be resolved takes long, and a large request is large.
        let sort = match number % 100 {
            50 => 100,
            51 => 101,
            _ => number % 16,
        };
        let code = match sort {
            100 => {
                pod.set("keyvaultName", &format!("kv-{number}"));
                Code::Internal
            }
            101 => {
                pod.set("padding", &"x".repeat(1024 * 1024));
                Code::InvalidArgument
            }
            0 => {
                pod.set("objects", &format!("array:\n  - |\n    objectName: [{number}"));
                Code::InvalidArgument
            }
            1 => {
                pod.set("objects", &format!("array:\n  - |\n    objectName: ../{number}\n"));
                Code::InvalidArgument
            }
            2 => {
                pod.set("keyvaultName", &format!("evil.example/{number}"));
                Code::InvalidArgument
            }
            3 => {
                pod.set("tenantID", &format!("../{number}?{}", "t".repeat(number % 200)));
                Code::InvalidArgument
            }
            4 => {
                pod.set("cloudName", &format!("Cloud{number}"));
                Code::InvalidArgument
            }
            5 => {
                pod.principal(id, &wrong);
                Code::PermissionDenied
            }
            6 => {
                pod.principal(&nobody(number), &wrong);
                Code::PermissionDenied
            }
            7 => {
                pod.set("tenantID", &format!("{number:08x}-7e7a-4000-8000-000000000000"));
                Code::PermissionDenied
            }
            8 => {
                let ended = WorkloadToken { lifetime: None, ..WorkloadToken::default() };
                let token = self.azure.emulator.workload_token(&ended).unwrap();
                let client = self.azure.emulator.workload_client_id();
                pod.workload(client, token.expose_str().unwrap());
                Code::PermissionDenied
            }
            9 => {
                let soon = Some(Duration::from_secs(600 + number as u64));
                let forged =
                    WorkloadToken { lifetime: soon, forged: true, ..WorkloadToken::default() };
                let token = self.azure.emulator.workload_token(&forged).unwrap();
                let client = self.azure.emulator.workload_client_id();
                pod.workload(client, token.expose_str().unwrap());
                Code::PermissionDenied
            }
            10 => {
                pod.workload(&nobody(number), &self.token);
                Code::PermissionDenied
            }
            11 => {
                pod.set("useVMManagedIdentity", "true");
                pod.set("userAssignedIdentityID", &nobody(number));
                Code::FailedPrecondition
            }
            12 => {
                pod.set("usePodIdentity", "true");
                Code::FailedPrecondition
            }
            13 => {
                pod.principal(FORBIDDEN, &self.secret);
                Code::PermissionDenied
            }
            // Objects that are not there, in two vaults that are.
            _ => Code::NotFound,
        };
        pod.call(Expected::Refusal(code))
    }
}
