//! From a claim to a proof, and from a proof to tokens.
//!
//! A caller's [`Claim`] is unproven input. [`Identities::prove`] asks the token service with exactly
//! that input; only when it answers with a token does a [`Proof`] exist. A proof is found again by an
//! HMAC, keyed for this process, over the length-prefixed tuple (mode, authority, tenant, client id,
//! assertion or secret, scope): the same inputs share it, any other input is another proof. It ends
//! with the token or the assertion, whichever ends first, less a margin. Claims inside an assertion
//! are never part of a decision before Entra accepted that very assertion.
//!
//! One credential object belongs to one proof: the SDK's credentials cache by scope alone and would
//! hand one caller's token to another.

mod assertion;
mod azure_cli;
mod binding;
mod certificate;
mod entra;
mod imds;
mod lifetime;
mod managed;
mod nmi;
mod proof;
mod transport;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use ring::{hmac, rand::SystemRandom};
use tokio::sync::Mutex;

use crate::class::{Assertion, Claim, Pod, Tenant};
use crate::cloud::Cloud;
use crate::error::{Code, Error, Result};
use crate::http::Http;
use crate::secret::{Secret, file};
use crate::telemetry::metrics;

pub use proof::{Mode, PodId, Proof, ProvenIdentity};
use proof::{ProofKey, ProofKeyInput};
use transport::Route;

/// A token or assertion this close to its end is not used any more.
const MARGIN: Duration = Duration::from_secs(30);
/// A token younger than this that a vault refuses would be no better if asked for again.
const FRESH: Duration = Duration::from_secs(2);
/// Most proofs kept; the least recently used goes first.
const MAX_PROOFS: usize = 4096;
/// Longest accepted assertion. Kubernetes tokens are about 1 KiB.
const MAX_ASSERTION: usize = 16 * 1024;

/// A bearer token with its end.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) bearer: Secret,
    pub(crate) expires: SystemTime,
}

/// The proofs of the process.
#[derive(Clone)]
pub struct Identities(Arc<Inner>);

struct Inner {
    http: Http,
    hmac: hmac::Key,
    binding: binding::Binding,
    proofs: DashMap<ProofKey, Arc<Entry>>,
}

/// One proof to be: the lock makes a single token request for callers with the same inputs.
struct Entry {
    state: Mutex<State>,
    used: std::sync::Mutex<Instant>,
}

#[derive(Default)]
struct State {
    proof: Option<Proof>,
    /// The last refusal or failure, and when it came. It answers whoever was already waiting then: a
    /// mount of a hundred objects with a wrong secret asks the token service once.
    failed: Option<(Instant, Error)>,
}

