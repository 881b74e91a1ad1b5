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
use crate::error::{Code, Error};
use crate::identity::ProvenIdentity;

/// Most targets remembered; the one that was published longest ago goes first. A node has some
/// hundred pods.
const MAX_TARGETS: usize = 4096;
/// A first publish that fails for longer begins anew.
const RETRIES: Duration = Duration::from_secs(600);
/// The driver looks for rotations every few minutes, if at all.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Published {
    clock: Clock,
    /// Differs from process to process, so nobody can make two mounts look alike.
    hasher: RandomState,
    targets: Mutex<HashMap<String, Target>>,
}

struct Target {
    content: Content,
    delivered: bool,
    /// When it was delivered; else when it was asked for first.
    at: Instant,
}

/// Which publish of its target a Mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publish {
    /// The first one. If others of it have failed, since when it is tried: what was asked for since then
    /// need not be asked for again.
    First(Option<Instant>),
    /// A later one: the target has its files.
    Again,
}

/// What a Mount asks for, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// What a Mount of this content is for this target. To be told when it has succeeded.
    pub(super) fn begin(&self, target: &str, content: Content) -> Publish {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let new = Target { content, delivered: false, at: now };
        let Some(known) = targets.get_mut(target) else {
            // Only when the table would grow: a Mount of a known target looks at no other.
            targets.retain(|_, known| now.saturating_duration_since(known.at) < REMEMBER);
            if targets.len() >= MAX_TARGETS {
                let oldest = targets.iter().min_by_key(|(_, known)| known.at);
                if let Some(oldest) = oldest.map(|(target, _)| target.clone()) {
                    targets.remove(&oldest);
                }
            }
            targets.insert(target.to_owned(), new);
            return Publish::First(None);
        };
        let age = now.saturating_duration_since(known.at);
        match known.delivered {
            true if known.content == content && age < REMEMBER => Publish::Again,
            false if known.content == content && age < RETRIES => Publish::First(Some(known.at)),
            _ => {
                *known = new;
                Publish::First(None)
            }
        }
    }

    /// The target has nothing of what was delivered: the next Mount is a first one.
    pub(super) fn forget(&self, target: &str) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if targets.get(target).is_some_and(|known| known.delivered) {
            targets.remove(target);
        }
    }

    /// A Mount of this target has failed. Where the vault has answered, somebody will mend what it holds,
    /// and then the next try must see that: it begins anew.
    pub(super) fn failed(&self, target: &str, error: &Error) {
        let in_time = matches!(error.code(), Code::TimedOut | Code::Throttled | Code::Unavailable);
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if !in_time && targets.get(target).is_some_and(|known| !known.delivered) {
            targets.remove(target);
        }
    }

    /// The target's content was delivered.
    pub(super) fn delivered(&self, target: &str, content: Content) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        // Else so many others have begun meanwhile that it was forgotten.
        if let Some(known) = targets.get_mut(target) {
            *known = Target { content, delivered: true, at: self.clock.now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_same_is_known_and_not_for_ever() {
        let clock = Clock::adjustable();
        let published = Published::new(clock.clone());
        assert_eq!(published.begin("/t", Content(1)), Publish::First(None));
        published.delivered("/t", Content(1));
        assert_eq!(published.begin("/t", Content(1)), Publish::Again);
        assert_eq!(published.begin("/u", Content(1)), Publish::First(None));
        clock.advance(REMEMBER);
        assert_eq!(published.begin("/t", Content(1)), Publish::First(None));
        published.delivered("/t", Content(1));
        assert_eq!(published.begin("/t", Content(2)), Publish::First(None));
        assert_eq!(published.begin("/new", Content(1)), Publish::First(None));
        assert_eq!(published.targets.lock().unwrap().len(), 2, "the old one is forgotten");
    }

    #[test]
    fn a_first_publish_that_failed_goes_on_where_it_ended() {
        let clock = Clock::adjustable();
        let published = Published::new(clock.clone());
        let begun = clock.now();
        published.begin("/t", Content(1));
        clock.advance(Duration::from_secs(60));
        let Publish::First(Some(since)) = published.begin("/t", Content(1)) else { panic!() };
        assert!(since >= begun && since < begun + Duration::from_secs(30));
        clock.advance(Duration::from_secs(60));
        assert_eq!(published.begin("/t", Content(1)), Publish::First(Some(since)));
        assert_eq!(published.begin("/t", Content(2)), Publish::First(None), "something else");
        clock.advance(RETRIES);
        assert_eq!(published.begin("/t", Content(2)), Publish::First(None), "not for ever");
        published.failed("/t", &Error::new(Code::TimedOut, "x"));
        assert!(matches!(published.begin("/t", Content(2)), Publish::First(Some(_))));
        published.failed("/t", &Error::new(Code::BadContent, "x"));
        assert_eq!(published.begin("/t", Content(2)), Publish::First(None), "it will be mended");
    }

    #[test]
    fn what_was_taken_away_again_is_published_anew() {
        let published = Published::new(Clock::system());
        published.begin("/t", Content(1));
        published.forget("/t");
        assert!(matches!(published.begin("/t", Content(1)), Publish::First(Some(_))), "it goes on");
        published.delivered("/t", Content(1));
        published.forget("/t");
        assert_eq!(published.begin("/t", Content(1)), Publish::First(None));
    }

    #[test]
    fn the_table_is_bounded_and_drops_the_oldest() {
        let published = Published::new(Clock::system());
        for number in 0..=MAX_TARGETS {
            published.begin(&number.to_string(), Content(7));
            published.delivered(&number.to_string(), Content(7));
        }
        assert_eq!(published.targets.lock().unwrap().len(), MAX_TARGETS);
        assert_eq!(published.begin("1", Content(7)), Publish::Again);
        assert_eq!(published.begin("0", Content(7)), Publish::First(None));
    }
}
