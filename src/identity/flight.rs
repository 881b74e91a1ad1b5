//! One token request with all its tries, and whoever waits for it.
//!
//! A flight runs as a task of its own for as long as the most patient of its waiters ([`Patience`]);
//! whoever has less time, or goes away, fails nobody. A waiter learns at once when nothing can happen
//! any more in his time, and what he is told at its end names the service, how often it was tried and
//! what it said last.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::{Code, Error, Result};
use crate::http::{self, Http, Retry};
use crate::patience::Patience;

use super::inputs::Service;
use super::limits::{Asked, Limits, places};
use super::proof::Proof;

/// What IMDS's pauses are, in units of [`Retry::pause`]: 300 ms, growing threefold.
const IMDS_PAUSE: f64 = 0.375;

/// How a flight ended.
#[derive(Clone)]
pub(super) enum Outcome {
    /// With a proof.
    Proved(Proof),
    /// With an error. The time is there when only callers' deadlines kept it from going on: for one
    /// who waits longer than that another flight may end otherwise.
    Failed(Error, Option<Instant>),
    /// With a proof of somebody else than before, which is not used.
    Anew,
}

/// A token request under way.
pub(super) struct Flight {
    pub(super) patience: Patience,
    service: Service,
    progress: Mutex<Progress>,
    outcome: watch::Sender<Option<Outcome>>,
}

#[derive(Default)]
struct Progress {
    tries: u32,
    /// What the last finished try met.
    met: Option<Error>,
    queued: bool,
    /// Set when it was given up: whoever waits longer than this may begin again.
    given_up: Option<Instant>,
}

impl Flight {
    pub(super) fn new(service: Service, deadline: Instant) -> Self {
        Self {
            patience: Patience::new(deadline),
            service,
            progress: Mutex::default(),
            outcome: watch::Sender::new(None),
        }
    }

    /// The outcome, for a caller who waits until `deadline`.
    pub(super) async fn outcome(&self, deadline: Instant) -> Outcome {
        let mut outcome = self.outcome.subscribe();
        tokio::select! {
            biased;
            found = outcome.wait_for(Option::is_some) => {
                let found = found.ok().and_then(|found| found.clone());
                found.unwrap_or_else(|| Outcome::Failed(self.late(), None))
            }
            error = self.patience.hopeless(deadline) => Outcome::Failed(error, None),
            () = tokio::time::sleep_until(deadline.into()) => Outcome::Failed(self.late(), None),
        }
    }

    /// Tells the waiters.
    pub(super) fn end(&self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }

    /// Until when its waiters waited, if only that kept it from going on.
    pub(super) fn bound(&self) -> Option<Instant> {
        self.progress().given_up
    }

