//! What a token request is made of, and one request with it.
//!
//! [`Inputs`] own everything, an assertion's bytes too: a request may outlive whoever began it, and
//! what was sent is exactly what the proof is of.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::class::{Assertion, Claim, Pod, Tenant};
use crate::cloud::Cloud;
use crate::error::{Code, Error, Hop, Result};
use crate::http::Http;
use crate::secret::{Secret, file};

use super::proof::{Mode, Proof, ProvenIdentity};
use super::transport::Route;
use super::{MAX_ASSERTION, assertion, azure_cli, binding, certificate, entra, managed, nmi};

/// One try at Entra. A connection that went dead must not use up a patient caller's time; making a
/// new one may take ten seconds of it.
const TRY_ENTRA: Duration = Duration::from_secs(15);
/// One try elsewhere; the files of those services have closer limits of their own.
const TRY: Duration = Duration::from_secs(60);

/// A claim whose inputs are all in memory.
#[derive(Clone)]
pub(super) enum Inputs {
    ServicePrincipal { tenant: String, client_id: String, client_secret: Secret },
    Certificate { tenant: String, client_id: String, certificate: Secret },
    Workload { tenant: String, client_id: String, assertion: Secret },
    Binding { tenant: String, client_id: String, assertion: Secret },
    AzureCli { tenant: Option<String>, program: PathBuf },
    Managed { client_id: Option<String> },
    Pod(Pod),
}

/// Who gives the tokens of a mode, for bounds and texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Service {
    Entra,
    TokenProxy,
    Machine,
    Nmi,
    AzureCli,
}

impl Service {
    pub(super) const fn hop(self) -> Hop {
        match self {
            Service::Entra | Service::TokenProxy | Service::AzureCli => Hop::Entra,
            Service::Machine => Hop::Imds,
            Service::Nmi => Hop::Nmi,
        }
    }

    /// In error texts.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Service::Entra => "Entra",
            Service::TokenProxy => "the cluster's token proxy",
            Service::Machine => "the machine's identity service (IMDS)",
            Service::Nmi => "nmi",
            Service::AzureCli => "az",
        }
    }
}

impl Inputs {
    /// Reads what is in files.
    pub(super) async fn of(claim: &Claim) -> Result<Self> {
        let owned = |tenant: &Tenant, client_id: &String| {
            let (tenant, client_id) = (tenant.as_str().to_owned(), client_id.clone());
            (tenant, client_id)
        };
        Ok(match claim {
            Claim::ServicePrincipal { tenant, client_id, client_secret } => {
                text(client_secret, "client secret")?;
                let (tenant, client_id) = owned(tenant, client_id);
                let client_secret = client_secret.clone();
                Inputs::ServicePrincipal { tenant, client_id, client_secret }
            }
            Claim::Certificate { tenant, client_id, certificate } => {
                let (tenant, client_id) = owned(tenant, client_id);
                Inputs::Certificate { tenant, client_id, certificate: certificate.clone() }
            }
            Claim::Workload { tenant, client_id, assertion } => {
                let assertion = match assertion {
                    Assertion::Token(token) => token.clone(),
                    Assertion::File(path) => assertion::read(path, file::read).await?,
                    Assertion::Projected(path) => assertion::read(path, file::read_shared).await?,
                };
                bounded(&assertion)?;
                let (tenant, client_id) = owned(tenant, client_id);
                Inputs::Workload { tenant, client_id, assertion }
            }
            Claim::Binding { tenant, client_id, assertion } => {
                bounded(assertion)?;
                let (tenant, client_id) = owned(tenant, client_id);
                Inputs::Binding { tenant, client_id, assertion: assertion.clone() }
            }
            Claim::AzureCli { tenant, program } => {
                let tenant = tenant.as_ref().map(|tenant| tenant.as_str().to_owned());
                Inputs::AzureCli { tenant, program: program.clone() }
            }
            Claim::Managed { client_id } => Inputs::Managed { client_id: client_id.clone() },
            Claim::Pod(pod) => Inputs::Pod(pod.clone()),
        })
    }

    pub(super) fn mode(&self) -> Mode {
        match self {
            Inputs::ServicePrincipal { .. } => Mode::ServicePrincipal,
            Inputs::Certificate { .. } => Mode::Certificate,
            Inputs::Workload { .. } => Mode::Workload,
            Inputs::Binding { .. } => Mode::Binding,
            Inputs::Managed { .. } => Mode::Managed,
            Inputs::AzureCli { .. } => Mode::AzureCli,
            Inputs::Pod(_) => Mode::Pod,
        }
    }

    pub(super) fn service(&self) -> Service {
        match self {
            Inputs::ServicePrincipal { .. }
            | Inputs::Certificate { .. }
            | Inputs::Workload { .. } => Service::Entra,
            Inputs::Binding { .. } => Service::TokenProxy,
            Inputs::Managed { .. } => Service::Machine,
            Inputs::AzureCli { .. } => Service::AzureCli,
            Inputs::Pod(_) => Service::Nmi,
        }
    }

