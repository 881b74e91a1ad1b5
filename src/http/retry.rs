//! Trying again: how often, how long apart, and when it is no use.
//!
//! The numbers are those of Azure's own clients. Whoever follows them knows who waits:
//! `vault::limiter` for vaults, `identity::flight` for token services.

use std::time::Duration;

use crate::error::{Code, Error, Hop};
use crate::jitter;

/// Pauses between tries: (2^n - 1) x [`Retry::pause`] x a random 0.8 to 1.3 after try n, unless the
/// service names its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all, the first one included.
    pub tries: u32,
    /// The unit of the pauses.
    pub pause: Duration,
    /// No pause is longer; a service that asks for more is not asked again.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries: 4, pause: Duration::from_millis(800), longest: Duration::from_secs(60) }
    }
}

impl Retry {
    /// How long to wait after this many tries when the service does not say.
    pub(crate) fn pause_after(&self, tries: u32) -> Duration {
        let factor = 2_u32.saturating_pow(tries) - 1;
        self.pause.saturating_mul(factor).mul_f64(jitter()).min(self.longest)
    }
}

/// 0.8 to 1.3: callers that failed together must not come back together.
pub(crate) fn jitter() -> f64 {
    jitter::between(0.8, 1.3)
}

/// Whether the same request may succeed a moment later. Certificates do not get better by asking.
pub(crate) fn is_transient(error: &Error) -> bool {
    match error.status() {
        Some(status) => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
        None => {
            matches!(error.code(), Code::Unavailable | Code::TimedOut)
                && error.hop() != Some(Hop::Tls)
                && !error.is_lasting()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_worth_another_try_and_an_answer_is_not() {
        let answered = |status| Error::new(Code::Throttled, "x").answered(status, None);
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(is_transient(&answered(status)), "{status}");
        }
        for status in [400, 401, 403, 404, 501] {
            assert!(!is_transient(&answered(status)), "{status}");
        }
        let broken = Error::new(Code::Unavailable, "x").at(Hop::Connect);
        assert!(is_transient(&broken));
        assert!(!is_transient(&broken.clone().lasting()), "nor do missing names");
        assert!(!is_transient(&broken.at(Hop::Tls)), "certificates do not get better by asking");
        assert!(!is_transient(&Error::new(Code::BadAnswer, "x")));
    }

    #[test]
    fn pauses_grow_and_end_at_the_longest() {
        let retry = Retry::default();
        for (tries, least, most) in
            [(1, 640, 1040), (2, 1920, 3120), (3, 4480, 7280), (9, 60_000, 60_000)]
        {
            let pause = retry.pause_after(tries).as_millis();
            assert!((least..=most).contains(&pause), "{tries}: {pause}");
        }
    }
}