impl Identities {
    /// An empty table over these clients.
    pub fn new(http: Http) -> Result<Self> {
        let hmac = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| Error::new(Code::Local, "the system gives no random numbers"))?;
        let binding = binding::Binding::new(http.clone());
        Ok(Self(Arc::new(Inner { http, hmac, binding, proofs: DashMap::new() })))
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
        let good = |proof: &&Proof| {
            proof.is_live()
                && (proof.is_fresh() || !refused.is_some_and(|refused| refused.same_as(proof)))
        };
        let late = || {
            Error::new(Code::TimedOut, "no token before the deadline")
                .fix("check that the node may reach the token service")
        };
        let claim = tokio::time::timeout_at(deadline.into(), resolve(claim))
            .await
            .unwrap_or_else(|_| Err(late()))?;
        // NMI is asked for the cloud's resource, whatever the vault's challenge says.
        let own = matches!(claim, Resolved::Pod(_)).then(|| format!("{}/.default", cloud.resource));
        let scope = own.as_deref().unwrap_or(scope);
        let key = ProofKeyInput::new(&claim, cloud, scope).key(&self.0.hmac);
        let (entry, arrived) = (self.entry(&key), Instant::now());
        let result = tokio::time::timeout_at(deadline.into(), async {
            let mut state = entry.state.lock().await;
            if let Some(proof) = state.proof.as_ref().filter(good) {
                return Ok(proof.clone());
            }
            if let Some((_, error)) = state.failed.as_ref().filter(|(at, _)| *at >= arrived) {
                return Err(error.clone());
            }
            *state = State::default();
            let ask = || self.request(&claim, cloud, scope, deadline);
            // The metadata service has rules of its own, NMI is asked once (kubelet retries), and a
            // login does not get better by asking again.
            let outcome = match claim {
                Resolved::Managed { .. } | Resolved::Pod(_) | Resolved::AzureCli { .. } => {
                    ask().await
                }
                _ => self.0.http.retry().run(deadline, ask).await,
            };
            metrics::token_request(claim.mode().as_str(), &outcome);
            match &outcome {
                Ok(proof) => state.proof = Some(proof.clone()),
                // Not when this caller's time was too short: the next one asks with its own.
                Err(error) if Instant::now() < deadline && !error.is_hurried() => {
                    state.failed = Some((Instant::now(), error.clone()));
                }
                Err(_) => {}
            }
            outcome
        })
        .await
        .unwrap_or_else(|_| Err(late()));
        if result.is_err() {
            // Not a proof: leave nothing behind, unless another caller is using the entry.
            self.0.proofs.remove_if(&key, |_, entry| Arc::strong_count(entry) <= 2);
        }
        result
    }

    /// Whether this machine's own identity is likely to work, found out within a second.
    pub(crate) async fn machine_answers(&self) -> bool {
        managed::answers(&self.0.http).await
    }

    fn entry(&self, key: &ProofKey) -> Arc<Entry> {
        if self.0.proofs.len() >= MAX_PROOFS && !self.0.proofs.contains_key(key) {
            self.evict();
        }
        let entry = self.0.proofs.entry(*key).or_insert_with(|| {
            Arc::new(Entry { state: Mutex::default(), used: std::sync::Mutex::new(Instant::now()) })
        });
        if let Ok(mut used) = entry.used.lock() {
            *used = Instant::now();
        }
        entry.clone()
    }

    /// Drops ended proofs, and then the least recently used ones, down to seven eighths.
    fn evict(&self) {
        // An entry whose lock is held is being proved: it stays.
        self.0.proofs.retain(|_, entry| {
            entry
                .state
                .try_lock()
                .map_or(true, |state| state.proof.as_ref().is_some_and(Proof::is_live))
        });
        let target = MAX_PROOFS - MAX_PROOFS / 8;
        if self.0.proofs.len() <= target {
            return;
        }
        let mut ages: Vec<_> = self
            .0
            .proofs
            .iter()
            .map(|entry| (entry.used.lock().map_or_else(|e| *e.into_inner(), |u| *u), *entry.key()))
            .collect();
        ages.sort_unstable_by_key(|(used, _)| *used);
        for (_, key) in ages.into_iter().take(self.0.proofs.len().saturating_sub(target)) {
            self.0.proofs.remove(&key);
        }
    }

    async fn request(
        &self,
        claim: &Resolved<'_>,
        cloud: &Cloud,
        scope: &str,
        deadline: Instant,
    ) -> Result<Proof> {
        let http = &self.0.http;
        match claim {
            Resolved::ServicePrincipal { tenant, client_id, client_secret } => {
                let (route, _) = Route::direct(http, cloud, tenant)?;
                let credential =
                    entra::client_secret(route, cloud, tenant, client_id, client_secret)?;
                let token = entra::token(credential.as_ref(), scope, deadline).await?;
                let identity =
                    ProvenIdentity::new(Mode::ServicePrincipal, cloud, tenant, client_id);
                Ok(Proof::new(identity, token.expires, scope, token))
            }
            Resolved::Certificate { tenant, client_id, certificate } => {
                let (route, audience) = Route::direct(http, cloud, tenant)?;
                let form = match route {
                    Route::Adfs(_) => certificate::Form::Adfs,
                    _ => certificate::Form::Entra,
                };
                let assertion =
                    certificate::assertion(certificate, form, &audience, client_id).await?;
                let credential =
                    entra::client_assertion(route, cloud, tenant, client_id, &assertion)?;
                let token = entra::token(credential.as_ref(), scope, deadline).await?;
                let identity = ProvenIdentity::new(Mode::Certificate, cloud, tenant, client_id);
                Ok(Proof::new(identity, token.expires, scope, token))
            }
            Resolved::Workload { tenant, client_id, assertion } => {
                let (route, _) = Route::direct(http, cloud, tenant)?;
                let credential =
                    entra::client_assertion(route, cloud, tenant, client_id, assertion)?;
                let token = entra::token(credential.as_ref(), scope, deadline).await?;
                let ends = assertion::expiry(assertion).unwrap_or(token.expires).min(token.expires);
                let identity = ProvenIdentity::new(Mode::Workload, cloud, tenant, client_id);
                Ok(Proof::new(identity, ends, scope, token))
            }
            Resolved::Binding { tenant, client_id, assertion } => {
                let route = Route::Proxy(self.0.binding.route(deadline).await?);
                let credential =
                    entra::client_assertion(route, cloud, tenant, client_id, assertion)?;
                let token = entra::token(credential.as_ref(), scope, deadline).await;
                let token = token.map_err(|error| binding::explain(error, client_id))?;
                let ends = assertion::expiry(assertion).unwrap_or(token.expires).min(token.expires);
                let identity = ProvenIdentity::new(Mode::Binding, cloud, tenant, client_id);
                Ok(Proof::new(identity, ends, scope, token))
            }
            Resolved::AzureCli { tenant, program } => {
                let (token, who) = azure_cli::token(program, *tenant, scope, deadline).await?;
                let identity =
                    ProvenIdentity::new(Mode::AzureCli, cloud, &who.tenant, &who.object_id);
                Ok(Proof::new(identity, token.expires, scope, token))
            }
            Resolved::Managed { client_id } => {
                let token = managed::token(http, *client_id, scope, deadline).await?;
                let identity =
                    ProvenIdentity::new(Mode::Managed, cloud, "", client_id.unwrap_or(""));
                Ok(Proof::new(identity, token.expires, scope, token))
            }
            Resolved::Pod(pod) => {
                let (token, client_id) = nmi::token(http, pod, scope, deadline).await?;
                let identity = ProvenIdentity::of_pod(cloud, pod, &client_id);
                Ok(Proof::new(identity, token.expires, scope, token))
            }
        }
    }
}

