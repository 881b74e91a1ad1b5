//! Clouds and addresses: the only place that knows where anything is.
//!
//! A [`Cloud`] is what a class selects by `cloudName`: the token authority, the vault DNS suffix and
//! the Key Vault resource. [`Endpoints`] is what the process was built with: the table of named
//! clouds, IMDS, NMI, an extra root certificate and a name resolver. Everything but the emulator
//! uses [`Endpoints::azure`]; of it, flags can replace only the token proxy of AKS, and
//! the environment only the token service of managed identities. [`CloudSource`] adds the
//! clouds that are not built in: their addresses come from a file of the operator.

pub(crate) mod custom;
mod file;
mod machine;
mod token_proxy;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::class::VaultName;
use crate::error::{Error, Result, printable};

pub use machine::Machine;
pub use token_proxy::TokenProxy;

/// Path of an AD FS below its host; with the slash left out, the tenant that stands for it.
const ADFS: &str = "/adfs";
/// The name of every custom cloud.
const CUSTOM: &str = "AzureStackCloud";
/// Where upstream looks for a custom cloud's file.
const FILE_VARIABLE: &str = "AZURE_ENVIRONMENT_FILEPATH";
/// Most of a wrong name that an error quotes.
const QUOTED: usize = 64;

/// Names (the canonical one first), vault DNS suffix, authority host.
const TABLE: [(&[&str], &str, &str); 4] = [
    (&["AzurePublicCloud", "AzureCloud"], "vault.azure.net", "login.microsoftonline.com"),
    (
        &["AzureUSGovernmentCloud", "AzureUSGovernment"],
        "vault.usgovcloudapi.net",
        "login.microsoftonline.us",
    ),
    (&["AzureChinaCloud"], "vault.azure.cn", "login.chinacloudapi.cn"),
    (&["AzureGermanCloud"], "vault.microsoftazure.de", "login.microsoftonline.de"),
];

/// The names that [`Cloud::name`] may have.
pub(crate) fn canonical_names() -> Vec<&'static str> {
    let named = TABLE.iter().filter_map(|(names, ..)| names.first().copied());
    named.chain([CUSTOM]).collect()
}

/// One Azure cloud. A custom cloud is identified by its addresses, never by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cloud {
    /// Canonical name, such as `AzurePublicCloud`; `AzureStackCloud` for a custom one.
    pub name: String,
    /// Token authority, `https://host[:port]`, without a trailing slash; a custom cloud's may end in
    /// `/adfs`.
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
    /// Whether tokens of this tenant come from an AD FS rather than from Entra.
    ///
    /// # Errors
    /// ClassInvalid when the authority is an AD FS and the tenant is another one.
    pub(crate) fn is_adfs(&self, tenant: &str) -> Result<bool> {
        let wanted = ADFS.strip_prefix('/').is_some_and(|adfs| tenant.eq_ignore_ascii_case(adfs));
        if self.authority.ends_with(ADFS) && !wanted {
            return Err(Error::class(
                "the cloud's activeDirectoryEndpoint is an AD FS, but tenantID is not adfs",
            )
            .fix("set tenantID: adfs, or take /adfs off the cloud's activeDirectoryEndpoint"));
        }
        Ok(wanted)
    }

    /// The authority's host, `https://host[:port]`.
    pub(crate) fn authority_host(&self) -> &str {
        self.authority.strip_suffix(ADFS).unwrap_or(&self.authority)
    }

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
    /// Token service of this machine's managed identities.
    pub machine: Machine,
    /// AKS identity binding; none outside clusters.
    pub token_proxy: Option<TokenProxy>,
    /// Extra root certificate (PEM) besides the system's.
    pub extra_root: Option<String>,
    /// Host name suffixes that resolve to a fixed address (`akvfs.test` and everything below it).
    pub resolve: Vec<(String, SocketAddr)>,
}

