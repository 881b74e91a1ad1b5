//! What is known of the object behind a file, for whoever describes it: never a value.

use std::time::SystemTime;

use super::plan::NodeKind;
use super::slot::{Dates, Slot};
use super::{NodeId, View};
use crate::class::{ObjectKind, Version};

/// The object behind a file.
#[derive(Clone, Debug)]
pub struct About {
    /// Type.
    pub kind: ObjectKind,
    /// Name in the vault.
    pub name: String,
    /// The version that the file has, or that the class asks for; `None` for the newest, which is not known
    /// before it is fetched.
    pub version: Option<String>,
    /// When that version was created.
    pub created: Option<SystemTime>,
    /// When it expires.
    pub expires: Option<SystemTime>,
    /// When it begins to be valid.
    pub not_before: Option<SystemTime>,
    /// When the vault was asked for its last positive answer about the object.
    pub checked: Option<SystemTime>,
}

impl View {
    /// What is known of a file's object; of its version as far as the slot tells. `None` for what is no
    /// file.
    pub fn about(&self, id: NodeId, slot: Option<&Slot>) -> Option<About> {
        let NodeKind::File { object, .. } = self.plan.tree.node(id.index)?.kind else {
            return None;
        };
        let planned = self.plan.objects.get(object)?;
        let content = slot.and_then(Slot::content);
        let asked_for = || match &planned.spec.version {
            Version::Exact(version) => Some(version.clone()),
            Version::Latest => None,
        };
        let Dates { created, expires, not_before } =
            content.map(|content| content.dates()).unwrap_or_default();
        Some(About {
            kind: planned.spec.kind,
            name: planned.spec.name.to_string(),
            version: content.map(|content| content.version.clone()).or_else(asked_for),
            created,
            expires,
            not_before,
            checked: self.ledger.known(object, planned.unit).checked,
        })
    }
}
