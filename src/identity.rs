//! From a claim to a proof, and from a proof to tokens.
//!
//! A caller's [`Claim`] is unproven input. [`Identities::prove`] asks the token service with exactly
//! that input; only when it answers with a token does a [`Proof`] exist. A proof is found again by an
//! HMAC, keyed for this process, over the length-prefixed tuple (mode, authority, tenant, client id,
//! assertion or secret, scope): the same inputs share it, any other input is another proof. It ends
//! with the token or the assertion, whichever ends first, less a margin of 30 s, or of a quarter of a
//! shorter life. Claims inside an assertion are never part of a decision before Entra accepted that
//! very assertion.
//!
//! One credential object belongs to one proof: the SDK's credentials cache by scope alone and would
//! hand one caller's token to another.
//!
//! Callers with the same inputs share one request (`flight`), which no caller's end breaks off. Its
//! error is told to those who waited for it and then forgotten. What is in the last part of its life
//! is **renewed** in the background by the callers who still use it: with 5 minutes left, or a quarter
//! of a shorter life, and only where the evidence may give a longer proof. What renewing brings:
//!
//! | Answer | What becomes of the proof |
//! |---|---|
//! | a token for the same identity | replaced |
//! | a token for another one (a login, a pod's assignment) | dropped; the next caller proves anew |
//! | a refusal: Entra's 400, 401 or 403, IMDS's 400, NMI's 4xx, a login that is over | dropped at once: the evidence is not accepted any more |
//! | no answer, 429, 5xx, IMDS's 404 and 410 | kept to its end; tried again after 30 s, growing to 5 min |
//!
//! A vault may **refuse** a token before its end. Whoever tells (`prove_anew`) gets
//! another proof, by one request for all, and the refused one is never given out again, even when
//! there is no other. Only a token that is younger than 2 s stays: one asked for now would be refused
//! too, so the vault rather means this caller.
//!
//! All ages and ends are by the clock of [`Http`]; callers' deadlines are real time.

mod assertion;
mod azure_cli;
mod binding;
mod certificate;
mod entra;
mod flight;
mod imds;
mod inputs;
mod lifetime;
mod limits;
mod managed;
mod nmi;
mod proof;
mod table;
mod transport;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use ring::{hmac, rand::SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::class::{Assertion, Claim};
use crate::cloud::Cloud;
use crate::error::{Code, Error, Result};
use crate::http::Http;
use crate::secret::Secret;
use crate::telemetry::metrics;

use flight::{Flight, Outcome};
use inputs::{Inputs, Service};
use limits::{Asked, Limits};
pub use proof::{Mode, PodId, Proof, ProvenIdentity};
use proof::{ProofKey, ProofKeyInput};
use table::{Caller, Found, Table};

/// A token younger than this that a vault refuses would be no better if asked for again.
const FRESH: Duration = Duration::from_secs(2);
/// Longest accepted assertion. Kubernetes tokens are about 1 KiB.
const MAX_ASSERTION: usize = 16 * 1024;
/// Most renewals at a time; what finds no place is renewed when it is used again.
const RENEWALS: usize = 16;
/// How long a renewal may take while no caller needs it.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(30);
/// How often ended proofs are looked for, by the clock.
const SWEEP: Duration = Duration::from_secs(30);
/// How often one caller begins again, when what it waited for ended for reasons of others.
const ROUNDS: usize = 4;

/// A bearer token with its end.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) bearer: Secret,
    pub(crate) expires: SystemTime,
}

/// When a claim stops giving tokens: the end of a service account token that was handed over. Whatever
/// is read anew on each use, or asked for here, has no end. Nobody has verified the token; to believe a
/// wrong end costs nobody but its owner anything.
pub(crate) fn usable_until(claim: &Claim) -> Option<SystemTime> {
    let assertion = match claim {
        Claim::Workload { assertion: Assertion::Token(token), .. } => token,
        Claim::Binding { assertion, .. } => assertion,
        _ => return None,
    };
    assertion::expiry(assertion)?.checked_sub(proof::MARGIN)
}

/// The proofs of the process.
#[derive(Clone)]
pub struct Identities(Arc<Inner>);

struct Inner {
    http: Http,
    hmac: hmac::Key,
    binding: binding::Binding,
    limits: Limits,
    renewals: Arc<Semaphore>,
    table: Mutex<Table>,
}

