//! `--identity environment`: the variables that Azure's own tools read.
//!
//! The one place where a secret comes from the environment: it is the user's own choice, made for all
//! of those tools. Read once, at start, and kept from the processes that are started here.

use std::path::{Path, PathBuf};

use crate::class::{Assertion, Claim, Tenant};
use crate::error::{Error, Result};
use crate::secret::{Secret, file};

/// Largest certificate file.
const MAX_CERTIFICATE: usize = 256 * 1024;

/// What is set, blank values left out.
#[derive(Default)]
pub(super) struct Environment {
    tenant: Option<String>,
    client_id: Option<String>,
    secret: Option<Secret>,
    certificate: Option<PathBuf>,
    password: bool,
    token_file: Option<PathBuf>,
    authority: bool,
}

impl Environment {
    pub(super) fn read() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(var: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        Self {
            tenant: var("AZURE_TENANT_ID"),
            client_id: var("AZURE_CLIENT_ID"),
            secret: var("AZURE_CLIENT_SECRET").map(Secret::from_string),
            certificate: var("AZURE_CLIENT_CERTIFICATE_PATH").map(PathBuf::from),
            password: var("AZURE_CLIENT_CERTIFICATE_PASSWORD").is_some(),
            token_file: var("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from),
            authority: var("AZURE_AUTHORITY_HOST").is_some(),
        }
    }

    /// Whether there is enough for a claim.
    pub(super) fn is_complete(&self) -> bool {
        let credential =
            self.secret.is_some() || self.certificate.is_some() || self.token_file.is_some();
        self.tenant.is_some() && self.client_id.is_some() && credential
    }

    /// The claim: a secret before a certificate before a token file, as Azure's tools have it.
    ///
    /// # Errors
    /// ClassInvalid when a variable is missing or cannot be used; it is named, its value is not.
    pub(super) fn claim(self, notices: &mut Vec<String>) -> Result<Claim> {
        if self.authority {
            notices.push(
                "AZURE_AUTHORITY_HOST has no effect: the vault's cloud says whom to ask".to_owned(),
            );
        }
        let missing = |name: &str| {
            Error::class(format!("--identity environment needs {name}")).fix(
                "set AZURE_TENANT_ID, AZURE_CLIENT_ID and one of AZURE_CLIENT_SECRET, \
                 AZURE_CLIENT_CERTIFICATE_PATH and AZURE_FEDERATED_TOKEN_FILE",
            )
        };
        let tenant = self.tenant.ok_or_else(|| missing("AZURE_TENANT_ID"))?;
        let tenant = Tenant::parse(&tenant).map_err(|error| error.context("AZURE_TENANT_ID"))?;
        let client_id = self.client_id.ok_or_else(|| missing("AZURE_CLIENT_ID"))?;
        if let Some(client_secret) = self.secret {
            return Ok(Claim::ServicePrincipal { tenant, client_id, client_secret });
        }
        if let Some(path) = self.certificate {
            if self.password {
                return Err(Error::class("AZURE_CLIENT_CERTIFICATE_PASSWORD is not supported")
                    .fix("store the certificate without a password, and unset the variable"));
            }
            let certificate = certificate(&path)?;
            return Ok(Claim::Certificate { tenant, client_id, certificate });
        }
        let path = self.token_file.ok_or_else(|| missing("a credential"))?;
        Ok(Claim::Workload { tenant, client_id, assertion: Assertion::Projected(path) })
    }
}

fn certificate(path: &Path) -> Result<Secret> {
    let mut bytes = file::read(path, MAX_CERTIFICATE)
        .map_err(|error| error.context("AZURE_CLIENT_CERTIFICATE_PATH"))?;
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[(&str, &str)]) -> Environment {
        Environment::of(|name| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_credentials_have_an_order_and_blank_ones_do_not_count() {
        let who = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
        let secret = ("AZURE_CLIENT_SECRET", "s");
        let token = ("AZURE_FEDERATED_TOKEN_FILE", "/token");
        let claim = |more: &[(&str, &str)]| with(&[&who[..], more].concat()).claim(&mut Vec::new());
        assert!(matches!(claim(&[secret, token]).unwrap(), Claim::ServicePrincipal { .. }));
        assert!(matches!(
            claim(&[("AZURE_CLIENT_SECRET", ""), token]).unwrap(),
            Claim::Workload { assertion: Assertion::Projected(path), .. }
                if path == Path::new("/token")
        ));
        assert!(with(&[who[0], who[1], secret]).is_complete());
        let mut notices = Vec::new();
        with(&[who[0], who[1], secret, ("AZURE_AUTHORITY_HOST", "x")]).claim(&mut notices).unwrap();
        assert!(notices[0].starts_with("AZURE_AUTHORITY_HOST has no effect"), "{notices:?}");
        for (incomplete, name) in [
            (&[][..], "AZURE_TENANT_ID"),
            (&[who[0], secret], "AZURE_CLIENT_ID"),
            (&[who[1], secret], "AZURE_TENANT_ID"),
            (&who, "a credential"),
        ] {
            assert!(!with(incomplete).is_complete());
            let error = with(incomplete).claim(&mut Vec::new()).unwrap_err();
            assert!(error.message().ends_with(&format!("needs {name}")), "{error}");
        }
    }

    #[test]
    fn a_certificate_file_is_private_and_has_no_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client.pem");
        std::fs::write(&path, "canary").unwrap();
        let set = |password| {
            with(&[
                ("AZURE_TENANT_ID", "t"),
                ("AZURE_CLIENT_ID", "c"),
                ("AZURE_CLIENT_CERTIFICATE_PATH", path.to_str().unwrap()),
                ("AZURE_CLIENT_CERTIFICATE_PASSWORD", password),
            ])
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |mode| std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode(0o644)).unwrap();
            let error = set("").claim(&mut Vec::new()).unwrap_err();
            assert!(error.message().starts_with("AZURE_CLIENT_CERTIFICATE_PATH: "), "{error}");
            std::fs::set_permissions(&path, mode(0o600)).unwrap();
        }
        assert!(matches!(set("").claim(&mut Vec::new()).unwrap(), Claim::Certificate { .. }));
        let error = set("canary").claim(&mut Vec::new()).unwrap_err().to_string();
        assert!(
            error.contains("PASSWORD is not supported") && !error.contains("canary"),
            "{error}"
        );
    }
}
