//! SecretProviderClass in, validated [`MountSpec`] out. Pure: no network, no clock, no files but the
//! ones the caller read.
//!
//! The description of what is wanted is always a SecretProviderClass. Its `parameters` arrive in the
//! Mount RPC's attributes, merged with what kubelet adds, or are read from the same YAML manifest on
//! a VM or laptop. Everything in it is written by the pod's author and treated as hostile: each
//! value is bounded and parsed once, here, into types that cannot be wrong any more.

pub(crate) mod claim;
pub(crate) mod duration;
mod loose;
pub mod manifest;
mod names;
mod objects;
pub mod parameters;
pub mod paths;
pub mod request;
pub mod secrets_file;
mod tokens;
pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::secret::Secret;

pub(crate) use loose::json_error;
pub use names::{ObjectName, Tenant, VaultName, Version};
pub use objects::Memo as ObjectsMemo;
pub(crate) use objects::refuse_meetings;
pub use paths::FilePath;
pub use request::Request;

/// Highest file mode: the CSI driver's contract.
const MAX_MODE: u32 = 0o777;

/// The nodePublishSecretRef Secret's data, or what stands for it: keys as given, values secret.
#[derive(Clone, Debug, Default)]
pub struct Secrets(pub(crate) BTreeMap<String, Secret>);

impl Secrets {
    /// The value of `key`, which may be spelt in any case; an empty value counts as none.
    pub fn get(&self, key: &str) -> Option<&Secret> {
        let exact = self.0.get_key_value(key).into_iter();
        exact
            .chain(self.0.iter().filter(|(found, _)| found.eq_ignore_ascii_case(key)))
            .map(|(_, value)| value)
            .find(|value| !value.is_empty())
    }
}

/// What a class came to.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// A class without objects: success with no files, with notices that name the likely mistake.
    Nothing {
        /// For the log.
        notices: Vec<String>,
    },
    /// Something to mount.
    Mount(Box<MountSpec>),
}

/// What a mount wants, validated. Nothing was requested from anywhere yet.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// The pod, when the request came from kubelet.
    pub pod: Option<Pod>,
    /// The resolved cloud.
    pub cloud: Cloud,
    /// The vault.
    pub vault: VaultName,
    /// Who asks.
    pub identity: Claim,
    /// What is wanted.
    pub wanted: Wanted,
    /// `maxStale`: how long after the vault's last answer values may still be given while it cannot be
    /// asked, to a first mount too. `None`: to mounts that have them, as long as the operator allows.
    pub max_stale: Option<Duration>,
    /// `mountMode`; `None`: as the operator's default says.
    pub mount_mode: Option<MountMode>,
    /// `fetch`: when a FUSE tree requests its values; `None`: as its mount says. Files that are written
    /// are always fetched before.
    pub fetch: Option<FetchMode>,
    /// `fuseCache`: what the kernel may keep of a FUSE tree's values; `None`: as its mount says.
    pub fuse_cache: Option<FuseCache>,
    /// Notices for the log: deprecated spellings, merged duplicates, likely mistakes. No secrets.
    pub notices: Vec<String>,
}

/// How a pod gets its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountMode {
    /// The CSI driver writes them: the response holds their bytes.
    #[default]
    Files,
    /// A FUSE tree stands in their place.
    Fuse,
    /// The provider writes them: the response holds none.
    Write,
}

impl MountMode {
    /// All of them.
    pub const ALL: [MountMode; 3] = [MountMode::Files, MountMode::Fuse, MountMode::Write];

    /// As a class, a policy and `--mount-mode` spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            MountMode::Files => "files",
            MountMode::Fuse => "fuse",
            MountMode::Write => "write",
        }
    }

    /// Reads [`MountMode::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }
}

/// When a FUSE tree requests its values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FetchMode {
    /// Each with the first open of one of its files.
    #[default]
    Lazy,
    /// All of them before the tree is there.
    Eager,
}

impl FetchMode {
    /// All of them.
    pub const ALL: [FetchMode; 2] = [FetchMode::Lazy, FetchMode::Eager];

    /// As a class and `--fetch` spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            FetchMode::Lazy => "lazy",
            FetchMode::Eager => "eager",
        }
    }

    /// Reads [`FetchMode::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }
}

/// What the kernel may keep of a FUSE tree's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FuseCache {
    /// What was read once: later reads do not ask again.
    #[default]
    Keep,
    /// Nothing: each read asks.
    None,
}

impl FuseCache {
    /// All of them.
    pub const ALL: [FuseCache; 2] = [FuseCache::Keep, FuseCache::None];

    /// As a class and `--fuse-cache` spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            FuseCache::Keep => "keep",
            FuseCache::None => "none",
        }
    }

    /// Reads [`FuseCache::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cache| cache.as_str() == text)
    }
}

/// The objects of a mount.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// The objects a class lists; never empty here (an empty list is answered before).
    Objects(Vec<ObjectSpec>),
    /// Whatever the vault lists of these kinds.
    Listing(Vec<ObjectKind>),
}

/// The pod a request came from, as kubelet told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Pod uid; blank when the driver did not send it.
    pub uid: String,
    /// Service account name; blank when the driver did not send it.
    pub service_account: String,
}

