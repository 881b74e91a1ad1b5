//! Object versions for a proven identity.
//!
//! Deliveries reach values only through an [`Origin`]: "what this mount may ask". The real one is
//! [`Access`], which binds a claim to a vault: it proves the claim (again when a proof has ended) and
//! then asks [`Fetch::get`]. Every request to the vault runs as a detached task: a caller that goes away
//! breaks no connection.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::class::{Claim, ObjectKind, ObjectName, ObjectSpec, Version};
use crate::error::{Code, Error, Hop, Result};
use crate::http::Http;
use crate::identity::{Identities, Proof, ProvenIdentity};
use crate::vault::{Ask, ListedVersion, ObjectVersion, Vault, VaultRef};

/// Most names of a listing.
pub const MAX_NAMES: usize = 10_000;
/// Most versions of one object.
pub const MAX_VERSIONS: usize = 10_000;

/// An object to fetch from the mount's vault.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Type.
    pub kind: ObjectKind,
    /// Name.
    pub name: ObjectName,
    /// Version, or the latest.
    pub version: Version,
}

impl ObjectRef {
    /// The one object version that an entry of a class means; of a version history the first.
    pub fn of(object: &ObjectSpec) -> Self {
        let (name, version) = (object.name.clone(), object.version.clone());
        Self { kind: object.kind, name, version }
    }
}

/// What keeps one caller's values from another's: a value is only ever given out under the key it
/// was fetched by, and the identity in it was proved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValueKey {
    /// Who was proved: mode, authority, tenant, client id.
    pub identity: ProvenIdentity,
    /// The vault's URL.
    pub vault: String,
    /// Type, name, version or latest.
    pub object: ObjectRef,
}

/// What one mount may ask for: its identity and its vault, bound together.
pub trait Origin: Send + Sync + 'static {
    /// Fetches one object version. Answers by `deadline` whatever the services do; the work itself
    /// goes on in a detached task, so a waiter that gives up never fails another.
    fn get(
        &self,
        object: ObjectRef,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>>;

    /// Names of all enabled objects of a kind, in the vault's order, all pages (bounded).
    fn list(&self, kind: ObjectKind, deadline: Instant) -> BoxFuture<'_, Result<Vec<ObjectName>>>;

    /// Every version of an object, the disabled ones too, in the vault's order, all pages (bounded).
    fn versions(
        &self,
        kind: ObjectKind,
        name: ObjectName,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<ListedVersion>>>;
}

/// Where values come from: the vault, or what a test passes in.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// One object version.
    async fn get(
        &self,
        proof: &Proof,
        vault: &VaultRef,
        object: &ObjectRef,
        ask: &Ask,
    ) -> Result<ObjectVersion>;
}

#[async_trait]
impl Source for Vault {
    async fn get(
        &self,
        proof: &Proof,
        vault: &VaultRef,
        object: &ObjectRef,
        ask: &Ask,
    ) -> Result<ObjectVersion> {
        Vault::get(self, proof, vault, object, ask).await
    }
}

/// Fetches for every mount of the process.
#[derive(Clone)]
pub struct Fetch {
    identities: Identities,
    vault: Vault,
    source: Arc<dyn Source>,
}

impl Fetch {
    /// The real thing, over these clients.
    pub fn new(http: Http) -> Result<Self> {
        let vault = Vault::new(http.clone());
        Self::with_source(http, Arc::new(vault))
    }

    /// The same with another source of values; identities and lists stay real.
    pub fn with_source(http: Http, source: Arc<dyn Source>) -> Result<Self> {
        Ok(Self { identities: Identities::new(http.clone())?, vault: Vault::new(http), source })
    }

    /// The identities of the process.
    pub(crate) fn identities(&self) -> &Identities {
        &self.identities
    }

    /// One object version for a proven identity, by `deadline`.
    pub async fn get(
        &self,
        proof: &Proof,
        vault: &VaultRef,
        object: &ObjectRef,
        deadline: Instant,
    ) -> Result<Arc<ObjectVersion>> {
        let key = ValueKey {
            identity: proof.identity().clone(),
            vault: vault.url(),
            object: object.clone(),
        };
        let (source, proof, vault) = (self.source.clone(), proof.clone(), vault.clone());
        let wanted = key.object.clone();
        let flight = async move {
            let ask = Ask::first(deadline);
            source.get(&proof, &vault, &wanted, &ask).await.map(Arc::new)
        };
        detached(flight, deadline, || {
            format!("GET {}/{}/{}", key.vault, object.kind.collection(), object.name)
        })
        .await
    }
}

