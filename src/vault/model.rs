//! What the vault answered, in types. Values stay in [`Secret`]; everything else may be shown.

use crate::class::{ObjectKind, ObjectName};
use crate::secret::Secret;

/// One version of one object, as the vault answered it.
#[derive(Clone, Debug)]
pub struct ObjectVersion {
    /// The object's type.
    pub kind: ObjectKind,
    /// The object's name, as asked for.
    pub name: String,
    /// The version id: the third path segment of the object's id; blank when there is none.
    pub version: String,
    /// Creation time of this version, seconds since the Unix epoch.
    pub created: Option<i64>,
    /// Expiry, seconds since the Unix epoch.
    pub expires: Option<i64>,
    /// Not valid before, seconds since the Unix epoch.
    pub not_before: Option<i64>,
    /// The content.
    pub body: Body,
}

impl ObjectVersion {
    /// Bytes of what the vault sent, about.
    pub(crate) fn size(&self) -> usize {
        let body = match &self.body {
            Body::Secret { value, content_type, kid } => {
                let texts = [content_type, kid].into_iter().flatten().map(String::len);
                value.len() + texts.sum::<usize>()
            }
            Body::Key(jwk) => {
                let Jwk { kty, crv, n, e, x, y } = jwk.as_ref();
                [kty, crv, n, e, x, y].into_iter().flatten().map(String::len).sum()
            }
            Body::Certificate { cer } => cer.len(),
        };
        self.name.len() + self.version.len() + body
    }
}

/// Names of a vault's objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The first ones, in the vault's order.
    pub names: Vec<ObjectName>,
    /// Whether the vault has more than are asked for.
    pub more: bool,
}

/// One entry of the list of an object's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVersion {
    /// The version id.
    pub id: String,
    /// Whether it may be read.
    pub enabled: bool,
    /// Creation time, seconds since the Unix epoch.
    pub created: Option<i64>,
}

impl ListedVersion {
    /// Bytes in memory, about.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.id.len()
    }
}

/// The content by type.
#[derive(Clone, Debug)]
pub enum Body {
    /// A secret, plain or backing a certificate.
    Secret {
        /// `value`.
        value: Secret,
        /// `contentType`; blank counts as absent.
        content_type: Option<String>,
        /// `kid`, present when the secret backs a certificate; blank counts as absent.
        kid: Option<String>,
    },
    /// The public part of a key.
    Key(Box<Jwk>),
    /// A certificate: `cer`, DER bytes of the server certificate only.
    Certificate {
        /// DER.
        cer: Vec<u8>,
    },
}

/// The public members of a JSON Web Key, still base64url text where the wire has it.
#[derive(Clone, Debug, Default)]
pub struct Jwk {
    /// `kty`: `RSA`, `RSA-HSM`, `EC`, `EC-HSM`, `oct`, ...
    pub kty: Option<String>,
    /// `crv`: `P-256`, ...
    pub crv: Option<String>,
    /// RSA modulus, base64url.
    pub n: Option<String>,
    /// RSA exponent, base64url.
    pub e: Option<String>,
    /// EC x, base64url.
    pub x: Option<String>,
    /// EC y, base64url.
    pub y: Option<String>,
}
