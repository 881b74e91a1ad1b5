//! What one vault holds: objects with versions, oldest first.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::class::ObjectKind;
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

use super::seed::CertificateSeed;
use super::state::KINDS;
use super::{now, random};

/// Versions kept of one object.
const MAX_VERSIONS: usize = 1000;

/// How a vault words its refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessModel {
    /// Azure roles: `ForbiddenByRbac`.
    #[default]
    Rbac,
    /// Access policies: `ForbiddenByPolicy`.
    Policy,
}

#[derive(Clone)]
pub(super) enum Content {
    Secret {
        value: Secret,
    },
    /// Public members of a JSON Web Key, without `kid`.
    Key(Value),
    /// DER, and the content type of the secret that backs it.
    Certificate {
        cer: Vec<u8>,
        subject: String,
        secret_type: &'static str,
    },
}

#[derive(Clone)]
pub(super) struct Version {
    /// 32 hexadecimal digits.
    pub(super) id: String,
    pub(super) enabled: bool,
    pub(super) created: i64,
    pub(super) updated: i64,
    pub(super) expires: Option<i64>,
    pub(super) not_before: Option<i64>,
    pub(super) content_type: Option<String>,
    pub(super) content: Content,
}

impl Version {
    pub(super) fn new(created: i64, content: Content) -> Result<Self> {
        Ok(Self {
            id: hex::encode(random::<16>()?),
            enabled: true,
            created,
            updated: created,
            expires: None,
            not_before: None,
            content_type: None,
            content,
        })
    }
}

#[derive(Default)]
pub(super) struct Object {
    /// Backs a certificate: not to be written by itself.
    pub(super) managed: bool,
    pub(super) versions: Vec<Version>,
}

impl Object {
    pub(super) fn find(&self, version: &str) -> Option<&Version> {
        match version {
            "" => self.versions.last(),
            id => self.versions.iter().find(|version| version.id.eq_ignore_ascii_case(id)),
        }
    }
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) access: AccessModel,
    secrets: BTreeMap<String, Object>,
    keys: BTreeMap<String, Object>,
    certificates: BTreeMap<String, Object>,
    /// How to make the next version of a certificate.
    pub(super) recipes: BTreeMap<String, CertificateSeed>,
}

impl Store {
    pub(super) fn new(access: AccessModel) -> Self {
        Self { access, ..Self::default() }
    }

    /// Names are case-insensitive in the service and lower case here.
    pub(super) fn objects(&self, kind: ObjectKind) -> &BTreeMap<String, Object> {
        match kind {
            ObjectKind::Secret => &self.secrets,
            ObjectKind::Key => &self.keys,
            ObjectKind::Certificate => &self.certificates,
        }
    }

    fn objects_mut(&mut self, kind: ObjectKind) -> &mut BTreeMap<String, Object> {
        match kind {
            ObjectKind::Secret => &mut self.secrets,
            ObjectKind::Key => &mut self.keys,
            ObjectKind::Certificate => &mut self.certificates,
        }
    }

    /// Adds the newest version; the clock never goes back within an object, so that "newest" means
    /// one thing. Returns its id.
    pub(super) fn push(
        &mut self,
        kind: ObjectKind,
        name: &str,
        managed: bool,
        mut version: Version,
    ) -> String {
        let object = self.objects_mut(kind).entry(name.to_ascii_lowercase()).or_default();
        object.managed = managed;
        if let Some(last) = object.versions.last() {
            version.created = version.created.max(last.created + 1);
            version.updated = version.updated.max(version.created);
        }
        if object.versions.len() >= MAX_VERSIONS {
            object.versions.remove(0);
        }
        let id = version.id.clone();
        object.versions.push(version);
        id
    }

    /// Sets a secret: a new version with the content type of the one before.
    pub(super) fn set_secret(&mut self, name: &str, value: Secret) -> Result<String> {
        let old = self.secrets.get(&name.to_ascii_lowercase());
        if old.is_some_and(|object| object.managed) {
            return Err(Error::class(format!("secret {name} belongs to a certificate"))
                .fix("rotate the certificate"));
        }
        let content_type =
            old.and_then(|object| object.versions.last()).and_then(|v| v.content_type.clone());
        let mut version = Version::new(now(), Content::Secret { value })?;
        version.content_type = content_type;
        Ok(self.push(ObjectKind::Secret, name, false, version))
    }

    /// Enables or disables the newest version, or this one, of an object; with a certificate its
    /// secret and key.
    pub(super) fn enable(
        &mut self,
        kind: ObjectKind,
        name: &str,
        version: &str,
        enabled: bool,
    ) -> Result<()> {
        let mut found = false;
        for kind in together(kind) {
            let Some(object) = self.objects_mut(kind).get_mut(&name.to_ascii_lowercase()) else {
                continue;
            };
            let Some(id) = object.find(version).map(|version| version.id.clone()) else { continue };
            for version in object.versions.iter_mut().filter(|version| version.id == id) {
                version.enabled = enabled;
                version.updated = version.updated.max(now());
                found = true;
            }
        }
        if found { Ok(()) } else { Err(missing(name)) }
    }

    /// Deletes an object; with a certificate its secret and key.
    pub(super) fn delete(&mut self, kind: ObjectKind, name: &str) -> Result<()> {
        let mut found = false;
        for kind in together(kind) {
            found |= self.objects_mut(kind).remove(&name.to_ascii_lowercase()).is_some();
        }
        if found { Ok(()) } else { Err(missing(name)) }
    }

    /// `kind` of an object that has this name, certificates before what backs them.
    pub(super) fn kind_of(&self, name: &str) -> Option<ObjectKind> {
        [ObjectKind::Certificate, ObjectKind::Secret, ObjectKind::Key]
            .into_iter()
            .find(|kind| self.objects(*kind).contains_key(&name.to_ascii_lowercase()))
    }
}

fn together(kind: ObjectKind) -> Vec<ObjectKind> {
    match kind {
        ObjectKind::Certificate => KINDS.to_vec(),
        kind => vec![kind],
    }
}

fn missing(name: &str) -> Error {
    Error::new(Code::NotFound, format!("the emulator's vault has no {name}"))
}
