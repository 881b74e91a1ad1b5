//! Steering a running emulator from the same process.

use std::sync::Arc;
use std::time::Duration;

use crate::class::ObjectKind;
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

use super::faults::{Fault, Trouble, Where};
use super::log::{Counters, RequestRecord};
use super::state::{Holder, Identity, Shared, Verb};
use super::store::Store;
use super::{lock, now, seed};

/// A handle; clones steer the same emulator.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    pub(super) fn new(state: Arc<Shared>) -> Self {
        Self(state)
    }

    /// Sets a secret: a new version, or a new secret. Returns the version's id.
    ///
    /// # Errors
    /// NotFound for an unknown vault; ClassInvalid when the secret belongs to a certificate.
    pub fn set_secret(&self, vault: &str, name: &str, value: impl Into<Secret>) -> Result<String> {
        self.store(vault, |store| store.set_secret(name, value.into()))
    }

    /// A new version of a certificate, with its key and secret. Returns the version's id.
    ///
    /// # Errors
    /// NotFound.
    pub fn rotate_certificate(&self, vault: &str, name: &str) -> Result<String> {
        self.store(vault, |store| {
            let recipe = store.recipes.get(&name.to_ascii_lowercase()).copied();
            let recipe = recipe.ok_or_else(|| {
                Error::new(Code::NotFound, format!("the emulator has no certificate {name}"))
            })?;
            seed::certify(store, name, recipe, now())
        })
    }

    /// Enables or disables a version; the newest when it is blank.
    ///
    /// # Errors
    /// NotFound.
    pub fn enable(
        &self,
        vault: &str,
        kind: ObjectKind,
        name: &str,
        version: &str,
        enabled: bool,
    ) -> Result<()> {
        self.store(vault, |store| store.enable(kind, name, version, enabled))
    }

    /// Deletes an object; with a certificate its key and secret.
    ///
    /// # Errors
    /// NotFound.
    pub fn delete(&self, vault: &str, kind: ObjectKind, name: &str) -> Result<()> {
        self.store(vault, |store| store.delete(kind, name))
    }

    /// The version ids of an object, oldest first; empty when there is none.
    pub fn versions(&self, vault: &str, kind: ObjectKind, name: &str) -> Vec<String> {
        let vaults = lock(&self.0.vaults);
        vaults
            .get(&vault.to_ascii_lowercase())
            .and_then(|store| store.objects(kind).get(&name.to_ascii_lowercase()))
            .map(|object| object.versions.iter().map(|version| version.id.clone()).collect())
            .unwrap_or_default()
    }

    /// The names of a vault's objects of one type, in order; empty when there is no such vault.
    pub fn names(&self, vault: &str, kind: ObjectKind) -> Vec<String> {
        let vaults = lock(&self.0.vaults);
        vaults
            .get(&vault.to_ascii_lowercase())
            .map(|store| store.objects(kind).keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether a vault has an object of this name, of any type.
    pub fn holds(&self, vault: &str, name: &str) -> bool {
        let vaults = lock(&self.0.vaults);
        vaults.get(&vault.to_ascii_lowercase()).is_some_and(|store| store.kind_of(name).is_some())
    }

    /// Gives or takes a permission of a client, on all vaults.
    ///
    /// # Errors
    /// NotFound for an unknown client.
    pub fn permit(&self, client: &str, kind: ObjectKind, verb: Verb, allow: bool) -> Result<()> {
        self.identity(client, |identity| {
            match allow {
                true => identity.allowed.insert((kind, verb)),
                false => identity.allowed.remove(&(kind, verb)),
            };
        })
    }

    /// Another app registration, with every permission: a secret, and the service accounts
    /// (namespace, name) of its federated credentials.
    pub fn add_client(&self, client: &str, secret: Option<Secret>, federated: &[(&str, &str)]) {
        let mut identity = Identity::new(Holder::Application);
        identity.secrets.extend(secret);
        identity.federated.extend(
            federated.iter().map(|(space, account)| ((*space).to_owned(), (*account).to_owned())),
        );
        lock(&self.0.identities).insert(client.to_ascii_lowercase(), identity);
    }

    /// Another app registration with every permission, which knows this certificate (DER).
    pub fn add_certificate_client(&self, client: &str, certificate: &[u8]) {
        let mut identity = Identity::new(Holder::Application);
        identity.certificates.push(certificate.to_vec());
        lock(&self.0.identities).insert(client.to_ascii_lowercase(), identity);
    }

    /// Assigns an identity of its own, with every permission, to a pod.
    pub fn assign_pod(&self, namespace: &str, name: &str, client: &str) {
        let client = client.to_ascii_lowercase();
        lock(&self.0.identities).insert(client.clone(), Identity::new(Holder::Pod));
        lock(&self.0.pods).insert((namespace.to_owned(), name.to_owned()), client);
    }

    /// NMI says so many times that a pod has no identity yet.
    pub fn refuse_pods(&self, times: u32) {
        *lock(&self.0.nmi_refusals) = times;
    }

    /// Takes an identity away: an app registration, or a managed identity off the machine.
    pub fn remove_client(&self, client: &str) {
        lock(&self.0.identities).remove(&client.to_ascii_lowercase());
    }

    /// Vaults answer 401 to every token that the client holds now; new ones are good.
    ///
    /// # Errors
    /// NotFound for an unknown client.
    pub fn revoke_tokens(&self, client: &str) -> Result<()> {
        self.identity(client, |identity| identity.epoch += 1)
    }

    /// How long tokens live that are given from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        *lock(&self.0.token_lifetime) = lifetime;
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.0.faults.add(fault);
    }

    /// A fault until cleared.
    pub fn always(&self, at: Where, trouble: Trouble) {
        self.fault(Fault { at, trouble, times: None });
    }

    /// A fault for so many requests.
    pub fn times(&self, times: u32, at: Where, trouble: Trouble) {
        self.fault(Fault { at, trouble, times: Some(times) });
    }

    /// Ends all faults; requests that hang stay so until their callers leave.
    pub fn clear_faults(&self) {
        self.0.faults.clear();
    }

    /// The latest requests, oldest first, at most 10,000.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.0.log.records()
    }

    /// Sums since the start or the last [`Control::reset_log`].
    pub fn counters(&self) -> Counters {
        let sums = self.0.connections.sums();
        Counters {
            connections: sums.accepted,
            open_connections: sums.open,
            handshakes: sums.handshakes,
            resumed: sums.resumed,
            http2: sums.http2,
            ..self.0.log.counters()
        }
    }

    /// Closes all connections at once, as a restart of the services would.
    pub fn cut_connections(&self) {
        self.0.connections.cut();
    }

    /// Empties log and counters.
    pub fn reset_log(&self) {
        self.0.log.reset();
        self.0.connections.reset();
    }

    fn store<T>(&self, vault: &str, work: impl FnOnce(&mut Store) -> Result<T>) -> Result<T> {
        match lock(&self.0.vaults).get_mut(&vault.to_ascii_lowercase()) {
            Some(store) => work(store),
            None => Err(Error::new(Code::NotFound, format!("the emulator has no vault {vault}"))),
        }
    }

    fn identity(&self, client: &str, work: impl FnOnce(&mut Identity)) -> Result<()> {
        match lock(&self.0.identities).get_mut(&client.to_ascii_lowercase()) {
            Some(identity) => {
                work(identity);
                Ok(())
            }
            None => Err(Error::new(Code::NotFound, format!("the emulator has no client {client}"))),
        }
    }
}