    /// Tenant and client, as far as the request names them.
    pub(super) fn client(&self) -> (&str, &str) {
        match self {
            Inputs::ServicePrincipal { tenant, client_id, .. }
            | Inputs::Certificate { tenant, client_id, .. }
            | Inputs::Workload { tenant, client_id, .. }
            | Inputs::Binding { tenant, client_id, .. } => (tenant, client_id),
            Inputs::AzureCli { tenant, .. } => (tenant.as_deref().unwrap_or(""), ""),
            Inputs::Managed { client_id } => ("", client_id.as_deref().unwrap_or("")),
            Inputs::Pod(pod) => (&pod.namespace, &pod.name),
        }
    }

    /// When the evidence itself ends, if it does. Only to be asked once a service accepted it.
    fn evidence_ends(&self) -> Option<SystemTime> {
        match self {
            Inputs::Workload { assertion, .. } | Inputs::Binding { assertion, .. } => {
                assertion::expiry(assertion)
            }
            _ => None,
        }
    }

    /// Asks the token service once.
    pub(super) async fn ask(
        &self,
        http: &Http,
        proxy: &binding::Binding,
        cloud: &Cloud,
        scope: &str,
    ) -> Result<Proof> {
        let clock = http.clock();
        let deadline =
            Instant::now() + if self.service() == Service::Entra { TRY_ENTRA } else { TRY };
        let (token, identity) = match self {
            Inputs::ServicePrincipal { tenant, client_id, client_secret } => {
                let (route, _) = Route::direct(http, cloud, tenant)?;
                let credential =
                    entra::client_secret(route, cloud, tenant, client_id, client_secret)?;
                (entra::token(credential.as_ref(), scope, clock, deadline).await?, None)
            }
            Inputs::Certificate { tenant, client_id, certificate } => {
                let (route, audience) = Route::direct(http, cloud, tenant)?;
                let form = match route {
                    Route::Adfs(_) => certificate::Form::Adfs,
                    _ => certificate::Form::Entra,
                };
                let now = clock.wall();
                let assertion =
                    certificate::assertion(certificate, form, &audience, client_id, now).await?;
                let credential =
                    entra::client_assertion(route, cloud, tenant, client_id, &assertion)?;
                (entra::token(credential.as_ref(), scope, clock, deadline).await?, None)
            }
            Inputs::Workload { tenant, client_id, assertion } => {
                let (route, _) = Route::direct(http, cloud, tenant)?;
                let credential =
                    entra::client_assertion(route, cloud, tenant, client_id, assertion)?;
                (entra::token(credential.as_ref(), scope, clock, deadline).await?, None)
            }
            Inputs::Binding { tenant, client_id, assertion } => {
                let route = Route::Proxy(proxy.route(deadline).await?);
                let credential =
                    entra::client_assertion(route, cloud, tenant, client_id, assertion)?;
                let token = entra::token(credential.as_ref(), scope, clock, deadline).await;
                (token.map_err(|error| binding::explain(error, client_id))?, None)
            }
            Inputs::AzureCli { tenant, program } => {
                let (token, who) =
                    azure_cli::token(program, tenant.as_deref(), scope, deadline).await?;
                let identity =
                    ProvenIdentity::new(Mode::AzureCli, cloud, &who.tenant, &who.object_id);
                (token, Some(identity))
            }
            Inputs::Managed { client_id } => {
                (managed::token(http, client_id.as_deref(), scope, deadline).await?, None)
            }
            Inputs::Pod(pod) => {
                let (token, client_id) = nmi::token(http, pod, scope, deadline).await?;
                (token, Some(ProvenIdentity::of_pod(cloud, pod, &client_id)))
            }
        };
        let identity = identity.unwrap_or_else(|| {
            let (tenant, client_id) = self.client();
            ProvenIdentity::new(self.mode(), cloud, tenant, client_id)
        });
        Ok(Proof::new(identity, self.evidence_ends(), scope, token, clock))
    }

    /// Whether an error means that the evidence is not accepted (any more), and not merely that the
    /// service could not tell.
    pub(super) fn is_refused(&self, error: &Error) -> bool {
        match (error.code(), self.service()) {
            (Code::Unauthenticated, Service::AzureCli) => azure_cli::needs_login(error),
            (Code::Unauthenticated, _) => true,
            // 400: no such identity here. 404 and 410 are what IMDS says while it updates.
            (Code::IdentityUnavailable, Service::Machine) => {
                error.status().is_some_and(|status| !matches!(status, 404 | 410))
            }
            // To NMI every status below 500 is about this pod's assignment.
            (Code::IdentityUnavailable, Service::Nmi) => error.status().is_some(),
            _ => false,
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
