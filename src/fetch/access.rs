//! A claim bound to a vault: the real [`Origin`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use futures_util::future::BoxFuture;

use crate::budget::Budget;
use crate::class::{Claim, ObjectKind, ObjectName, Version};
use crate::clock::Clock;
use crate::error::{Code, Result};
use crate::identity::{self, Proof};
use crate::vault::{Ask, ListedVersion, Names, ObjectVersion, Urgency, VaultRef};

use super::{Demand, Fetch, MAX_NAMES, ObjectRef, Origin};

/// A claim bound to a vault.
pub struct Access {
    fetch: Fetch,
    claim: Claim,
    vault: VaultRef,
    /// Who takes turns with whom, see [`Ask::group`].
    group: Arc<str>,
    /// What [`Access::begun_with`] was given, until a vault does not accept it.
    proved: Mutex<Option<Proof>>,
}

impl Access {
    /// Binds; nothing is requested yet.
    pub fn new(fetch: Fetch, claim: Claim, vault: VaultRef) -> Self {
        Self { fetch, claim, vault, group: Arc::from(""), proved: Mutex::default() }
    }

    /// The same for a pod of this namespace.
    #[must_use]
    pub fn in_group(mut self, namespace: &str) -> Self {
        self.group = Arc::from(namespace);
        self
    }

    /// The same for one response: its objects are asked for with this proof, which [`Access::prove`] has
    /// just given, and need not look it up again. Not for what lives longer: a proof is renewed by
    /// those who look it up.
    #[must_use]
    pub fn begun_with(self, proof: Proof) -> Self {
        Self { proved: Mutex::new(Some(proof)), ..self }
    }

    fn ask(&self, deadline: Instant) -> Ask {
        Ask { group: self.group.clone(), ..Ask::first(deadline) }
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
        let scope = match self.fetch.scope(&self.vault) {
            Some(scope) => scope,
            None => {
                let scope = self.fetch.0.vault.scope(&self.vault, kind, deadline).await?;
                if !self.vault.cloud.named {
                    self.fetch.remember_scope(&self.vault, scope.clone());
                }
                scope
            }
        };
        let (claim, cloud) = (&self.claim, &self.vault.cloud);
        self.fetch.0.identities.prove_anew(claim, cloud, &scope, refused, deadline).await
    }

    fn proved(&self) -> Option<Proof> {
        let proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        proved.clone().filter(Proof::is_live)
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
        let proof = match self.proved() {
            Some(proof) => proof,
            None => self.prove(kind, deadline).await?,
        };
        let error = match request(proof.clone()).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if let Some(scope) = error.wanted_scope() {
            self.fetch.remember_scope(&self.vault, scope.to_owned());
        } else if error.code() != Code::Unauthenticated {
            return Err(error);
        }
        // The objects to come look up what the others got.
        self.proved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let another = self.prove_anew(kind, Some(&proof), deadline).await?;
        if another.same_as(&proof) {
            return Err(error);
        }
        request(another).await
    }
}

impl Origin for Access {
    fn clock(&self) -> Clock {
        self.fetch.clock().clone()
    }

    fn budget(&self) -> Option<Arc<Budget>> {
        Some(self.fetch.0.budget.clone())
    }

    fn usable_until(&self) -> Option<SystemTime> {
        identity::usable_until(&self.claim)
    }

    fn get(
        &self,
        object: ObjectRef,
        demand: Demand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
        Box::pin(async move {
            let (object, fetch) = (&object, &self.fetch);
            self.with_proof(object.kind, deadline, |proof| async move {
                fetch.get(&proof, &self.vault, object, demand, &self.group, deadline).await
            })
            .await
        })
    }

    fn list(
        &self,
        kind: ObjectKind,
        urgency: Urgency,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Names>> {
        Box::pin(async move {
            let (client, ask) = (&self.fetch.0.vault, &Ask { urgency, ..self.ask(deadline) });
            self.with_proof(kind, deadline, |proof| async move {
                client.list(&proof, &self.vault, kind, MAX_NAMES, ask).await
            })
            .await
        })
    }

    fn versions(
        &self,
        kind: ObjectKind,
        name: ObjectName,
        demand: Demand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<Vec<ListedVersion>>>> {
        Box::pin(async move {
            let object = &ObjectRef { kind, name, version: Version::Latest };
            let fetch = &self.fetch;
            self.with_proof(kind, deadline, |proof| async move {
                fetch.versions(&proof, &self.vault, object, demand, &self.group, deadline).await
            })
            .await
        })
    }
}
