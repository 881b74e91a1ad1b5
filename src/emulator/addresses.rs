//! Host names and URLs.

use std::net::SocketAddr;

use crate::cloud::Cloud;

use super::faults::Service;

/// Which names the emulator answers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// `NAME.vault.akvfs.test` and `login.akvfs.test`: reached only through
    /// [`Emulator::endpoints`](super::Emulator::endpoints).
    #[default]
    Akvfs,
    /// The public cloud's own, for tests of the real binary where /etc/hosts leads here.
    AzurePublic,
    /// Below `localhost`, which every akvfs process resolves to loopback: for `dev-vault`.
    Localhost,
}

impl Names {
    /// Authority host, vault suffix, suffixes to resolve.
    const fn row(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Names::Akvfs => ("login.akvfs.test", "vault.akvfs.test", &["akvfs.test"]),
            Names::AzurePublic => (
                "login.microsoftonline.com",
                "vault.azure.net",
                &["login.microsoftonline.com", "vault.azure.net"],
            ),
            Names::Localhost => {
                ("login.akvfs.localhost", "vault.akvfs.localhost", &["akvfs.localhost"])
            }
        }
    }
}

/// What a host name stands for.
pub(super) enum Place {
    Entra,
    Vault(String),
    Nowhere,
}

impl Place {
    pub(super) fn service(&self) -> Service {
        match self {
            Place::Entra => Service::Entra,
            Place::Vault(_) | Place::Nowhere => Service::Vault,
        }
    }
}

/// The names with the port they are served at.
pub(super) struct Addresses {
    names: Names,
    https: SocketAddr,
}

impl Addresses {
    pub(super) fn new(names: Names, https: SocketAddr) -> Self {
        Self { names, https }
    }

    /// Port 443 is left out of URLs, as everywhere.
    fn port(&self) -> String {
        match self.https.port() {
            443 => String::new(),
            port => format!(":{port}"),
        }
    }

    pub(super) fn authority(&self) -> String {
        format!("https://{}{}", self.names.row().0, self.port())
    }

    pub(super) fn authority_host(&self) -> &'static str {
        self.names.row().0
    }

    /// The suffix with its port.
    pub(super) fn vault_suffix(&self) -> String {
        format!("{}{}", self.names.row().1, self.port())
    }

    /// The resource carries no port: it is a name for tokens, and only its host is compared.
    pub(super) fn resource(&self) -> String {
        format!("https://{}", self.names.row().1)
    }

    pub(super) fn vault_url(&self, vault: &str) -> String {
        format!("https://{vault}.{}", self.vault_suffix())
    }

    /// `nextLink` spells the port out, as the service does.
    pub(super) fn vault_url_with_port(&self, vault: &str) -> String {
        format!("https://{vault}.{}:{}", self.names.row().1, self.https.port())
    }

    pub(super) fn cloud(&self) -> Cloud {
        Cloud {
            name: "AzurePublicCloud".to_owned(),
            authority: self.authority(),
            vault_suffix: self.vault_suffix(),
            resource: self.resource(),
            named: true,
        }
    }

    pub(super) fn resolve(&self) -> Vec<(String, SocketAddr)> {
        self.names.row().2.iter().map(|suffix| ((*suffix).to_owned(), self.https)).collect()
    }

    pub(super) fn certificate_names(&self) -> [String; 2] {
        [self.names.row().0.to_owned(), format!("*.{}", self.names.row().1)]
    }

    /// Where a request with this Host (with or without port) goes.
    pub(super) fn place(&self, host: &str) -> Place {
        let host = host.split(':').next().unwrap_or(host).to_ascii_lowercase();
        let (authority, suffix, _) = self.names.row();
        if host == authority {
            return Place::Entra;
        }
        match host.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.')) {
            Some(vault) if !vault.is_empty() && !vault.contains('.') => {
                Place::Vault(vault.to_owned())
            }
            _ => Place::Nowhere,
        }
    }
}
