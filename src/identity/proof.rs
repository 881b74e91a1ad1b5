//! What a proof is, and the key it is found by.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ring::hmac;

use crate::class::Pod;
use crate::clock::Clock;
use crate::cloud::Cloud;
use crate::secret::Secret;

use super::{FRESH, Inputs, Token};

/// A proof this close to its end is not used any more; of a short life it is a quarter.
pub(super) const MARGIN: Duration = Duration::from_secs(30);
/// A proof is renewed this long before its end; of a short life it is a quarter.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);

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
    /// Shared with every value that was fetched for it.
    identity: Arc<ProvenIdentity>,
    clock: Clock,
    begun: Instant,
    ends: SystemTime,
    /// From when on a longer one should be asked for; never where the evidence ends with it.
    renewed_from: Option<SystemTime>,
    scope: String,
    bearer: Secret,
}

impl Proof {
    /// Ends with the token or with the evidence that it was given for, whichever ends first.
    pub(super) fn new(
        identity: ProvenIdentity,
        evidence_ends: Option<SystemTime>,
        scope: &str,
        token: Token,
        clock: &Clock,
    ) -> Self {
        let now = clock.wall();
        let whole = evidence_ends.map_or(token.expires, |ends| ends.min(token.expires));
        let left = whole.duration_since(now).unwrap_or_default();
        let life = left - MARGIN.min(left / 4);
        let ends = now + life;
        let longer_to_be_had = evidence_ends.is_none_or(|evidence| evidence > token.expires);
        let renewed_from = longer_to_be_had.then(|| ends - RENEWED_BEFORE.min(life / 4));
        Self(Arc::new(Inner {
            identity: Arc::new(identity),
            clock: clock.clone(),
            begun: clock.now(),
            ends,
            renewed_from,
            scope: scope.to_owned(),
            bearer: token.bearer,
        }))
    }

    /// Who was proved.
    pub fn identity(&self) -> &Arc<ProvenIdentity> {
        &self.0.identity
    }

    /// When the proof ends, margin included.
    pub fn ends(&self) -> SystemTime {
        self.0.ends
    }

    /// Whether the proof may still be used. The service has accepted its evidence, so for a moment it
    /// may, even if it has ended by a clock that is ahead.
    pub fn is_live(&self) -> bool {
        self.0.clock.wall() < self.0.ends || self.is_fresh()
    }

    /// Whether the token was given a moment ago.
    pub(super) fn is_fresh(&self) -> bool {
        self.0.clock.now().saturating_duration_since(self.0.begun) < FRESH
    }

    /// Whether it is time for the next one, and the same evidence may give it.
    pub(super) fn is_to_be_renewed(&self) -> bool {
        self.0.renewed_from.is_some_and(|from| from <= self.0.clock.wall())
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
    pub(super) fn new(inputs: &'a Inputs, cloud: &'a Cloud, scope: &'a str) -> Self {
        let evidence: &[u8] = match inputs {
            Inputs::ServicePrincipal { client_secret, .. } => client_secret.expose(),
            Inputs::Certificate { certificate, .. } => certificate.expose(),
            Inputs::Workload { assertion, .. } | Inputs::Binding { assertion, .. } => {
                assertion.expose()
            }
            Inputs::AzureCli { program, .. } => program.as_os_str().as_encoded_bytes(),
            Inputs::Managed { .. } => b"",
            Inputs::Pod(pod) => pod.uid.as_bytes(),
        };
        let (tenant, client_id) = inputs.client();
        Self([
            inputs.mode().as_str().as_bytes(),
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
impl Proof {
    /// Of a client that nobody has asked about, for an hour.
    pub(crate) fn unasked(client_id: &str, clock: &Clock) -> Self {
        let identity = ProvenIdentity {
            mode: Mode::Managed,
            authority: String::new(),
            tenant: String::new(),
            client_id: client_id.to_owned(),
            pod: None,
        };
        let expires = clock.wall() + Duration::from_secs(3600);
        let token = Token { bearer: Secret::from("t"), expires };
        Self::new(identity, None, "scope", token, clock)
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

    /// Seconds after its begin: when it is renewed, and its end.
    fn life(evidence: Option<u64>, token: u64) -> (Option<u64>, u64) {
        let clock = Clock::adjustable();
        let now = clock.wall();
        let at = |seconds| now + Duration::from_secs(seconds);
        let token = Token { bearer: Secret::from("t"), expires: at(token) };
        let identity = ProvenIdentity::new(Mode::Workload, &cloud("https://a"), "t", "c");
        let proof = Proof::new(identity, evidence.map(at), "scope", token, &clock);
        let after = |then: SystemTime| {
            then.duration_since(now).unwrap_or_default().as_secs_f64().round() as u64
        };
        (proof.0.renewed_from.map(after), after(proof.0.ends))
    }

    #[test]
    fn a_proof_ends_before_its_token_and_is_renewed_before_that() {
        assert_eq!(life(None, 3630), (Some(3300), 3600));
        assert_eq!(life(None, 86_430), (Some(86_100), 86_400));
        assert_eq!(life(None, 430), (Some(300), 400), "a quarter");
        assert_eq!(life(None, 20), (Some(11), 15), "less than the margin is there");
        assert_eq!(life(None, 0).1, 0);
        // The assertion's end counts too, and nothing longer can be had with it.
        assert_eq!(life(Some(630), 3600), (None, 600));
        assert_eq!(life(Some(3600), 3600), (None, 3570));
        assert_eq!(life(Some(86_400), 3630), (Some(3300), 3600));
    }

    #[test]
    fn every_input_and_every_boundary_between_inputs_makes_another_key() {
        let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, b"test");
        let (a, b) = (cloud("https://a"), cloud("https://b"));
        let secret = |text: &str| Secret::from(text);
        let (s1, s2) = (secret("s1"), secret("s2"));
        let owned = |text: &str| text.to_owned();
        let sp = |tenant: &str, client_id: &str, secret: &Secret| Inputs::ServicePrincipal {
            tenant: owned(tenant),
            client_id: owned(client_id),
            client_secret: secret.clone(),
        };
        let wl = |assertion: &str| Inputs::Workload {
            tenant: owned("t"),
            client_id: owned("c"),
            assertion: Secret::from(assertion),
        };
        let (tenant, client_id) = (owned("t"), owned("c"));
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
            (
                Inputs::Certificate {
                    tenant: tenant.clone(),
                    client_id: client_id.clone(),
                    certificate: s1.clone(),
                },
                &a,
                "scope",
            ),
            (Inputs::Binding { tenant, client_id, assertion: s1.clone() }, &a, "scope"),
            (wl("s2"), &a, "scope"),
            (Inputs::Managed { client_id: None }, &a, "scope"),
            (Inputs::Managed { client_id: Some(owned("c")) }, &a, "scope"),
            (Inputs::Pod(pod("t", "c", "s1")), &a, "scope"),
            (Inputs::Pod(pod("t", "c", "s2")), &a, "scope"),
            (Inputs::Pod(pod("tc", "", "s1")), &a, "scope"),
        ]
        .map(|(inputs, cloud, scope)| ProofKeyInput::new(&inputs, cloud, scope).key(&hmac_key).0);
        let distinct: std::collections::BTreeSet<_> = cases.iter().collect();
        assert_eq!(distinct.len(), cases.len());
        assert_eq!(cases[0], ProofKeyInput::new(&sp("t", "c", &s1), &a, "scope").key(&hmac_key).0);
    }
}
