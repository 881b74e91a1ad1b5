//! Object versions for a proven identity: one request for everybody who may know its answer.
//!
//! Deliveries reach values only through an [`Origin`]: "what this mount may ask". The real one is
//! [`Access`], which binds a claim to a vault: it proves the claim (again when a proof has ended) and
//! then asks [`Fetch`]. What is shared is shared under a [`ValueKey`], in which the identity is one that
//! the caller has proved; nothing is ever shared across identities.
//!
//! What a caller gets is a matter of his [`Demand`]:
//!
//! - a value that is young enough is given at once: younger than [`Ages::first`] to somebody who has not
//!   seen one, than a random part of [`Ages::refresh`] to somebody who looks for a newer one: nodes that
//!   started together must not ask together for hours. Its age counts from when the request was sent;
//! - else he joins the request that runs for this key, or starts one. It is a task of its own: whoever
//!   goes away fails nobody, and it goes on as long as the most patient of those who wait;
//! - a refusal (404, 403, disabled) answers everybody for five seconds. If a value was held, whoever
//!   shows it is told only when a second look, five seconds later, finds the same; then it is wiped;
//! - while the vault cannot be asked (429, 5xx, no answer, no name, its firewall), the last good value is
//!   given to demands that allow it, as long as they allow.
//!
//! A token that the vault does not take concerns only who sent it: the others ask with their own.

mod access;
mod state;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub use access::Access;
pub(crate) use state::is_refusal;

use crate::budget::Budget;
use crate::class::{ObjectKind, ObjectName, ObjectSpec, Version};
use crate::clock::Clock;
use crate::error::Result;
use crate::http::Http;
use crate::identity::{Identities, Proof, ProvenIdentity};
use crate::vault::{Ask, ListedVersion, Names, ObjectVersion, Urgency, Vault, VaultRef};
use table::{Request, Table, Wish};

/// Most names of a listing.
pub const MAX_NAMES: usize = 10_000;
/// Most vaults whose scope is remembered.
const MAX_SCOPES: usize = 256;
/// Most versions of one object.
pub const MAX_VERSIONS: usize = 10_000;

/// The least part of [`Ages::refresh`] that a value is held for; each gets a part of its own.
pub const LEAST_REFRESH: f64 = 0.75;

/// How old what is given may be, for the whole process.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    /// To somebody who has not seen a value: as much as makes a scale-up one request, and little
    /// enough that a restart after a rotation sees the new value.
    pub first: Duration,
    /// To somebody who has a value and looks for a newer one: at most so much, and at least
    /// [`LEAST_REFRESH`] of it.
    pub refresh: Duration,
    /// Of a refusal: so long it answers everybody who asks.
    pub refused: Duration,
    /// While the vault cannot be asked, since its last positive answer; whatever a demand allows.
    pub max_stale: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5),
            refresh: Duration::from_secs(60),
            refused: Duration::from_secs(5),
            max_stale: Duration::from_secs(24 * 3600),
        }
    }
}

impl Ages {
    /// How old a value may be that is given at once.
    fn most(self, urgency: Urgency) -> Duration {
        match urgency {
            Urgency::First => self.first,
            Urgency::Refresh => self.refresh,
        }
    }
}

/// How a [`Fetch`] works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ages.
    pub ages: Ages,
    /// Most bytes of values and refusals held, by trees and by requests too.
    pub max_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { ages: Ages::default(), max_bytes: 48 * 1024 * 1024 }
    }
}

/// What a caller would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Whether he has a value already, which says how old the answer may be.
    pub urgency: Urgency,
    /// While the vault cannot be asked: how long ago its last positive answer may be.
    pub max_stale: Duration,
    /// Whatever was asked for since then is young enough: when he asked first, if he asks again because
    /// not everything was there in time. Else no try would go on where the one before it ended.
    pub since: Option<Instant>,
}

impl Demand {
    /// Of somebody who has not seen a value, and wants none that is not known to be good.
    pub const FIRST: Self =
        Self { urgency: Urgency::First, max_stale: Duration::ZERO, since: None };
    /// Of somebody who shows a value and keeps it by himself while the vault cannot be asked.
    pub const REFRESH: Self =
        Self { urgency: Urgency::Refresh, max_stale: Duration::ZERO, since: None };

    fn max_stale_at_first(self) -> Duration {
        match self.urgency {
            Urgency::First => self.max_stale,
            Urgency::Refresh => Duration::ZERO,
        }
    }
}

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
    pub identity: Arc<ProvenIdentity>,
    /// The vault's URL.
    pub vault: String,
    /// Type, name, version or latest.
    pub object: ObjectRef,
}

impl fmt::Display for ValueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectRef { kind, name, version } = &self.object;
        write!(f, "GET {}/{}/{name}/{}", self.vault, kind.collection(), version.as_str())
    }
}

