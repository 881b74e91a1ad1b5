//! Proofs against the emulator: who shares what, what is renewed, and what an outage does.

mod outages;
mod refused;
mod renewal;
mod sharing;

use crate::class::{Assertion, Pod, Tenant};
use crate::clock::Clock;
use crate::emulator::{
    BINDING_CLIENT, Config, Control, Emulator, USER_IDENTITY, WORKLOAD_CLIENT, WorkloadToken,
};
use crate::http::{Options, Retry};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
/// More than anything here takes, so that a hang ends a test.
const PATIENT: Duration = MINUTE;

/// The emulator and the identities of a process, each with its clock.
struct Site {
    emulator: Emulator,
    control: Control,
    identities: Identities,
    /// Ours; of [`Site::new`] the emulator's too.
    clock: Clock,
}

impl Site {
    /// One clock for both.
    async fn new() -> Self {
        let clock = Clock::adjustable();
        Self::with(clock.clone(), clock).await
    }

    async fn with(ours: Clock, theirs: Clock) -> Self {
        let emulator = Emulator::start(Config { clock: theirs, ..Config::default() });
        let emulator = emulator.await.unwrap();
        let retry = Retry { pause: Duration::from_micros(100), ..Retry::default() };
        let options = Options { retry, clock: ours.clone(), ..Options::default() };
        let identities = Identities::new(Http::with(emulator.endpoints(), options)).unwrap();
        Self { control: emulator.control(), emulator, identities, clock: ours }
    }

    fn principal(&self) -> Claim {
        let (id, client_secret) = self.emulator.service_principal();
        Claim::ServicePrincipal { tenant: self.tenant(), client_id: id.to_owned(), client_secret }
    }

    /// Another app registration.
    fn another(&self, number: usize) -> Claim {
        let client_id = format!("00000000-0000-4000-8000-{number:012}");
        let client_secret = Secret::from("dev-only-another");
        self.control.add_client(&client_id, Some(client_secret.clone()), &[]);
        Claim::ServicePrincipal { tenant: self.tenant(), client_id, client_secret }
    }

    /// With a token of its own that lives so long.
    fn workload(&self, lifetime: Duration) -> Claim {
        let token = WorkloadToken { lifetime: Some(lifetime), ..WorkloadToken::default() };
        let assertion = Assertion::Token(self.emulator.workload_token(&token).unwrap());
        let client_id = WORKLOAD_CLIENT.to_owned();
        Claim::Workload { tenant: self.tenant(), client_id, assertion }
    }

    fn binding(&self, lifetime: Duration) -> Claim {
        let audience = "api://AKSIdentityBinding".to_owned();
        let lifetime = Some(lifetime);
        let token = WorkloadToken { audience, lifetime, ..WorkloadToken::default() };
        let assertion = self.emulator.workload_token(&token).unwrap();
        let client_id = BINDING_CLIENT.to_owned();
        Claim::Binding { tenant: self.tenant(), client_id, assertion }
    }

    fn certificate(&self) -> Claim {
        use crate::emulator::{CertificateSeed, KeySeed, client_certificate};
        let seed = CertificateSeed { key: KeySeed::Rsa, pfx: false, chain: false };
        let (certificate, der) = client_certificate(seed).unwrap();
        let client_id = "00000000-0000-4000-8000-00000000ce47".to_owned();
        self.control.add_certificate_client(&client_id, &der);
        Claim::Certificate { tenant: self.tenant(), client_id, certificate }
    }

    fn tenant(&self) -> Tenant {
        Tenant::parse(self.emulator.tenant()).unwrap()
    }

    async fn prove(&self, claim: &Claim) -> Result<Proof> {
        self.prove_within(claim, PATIENT).await
    }

    async fn prove_within(&self, claim: &Claim, patience: Duration) -> Result<Proof> {
        self.anew(claim, None, patience).await
    }

    async fn anew(
        &self,
        claim: &Claim,
        refused: Option<&Proof>,
        patience: Duration,
    ) -> Result<Proof> {
        let cloud = self.emulator.cloud();
        let scope = format!("{}/.default", cloud.resource);
        let deadline = Instant::now() + patience;
        self.identities.prove_anew(claim, &cloud, &scope, refused, deadline).await
    }

    /// Token requests so far, refused ones too.
    fn asked(&self) -> u64 {
        self.control.counters().token_requests
    }

    /// Whether nothing is under way.
    fn is_quiet(&self) -> bool {
        self.identities.0.renewals.available_permits() == RENEWALS
    }
}

fn managed() -> Claim {
    Claim::Managed { client_id: Some(USER_IDENTITY.to_owned()) }
}

fn pod() -> Claim {
    Claim::Pod(Pod {
        name: "app".to_owned(),
        namespace: "default".to_owned(),
        uid: "u".to_owned(),
        service_account: "app".to_owned(),
    })
}

/// Polls until `done`, for at most ten seconds.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within ten seconds");
}

/// So many calls at once.
async fn crowd<F: Future>(calls: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    futures_util::future::join_all(calls).await
}
