//! The emulator at the public cloud's names, and the pods that ask for its objects.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use akvfs::csi::proto::MountRequest;
use akvfs::emulator::{
    Config, Control, Emulator, Names, Seed, Service, Trouble, WORKLOAD_CLIENT, Where, WorkloadToken,
};
use serde_json::json;

use super::Outcome;

pub const VAULT: &str = "akvfs-dev";
pub const HOSTS: [&str; 2] = ["login.microsoftonline.com", "akvfs-dev.vault.azure.net"];
/// Secrets in the vault: 100 pods with 10 of their own each.
pub const SECRETS: usize = 1000;
/// Of a usual secret.
const VALUE: usize = 350;

pub struct Azure {
    emulator: Emulator,
    pub http2: bool,
}

/// Who a pod is at Entra.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Each pod has its service account token, all for one client.
    Workload,
    /// One client with its secret, the same for all.
    Principal,
    /// A service account token that Entra refuses.
    Forged,
}

/// One Mount that kubelet asks for.
pub struct Pod {
    pub request: MountRequest,
    pub objects: usize,
}

impl Azure {
    pub async fn start(ca: &Path, http2: bool) -> Outcome<Self> {
        let value = "x".repeat(VALUE);
        let secret = |seed: Seed, n| seed.secret(&name(n), &[&value]);
        let config = Config {
            seed: (0..SECRETS).fold(Seed::default(), secret),
            https: ([127, 0, 0, 1], 443).into(),
            imds: ([169, 254, 169, 254], 80).into(),
            names: Names::AzurePublic,
            http2,
            ..Config::default()
        };
        let emulator = Emulator::start(config).await?;
        std::fs::write(ca, emulator.ca_pem())?;
        Ok(Self { emulator, http2 })
    }

    pub async fn stop(self) {
        self.emulator.shutdown().await;
    }

    pub fn control(&self) -> Control {
        self.emulator.control()
    }

    /// No faults but this latency of every service, and an empty log.
    pub fn calm(&self, latency: Duration) {
        let control = self.control();
        control.clear_faults();
        if !latency.is_zero() {
            for service in [Service::Vault, Service::Entra] {
                control.always(Where::service(service), Trouble::Delay(latency));
            }
        }
        control.reset_log();
    }

    /// Requests to vaults and token requests since the last [`Azure::calm`].
    pub fn requests(&self) -> (f64, f64) {
        let counters = self.control().counters();
        (counters.vault_requests as f64, counters.token_requests as f64)
    }

    pub fn secret_url(&self, number: usize) -> String {
        format!("{}/secrets/{}/?api-version=7.4", self.emulator.vault_url(), name(number))
    }

    /// An access token for the vault, got by no request.
    pub fn token(&self) -> Outcome<String> {
        let token = self.emulator.access_token(WORKLOAD_CLIENT)?;
        Ok(token.expose_str().unwrap_or_default().to_owned())
    }

    pub fn ca_pem(&self) -> &str {
        self.emulator.ca_pem()
    }

    /// A pod that wants so many objects, from this one on.
    pub fn pod(&self, id: usize, identity: Identity, first: usize, count: usize) -> Outcome<Pod> {
        let objects = (first..first + count).fold("array:\n".to_owned(), |mut text, number| {
            let _ =
                write!(text, "  - |\n    objectName: {}\n    objectType: secret\n", name(number));
            text
        });
        let uid = format!("00000000-0000-4000-8000-{id:012x}");
        let mut attributes = json!({
            "csi.storage.k8s.io/pod.name": format!("pod-{id}"),
            "csi.storage.k8s.io/pod.namespace": "default",
            "csi.storage.k8s.io/pod.uid": uid,
            "csi.storage.k8s.io/serviceAccount.name": "app",
            "csi.storage.k8s.io/ephemeral": "true",
            "secretProviderClass": "azure-kv",
            "usePodIdentity": "false",
            "keyvaultName": VAULT,
            "tenantID": self.emulator.tenant(),
            "objects": objects,
        });
        let mut secrets = json!({});
        if identity == Identity::Principal {
            let (client_id, secret) = self.emulator.service_principal();
            secrets = json!({"clientid": client_id, "clientsecret": secret.expose_str()});
        } else {
            let forged = identity == Identity::Forged;
            let wanted = WorkloadToken { forged, ..WorkloadToken::default() };
            let token = self.emulator.workload_token(&wanted)?;
            let tokens = json!({"api://AzureADTokenExchange": {
                "token": token.expose_str(), "expirationTimestamp": "2100-01-01T00:00:00Z"}});
            attributes["clientID"] = json!(WORKLOAD_CLIENT);
            attributes["csi.storage.k8s.io/serviceAccount.tokens"] = json!(tokens.to_string());
        }
        let request = MountRequest {
            attributes: attributes.to_string(),
            secrets: secrets.to_string(),
            target_path: format!(
                "/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/secrets/mount"
            ),
            permission: "420".to_owned(),
            current_object_version: Vec::new(),
        };
        Ok(Pod { request, objects: count })
    }
}

fn name(number: usize) -> String {
    format!("secret-{number}")
}
