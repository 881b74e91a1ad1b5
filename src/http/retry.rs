//! Trying again: how often, how long apart, and when it is no use.
//!
//! The numbers are those of Azure's own clients. A pause that would end after the caller's deadline
//! is not begun: whoever waits for a file would rather hear at once what the service said.
//! [`Retry::run`] is for the token services; requests to vaults go through `vault::limiter`, which
//! follows the same numbers and knows what all requests to one vault have seen.

use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Code, Error, Hop, Result};

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
    /// Runs `attempt` until it succeeds, fails for good, or neither tries nor time are left. The error
    /// says how many tries there were.
    pub(crate) async fn run<T, F>(
        &self,
        deadline: Instant,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tries = 1;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let now = Instant::now();
            if !is_transient(&error) || tries >= self.tries || now >= deadline {
                return Err(error.tried(tries, ""));
            }
            let pause = error.wait().unwrap_or_else(|| self.pause_after(tries));
            if pause > self.longest {
                let why = format!("asked to wait {} s, which is too long", pause.as_secs());
                return Err(error.tried(tries, &why));
            }
            if now + pause >= deadline {
                let why = match error.wait() {
                    Some(_) => format!("asked to wait {pause:.0?}, more time than is left"),
                    None => "no time is left for another".to_owned(),
                };
                return Err(error.tried(tries, &why).hurried());
            }
            tracing::debug!(tries, ?pause, err = %error, "trying again");
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    /// How long to wait after this many tries when the service does not say.
    pub(crate) fn pause_after(&self, tries: u32) -> Duration {
        let factor = 2_u32.saturating_pow(tries) - 1;
        self.pause.saturating_mul(factor).mul_f64(jitter()).min(self.longest)
    }
}

/// 0.8 to 1.3: callers that failed together must not come back together.
pub(crate) fn jitter() -> f64 {
    let mut byte = [128];
    // Without random numbers there are no TLS connections either, so the middle is good enough.
    let _ = SystemRandom::new().fill(&mut byte);
    0.8 + 0.5 * f64::from(byte[0]) / 255.0
}

/// Whether the same request may succeed a moment later. Certificates do not get better by asking.
pub(crate) fn is_transient(error: &Error) -> bool {
    match error.status() {
        Some(status) => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
        None => {
            matches!(error.code(), Code::Unavailable | Code::TimedOut)
                && error.hop() != Some(Hop::Tls)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const QUICK: Retry =
        Retry { tries: 4, pause: Duration::from_micros(1), longest: Duration::from_secs(60) };

    fn answered(status: u16, wait: Option<Duration>) -> Error {
        Error::new(Code::Throttled, "x").answered(status, None).retry_after(wait)
    }

    async fn run(error: &Error, left: Duration) -> (u32, Error) {
        let count = Cell::new(0);
        let outcome: Result<()> = QUICK
            .run(Instant::now() + left, || {
                count.set(count.get() + 1);
                std::future::ready(Err(error.clone()))
            })
            .await;
        (count.get(), outcome.unwrap_err())
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_four_times_and_an_answer_once() {
        let minute = Duration::from_secs(60);
        for status in [408, 429, 500, 502, 503, 504] {
            let (tries, error) = run(&answered(status, None), minute).await;
            assert_eq!((tries, error.message()), (4, "x (4 tries)"), "{status}");
            assert!(!error.is_hurried());
        }
        for status in [400, 401, 403, 404, 501] {
            let (tries, error) = run(&answered(status, None), minute).await;
            assert_eq!((tries, error.message()), (1, "x"), "{status}");
        }
        let broken = Error::new(Code::Unavailable, "x").at(Hop::Connect);
        assert_eq!(run(&broken, minute).await.0, 4);
        assert_eq!(run(&broken.clone().at(Hop::Tls), minute).await.0, 1);
        assert_eq!(run(&Error::new(Code::BadAnswer, "x"), minute).await.0, 1);
    }

    #[tokio::test]
    async fn a_pause_that_nobody_can_wait_for_is_not_begun() {
        let seconds = Duration::from_secs;
        let (tries, error) = run(&answered(429, Some(seconds(7))), seconds(5)).await;
        assert_eq!(
            (tries, error.message()),
            (1, "x (1 try; asked to wait 7s, more time than is left)")
        );
        assert!(error.is_hurried(), "another caller may have the time");
        let (tries, error) = run(&answered(503, Some(seconds(61))), seconds(600)).await;
        assert_eq!(
            (tries, error.message()),
            (1, "x (1 try; asked to wait 61 s, which is too long)")
        );
        assert!(!error.is_hurried());
        assert_eq!(run(&answered(503, None), Duration::ZERO).await.0, 1);
    }

    #[tokio::test]
    async fn success_after_a_failure_is_success() {
        let count = Cell::new(0);
        let outcome = QUICK.run(Instant::now() + Duration::from_secs(60), || {
            count.set(count.get() + 1);
            std::future::ready(if count.get() < 3 { Err(answered(503, None)) } else { Ok(7) })
        });
        assert_eq!(outcome.await.unwrap(), 7);
        assert_eq!(count.get(), 3);
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
