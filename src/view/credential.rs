//! Laziness does not outlive its credential.
//!
//! An identity that can be renewed here asks the vault as long as the mount lives. One that was handed over
//! (a pod's token) ends, and what nobody had opened by then could never be fetched any more. So it is
//! fetched before that: in the last quarter of an hour, or of a quarter of a shorter life, a few at a time.
//! What fails is tried again until the end, and the log says that it fails. Where the tree is full, nothing
//! more is asked for: it would be let go of again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::View;
use super::shown::is_missing;
use crate::error::{Code, Error, Result};
use crate::jitter;

/// How long before the credential's end it begins.
const EARLY: Duration = Duration::from_secs(15 * 60);
/// Another credential may come, and names that nobody has opened.
const LOOK: Duration = Duration::from_secs(60);
/// One go at all of it.
const GO: Duration = Duration::from_secs(5 * 60);
const SHORTEST: Duration = Duration::from_secs(1);

impl View {
    /// Fetches what nobody has opened, in time. Ends where the credential does not; else never.
    pub(super) async fn outlive_credential(self: &Arc<Self>) {
        let (mut known, mut early) = (None, Duration::ZERO);
        let (mut said, mut no_room) = (None, None);
        while let Some(ends) = self.origin.usable_until() {
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            let left = ends.duration_since(self.clock.wall()).unwrap_or_default();
            if known != Some(ends) {
                // Mounts that began together must not fetch together.
                early = EARLY.min(left / 4).mul_f64(jitter::between(0.75, 1.0));
                (known, said) = (Some(ends), None);
            }
            if left > early {
                self.clock.sleep((left - early).min(LOOK)).await;
                continue;
            }
            let outcome = match no_room.take().filter(|_| self.is_almost_full()) {
                _ if left.is_zero() => Ok(()),
                Some(error) => Err(error),
                None => self.fill_quietly(Instant::now() + left.min(GO)).await,
            };
            no_room =
                outcome.as_ref().err().filter(|error| error.code() == Code::TooLarge).cloned();
            let missing = self.missing().len();
            let over = self.clock.wall() >= ends;
            let told = (over, outcome.as_ref().err().map(Error::code));
            if missing > 0 && said.replace(told) != Some(told) {
                match &outcome {
                    _ if over => tracing::error!(
                        missing,
                        "the credential has ended, and what was not fetched by then cannot be opened"
                    ),
                    Err(error) => tracing::error!(
                        missing,
                        code = error.code().as_str(),
                        "the credential ends soon, and what nobody has opened cannot be fetched: {error}"
                    ),
                    Ok(()) => {}
                }
            }
            let pause = match outcome {
                Err(_) => (early / 20).clamp(SHORTEST, LOOK).mul_f64(jitter::between(0.5, 1.0)),
                Ok(()) => LOOK,
            };
            self.clock.sleep(pause).await;
        }
    }

    /// What nobody has opened, and what was let go of as far as there is room for it again.
    fn missing(&self) -> Vec<usize> {
        let current = self.generations().current.clone();
        let mut room = self.budget.limit().saturating_sub(self.budget.used());
        let missing = current.slots.iter().filter(|slot| is_missing(slot));
        let missing = missing.filter(|slot| match slot.content() {
            None => true,
            Some(content) => {
                let left = room.checked_sub(content.total());
                room = left.unwrap_or(room);
                left.is_some()
            }
        });
        missing.map(|slot| slot.object).collect()
    }

    /// Whether there is hardly room for more.
    fn is_almost_full(&self) -> bool {
        let (used, limit) = (self.budget.used(), self.budget.limit());
        limit.saturating_sub(used) <= limit / 4
    }

    /// Fetches what is missing, with a part of the fetches that opens need too.
    async fn fill_quietly(self: &Arc<Self>, deadline: Instant) -> Result<()> {
        let few = (self.limits.fetches / 4).max(1);
        let mut outcome = Ok(());
        for some in self.missing().chunks(few) {
            let filled = self.fill_these(some.to_vec(), few, deadline).await;
            let no_room = matches!(&filled, Err(error) if error.code() == Code::TooLarge);
            if no_room && self.is_almost_full() {
                return filled;
            }
            outcome = outcome.and(filled);
        }
        outcome
    }
}
