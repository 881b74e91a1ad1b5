//! What a view can say about itself: names, versions, errors; never a value.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::View;
use super::generation::Generation;
use super::plan::PlannedObject;
use crate::class::ObjectKind;
use crate::error::Error;

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
    /// Every object that there is, in the plan's order.
    pub objects: Vec<ObjectStatus>,
}

/// State of one object.
#[derive(Clone, Debug)]
pub struct ObjectStatus {
    /// Type.
    pub kind: ObjectKind,
    /// Name in the vault.
    pub name: String,
    /// Its files below the mount.
    pub files: Vec<String>,
    /// The version that is shown; `None` until somebody opened a file of it.
    pub version: Option<String>,
    /// The generation that brought what is shown.
    pub birth: u32,
    /// The last failure, until the next success.
    pub failure: Option<Failure>,
}

/// A failed fetch or check.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// Why.
    pub error: Error,
}

impl View {
    /// The present state, for people and tests.
    pub fn status(&self) -> Status {
        let generations = self.generations();
        let current = &generations.current;
        let failures = self.notes.all();
        let objects = self.plan.objects.iter().zip(&current.slots).zip(failures);
        let objects = objects.filter(|((_, slot), _)| slot.exists());
        let objects = objects.map(|((planned, slot), failure)| ObjectStatus {
            kind: planned.spec.kind,
            name: planned.spec.name.to_string(),
            files: self.files(planned, current),
            version: slot.content().map(|content| content.version.clone()),
            birth: slot.birth,
            failure,
        });
        Status {
            birth: current.birth,
            born: current.born,
            retired: generations.retired(),
            bytes: self.budget.used(),
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

/// The last failure of each object.
pub(super) struct Notes(Mutex<Vec<Option<Failure>>>);

impl Notes {
    pub(super) fn new(objects: usize) -> Self {
        Self(Mutex::new(vec![None; objects]))
    }

    pub(super) fn worked(&self, object: usize) {
        self.set(object, None);
    }

    /// Keeps the failure, and logs it when it is not what the object failed with before.
    pub(super) fn failed(&self, object: usize, error: &Error) {
        let failure = Failure { at: SystemTime::now(), error: error.clone() };
        let before = self.set(object, Some(failure));
        if before.is_none_or(|before| before.error.code() != error.code()) {
            tracing::warn!(code = error.code().as_str(), "{error}");
        }
    }

    fn set(&self, object: usize, failure: Option<Failure>) -> Option<Failure> {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.get_mut(object).and_then(|note| std::mem::replace(note, failure))
    }

    fn all(&self) -> Vec<Option<Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
