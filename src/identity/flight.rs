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
use super::limits::{Asked, Limits, PLACES};
use super::proof::Proof;

/// What IMDS's pauses are, in units of [`Retry::pause`]: 300 ms, growing threefold.
const IMDS_PAUSE: f64 = 0.375;

/// How a flight ended.
#[derive(Clone)]
pub(super) enum Outcome {
    /// With a proof.
    Proved(Proof),
    /// With an error. The time is there when only that deadline kept it from going on.
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

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of somebody's time, and how far it went.
    fn late(&self) -> Error {
        let progress = self.progress();
        let name = self.service.name();
        let queue = format!("{PLACES} other token requests are under way");
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
                () = self.patience.ended() => return Err(self.late().hurried()),
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
            return Err(why.hurried());
        }
        tracing::debug!(?left, err = %why, "a token request pauses");
        self.patience.pauses(real, why);
        tokio::select! {
            () = http.clock().sleep_until(until) => {}
            () = self.patience.ended() => return Err(self.late().hurried()),
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
