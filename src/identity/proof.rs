//! What a proof is, and the key it is found by.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ring::hmac;

use crate::class::Pod;
use crate::cloud::Cloud;
use crate::secret::Secret;

use super::{FRESH, MARGIN, Resolved, Token};

/// How an identity was proved. Two modes never share anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Client secret at Entra.
    ServicePrincipal,
    /// Client certificate at Entra.
    Certificate,
    /// Client assertion (service account token) at Entra.
    Workload,
    /// The Azure CLI's login.
    AzureCli,
    /// The token service of this machine.
    Managed,
    /// NMI of this node, for one pod.
    Pod,
    /// Client assertion at the cluster's token proxy.
    Binding,
}

impl Mode {
    /// For logs and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::ServicePrincipal => "service-principal",
            Mode::Certificate => "certificate",
            Mode::Workload => "workload",
            Mode::AzureCli => "azure-cli",
            Mode::Managed => "managed",
            Mode::Pod => "pod",
            Mode::Binding => "binding",
        }
    }
}

/// Who was proved. The part of every value key that keeps callers apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProvenIdentity {
    /// Mode.
    pub mode: Mode,
    /// Authority that answered; the cloud's, also for managed identities.
    pub authority: String,
    /// Tenant; blank for managed identities.
    pub tenant: String,
    /// Client id, or the object id of a person; blank for the system-assigned identity.
    pub client_id: String,
    /// Pod identity only: the one pod that this is about. Two pods never share, even if they have
    /// the same client id.
    pub pod: Option<PodId>,
}

/// One pod in its life: a later pod of the same name has another uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

impl ProvenIdentity {
    pub(super) fn new(mode: Mode, cloud: &Cloud, tenant: &str, client_id: &str) -> Self {
        Self {
            mode,
            authority: cloud.authority.clone(),
            tenant: tenant.to_ascii_lowercase(),
            client_id: client_id.to_ascii_lowercase(),
            pod: None,
        }
    }

    pub(super) fn of_pod(cloud: &Cloud, pod: &Pod, client_id: &str) -> Self {
        let pod = PodId {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        };
        Self { pod: Some(pod), ..Self::new(Mode::Pod, cloud, "", client_id) }
    }
}

/// Evidence that a token service accepted a caller's inputs, with the token it gave.
#[derive(Clone)]
pub struct Proof(Arc<Inner>);

struct Inner {
    identity: ProvenIdentity,
    begun: Instant,
    ends: SystemTime,
    scope: String,
    bearer: Secret,
}

impl Proof {
    pub(super) fn new(
        identity: ProvenIdentity,
        ends: SystemTime,
        scope: &str,
        token: Token,
    ) -> Self {
        Self(Arc::new(Inner {
            identity,
            begun: Instant::now(),
            ends: ends.checked_sub(MARGIN).unwrap_or(SystemTime::UNIX_EPOCH),
            scope: scope.to_owned(),
            bearer: token.bearer,
        }))
    }

    /// Who was proved.
    pub fn identity(&self) -> &ProvenIdentity {
        &self.0.identity
    }

    /// When the proof ends, margin included.
    pub fn ends(&self) -> SystemTime {
        self.0.ends
    }

    /// Whether the proof may still be used.
    pub fn is_live(&self) -> bool {
        SystemTime::now() < self.0.ends
    }

    /// Whether the token was given a moment ago.
    pub(super) fn is_fresh(&self) -> bool {
        self.0.begun.elapsed() < FRESH
    }

    /// Whether this is the same proof, not only one of the same identity.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The scope the token is for.
    pub fn scope(&self) -> &str {
        &self.0.scope
    }

    /// The bearer token, for the Authorization header only.
    pub(crate) fn bearer(&self) -> &Secret {
        &self.0.bearer
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("identity", &self.0.identity)
            .field("scope", &self.0.scope)
            .finish_non_exhaustive()
    }
}

/// HMAC over the inputs of a token request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProofKey([u8; 32]);

/// The inputs, in order. Borrowed: the assertion and the secret are not copied.
pub(super) struct ProofKeyInput<'a>([&'a [u8]; 6]);

