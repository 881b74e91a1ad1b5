//! What all services share: who may do what, and what the vaults hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use crate::class::ObjectKind;
use crate::clock::Clock;
use crate::error::Result;
use crate::secret::Secret;

use super::addresses::Addresses;
use super::connections::Connections;
use super::faults::Faults;
use super::log::Log;
use super::store::Store;
use super::tokens::{Issuer, Signer};
use super::{Config, random};

/// The only tenant.
pub const TENANT: &str = "7e7a7700-0000-4000-8000-00000000dead";
/// The client that has a secret.
pub(super) const SERVICE_PRINCIPAL: &str = "5e7c1ce0-0000-4000-8000-00000000dead";
/// The client with a federated credential for `system:serviceaccount:default:app`.
pub const WORKLOAD_CLIENT: &str = "f0c10ad0-0000-4000-8000-00000000dead";
/// The client that `system:serviceaccount:default:app` may use through the token proxy.
pub const BINDING_CLIENT: &str = "b19d1090-0000-4000-8000-00000000dead";
/// Client id of the machine's system-assigned identity.
pub const SYSTEM_IDENTITY: &str = "5457e300-0000-4000-8000-00000000dead";
/// Client id of a user-assigned identity.
pub const USER_IDENTITY: &str = "a551c7ed-0000-4000-8000-00000000dead";
/// Client id that pods get from NMI.
pub const POD_IDENTITY: &str = "90d1d000-0000-4000-8000-00000000dead";

/// Tokens kept apart by how they were got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// An app registration: secrets and federated credentials.
    Application,
    /// IMDS hands its tokens out; the flag marks the system-assigned one.
    Managed { system: bool },
    /// NMI hands its tokens out.
    Pod,
}

/// What a permission allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Read an object version.
    Get,
    /// List names and versions.
    List,
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
        }
    }
}

/// Every object type.
pub(super) const KINDS: [ObjectKind; 3] =
    [ObjectKind::Secret, ObjectKind::Key, ObjectKind::Certificate];

/// An identity that Entra knows.
pub(super) struct Identity {
    pub(super) holder: Holder,
    pub(super) secrets: Vec<Secret>,
    /// DER.
    pub(super) certificates: Vec<Vec<u8>>,
    /// Namespace and service account of federated credentials.
    pub(super) federated: Vec<(String, String)>,
    /// Namespace and service account that may use it through the token proxy.
    pub(super) bound: Vec<(String, String)>,
    pub(super) allowed: BTreeSet<(ObjectKind, Verb)>,
    /// Tokens of an earlier epoch are revoked.
    pub(super) epoch: u64,
}

impl Identity {
    /// One that may do everything.
    pub(super) fn new(holder: Holder) -> Self {
        let allowed = KINDS.iter().flat_map(|kind| [(*kind, Verb::Get), (*kind, Verb::List)]);
        Self {
            holder,
            secrets: Vec::new(),
            certificates: Vec::new(),
            federated: Vec::new(),
            bound: Vec::new(),
            allowed: allowed.collect(),
            epoch: 0,
        }
    }
}

pub(super) struct Shared {
    pub(super) addresses: Addresses,
    pub(super) service_principal_secret: Secret,
    pub(super) identities: Mutex<BTreeMap<String, Identity>>,
    pub(super) vaults: Mutex<BTreeMap<String, Store>>,
    /// The first vault of the seed: the one that admin requests mean.
    pub(super) vault: String,
    pub(super) token_lifetime: Mutex<Duration>,
    /// Client ids of pods, by namespace and name.
    pub(super) pods: Mutex<BTreeMap<(String, String), String>>,
    pub(super) app_service_header: Secret,
    pub(super) arc: Mutex<Option<super::machine::Agent>>,
    pub(super) nmi_refusals: Mutex<u32>,
    /// For tokens.
    pub(super) clock: Clock,
    pub(super) signer: Signer,
    pub(super) issuer: Issuer,
    pub(super) faults: Faults,
    pub(super) log: Log,
    pub(super) connections: Connections,
}

impl Shared {
    pub(super) fn new(addresses: Addresses, config: &Config) -> Result<Self> {
        let secret =
            Secret::from_string(format!("dev-only-client-secret-{}", hex::encode(random::<16>()?)));
        let mut application = Identity::new(Holder::Application);
        application.secrets.push(secret.clone());
        let mut workload = Identity::new(Holder::Application);
        workload.federated.push(("default".to_owned(), "app".to_owned()));
        let mut binding = Identity::new(Holder::Application);
        binding.bound.push(("default".to_owned(), "app".to_owned()));
        let identities = [
            (BINDING_CLIENT, binding),
            (SERVICE_PRINCIPAL, application),
            (WORKLOAD_CLIENT, workload),
            (SYSTEM_IDENTITY, Identity::new(Holder::Managed { system: true })),
            (USER_IDENTITY, Identity::new(Holder::Managed { system: false })),
            (POD_IDENTITY, Identity::new(Holder::Pod)),
        ]
        .map(|(id, identity)| (id.to_owned(), identity));
        Ok(Self {
            addresses,
            service_principal_secret: secret,
            identities: Mutex::new(identities.into()),
            vaults: Mutex::new(config.seed.build()?),
            vault: config.seed.first_vault()?.to_ascii_lowercase(),
            token_lifetime: Mutex::new(config.token_lifetime),
            pods: Mutex::new(
                config.pods.iter().map(|pod| (pod.clone(), POD_IDENTITY.to_owned())).collect(),
            ),
            app_service_header: Secret::from_string(format!(
                "dev-only-identity-header-{}",
                hex::encode(random::<16>()?)
            )),
            arc: Mutex::default(),
            nmi_refusals: Mutex::new(config.nmi_refusals),
            clock: config.clock.clone(),
            signer: Signer::new(config.clock.clone())?,
            issuer: Issuer::new(config.clock.clone())?,
            faults: Faults::default(),
            log: Log::default(),
            connections: Connections::new(),
        })
    }

    /// `authorization` of a challenge.
    pub(super) fn authorization(&self) -> String {
        format!("{}/{TENANT}", self.addresses.authority())
    }
}
