//! Identities that the vault asked to stay away for a while.
//!
//! The ends of holds are on the process's clock (a test moves it ahead); deadlines of callers are real.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Hop};
use crate::identity::ProvenIdentity;

use super::Moment;

/// Most identities that are held at one vault; then the one whose hold ends first is let go.
const MAX_HOLDS: usize = 1024;

/// Who asks: a proven identity, or nobody (the request for a vault's challenge).
pub(super) type Asker = Option<Arc<ProvenIdentity>>;

#[derive(Debug, Default)]
pub(super) struct Holds(HashMap<Asker, Instant>);

impl Holds {
    /// Holds `asker` for so long, or as long as before if that is longer.
    pub(super) fn hold(&mut self, asker: &Asker, now: Moment, wait: Duration) {
        self.0.retain(|_, until| *until > now.clock);
        if self.0.len() >= MAX_HOLDS && !self.0.contains_key(asker) {
            let first = self.0.iter().min_by_key(|(_, until)| **until).map(|(key, _)| key.clone());
            first.and_then(|asker| self.0.remove(&asker));
        }
        let until = self.0.entry(asker.clone()).or_insert(now.clock);
        *until = (*until).max(now.clock + wait);
    }

    /// How long `asker` is still held.
    pub(super) fn left(&self, asker: &Asker, now: Moment) -> Option<Duration> {
        if self.0.is_empty() {
            return None;
        }
        let left = self.0.get(asker)?.saturating_duration_since(now.clock);
        (!left.is_zero()).then_some(left)
    }

    /// How long until the next hold ends.
    pub(super) fn next_end(&self, now: Moment) -> Option<Duration> {
        let left = self.0.values().map(|until| until.saturating_duration_since(now.clock));
        left.filter(|left| !left.is_zero()).min()
    }
}

/// What somebody gets who cannot wait for the end of a hold: his own last error, or that others of
/// his identity were throttled.
pub(super) fn refusal(what: &str, tries: u32, own: Option<&Error>, left: Duration) -> Error {
    let error = own.cloned().unwrap_or_else(|| {
        let text = format!("{what}: RESPONSE 429 to another request of this identity");
        Error::new(Code::Throttled, text)
            .at(Hop::Vault)
            .answered(429, None)
            .retry_after(Some(left))
            .fix("the vault's limit is reached: fewer pods or a longer rotation interval")
    });
    // Whole seconds: what is left of the 7 s that the vault named is 7 s to a reader.
    let shown = match left.as_secs() {
        0 => left,
        _ => Duration::from_secs(left.as_millis().div_ceil(1000) as u64),
    };
    error.tried(tries, &format!("asked to wait {shown:.0?}, more time than is left")).hurried()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(number: usize) -> Asker {
        Some(Arc::new(super::super::tests::identity(&number.to_string())))
    }

    #[test]
    fn holds_are_of_one_identity_end_on_the_clock_and_are_few() {
        let (now, second) = (Moment::at(Instant::now()), Duration::from_secs(1));
        let mut holds = Holds::default();
        holds.hold(&asker(1), now, 7 * second);
        holds.hold(&asker(1), now, second);
        assert_eq!(holds.left(&asker(1), now), Some(7 * second), "the longer one counts");
        assert_eq!((holds.left(&asker(2), now), holds.left(&None, now)), (None, None));
        assert_eq!(holds.next_end(now), Some(7 * second));
        let moved = Moment { clock: now.clock + 7 * second, ..now };
        assert_eq!((holds.left(&asker(1), moved), holds.next_end(moved)), (None, None));
        for number in 2..MAX_HOLDS + 10 {
            holds.hold(&asker(number), now, 9 * second);
        }
        assert_eq!(holds.0.len(), MAX_HOLDS);
        assert_eq!(holds.left(&asker(1), now), None, "it would have ended first");
    }

    #[test]
    fn a_refusal_names_how_long() {
        let left = Duration::from_millis(6_999);
        let text = refusal("GET x", 0, None, left);
        assert_eq!(
            text.message(),
            "GET x: RESPONSE 429 to another request of this identity (0 tries; asked to wait 7s, \
             more time than is left)"
        );
        assert!(text.is_hurried());
        assert_eq!((text.code(), text.wait()), (Code::Throttled, Some(left)));
        let own = Error::new(Code::Throttled, "mine");
        let text = refusal("GET x", 2, Some(&own), Duration::from_millis(250));
        assert_eq!(text.message(), "mine (2 tries; asked to wait 250ms, more time than is left)");
    }
}
