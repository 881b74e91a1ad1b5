//! The operator's policy: which pods may ask for which vaults, with which identities.
//!
//! A SecretProviderClass is written by whoever may write in a namespace, so without a policy any pod
//! may name any vault, tenant and identity of the machine. `--policy FILE` narrows that. Rules are
//! tried in the file's order, and the first one that matches the pod decides alone; what happens to
//! a pod that none matches, the file has to say. The decision looks at the validated [`MountSpec`],
//! before any token is asked for. Namespace and service account are kubelet's word; everything else
//! in the spec is a claim, and a rule bounds what may be claimed.
//!
//! `docs/POLICY.md` describes the file for operators.

mod file;
mod glob;
mod read;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::class::{Claim, MountMode, MountSpec, Pod, Tenant};
use crate::error::{Code, Error, Result, printable};

pub use file::PolicyFile;
use glob::Glob;

/// Most of a pod's names that a refusal quotes.
const QUOTED: usize = 64;

/// A policy, validated.
#[derive(Debug)]
pub struct Policy {
    /// What a pod gets that no rule matches.
    default: Grant,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: String,
    namespaces: Vec<Glob>,
    /// Absent: any.
    service_accounts: Option<Vec<Glob>>,
    grant: Grant,
}

/// What a matching pod may ask for.
#[derive(Debug)]
enum Grant {
    All,
    None,
    Only(Box<Limits>),
}

/// Bounds of what may be claimed; an absent one does not bound.
#[derive(Debug)]
struct Limits {
    identity_modes: Vec<Mode>,
    vm_client_ids: Vec<VmClient>,
    tenants: Option<Vec<Glob>>,
    vaults: Vec<Glob>,
    clouds: Option<Vec<String>>,
    mount_modes: Option<Vec<MountMode>>,
    max_response_bytes: Option<usize>,
    max_stale: Option<Duration>,
}

/// Identity modes by their stable names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    ServicePrincipal,
    Workload,
    Managed,
    Pod,
    Binding,
}

impl Mode {
    const ALL: [Mode; 5] =
        [Mode::ServicePrincipal, Mode::Workload, Mode::Managed, Mode::Pod, Mode::Binding];

    const fn as_str(self) -> &'static str {
        match self {
            Mode::ServicePrincipal => "service-principal",
            Mode::Workload => "workload",
            Mode::Managed => "managed",
            Mode::Pod => "pod",
            Mode::Binding => "binding",
        }
    }

    /// A developer's login is none that a pod can claim.
    const fn of(claim: &Claim) -> Option<Self> {
        Some(match claim {
            Claim::ServicePrincipal { .. } | Claim::Certificate { .. } => Mode::ServicePrincipal,
            Claim::Workload { .. } => Mode::Workload,
            Claim::Managed { .. } => Mode::Managed,
            Claim::Pod(_) => Mode::Pod,
            Claim::Binding { .. } => Mode::Binding,
            Claim::AzureCli { .. } => return None,
        })
    }
}

/// A managed identity of the machine.
#[derive(Debug)]
enum VmClient {
    Any,
    System,
    /// Client id, in lower case.
    User(String),
}

impl VmClient {
    fn is(&self, claimed: Option<&str>) -> bool {
        match self {
            VmClient::Any => true,
            VmClient::System => claimed.is_none(),
            VmClient::User(id) => claimed.is_some_and(|claimed| id.eq_ignore_ascii_case(claimed)),
        }
    }
}

/// What was granted, with the ceilings that come with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Most bytes of the response, where the rule sets a ceiling below the process's.
    pub max_response_bytes: Option<usize>,
    /// How stale values may be, where the rule sets a ceiling below the process's.
    pub max_stale: Option<Duration>,
}

impl Policy {
    /// Reads a policy from YAML.
    ///
    /// # Errors
    /// ClassInvalid with line and column for broken YAML, else with the rule, the key and what is
    /// expected there.
    pub fn parse(text: &str) -> Result<Self> {
        read::policy(text)
    }