    /// The error of a flight that might have gone on for a caller who waits longer than `bound`. One
    /// may have joined since it was decided, so the latest deadline does not tell.
    pub(super) fn given_up(&self, bound: Instant, error: Error) -> Error {
        self.progress().given_up = Some(bound);
        error
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of somebody's time, and how far it went.
    fn late(&self) -> Error {
        let progress = self.progress();
        let name = self.service.name();
        let places = places(self.service);
        let queue = format!("{places} other token requests are under way");
        match &progress.met {
            Some(error) => {
                let why = match progress.queued {
                    true => queue,
                    false => "the last one had no answer before the deadline".to_owned(),
                };
                error.clone().tried(progress.tries, &why)
            }
            None => {
                let why = if progress.queued { &queue } else { "no answer yet" };
                Error::new(Code::TimedOut, format!("{name} gave no token before the deadline"))
                    .at(self.service.hop())
                    .fix("check that the node may reach the token service")
                    .tried(progress.tries, why)
            }
        }
    }

    /// Asks until there is an answer that counts, or nobody waits any more.
    pub(super) async fn run<F>(
        &self,
        http: &Http,
        limits: &Limits,
        asked: &Asked,
        ask: impl Fn() -> F,
    ) -> Result<Proof>
    where
        F: Future<Output = Result<Proof>>,
    {
        let retry = http.retry();
        loop {
            self.wait_out_hold(http, limits, asked).await?;
            let outcome = tokio::select! {
                outcome = self.once(limits, asked, &ask) => outcome?,
                () = self.patience.ended() => return Err(self.given_up(Instant::now(), self.late())),
            };
            let error = match outcome {
                Ok(proof) => return Ok(proof),
                Err(error) => error,
            };
            limits.hold(asked, &error);
            let tries = self.progress().tries;
            if !is_worth_another(self.service, &error, tries, retry) {
                return Err(error.tried(tries, ""));
            }
            match error.wait() {
                Some(pause) if pause > retry.longest => {
                    let why = format!("asked to wait {} s, which is too long", pause.as_secs());
                    return Err(error.tried(tries, &why));
                }
                // It is a hold by now.
                Some(_) => {}
                None => {
                    let why = error.tried(tries, "no time is left for another");
                    let until = http.clock().now() + pause(self.service, tries, retry);
                    self.pause(http, until, why).await?;
                }
            }
        }
    }

    async fn once<F>(
        &self,
        limits: &Limits,
        asked: &Asked,
        ask: impl Fn() -> F,
    ) -> Result<Result<Proof>>
    where
        F: Future<Output = Result<Proof>>,
    {
        self.progress().queued = true;
        let place = limits.place(asked).await?;
        {
            let mut progress = self.progress();
            (progress.queued, progress.tries) = (false, progress.tries + 1);
        }
        let outcome = ask().await;
        drop(place);
        self.progress().met = outcome.as_ref().err().cloned();
        Ok(outcome)
    }

    /// Waits as long as the service asked for, this flight's own request or another.
    async fn wait_out_hold(&self, http: &Http, limits: &Limits, asked: &Asked) -> Result<()> {
        while let Some((until, error)) = limits.held(asked) {
            let left = until.saturating_duration_since(http.clock().now());
            let why = format!("asked to wait {left:.0?}, more time than is left");
            let error = error.tried(self.progress().tries, &why);
            self.pause(http, until, error).await?;
        }
        Ok(())
    }

    /// Does nothing until a time of the clock. Fails at once if nobody waits so long.
    async fn pause(&self, http: &Http, until: Instant, why: Error) -> Result<()> {
        let left = until.saturating_duration_since(http.clock().now());
        let real = Instant::now() + left;
        if real >= self.patience.deadline() {
            return Err(self.given_up(real, why));
        }
        tracing::debug!(?left, err = %why, "a token request pauses");
        self.patience.pauses(real, why);
        tokio::select! {
            () = http.clock().sleep_until(until) => {}
            () = self.patience.ended() => return Err(self.given_up(Instant::now(), self.late())),
        }
        self.patience.resumes();
        Ok(())
    }
}

/// Whether the service may answer otherwise a moment later. NMI is asked once, since kubelet repeats
/// the whole Mount; a login does not get better by asking again.
fn is_worth_another(service: Service, error: &Error, tries: u32, retry: Retry) -> bool {
    match service {
        Service::Entra | Service::TokenProxy => tries < retry.tries && http::is_transient(error),
        Service::Machine => match error.status() {
            // 404 and 410: for a moment after an assignment, or while it updates.
            Some(status) => tries < retry.tries && matches!(status, 404 | 410 | 429 | 500..),
            // Most often this is no Azure machine.
            None => tries < 2 && matches!(error.code(), Code::Unavailable | Code::TimedOut),
        },
        Service::Nmi | Service::AzureCli => false,
    }
}

fn pause(service: Service, tries: u32, retry: Retry) -> Duration {
    match service {
        Service::Machine => {
            let factor = 3_u32.saturating_pow(tries.saturating_sub(1));
            retry.pause.mul_f64(IMDS_PAUSE).saturating_mul(factor).min(retry.longest)
        }
        _ => retry.pause_after(tries),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::clock::Clock;
    use crate::cloud::{Cloud, Endpoints};
    use crate::error::Hop;
    use crate::http::Options;
    use crate::identity::inputs::Inputs;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// The tries of a flight whose service always answers so, and how it ended.
    async fn fly(flight: &Flight, retry: Retry, clock: &Clock, error: &Error) -> (u32, Error) {
        let options = Options { retry, clock: clock.clone(), ..Options::default() };
        let endpoints = Endpoints::azure();
        let cloud: Cloud = endpoints.clouds.values().next().unwrap().clone();
        let http = Http::with(endpoints, options);
        let (limits, inputs) = (Limits::new(clock.clone()), Inputs::Managed { client_id: None });
        let tries = Cell::new(0);
        let ask = || {
            tries.set(tries.get() + 1);
            std::future::ready(Err(error.clone()))
        };
        let asked = Asked::new(&inputs, &cloud);
        let error = flight.run(&http, &limits, &asked, ask).await.err().unwrap();
        (tries.get(), error)
    }

    /// A caller with more time may join after the decision, and before it is known.
    #[tokio::test]
    async fn a_flight_that_is_given_up_tells_for_whom() {
        let flight = Flight::new(Service::Entra, Instant::now() + MINUTE);
        let retry = Retry { pause: MINUTE * 10, longest: MINUTE * 60, ..Retry::default() };
        let error = Error::new(Code::Unavailable, "x").answered(503, None);
        let (tries, error) = fly(&flight, retry, &Clock::system(), &error).await;
        assert_eq!((tries, error.message()), (1, "x (1 try; no time is left for another)"));
        flight.patience.extend(Instant::now() + MINUTE * 60);
        let bound = flight.bound().unwrap();
        assert!(bound > Instant::now() + MINUTE && bound < Instant::now() + MINUTE * 20);
    }

    #[tokio::test]
    async fn what_is_too_long_to_wait_for_is_not_waited_for() {
        let flight = Flight::new(Service::Entra, Instant::now() + MINUTE * 60);
        let error = Error::new(Code::Throttled, "x").answered(429, None);
        let error = error.retry_after(Some(MINUTE * 2));
        let (tries, error) = fly(&flight, Retry::default(), &Clock::system(), &error).await;
        let told = "x (1 try; asked to wait 120 s, which is too long)";
        assert_eq!((tries, error.message(), flight.bound()), (1, told, None));
    }

    #[test]
    fn pauses_of_imds_are_its_own() {
        let pauses = |tries| pause(Service::Machine, tries, Retry::default()).as_millis();
        assert_eq!([1, 2, 3].map(pauses), [300, 900, 2700]);
    }

    #[test]
    fn what_may_pass_is_worth_another_try() {
        let worth = |service, error: &Error| {
            let retry = Retry::default();
            (1..=retry.tries)
                .take_while(|tries| is_worth_another(service, error, *tries, retry))
                .count()
        };
        let status = |status| Error::new(Code::Unavailable, "x").answered(status, None);
        let broken = Error::new(Code::Unavailable, "x").at(Hop::Connect);
        for (service, error, more) in [
            (Service::Entra, status(503), 3),
            (Service::Entra, status(400), 0),
            (Service::Entra, broken.clone(), 3),
            (Service::TokenProxy, status(429), 3),
            (Service::Machine, status(404), 3),
            (Service::Machine, status(410), 3),
            (Service::Machine, status(400), 0),
            (Service::Machine, broken.clone(), 1),
            (Service::Machine, Error::new(Code::IdentityUnavailable, "x"), 0),
            (Service::Nmi, status(503), 0),
            (Service::AzureCli, broken, 0),
        ] {
            assert_eq!(worth(service, &error), more, "{service:?} {error:?}");
        }
    }
}