impl Identities {
    /// An empty table over these clients.
    pub fn new(http: Http) -> Result<Self> {
        let hmac = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| Error::new(Code::Local, "the system gives no random numbers"))?;
        let binding = binding::Binding::new(http.clone());
        let limits = Limits::new(http.clock().clone());
        let (renewals, table) = (Arc::new(Semaphore::new(RENEWALS)), Mutex::default());
        Ok(Self(Arc::new(Inner { http, hmac, binding, limits, renewals, table })))
    }

    /// The outbound clients.
    pub fn http(&self) -> &Http {
        &self.0.http
    }

    /// Proves a claim by getting a token for `scope` (`https://vault.azure.net/.default`) with it.
    ///
    /// # Errors
    /// Unauthenticated when the token service refuses, IdentityUnavailable when this identity cannot
    /// work here, and the transport errors of [`crate::http`].
    pub async fn prove(
        &self,
        claim: &Claim,
        cloud: &Cloud,
        scope: &str,
        deadline: Instant,
    ) -> Result<Proof> {
        self.prove_anew(claim, cloud, scope, None, deadline).await
    }

    /// The same after a vault did not accept the token of `refused`: another proof, if there may be
    /// one. A token that was refused although it is fresh is not asked for again.
    ///
    /// # Errors
    /// As [`Identities::prove`].
    pub(crate) async fn prove_anew(
        &self,
        claim: &Claim,
        cloud: &Cloud,
        scope: &str,
        refused: Option<&Proof>,
        deadline: Instant,
    ) -> Result<Proof> {
        let late = || {
            Error::new(Code::TimedOut, "no token before the deadline")
                .fix("check that the node may reach the token service")
        };
        let inputs = tokio::time::timeout_at(deadline.into(), Inputs::of(claim))
            .await
            .unwrap_or_else(|_| Err(late()))?;
        let service = inputs.service();
        // NMI is asked for the cloud's resource, whatever the vault's challenge says.
        let own = (service == Service::Nmi).then(|| format!("{}/.default", cloud.resource));
        let scope = own.as_deref().unwrap_or(scope);
        let key = ProofKeyInput::new(&inputs, cloud, scope).key(&self.0.hmac);
        let request = || Request {
            inputs: inputs.clone(),
            cloud: cloud.clone(),
            scope: scope.to_owned(),
            key,
        };
        for _ in 0..ROUNDS {
            let mut place = None;
            let may_renew = || {
                place = self.0.renewals.clone().try_acquire_owned().ok();
                place.as_ref().map(|_| Instant::now() + RENEWAL_PATIENCE)
            };
            let now = self.0.http.clock().now();
            let caller = Caller { service, refused, deadline, now };
            let found = self.0.table().find(&key, &caller, may_renew);
            let flight = match found {
                Found::Proof(proof) => return Ok(proof),
                Found::Renew(proof, flight) => {
                    self.0.start(request(), flight, place);
                    return Ok(proof);
                }
                Found::Join(flight) => flight,
                Found::Begin(flight) => {
                    self.0.start(request(), flight.clone(), None);
                    flight
                }
            };
            match flight.outcome(deadline).await {
                Outcome::Proved(proof) => return Ok(proof),
                // It ended because of callers with less time.
                Outcome::Failed(_, Some(bound)) if bound < deadline => {}
                Outcome::Failed(error, _) if service == Service::Machine => {
                    return Err(managed::explain(&self.0.http, error));
                }
                Outcome::Failed(error, _) => return Err(error),
                Outcome::Anew => {}
            }
        }
        Err(late())
    }

    /// Whether this machine's own identity is likely to work, found out within a second.
    pub(crate) async fn machine_answers(&self) -> bool {
        managed::answers(&self.0.http).await
    }
}

/// What a flight needs, whoever began it.
struct Request {
    inputs: Inputs,
    cloud: Cloud,
    scope: String,
    key: ProofKey,
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a flight as a task of its own.
    fn start(
        self: &Arc<Self>,
        request: Request,
        flight: Arc<Flight>,
        renewal: Option<OwnedSemaphorePermit>,
    ) {
        let landing = Landing { inner: self.clone(), request, flight, landed: false };
        tokio::spawn(async move {
            let result = landing.inner.fly(&landing.request, &landing.flight).await;
            landing.land(result);
            drop(renewal);
        });
    }

    async fn fly(&self, request: &Request, flight: &Flight) -> Result<Proof> {
        let Request { inputs, cloud, scope, .. } = request;
        let asked = Asked::new(inputs, cloud);
        let ask = || inputs.ask(&self.http, &self.binding, cloud, scope);
        flight.run(&self.http, &self.limits, &asked, ask).await
    }

    /// Drops ended proofs from now on, until there are none.
    fn sweep(self: &Arc<Self>) {
        let sweeper = Sweeper { inner: Arc::downgrade(self), done: false };
        let clock = self.http.clock().clone();
        tokio::spawn(async move {
            let mut sweeper = sweeper;
            loop {
                clock.sleep(SWEEP).await;
                let Some(inner) = sweeper.inner.upgrade() else { return };
                let mut table = inner.table();
                if !table.sweep() {
                    (table.swept, sweeper.done) = (false, true);
                    return;
                }
            }
        });
    }
}

/// Takes a flight's result to the table and to those who wait; also when its task ends without one.
struct Landing {
    inner: Arc<Inner>,
    request: Request,
    flight: Arc<Flight>,
    landed: bool,
}

impl Landing {
    fn land(mut self, result: Result<Proof>) {
        self.landed = true;
        let found = result.is_ok();
        self.report(result);
        if found && !std::mem::replace(&mut self.inner.table().swept, true) {
            self.inner.sweep();
        }
    }

    fn report(&self, result: Result<Proof>) {
        let Request { inputs, key, .. } = &self.request;
        metrics::token_request(inputs.mode().as_str(), &result);
        let refused = result.as_ref().err().is_some_and(|error| inputs.is_refused(error));
        let now = self.inner.http.clock().now();
        let outcome = self.inner.table().land(key, &self.flight, result, refused, now);
        self.flight.end(outcome);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.landed {
            self.report(Err(Error::new(Code::Internal, "a token request of akvfs failed")
                .fix("this is a bug; the log names the place")));
        }
    }
}

/// The task that drops ended proofs; its end, whatever the reason, lets another one begin.
struct Sweeper {
    inner: Weak<Inner>,
    done: bool,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if !self.done
            && let Some(inner) = self.inner.upgrade()
        {
            inner.table().swept = false;
        }
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests;
