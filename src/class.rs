//! SecretProviderClass in, validated [`MountSpec`] out. Pure: no network, no clock, no files but the
//! ones the caller read.
//!
//! The description of what is wanted is always a SecretProviderClass. Its `parameters` arrive in the
//! Mount RPC's attributes, merged with what kubelet adds, or are read from the same YAML manifest on
//! a VM or laptop. Everything in it is written by the pod's author and treated as hostile: each
//! value is bounded and parsed once, here, into types that cannot be wrong any more.

use std::path::PathBuf;

use crate::cloud::Cloud;
use crate::secret::Secret;

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
    /// Notices for the log: deprecated spellings, merged duplicates, likely mistakes. No secrets.
    pub notices: Vec<String>,
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
    /// Workload identity: a service account token as client assertion.
    Workload {
        /// Tenant to ask.
        tenant: Tenant,
        /// `clientID` of the class.
        client_id: String,
        /// The assertion.
        assertion: Assertion,
    },
    /// Managed identity of the machine, by IMDS.
    Managed {
        /// `userAssignedIdentityID`: client id of a user-assigned identity; `None` is system-assigned.
        client_id: Option<String>,
    },
    /// Pod identity through NMI. Recognised; cannot be proved yet.
    Pod,
    /// AKS identity binding through the token proxy. Recognised; cannot be proved yet.
    Binding {
        /// `clientID` of the class.
        client_id: String,
    },
}

/// Where a workload's assertion comes from.
#[derive(Clone, Debug)]
pub enum Assertion {
    /// The token of this very request.
    Token(Secret),
    /// A file that is re-read on each use (`--token-file`).
    File(PathBuf),
}

/// A vault name that matches `[-A-Za-z0-9]{3,24}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaultName(String);

/// A tenant: `[A-Za-z0-9.-]`, at least one letter or digit, at most 253 characters, no `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(String);

/// An object name that matches `[0-9A-Za-z-]{1,127}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(String);

/// Which version of an object is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// The newest (blank or `latest`).
    Latest,
    /// This one: matches `[0-9A-Za-z]{1,32}`.
    Exact(String),
}

/// A clean relative path of a file in the mount: no empty, `.` or `..` component, no NUL, every
/// component at most 255 bytes, at most 4096 in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(String);

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
#[derive(Clone, Debug)]
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
    /// File: the alias, or the name.
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

impl Version {
    /// The text of an exact version; blank for the latest.
    pub fn as_str(&self) -> &str {
        match self {
            Version::Latest => "",
            Version::Exact(version) => version,
        }
    }
}

impl ObjectSpec {
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

/// Text newtypes share their reading side; construction validates (see the `parse` functions).
macro_rules! text_newtype {
    ($($name:ident),*) => {$(
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text_newtype!(VaultName, Tenant, ObjectName, FilePath);
