//! What a view can say about itself: names, versions, errors; never a value.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::View;
use super::generation::Generation;
use super::ledger::Failure;
use super::listing::CollectionStatus;
use super::plan::PlannedObject;
use super::slot::{Dates, Wanted};
use crate::class::ObjectKind;
use crate::error::Code;

/// State of a view at one instant.
#[derive(Clone, Debug)]
pub struct Status {
    /// Number of the current generation, from 1.
    pub birth: u32,
    /// When it was published.
    pub born: SystemTime,
    /// Replaced generations that are still readable.
    pub retired: usize,
    /// Bytes of values held.
    pub bytes: usize,
    /// Most that may be held.
    pub most_bytes: usize,
    /// When the last look for new versions ended.
    pub looked: Option<SystemTime>,
    /// When the next one begins, where somebody keeps the view fresh.
    pub next_look: Option<SystemTime>,
    /// Of a whole vault: its lists.
    pub collections: Vec<CollectionStatus>,
    /// The vault does not answer: until then opens of what has to be fetched fail at once.
    pub left_alone_until: Option<SystemTime>,
    /// Every object that there is or was, in the plan's order.
    pub objects: Vec<ObjectStatus>,
}

/// State of one object.
#[derive(Clone, Debug)]
pub struct ObjectStatus {
    /// Type.
    pub kind: ObjectKind,
    /// Name in the vault.
    pub name: String,
    /// Its files below the mount, now.
    pub files: Vec<String>,
    /// The version that is shown; `None` until somebody opened a file of it.
    pub version: Option<String>,
    /// Its bytes were let go of, since the tree is full: the next open fetches this version again.
    pub let_go: bool,
    /// The generation that brought what is shown.
    pub birth: u32,
    /// How often a file of it was opened since the view began, whatever its version was; plain files are
    /// not opened here.
    pub opens: u64,
    /// When that version was created.
    pub created: Option<SystemTime>,
    /// When it expires. It is shown all the same.
    pub expires: Option<SystemTime>,
    /// When it begins to be valid. It is shown all the same.
    pub not_before: Option<SystemTime>,
    /// When the vault was asked for its last positive answer about the object.
    pub checked: Option<SystemTime>,
    /// Since when the vault cannot be asked about it: what is shown may be outdated.
    pub stale: Option<SystemTime>,
    /// Why it is not shown any more, although it was: the vault refuses it (not found, disabled or
    /// forbidden), or could not be asked for too long (unavailable). `failure` has the words.
    pub withdrawn: Option<Code>,
    /// The last failure, until the next success.
    pub failure: Option<Failure>,
}

impl View {
    /// The present state, for people and tests.
    pub fn status(&self) -> Status {
        let (current, retired) = {
            let generations = self.generations();
            (generations.current.clone(), generations.retired())
        };
        let objects = self.plan.objects.iter().zip(&current.slots);
        let objects = objects.filter(|(_, slot)| slot.wanted != Wanted::Nothing);
        let objects = objects.map(|(planned, slot)| {
            let known = self.ledger.known(slot.object, planned.unit);
            let content = slot.live();
            let Dates { created, expires, not_before } =
                content.map(|content| content.dates()).unwrap_or_default();
            ObjectStatus {
                kind: planned.spec.kind,
                name: planned.spec.name.to_string(),
                files: self.files(planned, &current),
                version: content.map(|content| content.version.clone()),
                let_go: content.is_some_and(|content| content.is_let_go()),
                birth: slot.birth,
                opens: planned.opens.load(Ordering::Relaxed),
                created,
                expires,
                not_before,
                checked: known.checked,
                stale: known.stale,
                withdrawn: slot.refused(),
                failure: known.failure,
            }
        });
        let schedule = self.schedule();
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let until = self.breaker.until();
        Status {
            birth: current.birth,
            born: current.born,
            retired,
            bytes: self.budget.used(),
            most_bytes: self.budget.limit(),
            looked: schedule.looked,
            next_look: schedule.next_look,
            collections: self.lists.status(&self.plan.collections),
            left_alone_until: until.map(|until| wall + until.saturating_duration_since(now)),
            objects: objects.collect(),
        }
    }

    fn files(&self, planned: &PlannedObject, generation: &Generation) -> Vec<String> {
        let tree = &self.plan.tree;
        let shown =
            |index: &&u32| tree.node(**index).is_some_and(|node| self.is_shown(generation, node));
        planned.nodes.iter().filter(shown).map(|index| tree.path(*index)).collect()
    }
}