/// A claim whose inputs are all in memory: what exactly will be sent, and so what the proof is of.
enum Resolved<'a> {
    ServicePrincipal { tenant: &'a str, client_id: &'a str, client_secret: &'a Secret },
    Certificate { tenant: &'a str, client_id: &'a str, certificate: &'a Secret },
    Workload { tenant: &'a str, client_id: &'a str, assertion: Secret },
    Binding { tenant: &'a str, client_id: &'a str, assertion: &'a Secret },
    AzureCli { tenant: Option<&'a str>, program: &'a Path },
    Managed { client_id: Option<&'a str> },
    Pod(&'a Pod),
}

impl Resolved<'_> {
    fn mode(&self) -> Mode {
        match self {
            Resolved::ServicePrincipal { .. } => Mode::ServicePrincipal,
            Resolved::Certificate { .. } => Mode::Certificate,
            Resolved::Workload { .. } => Mode::Workload,
            Resolved::Binding { .. } => Mode::Binding,
            Resolved::Managed { .. } => Mode::Managed,
            Resolved::AzureCli { .. } => Mode::AzureCli,
            Resolved::Pod(_) => Mode::Pod,
        }
    }
}

async fn resolve(claim: &Claim) -> Result<Resolved<'_>> {
    match claim {
        Claim::ServicePrincipal { tenant, client_id, client_secret } => {
            text(client_secret, "client secret")?;
            Ok(Resolved::ServicePrincipal { tenant: tenant.as_str(), client_id, client_secret })
        }
        Claim::Certificate { tenant, client_id, certificate } => {
            Ok(Resolved::Certificate { tenant: tenant.as_str(), client_id, certificate })
        }
        Claim::Workload { tenant, client_id, assertion } => {
            let assertion = match assertion {
                Assertion::Token(token) => token.clone(),
                Assertion::File(path) => assertion::read(path, file::read).await?,
                Assertion::Projected(path) => assertion::read(path, file::read_shared).await?,
            };
            bounded(&assertion)?;
            Ok(Resolved::Workload { tenant: tenant.as_str(), client_id, assertion })
        }
        Claim::AzureCli { tenant, program } => {
            Ok(Resolved::AzureCli { tenant: tenant.as_ref().map(Tenant::as_str), program })
        }
        Claim::Managed { client_id } => Ok(Resolved::Managed { client_id: client_id.as_deref() }),
        Claim::Pod(pod) => Ok(Resolved::Pod(pod)),
        Claim::Binding { tenant, client_id, assertion } => {
            bounded(assertion)?;
            Ok(Resolved::Binding { tenant: tenant.as_str(), client_id, assertion })
        }
    }
}

/// Files may hold any bytes; a form field cannot.
fn text(secret: &Secret, what: &str) -> Result<()> {
    match secret.expose_str() {
        Some(_) => Ok(()),
        None => Err(Error::class(format!("the {what} is not text (UTF-8)"))),
    }
}

fn bounded(assertion: &Secret) -> Result<()> {
    if assertion.len() > MAX_ASSERTION {
        return Err(Error::class("the service account token is longer than 16 KiB"));
    }
    text(assertion, "service account token")
}
