//! How many requests a second a throttled vault gets.
//!
//! A limit on requests in flight says little when each takes 10 ms. So a 429 also sets a pace: 0.7 of
//! what the vault took in the second before. From there the pace returns to what was taken, stays
//! near it for some time, and then looks for more: the cubic curve that TCP and the AWS SDKs use. After
//! half a minute without a 429 there is no pace any more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is left of the rate after a 429.
const LESS: f64 = 0.7;
/// How steep the curve is, in requests per second per cubic second.
const STEEPNESS: f64 = 0.4;
/// A pace without a 429 for so long has grown beyond any use.
const MEMORY: Duration = Duration::from_secs(30);
/// No pace is slower, in requests per second.
const SLOWEST: f64 = 1.0;
/// Unused time that may be made up for: timers are not exact.
const SLACK: Duration = Duration::from_millis(20);
/// The rate is that of the last [`SLOTS`] slots of time.
const SLOT: Duration = Duration::from_millis(100);
const SLOTS: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct Pace {
    accepted: Accepted,
    throttled: Option<Throttled>,
    /// The time up to which the pace is used up: that of the last request, or a little before.
    used: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Throttled {
    at: Instant,
    /// What the vault took in the second before.
    peak: f64,
}

impl Pace {
    /// A request was answered without being throttled. `together` with those that were throttled:
    /// then it belongs to what the vault took.
    pub(super) fn accepted(&mut self, now: Instant, together: bool) {
        self.accepted.count(now);
        if let Some(throttled) = self.throttled.as_mut().filter(|_| together) {
            throttled.peak = throttled.peak.max(self.accepted.per_second(now));
        }
    }

    /// The vault wants fewer requests. Those in flight together count once.
    pub(super) fn throttled(&mut self, now: Instant) {
        let peak = self.accepted.per_second(now).max(SLOWEST);
        self.throttled = Some(Throttled { at: now, peak });
    }

    /// Requests per second; nothing when there is no pace.
    pub(super) fn per_second(&self, now: Instant) -> Option<f64> {
        let Throttled { at, peak } = self.throttled?;
        let since = now.saturating_duration_since(at);
        if since > MEMORY {
            return None;
        }
        let back = (peak * (1.0 - LESS) / STEEPNESS).cbrt();
        let rate = STEEPNESS * (since.as_secs_f64() - back).powi(3) + peak;
        Some(rate.max(SLOWEST))
    }

    /// When the next request may be sent, if not at once.
    pub(super) fn ready_at(&self, now: Instant) -> Option<Instant> {
        let at = self.used? + self.interval(now)?;
        (at > now).then_some(at)
    }

    /// A request is sent.
    pub(super) fn sent(&mut self, now: Instant) {
        let due = self.used.and_then(|used| Some(used + self.interval(now)?));
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        self.used = Some(due.map_or(now, |due| due.clamp(earliest, now)));
    }

    fn interval(&self, now: Instant) -> Option<Duration> {
        self.per_second(now).map(|rate| Duration::from_secs_f64(1.0 / rate))
    }
}

/// Counts of the last slots of time, the latest last.
#[derive(Debug, Default)]
struct Accepted(VecDeque<(Instant, u32)>);

impl Accepted {
    fn count(&mut self, now: Instant) {
        match self.0.back_mut() {
            Some((begun, count)) if now < *begun + SLOT => *count = count.saturating_add(1),
            _ => self.0.push_back((now, 1)),
        }
        if self.0.len() > SLOTS as usize + 1 {
            self.0.pop_front();
        }
    }

    fn per_second(&self, now: Instant) -> f64 {
        let recent = self.0.iter().filter(|(begun, _)| *begun + SLOT * SLOTS > now);
        recent.map(|(_, count)| f64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(begun: Instant, millis: u64) -> Instant {
        begun + Duration::from_millis(millis)
    }

    #[test]
    fn a_429_sets_the_pace_below_what_was_taken_and_time_raises_it() {
        let (begun, mut pace) = (Instant::now(), Pace::default());
        for n in 0..50 {
            pace.accepted(after(begun, n * 20), false);
        }
        let now = after(begun, 980);
        assert_eq!((pace.per_second(now), pace.ready_at(now)), (None, None));
        pace.throttled(now);
        let rate = |millis| pace.per_second(after(now, millis));
        assert!((34.9..35.1).contains(&rate(0).unwrap()), "{:?}", rate(0));
        assert!((45.0..50.5).contains(&rate(3_000).unwrap()), "{:?}", rate(3_000));
        assert!(rate(10_000).unwrap() > 100.0);
        let rates: Vec<_> = (0..30).map(|n| rate(n * 1000).unwrap()).collect();
        assert!(rates.is_sorted(), "{rates:?}");
        assert_eq!(rate(30_001), None, "forgotten");
    }

    #[test]
    fn those_that_were_in_flight_together_raise_what_was_taken() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        pace.throttled(now);
        assert_eq!(pace.per_second(now), Some(SLOWEST), "nothing was taken yet");
        for _ in 0..10 {
            pace.accepted(now, false);
        }
        assert_eq!(pace.per_second(now), Some(SLOWEST));
        for _ in 0..10 {
            pace.accepted(now, true);
        }
        assert!((13.9..14.1).contains(&pace.per_second(now).unwrap()));
    }

    #[test]
    fn requests_are_spaced_and_lost_time_is_not_made_up_for() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        for _ in 0..10 {
            pace.accepted(now, false);
        }
        pace.throttled(now);
        pace.sent(now);
        let ready = pace.ready_at(now).unwrap();
        assert!((142..144).contains(&(ready - now).as_millis()), "{:?}", ready - now);
        let later = after(now, 2_000);
        assert_eq!(pace.ready_at(later), None);
        pace.sent(later);
        let ready = pace.ready_at(later).unwrap();
        assert!(ready > after(later, 50), "no crowd after a silence");
    }
}
