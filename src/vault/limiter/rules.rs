//! The numbers.

use std::time::Duration;

use crate::http::{Retry, jitter};

/// Most requests in flight to one vault.
pub(super) const MOST: f64 = 64.0;
/// How many may be in flight when an outage has ended; more as answers come.
pub(super) const AFTER_OUTAGE: f64 = 8.0;
/// What an answer adds to the limit: much up to where the last 429 came, little beyond.
pub(super) const GROWTH: (f64, f64) = (1.0, 0.25);
/// Most waiting requests of one vault.
pub(super) const MAX_WAITING: usize = 8192;
/// 5xx answers to so many different requests, and no other answer between them, are an outage.
pub(super) const BUSY: usize = 4;
/// Connections that idle longer are closed: then one request goes first again.
pub(super) const COLD: Duration = Duration::from_secs(80);

/// What differs between the field and tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Tries and pauses of one request.
    pub(super) retry: Retry,
    /// A try without an answer for so long makes the vault suspect.
    pub(super) stall: Duration,
    /// How long the first, second, ... try of a request may take.
    pub(super) limits: [Duration; 4],
}

impl Rules {
    pub(super) fn new(retry: Retry) -> Self {
        let limits = [5, 10, 20, 30].map(Duration::from_secs);
        Self { retry, stall: Duration::from_secs(2), limits }
    }

    /// How long a try may take after so many that timed out.
    pub(super) fn limit(&self, timeouts: usize) -> Duration {
        self.limits[timeouts.min(self.limits.len() - 1)]
    }

    /// The pause before the second probe of a vault in an outage; it doubles up to
    /// [`Rules::longest_probe_pause`].
    pub(super) fn first_probe_pause(&self) -> Duration {
        self.retry.pause * 5 / 16
    }

    pub(super) fn longest_probe_pause(&self) -> Duration {
        self.retry.pause * 5 / 2
    }

    /// About as long as all tries with their pauses take. A request gives up a vault that refuses after
    /// that time, however many failures it has seen.
    pub(super) fn span(&self) -> Duration {
        let units: u32 = (1..self.retry.tries).map(|n| 2_u32.saturating_pow(n) - 1).sum();
        self.retry.pause.saturating_mul(units)
    }
}

/// Callers that failed together must not come back together.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(jitter())
}