/// An identity claim: unproven input of a token request.
#[derive(Clone, Debug)]
pub enum Claim {
    /// Client id and secret of an app registration.
    ServicePrincipal {
        /// Tenant to ask.
        tenant: Tenant,
        /// `clientid` of the secrets.
        client_id: String,
        /// `clientsecret` of the secrets.
        client_secret: Secret,
    },
    /// Client id and certificate of an app registration.
    Certificate {
        /// Tenant to ask.
        tenant: Tenant,
        /// `clientid` of the secrets.
        client_id: String,
        /// `clientcertificate` of the secrets: PEM, PFX, or base64 of a PFX, with its private key.
        certificate: Secret,
    },
    /// Workload identity: a service account token as client assertion.
    Workload {
        /// Tenant to ask.
        tenant: Tenant,
        /// `clientID` of the class.
        client_id: String,
        /// The assertion.
        assertion: Assertion,
    },
    /// Whoever is logged in to the Azure CLI on this machine.
    AzureCli {
        /// Tenant to ask for; `None` is the login's own.
        tenant: Option<Tenant>,
        /// Absolute path of `az`.
        program: PathBuf,
    },
    /// Managed identity of the machine.
    Managed {
        /// `userAssignedIdentityID`: client id of a user-assigned identity; `None` is system-assigned.
        client_id: Option<String>,
    },
    /// Pod identity through NMI: for this very pod, as kubelet told it.
    Pod(Pod),
    /// AKS identity binding: a service account token, exchanged at the cluster's token proxy.
    Binding {
        /// Tenant to ask.
        tenant: Tenant,
        /// `clientID` of the class.
        client_id: String,
        /// The pod's token for the audience of identity binding.
        assertion: Secret,
    },
}

/// Where a workload's assertion comes from.
#[derive(Clone, Debug)]
pub enum Assertion {
    /// The token of this very request.
    Token(Secret),
    /// A file that is re-read on each use (`--token-file`) and must be its owner's alone.
    File(PathBuf),
    /// A file that kubelet keeps in a pod, re-read on each use; its mode is kubelet's choice.
    Projected(PathBuf),
}

/// The three object types of a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `secret`
    Secret,
    /// `key`
    Key,
    /// `cert`
    Certificate,
}

/// `objectFormat`, for secrets that back a PKCS#12 certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Convert to PEM.
    #[default]
    Pem,
    /// Leave as it is.
    Pfx,
}

/// `objectEncoding`: how a secret's value encodes the file's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The value's UTF-8 bytes.
    #[default]
    Utf8,
    /// Standard base64, padding required, CR and LF ignored.
    Base64,
    /// Hexadecimal, either case.
    Hex,
}

/// One entry of `objects`, validated.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct ObjectSpec {
    /// Position in the class, from 0, for error messages.
    pub index: usize,
    /// `objectType`.
    pub kind: ObjectKind,
    /// `objectName`.
    pub name: ObjectName,
    /// `objectVersion`.
    pub version: Version,
    /// `objectVersionHistory`; 1 means a single version.
    pub history: u32,
    /// Which one of a version history this is, from 0; `None` for what a class itself lists.
    pub position: Option<u32>,
    /// File: the alias, or the name. With a history it is the folder of the files `0`, `1`, ...
    pub path: FilePath,
    /// `objectFormat`.
    pub format: Format,
    /// `objectEncoding`.
    pub encoding: Encoding,
    /// `filePermission`, or the mount's default; at most 0o777.
    pub mode: u32,
}

impl ObjectKind {
    /// As `objectType` spells it: `secret`, `key`, `cert`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::Secret => "secret",
            ObjectKind::Key => "key",
            ObjectKind::Certificate => "cert",
        }
    }

    /// As the vault's URL and a whole-vault tree spell it: `secrets`, `keys`, `certificates`.
    pub const fn collection(self) -> &'static str {
        match self {
            ObjectKind::Secret => "secrets",
            ObjectKind::Key => "keys",
            ObjectKind::Certificate => "certificates",
        }
    }
}

impl ObjectSpec {
    /// The newest version of an object as one file, with everything else as in an entry that says no more.
    pub fn newest(
        index: usize,
        kind: ObjectKind,
        name: ObjectName,
        path: FilePath,
        mode: u32,
    ) -> Self {
        Self {
            index,
            kind,
            name,
            version: Version::Latest,
            history: 1,
            position: None,
            path,
            format: Format::default(),
            encoding: Encoding::default(),
            mode,
        }
    }

    /// `TYPE/NAME`, or `TYPE/NAME/INDEX` for one of a version history: the id that the CSI driver
    /// keeps. An alias never appears in it.
    pub fn id(&self) -> String {
        let (kind, name) = (self.kind.as_str(), &self.name);
        match self.position {
            Some(position) => format!("{kind}/{name}/{position}"),
            None => format!("{kind}/{name}"),
        }
    }

    /// The prefix of every error about this object; users grep for it. `version` is the class's.
    pub fn error_prefix(&self) -> String {
        format!(
            "failed to get objectType:{}, objectName:{}, objectVersion:{}",
            self.kind.as_str(),
            self.name.as_str(),
            self.version.as_str()
        )
    }
}

#[cfg(test)]
mod tests;
