//! Which token service this machine has, as the environment says: read once, when the process starts.

use std::path::{Path, PathBuf};

use crate::secret::Secret;

/// Endpoint of the Azure Arc agent where it is installed without saying so in the environment.
const ARC_ENDPOINT: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";

/// Where managed identities of this machine get their tokens.
#[derive(Clone, Debug)]
pub enum Machine {
    /// The instance metadata service: virtual machines, scale sets, AKS nodes.
    Imds,
    /// App Service, Functions and others that hand out `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    AppService {
        /// Endpoint, plain HTTP.
        endpoint: String,
        /// Sent as `X-IDENTITY-HEADER`.
        header: Secret,
    },
    /// The agent of an Azure Arc server.
    Arc {
        /// Endpoint, plain HTTP.
        endpoint: String,
        /// The only directory that the agent may name a key file in.
        keys: PathBuf,
    },
    /// A service whose protocol is not spoken here, by name.
    Unsupported(&'static str),
}

impl Machine {
    /// As the process's environment says.
    pub fn here() -> Self {
        let var = |name: &str| std::env::var(name).ok();
        let agent = if cfg!(windows) {
            var("ProgramFiles")
                .map(|dir| Path::new(&dir).join("AzureConnectedMachineAgent/himds.exe"))
        } else {
            Some(PathBuf::from("/opt/azcmagent/bin/himds"))
        };
        let keys = if cfg!(windows) {
            let data = var("ProgramData").unwrap_or_default();
            Path::new(&data).join("AzureConnectedMachineAgent").join("Tokens")
        } else {
            PathBuf::from("/var/opt/azcmagent/tokens")
        };
        Self::of(var, keys, agent.is_some_and(|agent| agent.exists()))
    }

    fn of(var: impl Fn(&str) -> Option<String>, keys: PathBuf, agent: bool) -> Self {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let found = (var("IDENTITY_ENDPOINT"), var("IDENTITY_HEADER"), var("IMDS_ENDPOINT"));
        match found {
            (Some(_), Some(_), _) if var("IDENTITY_SERVER_THUMBPRINT").is_some() => {
                Machine::Unsupported("Service Fabric")
            }
            (Some(endpoint), Some(header), _) => {
                Machine::AppService { endpoint, header: Secret::from_string(header) }
            }
            (Some(endpoint), None, Some(_)) => Machine::Arc { endpoint, keys },
            _ if var("MSI_ENDPOINT").is_some() && var("MSI_SECRET").is_some() => {
                Machine::Unsupported("Azure Machine Learning")
            }
            _ if var("MSI_ENDPOINT").is_some() => Machine::Unsupported("Cloud Shell"),
            _ if agent => Machine::Arc { endpoint: ARC_ENDPOINT.to_owned(), keys },
            _ => Machine::Imds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_before_the_agent_and_the_agent_before_imds() {
        let kind = |set: &[&str], agent| {
            let var = |name: &str| set.contains(&name).then(|| "http://127.0.0.1/x".to_owned());
            match Machine::of(var, PathBuf::from("/keys"), agent) {
                Machine::Imds => "imds",
                Machine::AppService { .. } => "app service",
                Machine::Arc { endpoint, .. } if endpoint == ARC_ENDPOINT => "agent",
                Machine::Arc { .. } => "arc",
                Machine::Unsupported(name) => name,
            }
        };
        assert_eq!(kind(&[], false), "imds");
        assert_eq!(kind(&[], true), "agent");
        assert_eq!(kind(&["IDENTITY_ENDPOINT"], false), "imds");
        assert_eq!(kind(&["IDENTITY_ENDPOINT", "IDENTITY_HEADER"], true), "app service");
        assert_eq!(kind(&["IDENTITY_ENDPOINT", "IMDS_ENDPOINT"], false), "arc");
        assert_eq!(
            kind(&["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT"], false),
            "Service Fabric"
        );
        assert_eq!(kind(&["MSI_ENDPOINT"], true), "Cloud Shell");
        assert_eq!(kind(&["MSI_ENDPOINT", "MSI_SECRET"], false), "Azure Machine Learning");
        let blank = |_: &str| Some(String::new());
        assert!(matches!(Machine::of(blank, PathBuf::new(), false), Machine::Imds));
    }
}
