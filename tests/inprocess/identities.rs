//! Our own client against the emulator: every identity reads a secret, and nothing near it does.

use std::time::{Duration, Instant};

use akvfs::class::{Assertion, Claim, ObjectKind, ObjectName, Tenant, VaultName, Version};
use akvfs::cloud::Cloud;
use akvfs::emulator::{Config, Emulator, Seed, USER_IDENTITY, WorkloadToken};
use akvfs::fetch::{Access, Demand, Fetch, ObjectRef, Origin};
use akvfs::http::Http;
use akvfs::vault::{Body, VaultRef};
use akvfs::{Code, Error, Secret};

use crate::world::quick;

pub struct Site {
    pub emulator: Emulator,
    pub fetch: Fetch,
}

impl Site {
    pub async fn new() -> Self {
        let seed = Seed::default().secret("db", &["dev-only-db"]);
        let emulator = Emulator::start(Config { seed, ..Config::default() }).await.unwrap();
        let fetch = Fetch::new(Http::with(emulator.endpoints(), quick())).unwrap();
        Self { emulator, fetch }
    }

    fn tenant(&self) -> Tenant {
        Tenant::parse(self.emulator.tenant()).unwrap()
    }

    pub fn principal(&self, secret: Option<&str>) -> Claim {
        let (id, good) = self.emulator.service_principal();
        Claim::ServicePrincipal {
            tenant: self.tenant(),
            client_id: id.to_owned(),
            client_secret: secret.map_or(good, Secret::from),
        }
    }

    fn workload(&self, token: &WorkloadToken) -> Claim {
        Claim::Workload {
            tenant: self.tenant(),
            client_id: self.emulator.workload_client_id().to_owned(),
            assertion: Assertion::Token(self.emulator.workload_token(token).unwrap()),
        }
    }

    pub async fn read(&self, claim: Claim, cloud: Cloud) -> Result<Secret, Error> {
        let name = VaultName::parse(self.emulator.vault_name()).unwrap();
        let access = Access::new(self.fetch.clone(), claim, VaultRef { cloud, name });
        let object = ObjectRef {
            kind: ObjectKind::Secret,
            name: ObjectName::parse("db").unwrap(),
            version: Version::Latest,
        };
        let version =
            access.get(object, Demand::FIRST, Instant::now() + Duration::from_secs(30)).await?;
        match &version.body {
            Body::Secret { value, .. } => Ok(value.clone()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn every_identity_reads_and_is_counted_by_its_mode() {
    let site = Site::new().await;
    let user = Claim::Managed { client_id: Some(USER_IDENTITY.to_owned()) };
    for (claim, mode) in [
        (site.principal(None), "service-principal"),
        (site.workload(&WorkloadToken::default()), "workload"),
        (Claim::Managed { client_id: None }, "managed"),
        (user, "managed"),
    ] {
        site.emulator.control().reset_log();
        let value = site.read(claim, site.emulator.cloud()).await.unwrap();
        assert_eq!(value.expose(), b"dev-only-db", "{mode}");
        let counters = site.emulator.control().counters();
        assert_eq!(counters.tokens.into_iter().collect::<Vec<_>>(), [(mode, 1)]);
        assert_eq!((counters.vault_requests, counters.challenges), (1, 0), "{mode}");
    }
    // A custom cloud learns the scope from the challenge, at the cost of one request.
    site.emulator.control().reset_log();
    let custom = Cloud { named: false, ..site.emulator.cloud() };
    assert!(site.read(site.principal(None), custom).await.is_ok());
    assert_eq!(site.emulator.control().counters().challenges, 1);
}

#[tokio::test]
async fn what_entra_and_imds_refuse_never_reaches_the_vault() {
    let site = Site::new().await;
    let other = WorkloadToken { namespace: "other".to_owned(), ..WorkloadToken::default() };
    let expired = WorkloadToken { lifetime: None, ..WorkloadToken::default() };
    let forged = WorkloadToken { forged: true, ..WorkloadToken::default() };
    let stranger =
        Claim::Managed { client_id: Some("00000000-0000-4000-8000-000000000000".into()) };
    for (claim, code, number) in [
        (site.principal(Some("wrong")), Code::Unauthenticated, Some("AADSTS7000215")),
        (site.workload(&other), Code::Unauthenticated, Some("AADSTS700213")),
        (site.workload(&expired), Code::Unauthenticated, Some("AADSTS700024")),
        (site.workload(&forged), Code::Unauthenticated, Some("AADSTS50013")),
        (stranger, Code::IdentityUnavailable, None),
    ] {
        let error = site.read(claim, site.emulator.cloud()).await.unwrap_err();
        assert_eq!((error.code(), error.service_code()), (code, number), "{error}");
    }
    assert_eq!(site.emulator.control().counters().vault_requests, 0);
}