impl<'a> ProofKeyInput<'a> {
    pub(super) fn new(claim: &'a Resolved<'_>, cloud: &'a Cloud, scope: &'a str) -> Self {
        let (tenant, client_id, evidence): (&str, &str, &[u8]) = match claim {
            Resolved::ServicePrincipal { tenant, client_id, client_secret } => {
                (tenant, client_id, client_secret.expose())
            }
            Resolved::Certificate { tenant, client_id, certificate } => {
                (tenant, client_id, certificate.expose())
            }
            Resolved::Workload { tenant, client_id, assertion } => {
                (tenant, client_id, assertion.expose())
            }
            Resolved::Binding { tenant, client_id, assertion } => {
                (tenant, client_id, assertion.expose())
            }
            Resolved::AzureCli { tenant, program } => {
                (tenant.unwrap_or(""), "", program.as_os_str().as_encoded_bytes())
            }
            Resolved::Managed { client_id } => ("", client_id.unwrap_or(""), b""),
            Resolved::Pod(pod) => (&pod.namespace, &pod.name, pod.uid.as_bytes()),
        };
        Self([
            claim.mode().as_str().as_bytes(),
            cloud.authority.as_bytes(),
            tenant.as_bytes(),
            client_id.as_bytes(),
            evidence,
            scope.as_bytes(),
        ])
    }

    pub(super) fn key(&self, hmac_key: &hmac::Key) -> ProofKey {
        let mut context = hmac::Context::with_key(hmac_key);
        for field in self.0 {
            context.update(&(field.len() as u64).to_be_bytes());
            context.update(field);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        ProofKey(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(authority: &str) -> Cloud {
        Cloud {
            name: "AzurePublicCloud".to_owned(),
            authority: authority.to_owned(),
            vault_suffix: "vault.azure.net".to_owned(),
            resource: "https://vault.azure.net".to_owned(),
            named: true,
        }
    }

    #[test]
    fn every_input_and_every_boundary_between_inputs_makes_another_key() {
        let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, b"test");
        let (a, b) = (cloud("https://a"), cloud("https://b"));
        let secret = |text: &str| Secret::from(text);
        let (s1, s2) = (secret("s1"), secret("s2"));
        fn sp<'a>(tenant: &'a str, client_id: &'a str, secret: &'a Secret) -> Resolved<'a> {
            Resolved::ServicePrincipal { tenant, client_id, client_secret: secret }
        }
        let wl = |assertion: &str| Resolved::Workload {
            tenant: "t",
            client_id: "c",
            assertion: Secret::from(assertion),
        };
        let pod = |namespace: &str, name: &str, uid: &str| Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            service_account: "same".to_owned(),
        };
        let cases = [
            (sp("t", "c", &s1), &a, "scope"),
            (sp("t", "c", &s2), &a, "scope"),
            (sp("t", "cs", &Secret::from("1")), &a, "scope"),
            (sp("tc", "", &s1), &a, "scope"),
            (sp("t", "c", &s1), &b, "scope"),
            (sp("t", "c", &s1), &a, "other"),
            (wl("s1"), &a, "scope"),
            (Resolved::Certificate { tenant: "t", client_id: "c", certificate: &s1 }, &a, "scope"),
            (Resolved::Binding { tenant: "t", client_id: "c", assertion: &s1 }, &a, "scope"),
            (wl("s2"), &a, "scope"),
            (Resolved::Managed { client_id: None }, &a, "scope"),
            (Resolved::Managed { client_id: Some("c") }, &a, "scope"),
            (Resolved::Pod(&pod("t", "c", "s1")), &a, "scope"),
            (Resolved::Pod(&pod("t", "c", "s2")), &a, "scope"),
            (Resolved::Pod(&pod("tc", "", "s1")), &a, "scope"),
        ]
        .map(|(claim, cloud, scope)| ProofKeyInput::new(&claim, cloud, scope).key(&hmac_key).0);
        let distinct: std::collections::BTreeSet<_> = cases.iter().collect();
        assert_eq!(distinct.len(), cases.len());
        assert_eq!(cases[0], ProofKeyInput::new(&sp("t", "c", &s1), &a, "scope").key(&hmac_key).0);
    }
}