/// What one mount may ask for: its identity and its vault, bound together.
pub trait Origin: Send + Sync + 'static {
    /// What time it is for the ages of what it gives.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// What the bytes are a share of that a mount holds; none if they are nobody else's.
    fn budget(&self) -> Option<Arc<Budget>> {
        None
    }

    /// Until when values can be asked for, where that ends: the identity cannot be renewed here.
    fn usable_until(&self) -> Option<SystemTime> {
        None
    }

    /// One object version, as the demand wants it. Answers by `deadline` whatever the services do; the
    /// work itself goes on in a detached task, so a waiter that gives up never fails another.
    fn get(
        &self,
        object: ObjectRef,
        demand: Demand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>>;

    /// Names of the enabled objects of a kind, in the vault's order, all pages up to [`MAX_NAMES`] names.
    /// They are asked for now: no list is kept.
    fn list(
        &self,
        kind: ObjectKind,
        urgency: Urgency,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Names>>;

    /// Every version of an object, the disabled ones too, in the vault's order, all pages (bounded).
    fn versions(
        &self,
        kind: ObjectKind,
        name: ObjectName,
        demand: Demand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<Vec<ListedVersion>>>>;
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
pub struct Fetch(Arc<Inner>);

struct Inner {
    identities: Identities,
    vault: Vault,
    source: Arc<dyn Source>,
    ages: Ages,
    /// What custom clouds' vaults ask tokens for, as their challenges say.
    scopes: Mutex<HashMap<VaultRef, String>>,
    budget: Arc<Budget>,
    objects: Arc<Table<ObjectVersion>>,
    versions: Arc<Table<Vec<ListedVersion>>>,
}

impl Fetch {
    /// The real thing, over these clients.
    pub fn new(http: Http) -> Result<Self> {
        Self::with(http, Options::default())
    }

    /// The same with other options.
    pub fn with(http: Http, options: Options) -> Result<Self> {
        let vault = Vault::new(http.clone());
        Self::assemble(http, options, vault.clone(), Arc::new(vault))
    }

    /// The same with another source of values; identities and lists stay real.
    pub fn with_source(http: Http, source: Arc<dyn Source>) -> Result<Self> {
        let vault = Vault::new(http.clone());
        Self::assemble(http, Options::default(), vault, source)
    }

    fn assemble(
        http: Http,
        options: Options,
        vault: Vault,
        source: Arc<dyn Source>,
    ) -> Result<Self> {
        let budget = Budget::new(options.max_bytes);
        let (clock, ages) = (http.clock().clone(), options.ages);
        let objects =
            Table::new(vault.clone(), clock.clone(), ages, budget.clone(), ObjectVersion::size);
        let of_list = |list: &Vec<ListedVersion>| list.iter().map(ListedVersion::size).sum();
        let versions = Table::new(vault.clone(), clock, ages, budget.clone(), of_list);
        let (kept, lists) = (Arc::downgrade(&objects), Arc::downgrade(&versions));
        budget.on_need(move |bytes| {
            if let (Some(kept), Some(lists)) = (kept.upgrade(), lists.upgrade()) {
                kept.make_room(bytes);
                lists.make_room(bytes);
            }
        });
        let identities = Identities::new(http)?;
        Ok(Self(Arc::new(Inner {
            identities,
            vault,
            source,
            ages,
            scopes: Mutex::default(),
            budget,
            objects,
            versions,
        })))
    }

    /// The identities of the process.
    pub(crate) fn identities(&self) -> &Identities {
        &self.0.identities
    }

    /// Of the process: what is held for Mounts counts too.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.0.budget
    }

    /// What time it is for ages.
    pub(crate) fn clock(&self) -> &Clock {
        self.0.identities.http().clock()
    }

    /// How old what is given may be.
    pub(crate) fn ages(&self) -> Ages {
        self.0.ages
    }

    /// The scope that a vault asked for.
    fn scope(&self, vault: &VaultRef) -> Option<String> {
        self.0.scopes.lock().unwrap_or_else(PoisonError::into_inner).get(vault).cloned()
    }

    fn remember_scope(&self, vault: &VaultRef, scope: String) {
        let mut scopes = self.0.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if scopes.len() >= MAX_SCOPES {
            scopes.clear();
        }
        scopes.insert(vault.clone(), scope);
    }

    /// One object version for a proven identity, by `deadline`. `group`: see [`Ask::group`].
    pub async fn get(
        &self,
        proof: &Proof,
        vault: &VaultRef,
        object: &ObjectRef,
        demand: Demand,
        group: &Arc<str>,
        deadline: Instant,
    ) -> Result<Arc<ObjectVersion>> {
        let wish = Wish { key: key(proof, vault, object), proof, demand, group, deadline };
        let request = || -> Request<ObjectVersion> {
            let (source, vault, object) = (self.0.source.clone(), vault.clone(), object.clone());
            Arc::new(move |proof, ask| {
                let (source, vault, object) = (source.clone(), vault.clone(), object.clone());
                async move { source.get(&proof, &vault, &object, &ask).await }.boxed()
            })
        };
        self.0.objects.get(wish, request).await
    }

    /// The versions of an object, likewise.
    async fn versions(
        &self,
        proof: &Proof,
        vault: &VaultRef,
        object: &ObjectRef,
        demand: Demand,
        group: &Arc<str>,
        deadline: Instant,
    ) -> Result<Arc<Vec<ListedVersion>>> {
        let wish = Wish { key: key(proof, vault, object), proof, demand, group, deadline };
        let request = || -> Request<Vec<ListedVersion>> {
            let (client, vault, object) = (self.0.vault.clone(), vault.clone(), object.clone());
            Arc::new(move |proof, ask| {
                let (client, vault, object) = (client.clone(), vault.clone(), object.clone());
                let ObjectRef { kind, name, .. } = object;
                async move { client.versions(&proof, &vault, kind, &name, MAX_VERSIONS, &ask).await }
                    .boxed()
            })
        };
        self.0.versions.get(wish, request).await
    }
}

fn key(proof: &Proof, vault: &VaultRef, object: &ObjectRef) -> Arc<ValueKey> {
    let (identity, vault) = (proof.identity().clone(), vault.url());
    Arc::new(ValueKey { identity, vault, object: object.clone() })
}