impl Endpoints {
    /// The real ones.
    pub fn azure() -> Self {
        let mut clouds = BTreeMap::new();
        for (names, suffix, authority) in TABLE {
            for name in names {
                let cloud = Cloud {
                    name: names.first().unwrap_or(name).to_string(),
                    authority: format!("https://{authority}"),
                    vault_suffix: suffix.to_owned(),
                    resource: format!("https://{suffix}"),
                    named: true,
                };
                clouds.insert(name.to_ascii_lowercase(), cloud);
            }
        }
        Self {
            clouds,
            imds: "http://169.254.169.254".to_owned(),
            nmi: "http://localhost:2579".to_owned(),
            machine: Machine::Imds,
            token_proxy: None,
            extra_root: None,
            resolve: Vec::new(),
        }
    }

    /// The real ones, with the token service that this process's environment names.
    pub fn here() -> Self {
        Self { machine: Machine::here(), ..Self::azure() }
    }

    /// A named cloud, by name or alias in any case.
    ///
    /// # Errors
    /// ClassInvalid when there is none of this name.
    pub fn cloud(&self, name: &str) -> Result<Cloud> {
        self.clouds.get(&name.to_ascii_lowercase()).cloned().ok_or_else(|| {
            let shown = printable(name, QUOTED);
            Error::class(format!(
                "cloudName {shown} is not valid, error: autorest/azure: There is no cloud \
                 environment matching the name \"{}\"",
                shown.to_uppercase()
            ))
            .fix(
                "use AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, AzureGermanCloud, or \
                 AzureStackCloud with a file",
            )
        })
    }
}

/// Which cloud a class means: named ones from the table, custom ones from a file that is read for
/// each request.
///
/// A class may name its file only below one directory of the operator; the file of
/// `AZURE_ENVIRONMENT_FILEPATH`, which only the operator can set, may lie anywhere and serves the
/// classes that name none.
#[derive(Clone, Debug)]
pub struct CloudSource {
    endpoints: Endpoints,
    default: String,
    env_dir: PathBuf,
    env_file: Option<PathBuf>,
}

impl CloudSource {
    /// Checks the default cloud's name, and reads `AZURE_ENVIRONMENT_FILEPATH` once.
    ///
    /// # Errors
    /// ClassInvalid when there is no such cloud, or it is a custom one whose file is not known.
    pub fn new(endpoints: Endpoints, default: &str, env_dir: PathBuf) -> Result<Self> {
        let env_file = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
        Self::with_file(endpoints, default, env_dir, env_file.map(PathBuf::from))
    }

    /// The same with the operator's file given.
    ///
    /// # Errors
    /// As [`CloudSource::new`].
    pub fn with_file(
        endpoints: Endpoints,
        default: &str,
        env_dir: PathBuf,
        env_file: Option<PathBuf>,
    ) -> Result<Self> {
        let default = default.trim();
        if !default.eq_ignore_ascii_case(CUSTOM) {
            endpoints.cloud(default)?;
        } else if env_file.is_none() {
            return Err(no_file(default));
        }
        Ok(Self { endpoints, default: default.to_owned(), env_dir, env_file })
    }

    /// The cloud of a class, by its `cloudName` and `cloudEnvFileName` (blank when not set).
    ///
    /// # Errors
    /// ClassInvalid when the name is unknown, or the custom cloud's file cannot be read or used.
    pub fn resolve(&self, cloud_name: &str, cloud_env_file: &str) -> Result<Cloud> {
        let name = if cloud_name.is_empty() { self.default.as_str() } else { cloud_name };
        if !name.eq_ignore_ascii_case(CUSTOM) {
            return self.endpoints.cloud(name);
        }
        let shown = if cloud_env_file.is_empty() {
            self.env_file.as_deref().ok_or_else(|| no_file(name))?
        } else {
            Path::new(cloud_env_file)
        };
        let text = if cloud_env_file.is_empty() {
            file::read(shown)
        } else {
            file::read_below(&self.env_dir, shown)
        };
        text.and_then(|text| {
            custom::parse(&text).map_err(|error| error.context(file::shown(shown)))
        })
        .map_err(|error| error.context(format!("cloudName {name} is not valid, error")))
    }
}

fn no_file(name: &str) -> Error {
    Error::class(format!("cloudName {name} is not valid, error: no file is known for it"))
        .fix(format!("name the file in cloudEnvFileName, or in {FILE_VARIABLE} of the provider"))
}

#[cfg(test)]
mod tests;
