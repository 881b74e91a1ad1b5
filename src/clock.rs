//! What time it is, for everything that has an age or an end.
//!
//! Ages of values, ends of tokens, pauses that a service asked for: all of them ask a [`Clock`], which
//! is the system's, or one that its owner moves ahead. Deadlines of requests are not among them: those
//! bound real input and output, and are real [`Instant`]s.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

/// The system's clocks, or the same moved ahead.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<watch::Sender<Duration>>>);

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self(None)
    }

    /// The system's clocks, ahead by what [`Clock::advance`] adds up to. Clones move together.
    pub fn adjustable() -> Self {
        Self(Some(Arc::new(watch::Sender::new(Duration::ZERO))))
    }

    /// Moves an adjustable clock ahead, and wakes whoever sleeps on it. The system's stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some(ahead) = &self.0 {
            ahead.send_modify(|ahead| *ahead = ahead.saturating_add(by));
        }
    }

    /// Monotonic time.
    pub fn now(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// Calendar time.
    pub fn wall(&self) -> SystemTime {
        SystemTime::now() + self.ahead()
    }

    /// Waits until [`Clock::now`] is at least `then`.
    pub async fn sleep_until(&self, then: Instant) {
        let mut moved = self.0.as_ref().map(|ahead| ahead.subscribe());
        loop {
            let left = then.saturating_duration_since(self.now());
            if left.is_zero() {
                return;
            }
            match &mut moved {
                None => tokio::time::sleep(left).await,
                Some(moved) => {
                    // The sender lives as long as this clock.
                    let _ = tokio::time::timeout(left, moved.changed()).await;
                }
            }
        }
    }

    /// Waits so long on this clock.
    pub async fn sleep(&self, pause: Duration) {
        self.sleep_until(self.now() + pause).await;
    }

    fn ahead(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |ahead| *ahead.borrow())
    }
}

/// RFC 3339, to the second.
pub(crate) fn rfc3339(at: SystemTime) -> Option<String> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since.as_secs()).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_clock_is_moved_and_not_before() {
        let clock = Clock::adjustable();
        let hour = Duration::from_secs(3600);
        let (begun, wall) = (clock.now(), clock.wall());
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(begun + hour).await }
        });
        clock.advance(hour / 2);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!sleeper.is_finished());
        clock.advance(hour / 2);
        tokio::time::timeout(Duration::from_secs(10), sleeper).await.unwrap().unwrap();
        assert!(clock.now() >= begun + hour && clock.wall() >= wall + hour);
    }

    #[tokio::test]
    async fn the_systems_clock_cannot_be_moved() {
        let clock = Clock::system();
        clock.advance(Duration::from_secs(3600));
        assert!(clock.now() < Instant::now() + Duration::from_secs(60));
        clock.sleep(Duration::from_millis(1)).await;
    }
}