/// Runs `work` as its own task and waits for it until `deadline`. A panic in it is an error here.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    deadline: Instant,
    what: impl Fn() -> String,
) -> Result<T> {
    let task = tokio::spawn(AssertUnwindSafe(work).catch_unwind());
    match tokio::time::timeout_at(deadline.into(), task).await {
        Ok(Ok(Ok(result))) => result,
        Ok(_) => Err(Error::new(Code::Internal, format!("{}: a task of akvfs failed", what()))
            .fix("this is a bug; the log names the place")),
        Err(_) => {
            Err(Error::new(Code::TimedOut, format!("{}: no answer before the deadline", what()))
                .at(Hop::Vault)
                .fix("check the vault's health and that the node may reach it"))
        }
    }
}

/// A claim bound to a vault.
pub struct Access {
    fetch: Fetch,
    claim: Claim,
    vault: VaultRef,
    /// The scope learnt from the vault's challenge, where the cloud's table did not know it.
    scope: Mutex<Option<String>>,
}

impl Access {
    /// Binds; nothing is requested yet.
    pub fn new(fetch: Fetch, claim: Claim, vault: VaultRef) -> Self {
        Self { fetch, claim, vault, scope: Mutex::new(None) }
    }

    /// The vault this access is bound to.
    pub fn vault(&self) -> &VaultRef {
        &self.vault
    }

    /// Proves the claim, or finds its live proof.
    pub async fn prove(&self, kind: ObjectKind, deadline: Instant) -> Result<Proof> {
        self.prove_anew(kind, None, deadline).await
    }

    async fn prove_anew(
        &self,
        kind: ObjectKind,
        refused: Option<&Proof>,
        deadline: Instant,
    ) -> Result<Proof> {
        let known = self.scope.lock().map_or_else(|e| e.into_inner().clone(), |s| s.clone());
        let scope = match known {
            Some(scope) => scope,
            None => {
                let scope = self.fetch.vault.scope(&self.vault, kind, deadline).await?;
                self.remember(scope.clone());
                scope
            }
        };
        let (claim, cloud) = (&self.claim, &self.vault.cloud);
        self.fetch.identities.prove_anew(claim, cloud, &scope, refused, deadline).await
    }

    fn remember(&self, scope: String) {
        *self.scope.lock().unwrap_or_else(|e| e.into_inner()) = Some(scope);
    }

    /// Runs one request with a proof; once more when the vault's checked challenge asks for a token
    /// of another scope, or no longer accepts a token that was kept from earlier.
    async fn with_proof<T, F>(
        &self,
        kind: ObjectKind,
        deadline: Instant,
        request: impl Fn(Proof) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let proof = self.prove(kind, deadline).await?;
        let error = match request(proof.clone()).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if let Some(scope) = error.wanted_scope() {
            self.remember(scope.to_owned());
        } else if error.code() != Code::Unauthenticated {
            return Err(error);
        }
        let another = self.prove_anew(kind, Some(&proof), deadline).await?;
        if another.same_as(&proof) {
            return Err(error);
        }
        request(another).await
    }
}

impl Origin for Access {
    fn get(
        &self,
        object: ObjectRef,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
        Box::pin(async move {
            let object = &object;
            self.with_proof(object.kind, deadline, |proof| async move {
                self.fetch.get(&proof, &self.vault, object, deadline).await
            })
            .await
        })
    }

    fn list(&self, kind: ObjectKind, deadline: Instant) -> BoxFuture<'_, Result<Vec<ObjectName>>> {
        Box::pin(async move {
            self.with_proof(kind, deadline, |proof| async move {
                self.fetch
                    .vault
                    .list(&proof, &self.vault, kind, MAX_NAMES, &Ask::first(deadline))
                    .await
            })
            .await
        })
    }

    fn versions(
        &self,
        kind: ObjectKind,
        name: ObjectName,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<ListedVersion>>> {
        Box::pin(async move {
            let (vault, name) = (&self.fetch.vault, &name);
            self.with_proof(kind, deadline, |proof| async move {
                vault
                    .versions(&proof, &self.vault, kind, name, MAX_VERSIONS, &Ask::first(deadline))
                    .await
            })
            .await
        })
    }
}
