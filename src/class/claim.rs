//! Which identity a class claims, and with what: exactly one mode, no fallback to another.

use std::path::PathBuf;

use crate::cloud::Cloud;
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

use super::{Assertion, Claim, Pod, Secrets, Tenant, tokens};

const SECRET: &str = "clientsecret";
const CERTIFICATE: &str = "clientcertificate";
/// Longest name of a Kubernetes object.
const MAX_NAME: usize = 253;

/// The flags, values and files that select a mode. Flags are already checked to exclude each other.
pub(super) struct Inputs<'a> {
    pub(super) pod_identity: bool,
    pub(super) managed_identity: bool,
    pub(super) token_proxy: bool,
    pub(super) client_id: &'a str,
    pub(super) user_assigned: &'a str,
    pub(super) secrets: Option<&'a Secrets>,
    pub(super) caller: Caller<'a>,
    pub(super) pod: Option<&'a Pod>,
}

/// Who asks, and so where a workload's token comes from.
#[derive(Clone, Copy)]
pub(super) enum Caller<'a> {
    /// A pod, with the tokens of the request.
    Pod(Option<&'a Secret>),
    /// A command on this machine, with the file of `--token-file`.
    Machine(Option<&'a PathBuf>),
}

/// What proves a service principal.
pub(super) enum Credential {
    Secret(Secret),
    Certificate(Secret),
}

impl Credential {
    fn of(self, tenant: Tenant, client_id: String) -> Claim {
        match self {
            Credential::Secret(client_secret) => {
                Claim::ServicePrincipal { tenant, client_id, client_secret }
            }
            Credential::Certificate(certificate) => {
                Claim::Certificate { tenant, client_id, certificate }
            }
        }
    }
}

/// A claim that lacks the tenant, whose syntax upstream looks at much later.
pub(super) enum Incomplete {
    ServicePrincipal(String, Credential),
    Workload { client_id: String, assertion: Assertion },
    Binding { client_id: String, assertion: Secret },
    Complete(Claim),
}

impl Incomplete {
    /// Adds the tenant, where the mode sends it anywhere.
    pub(super) fn complete(self, tenant: &str, cloud: &Cloud) -> Result<Claim> {
        let tenant = || {
            let tenant = Tenant::parse(tenant);
            let fits = |tenant: Tenant| cloud.is_adfs(tenant.as_str()).map(|_| tenant);
            tenant.and_then(fits).map_err(|error| error.context("failed to get keyvault client"))
        };
        Ok(match self {
            Incomplete::ServicePrincipal(client_id, credential) => {
                credential.of(tenant()?, client_id)
            }
            Incomplete::Workload { client_id, assertion } => {
                Claim::Workload { tenant: tenant()?, client_id, assertion }
            }
            Incomplete::Binding { client_id, assertion } => {
                Claim::Binding { tenant: tenant()?, client_id, assertion }
            }
            Incomplete::Complete(claim) => claim,
        })
    }
}

/// Whether a certificate is there beside the secret that is used.
pub(super) fn certificate_unused(secrets: Option<&Secrets>) -> bool {
    secrets.is_some_and(|secrets| secrets.get(SECRET).and(secrets.get(CERTIFICATE)).is_some())
}

/// Selects the mode. `clientID` has no meaning in the pod identity and managed identity modes.
pub(super) fn select(inputs: &Inputs<'_>) -> Result<Incomplete> {
    let (mode, claim) = if inputs.pod_identity {
        ("PodIdentity", pod(inputs))
    } else if inputs.managed_identity {
        ("VMManagedIdentity", managed_identity(inputs.user_assigned).map(Incomplete::Complete))
    } else if inputs.token_proxy {
        ("AzureTokenProxy", binding(inputs))
    } else if !inputs.client_id.is_empty() {
        ("None", workload(inputs))
    } else {
        ("None", principal(inputs.secrets, inputs.caller))
    };
    claim.map_err(|error| error.context(format!("failed to build auth config for mode {mode}")))
}

/// The service principal in `secrets`.
///
/// # Errors
/// ClassInvalid when `clientid` (in any case), or both of `clientsecret` and `clientcertificate`, are
/// missing or empty.
pub fn service_principal(tenant: Tenant, secrets: Option<&Secrets>) -> Result<Claim> {
    let (client_id, credential) = credentials(secrets)?;
    Ok(credential.of(tenant, client_id))
}

fn principal(secrets: Option<&Secrets>, caller: Caller<'_>) -> Result<Incomplete> {
    let (client_id, credential) =
        credentials(secrets).map_err(|error| match (secrets, caller) {
            (None, Caller::Machine(_)) => error.fix(
                "give --secrets-file, or set clientID (workload identity) or useVMManagedIdentity",
            ),
            _ => error,
        })?;
    Ok(Incomplete::ServicePrincipal(client_id, credential))
}

/// Client id and secret, as given: a blank or line end around them is part of them. As upstream knows
/// no certificate, one beside a secret changes nothing.
fn credentials(secrets: Option<&Secrets>) -> Result<(String, Credential)> {
    let secrets = secrets.ok_or_else(|| {
        Error::class("failed to get credentials, nodePublishSecretRef secret is not set").fix(
            "name a Secret with clientid and clientsecret in the volume's nodePublishSecretRef and \
             label it secrets-store.csi.k8s.io/used=true, or set clientID to use workload identity",
        )
    })?;
    let find = |key: &str| {
        secrets.get(key).cloned().ok_or_else(|| {
            Error::class(format!("could not find {key} in secrets")).fix(format!(
                "add a non-empty {key} to the Secret of nodePublishSecretRef (or --secrets-file)"
            ))
        })
    };
    let client_id = find("clientid")?;
    let credential =
        match (find(SECRET), secrets.get(CERTIFICATE)) {
            (Ok(secret), _) => Credential::Secret(secret),
            (Err(_), Some(certificate)) => Credential::Certificate(certificate.clone()),
            (Err(error), None) => return Err(error.fix(
                "add a non-empty clientsecret, or a clientcertificate (PEM or PFX with its private \
             key), to the Secret of nodePublishSecretRef (or --secrets-file)",
            )),
        };
    let client_id = client_id
        .expose_str()
        .ok_or_else(|| Error::class("the clientid in secrets is not text"))?
        .to_owned();
    Ok((client_id, credential))
}

fn workload(inputs: &Inputs<'_>) -> Result<Incomplete> {
    const FAILED: &str = "failed to parse workload identity tokens, error";
    let assertion = match inputs.caller {
        Caller::Pod(found) => Assertion::Token(
            tokens::find(found, tokens::WORKLOAD).map_err(|error| error.context(FAILED))?,
        ),
        Caller::Machine(Some(path)) => Assertion::File(path.clone()),
        Caller::Machine(None) => {
            return Err(Error::class("service account tokens not found")
                .fix("outside a pod, give the token's file: --token-file PATH")
                .context(FAILED));
        }
    };
    Ok(Incomplete::Workload { client_id: inputs.client_id.to_owned(), assertion })
}

/// A managed identity of the machine: user-assigned by its client id, system-assigned when blank.
///
/// # Errors
/// ClassInvalid when it is neither blank nor a GUID.
pub fn managed_identity(user_assigned: &str) -> Result<Claim> {
    let client_id = match user_assigned {
        "" => None,
        id if is_guid(id) => Some(id.to_owned()),
        _ => {
            return Err(Error::class("userAssignedIdentityID is not a client id (GUID)").fix(
                "use the identity's client id, not its resource id or name; leave it blank for the \
                 system-assigned identity",
            ));
        }
    };
    Ok(Claim::Managed { client_id })
}

fn pod(inputs: &Inputs<'_>) -> Result<Incomplete> {
    let Some(pod) = inputs.pod else {
        return Err(needs_a_pod("pod identity (usePodIdentity)"));
    };
    // Without it, a later pod of the same name could not be told from this one.
    if pod.uid.is_empty() {
        return Err(Error::class("pod uid is not provided")
            .fix("the CSIDriver object must have podInfoOnMount: true"));
    }
    // Names of Kubernetes objects; anything else could not have come from kubelet, and not travel in
    // a header.
    let name = |text: &str| {
        text.len() <= MAX_NAME
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
    };
    if ![&pod.name, &pod.namespace].into_iter().all(|text| name(text)) {
        return Err(Error::class("the pod's name or namespace is not one of Kubernetes"));
    }
    Ok(Incomplete::Complete(Claim::Pod(pod.clone())))
}

fn binding(inputs: &Inputs<'_>) -> Result<Incomplete> {
    let Caller::Pod(found) = inputs.caller else {
        return Err(needs_a_pod("identity binding (useAzureTokenProxy)"));
    };
    if inputs.client_id.is_empty() {
        return Err(Error::class("clientID is required for identity binding"));
    }
    if found.is_none_or(|text| text.expose().trim_ascii().is_empty()) {
        return Err(Error::class("service account tokens are required for identity binding").fix(
            format!("add the audience {} to the CSIDriver object's tokenRequests", tokens::BINDING),
        ));
    }
    let assertion = tokens::find(found, tokens::BINDING).map_err(|error| {
        error.context("failed to parse service account token for identity binding, error")
    })?;
    Ok(Incomplete::Binding { client_id: inputs.client_id.to_owned(), assertion })
}

fn needs_a_pod(mode: &str) -> Error {
    Error::new(Code::IdentityUnavailable, format!("{mode} works only for a pod"))
        .fix("outside a pod use a managed identity, a service principal or workload identity")
}

/// `8-4-4-4-12` hexadecimal digits, any case.
pub(crate) fn is_guid(text: &str) -> bool {
    let mut groups = text.split('-');
    [8, 4, 4, 4, 12].into_iter().all(|length| {
        groups.next().is_some_and(|group| {
            group.len() == length && group.bytes().all(|b| b.is_ascii_hexdigit())
        })
    }) && groups.next().is_none()
}
