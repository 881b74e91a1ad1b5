//! Object versions for a proven identity.
//!
//! Deliveries reach values only through an [`Origin`]: "what this mount may ask". The real one binds
//! a claim to the identity and vault clients; tests pass their own.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;

use crate::class::{ObjectKind, ObjectName, Version};
use crate::error::Result;
use crate::vault::ObjectVersion;

/// An object to fetch from the mount's vault.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Type.
    pub kind: ObjectKind,
    /// Name.
    pub name: ObjectName,
    /// Version, or the latest.
    pub version: Version,
}

/// What one mount may ask for: its identity and its vault, bound together.
pub trait Origin: Send + Sync + 'static {
    /// Fetches one object version. Answers by `deadline` whatever the services do; the work itself
    /// goes on in a detached task, so a waiter that gives up never fails another.
    fn get(
        &self,
        object: ObjectRef,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>>;

    /// Names of all enabled objects of a kind, in the vault's order, all pages (bounded).
    fn list(&self, kind: ObjectKind, deadline: Instant) -> BoxFuture<'_, Result<Vec<ObjectName>>>;
}
