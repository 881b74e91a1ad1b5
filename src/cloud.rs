//! Clouds and addresses: the only place that knows where anything is.
//!
//! A [`Cloud`] is what a class selects by `cloudName`: the token authority, the vault DNS suffix and
//! the Key Vault resource. [`Endpoints`] is what the process was built with: the table of named
//! clouds, IMDS, NMI, an extra root certificate and a name resolver. Everything but the emulator
//! uses [`Endpoints::azure`]; no flag or environment variable can replace it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::class::VaultName;

/// One Azure cloud. A custom cloud is identified by its addresses, never by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cloud {
    /// Canonical name, such as `AzurePublicCloud`; `AzureStackCloud` for a custom one.
    pub name: String,
    /// Token authority, `https://host[:port]`, without a trailing slash.
    pub authority: String,
    /// Vault DNS suffix, `host[:port]`, such as `vault.azure.net`.
    pub vault_suffix: String,
    /// Key Vault resource without a trailing slash, such as `https://vault.azure.net`; the token
    /// scope is this plus `/.default`.
    pub resource: String,
    /// From the built-in table (or the emulator's): the first vault request carries a token for
    /// [`Cloud::resource`]. A custom cloud's first request never does.
    pub named: bool,
}

impl Cloud {
    /// `https://NAME.SUFFIX`, without a trailing slash.
    pub fn vault_url(&self, vault: &VaultName) -> String {
        format!("https://{}.{}", vault.as_str(), self.vault_suffix)
    }
}

/// Every outside address of the process.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Named clouds by lower-case name and alias.
    pub clouds: BTreeMap<String, Cloud>,
    /// IMDS base, `http://169.254.169.254`.
    pub imds: String,
    /// NMI base, `http://localhost:2579`.
    pub nmi: String,
    /// Extra root certificate (PEM) besides the system's.
    pub extra_root: Option<String>,
    /// Host name suffixes that resolve to a fixed address (`akvfs.test` and everything below it).
    pub resolve: Vec<(String, SocketAddr)>,
}
