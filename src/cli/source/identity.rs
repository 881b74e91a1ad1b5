//! `--identity`: who asks a vault that no class describes.

mod environment;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::class::{self, Assertion, Claim, Tenant};
use crate::error::{Code, Error, Result};
use crate::fetch::Fetch;

use super::SourceArgs;
use environment::Environment;

/// Identities that work without a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Identity {
    /// The first that fits: environment, managed, azure-cli
    Auto,
    /// clientid and clientsecret (or clientcertificate) from --secrets-file, with --tenant-id
    ServicePrincipal,
    /// Managed identity of this machine; --client-id for a user-assigned one
    Managed,
    /// --token-file with --tenant-id and --client-id
    Workload,
    /// Whoever is logged in to the Azure CLI
    AzureCli,
    /// AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET (or AZURE_CLIENT_CERTIFICATE_PATH,
    /// AZURE_FEDERATED_TOKEN_FILE)
    Environment,
}

impl SourceArgs {
    /// The claim of a vault URL: as `--identity` says, or as the files that were given imply.
    pub(super) async fn claim(&self, fetch: &Fetch, notices: &mut Vec<String>) -> Result<Claim> {
        let identity = self.identity.unwrap_or({
            if self.secrets_file.is_some() {
                Identity::ServicePrincipal
            } else if self.token_file.is_some() {
                Identity::Workload
            } else if self.client_id.is_some() {
                Identity::Managed
            } else {
                Identity::Auto
            }
        });
        let mode = identity.to_possible_value();
        let mode = mode.as_ref().map_or("", |mode| mode.get_name());
        let needs = |what: &str| Error::class(format!("--identity {mode} needs {what}"));
        let tenant = || match self.tenant()? {
            Some(tenant) => Ok(tenant),
            None => Err(needs("--tenant-id")),
        };
        match identity {
            Identity::Auto => self.choose(fetch, notices).await,
            Identity::Managed => self.managed(),
            Identity::Workload => Ok(Claim::Workload {
                tenant: tenant()?,
                client_id: self.client_id.clone().ok_or_else(|| needs("--client-id"))?,
                assertion: Assertion::File(
                    self.token_file.clone().ok_or_else(|| needs("--token-file"))?,
                ),
            }),
            Identity::ServicePrincipal => {
                let path = self.secrets_file.as_ref().ok_or_else(|| needs("--secrets-file"))?;
                let secrets = class::secrets_file::read(path)?;
                class::parameters::service_principal(tenant()?, Some(&secrets))
            }
            Identity::AzureCli => match find_az() {
                Some(program) => Ok(Claim::AzureCli { tenant: self.tenant()?, program }),
                None => Err(Error::new(Code::IdentityUnavailable, "there is no az in PATH")
                    .fix("install the Azure CLI, or choose another --identity")),
            },
            Identity::Environment => Environment::read().claim(notices),
        }
    }

    /// The first identity that is likely to work, and which one that is.
    async fn choose(&self, fetch: &Fetch, notices: &mut Vec<String>) -> Result<Claim> {
        let chosen = |what: &str| format!("--identity auto is {what}");
        let environment = Environment::read();
        if environment.is_complete() {
            notices.push(chosen(
                "environment: AZURE_TENANT_ID, AZURE_CLIENT_ID and a credential are set",
            ));
            return environment.claim(notices);
        }
        if fetch.identities().machine_answers().await {
            notices.push(chosen("managed: this machine has a token service"));
            return self.managed();
        }
        if let Some(program) = find_az() {
            notices.push(chosen(&format!("azure-cli: {}", program.display())));
            return Ok(Claim::AzureCli { tenant: self.tenant()?, program });
        }
        Err(Error::new(
            Code::IdentityUnavailable,
            "--identity auto finds none: AZURE_TENANT_ID, AZURE_CLIENT_ID and a credential are not \
             all set, IMDS does not answer, and there is no az in PATH",
        )
        .fix("run az login, or give --secrets-file and --tenant-id"))
    }

    fn tenant(&self) -> Result<Option<Tenant>> {
        self.tenant_id.as_deref().map(Tenant::parse).transpose()
    }

    fn managed(&self) -> Result<Claim> {
        let client_id = self.client_id.as_deref().unwrap_or_default().trim();
        class::parameters::managed_identity(client_id).map_err(|error| error.context("--client-id"))
    }
}

/// `az` by its absolute path: a relative entry of PATH would let the working directory choose.
fn find_az() -> Option<PathBuf> {
    let name = if cfg!(windows) { "az.cmd" } else { "az" };
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|program| is_program(program))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

/// The claim in a line for people; ids are no secrets, secrets are not in it.
pub(super) fn describe(claim: &Claim) -> String {
    let (Claim::ServicePrincipal { tenant, .. }
    | Claim::Certificate { tenant, .. }
    | Claim::Workload { tenant, .. }
    | Claim::Binding { tenant, .. }) = claim
    else {
        return client(claim);
    };
    // As with the client's id: what is no GUID may be a secret that stands in the wrong place.
    match Some(tenant.as_str()).filter(|tenant| class::claim::is_guid(tenant)) {
        Some(tenant) => format!("{} in tenant {tenant}", client(claim)),
        None => client(claim),
    }
}

fn client(claim: &Claim) -> String {
    match claim {
        Claim::ServicePrincipal { client_id, .. } | Claim::Certificate { client_id, .. }
            if class::claim::is_guid(client_id) =>
        {
            format!("service principal {client_id}")
        }
        // Whoever mixed the two keys up must not find the secret on the screen.
        Claim::ServicePrincipal { .. } | Claim::Certificate { .. } => {
            "service principal (clientid is no GUID)".to_owned()
        }
        Claim::Workload { client_id, .. } => format!("workload identity {client_id}"),
        Claim::AzureCli { tenant: Some(tenant), .. } => {
            format!("Azure CLI login in tenant {}", tenant.as_str())
        }
        Claim::AzureCli { tenant: None, .. } => "Azure CLI login".to_owned(),
        Claim::Managed { client_id: Some(id) } => format!("user-assigned identity {id}"),
        Claim::Managed { client_id: None } => "system-assigned identity".to_owned(),
        Claim::Pod(_) => "pod identity".to_owned(),
        Claim::Binding { client_id, .. } => format!("identity binding {client_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Tenant;

    #[test]
    fn an_identity_is_told_with_its_tenant_and_without_what_is_no_id() {
        const ID: &str = "ce271f1c-0000-4000-8000-00000000dead";
        let told = |tenant: &str, client_id: &str| {
            describe(&Claim::ServicePrincipal {
                tenant: Tenant::parse(tenant).unwrap(),
                client_id: client_id.to_owned(),
                client_secret: "canary".to_owned().into(),
            })
        };
        assert_eq!(told(ID, ID), format!("service principal {ID} in tenant {ID}"));
        assert_eq!(told("canary", ID), format!("service principal {ID}"));
        let swapped = told(ID, "canary");
        assert_eq!(swapped, format!("service principal (clientid is no GUID) in tenant {ID}"));
        assert_eq!(describe(&Claim::Managed { client_id: None }), "system-assigned identity");
    }
}
