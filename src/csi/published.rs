//! Which targets have their files: what a Mount for one of them looks for is a newer version.
//!
//! The RPC does not tell a first publish from a later one, but both are to be answered differently: a
//! pod that starts must not see a value from before a rotation, while hundreds of pods that look for
//! rotations need not each ask the vault; and while the vault cannot be asked, what is mounted stays.
//! A target counts as published only for the very same identity, vault and objects; whatever is not
//! known counts as new, also after a restart.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::class::ObjectSpec;
use crate::clock::Clock;
use crate::identity::ProvenIdentity;

/// Most targets remembered; the one that was published longest ago goes first. A node has some
/// hundred pods.
const MAX_TARGETS: usize = 4096;
/// The driver looks for rotations every few minutes, if at all.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Published {
    clock: Clock,
    /// Differs from process to process, so nobody can make two mounts look alike.
    hasher: RandomState,
    targets: Mutex<HashMap<String, (u64, Instant)>>,
}

/// What a Mount asks for, in short.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Content(u64);

impl Published {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, hasher: RandomState::new(), targets: Mutex::default() }
    }

    pub(super) fn content(
        &self,
        identity: &ProvenIdentity,
        vault: &str,
        objects: &[ObjectSpec],
    ) -> Content {
        Content(self.hasher.hash_one((identity, vault, objects)))
    }

    /// Whether this target has this content.
    pub(super) fn has(&self, target: &str, content: Content) -> bool {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        targets.get(target).is_some_and(|(hash, at)| *hash == content.0 && is_known(*at, now))
    }

    /// The target's content was delivered.
    pub(super) fn delivered(&self, target: &str, content: Content) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if let Some(known) = targets.get_mut(target) {
            *known = (content.0, now);
            return;
        }
        // Only when the table would grow: a Mount of a known target looks at no other.
        targets.retain(|_, (_, at)| is_known(*at, now));
        if targets.len() >= MAX_TARGETS {
            let oldest = targets.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(oldest) = oldest.map(|(target, _)| target.clone()) {
                targets.remove(&oldest);
            }
        }
        targets.insert(target.to_owned(), (content.0, now));
    }
}

fn is_known(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < REMEMBER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_same_is_known_and_not_for_ever() {
        let clock = Clock::adjustable();
        let published = Published::new(clock.clone());
        assert!(!published.has("/t", Content(1)));
        published.delivered("/t", Content(1));
        assert!(published.has("/t", Content(1)));
        assert!(!published.has("/t", Content(2)) && !published.has("/u", Content(1)));
        clock.advance(REMEMBER);
        assert!(!published.has("/t", Content(1)));
        published.delivered("/u", Content(1));
        assert_eq!(published.targets.lock().unwrap().len(), 1, "the old one is forgotten");
    }

    #[test]
    fn the_table_is_bounded_and_drops_the_oldest() {
        let published = Published::new(Clock::system());
        for number in 0..=MAX_TARGETS {
            published.delivered(&number.to_string(), Content(7));
        }
        assert_eq!(published.targets.lock().unwrap().len(), MAX_TARGETS);
        assert!(!published.has("0", Content(7)) && published.has("1", Content(7)));
    }
}