    /// Decides about a mount that delivers its files in the response.
    ///
    /// # Errors
    /// PolicyDenied, naming the rule and the key that refused.
    pub fn check(&self, spec: &MountSpec) -> Result<Granted> {
        let Some(pod) = &spec.pod else {
            return Err(denied("the request names no pod".to_owned()));
        };
        let rule = self.rules.iter().find(|rule| rule.matches(pod));
        let grant = rule.map_or(&self.default, |rule| &rule.grant);
        let limits = match grant {
            Grant::All => return Ok(Granted::default()),
            Grant::Only(limits) => limits,
            Grant::None => {
                return Err(denied(match rule {
                    Some(rule) => format!("rule \"{}\" allows nothing", rule.name),
                    None => format!(
                        "no rule matches namespace {}, service account {}, and the default is deny",
                        quoted(&pod.namespace),
                        quoted(&pod.service_account)
                    ),
                }));
            }
        };
        limits.check(spec).map_err(|(what, key)| {
            let name = rule.map_or("", |rule| &rule.name);
            denied(format!("rule \"{name}\" does not allow {what} ({key})"))
        })?;
        let Limits { max_response_bytes, max_stale, .. } = **limits;
        Ok(Granted { max_response_bytes, max_stale })
    }
}

fn denied(why: String) -> Error {
    Error::new(Code::PolicyDenied, format!("refused by the operator's policy: {why}"))
        .fix("change the class, or ask whoever runs the provider to change its --policy")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text, QUOTED))
}

impl Rule {
    fn matches(&self, pod: &Pod) -> bool {
        any(&self.namespaces, &pod.namespace)
            && self.service_accounts.as_ref().is_none_or(|globs| any(globs, &pod.service_account))
    }
}

fn any(globs: &[Glob], text: &str) -> bool {
    globs.iter().any(|glob| glob.matches(text))
}

impl Limits {
    /// What is refused, and the key that refuses it.
    fn check(&self, spec: &MountSpec) -> std::result::Result<(), (String, &'static str)> {
        let mode = Mode::of(&spec.identity);
        if !mode.is_some_and(|mode| self.identity_modes.contains(&mode)) {
            let name = mode.map_or("of a developer's login", Mode::as_str);
            return Err((format!("the identity mode {name}"), "identityModes"));
        }
        if let Claim::Managed { client_id } = &spec.identity {
            let claimed = client_id.as_deref();
            if !self.vm_client_ids.iter().any(|client| client.is(claimed)) {
                let what = match claimed {
                    Some(id) => format!("the managed identity {}", quoted(id)),
                    None => "the system-assigned managed identity".to_owned(),
                };
                return Err((what, "vmClientIds"));
            }
        }
        if let (Some(globs), Some(tenant)) = (&self.tenants, tenant(&spec.identity))
            && !any(globs, tenant.as_str())
        {
            return Err((format!("the tenant {}", quoted(tenant.as_str())), "tenants"));
        }
        if !any(&self.vaults, spec.vault.as_str()) {
            return Err((format!("the vault {}", quoted(spec.vault.as_str())), "vaults"));
        }
        let cloud = &spec.cloud.name;
        let clouds = self.clouds.as_ref();
        if clouds.is_some_and(|clouds| !clouds.iter().any(|name| name.eq_ignore_ascii_case(cloud)))
        {
            return Err((format!("the cloud {}", quoted(cloud)), "clouds"));
        }
        let mount_mode = spec.mount_mode.unwrap_or_default();
        if self.mount_modes.as_ref().is_some_and(|modes| !modes.contains(&mount_mode)) {
            return Err((format!("the mount mode {}", mount_mode.as_str()), "mountModes"));
        }
        Ok(())
    }
}

/// The tenant that the claim's credential is sent to; managed and pod identities name none.
fn tenant(claim: &Claim) -> Option<&Tenant> {
    match claim {
        Claim::ServicePrincipal { tenant, .. }
        | Claim::Certificate { tenant, .. }
        | Claim::Workload { tenant, .. }
        | Claim::Binding { tenant, .. } => Some(tenant),
        Claim::AzureCli { tenant, .. } => tenant.as_ref(),
        Claim::Managed { .. } | Claim::Pod(_) => None,
    }
}
