//! The names of a whole vault: they follow its lists.
//!
//! A list says which names there are, and takes no value from anybody:
//!
//! - A name that a list has and the view does not is new, or back: its file is there, empty until
//!   somebody opens it.
//! - A name that lists lack, two of them and at least five seconds apart, goes; but not while a value
//!   of it is held. Every refresh asks the vault for those objects by themselves, and its word about
//!   one (see [`super::check`]) is what takes a value away. So a list that is short by mistake, or old,
//!   costs nobody what he has read.
//! - A list that cannot be had changes nothing. The one before it stays, and status says since when and
//!   why.
//!
//! A long list is not asked for again before ten times what it took has passed; a refresh that
//! somebody asks for always lists.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use super::View;
use super::generation::Change;
use super::ledger::{Failure, Moment};
use super::plan::Collection;
use super::publish::Batch;
use super::room::Wish;
use super::slot::{Slot, Wanted};
use crate::class::{ObjectKind, ObjectName, Version};
use crate::error::{Code, Error, Result};
use crate::fetch::{MAX_NAMES, is_refusal};
use crate::jitter;
use crate::vault::{Names, Urgency};

/// Between two lists that must agree that a name is gone; as with the refusal of an object.
const CONFIRM: Duration = Duration::from_secs(5);
/// How many times as long as a list took it is left alone.
const REST: u32 = 10;
/// Before the first list is tried again; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is known of the lists, in the plan's order of collections.
pub(super) struct Lists(Mutex<Vec<Known>>);

#[derive(Default)]
struct Known {
    /// When the last good one was asked for.
    listed: Option<Moment>,
    /// Names in it.
    names: usize,
    /// Nobody asks for one before that, unless he is told to.
    next: Option<Instant>,
    /// Between tries, as long as there is none.
    pause: Duration,
    /// Since when there is no newer one.
    stale: Option<SystemTime>,
    failure: Option<Failure>,
    /// Objects that the last ones lack, and since when.
    missing: HashMap<usize, Instant>,
}

/// State of a collection of a whole vault.
#[derive(Clone, Debug)]
pub struct CollectionStatus {
    /// Which.
    pub kind: ObjectKind,
    /// Names in the last list.
    pub names: usize,
    /// When the vault was asked for that.
    pub listed: Option<SystemTime>,
    /// Since when it does not give a newer one.
    pub stale: Option<SystemTime>,
    /// Why, or why not all names are shown.
    pub failure: Option<Failure>,
}

/// What the vault said of a collection.
pub(super) struct Told {
    collection: usize,
    asked: Moment,
    took: Duration,
    names: Result<Names>,
}

impl Lists {
    pub(super) fn new(collections: usize) -> Self {
        Self(Mutex::new((0..collections).map(|_| Known::default()).collect()))
    }

    /// Which lists are to be asked for: all, or those that have rested.
    pub(super) fn due(&self, all: bool, now: Instant) -> Vec<usize> {
        let lists = self.lists();
        let due = |known: &Known| all || known.next.is_none_or(|next| next <= now);
        (0..).zip(lists.iter()).filter(|(_, known)| due(known)).map(|(at, _)| at).collect()
    }

    /// Those that were never had, and are to be tried again by now.
    fn never_had(&self, now: Instant) -> Vec<usize> {
        let lists = self.lists();
        let due = |known: &Known| known.listed.is_none() && known.next.is_some_and(|at| at <= now);
        (0..).zip(lists.iter()).filter(|(_, known)| due(known)).map(|(at, _)| at).collect()
    }

    /// When a collection without any list is to be tried again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let lists = self.lists();
        lists.iter().filter(|known| known.listed.is_none()).filter_map(|known| known.next).min()
    }

    pub(super) fn status(&self, collections: &[Collection]) -> Vec<CollectionStatus> {
        let lists = self.lists();
        let status = lists.iter().zip(collections).map(|(known, collection)| CollectionStatus {
            kind: collection.kind,
            names: known.names,
            listed: known.listed.map(|listed| listed.wall),
            stale: known.stale,
            failure: known.failure.clone(),
        });
        status.collect()
    }

    fn lists(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Keeps the failure; whether it is another one than before.
    fn failed(&mut self, error: &Error, at: SystemTime) -> bool {
        let failure = Failure { at, error: error.clone() };
        let before = self.failure.replace(failure);
        before.is_none_or(|before| before.error.code() != error.code())
    }

    fn could_not_be_had(&mut self, error: &Error, now: Moment) -> bool {
        self.stale.get_or_insert(now.wall);
        self.next = None;
        if self.listed.is_none() && !is_refusal(error) {
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.next = Some(now.instant + self.pause.mul_f64(jitter::between(0.75, 1.0)));
        }
        self.failed(error, now.wall)
    }
}

impl View {
    /// Asks the vault for its names for the first time, before anybody sees the view. A collection that
    /// cannot be listed by `deadline` is empty, and returned with why; [`View::keep_fresh`] goes on
    /// asking. A view of a class has no collections.
    pub async fn list_names(self: &Arc<Self>, deadline: Instant) -> Vec<(ObjectKind, Error)> {
        let all = self.lists.due(true, self.clock.now());
        let mut batch = Batch::default();
        let mut failed = Vec::new();
        for told in self.clone().ask_names(all, Urgency::First, deadline).await {
            let kind = self.plan.collections.get(told.collection).map(|one| one.kind);
            failed.extend(kind.zip(self.weigh_names(told, &mut batch)));
        }
        let layout = self.plan.tree.layout;
        let changes = batch.into_changes();
        self.generations_mut(|generations| generations.begin(layout, changes));
        failed
    }

    /// Adds a name that the vault does not list, and has; before anybody sees the view.
    ///
    /// # Errors
    /// It cannot be the name of a file, or there are too many.
    pub fn add_name(&self, kind: ObjectKind, name: &ObjectName) -> Result<()> {
        let collection = self.plan.collections.iter().find(|one| one.kind == kind);
        let object = self.plan.place(collection.ok_or_else(Error::task_failed)?, name)?;
        self.ledger.grow(self.plan.len());
        let wanted = Wanted::Version(Version::Latest);
        let change = Change { object, wanted, content: None };
        let layout = self.plan.tree.layout;
        self.generations_mut(|generations| generations.begin(layout, vec![change]));
        Ok(())
    }

    /// Asks for the names that were never told.
    pub(super) async fn list_again(self: &Arc<Self>) {
        // No refresh meanwhile; they all end.
        let _alone = self.runs.last.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        let due = self.lists.never_had(self.clock.now());
        let mut batch = Batch::default();
        let deadline = self.list_deadline();
        let told = self.clone().ask_names(due, Urgency::First, deadline).await;
        self.weigh_lists(told, &mut batch);
        self.fetch_names(&mut batch).await;
        let shown = match self.publish(batch) {
            Ok(published) => self.announce(published).await,
            Err(error) => Err(error),
        };
        if let Err(error) = shown {
            tracing::error!(code = error.code().as_str(), "{error}");
        }
    }

    /// Of a list that begins now, and the one after it. A run of looks in an outage takes as long.
    pub(super) fn list_deadline(&self) -> Instant {
        Instant::now() + self.limits.look_limit * 2
    }

    /// What follows from lists; returns what went wrong. That this identity may not list a collection
    /// was told when it was first asked for, and is no failure of a refresh.
    pub(super) fn weigh_lists(&self, told: Vec<Told>, batch: &mut Batch) -> Vec<Error> {
        let mut failures = Vec::new();
        for told in told {
            let at = told.collection;
            let Some(error) = self.weigh_names(told, batch) else { continue };
            let lists = self.lists.lists();
            let never = lists.get(at).is_some_and(|known| known.listed.is_none());
            if !(never && is_refusal(&error)) {
                failures.push(error);
            }
        }
        failures
    }

    /// Asks for these lists; a second time where one lacks names that are there.
    pub(super) async fn ask_names(
        self: Arc<Self>,
        lists: Vec<usize>,
        urgency: Urgency,
        deadline: Instant,
    ) -> Vec<Told> {
        let ask = |at: usize| self.ask_for(at, urgency, deadline);
        let mut told = join_all(lists.into_iter().map(ask)).await;
        let lacking: Vec<_> = told.iter().filter(|told| self.is_doubtful(told)).collect();
        let again: Vec<usize> = lacking.into_iter().map(|told| told.collection).collect();
        let pause = self.clock.sleep(CONFIRM);
        // Without the time for it, the next refresh has the second list.
        if !again.is_empty() && tokio::time::timeout_at(deadline.into(), pause).await.is_ok() {
            told.extend(join_all(again.into_iter().map(ask)).await);
        }
        told
    }

    async fn ask_for(&self, collection: usize, urgency: Urgency, deadline: Instant) -> Told {
        let asked = Moment::now(&self.clock);
        let late = || Error::new(Code::TimedOut, "no answer before the list's deadline");
        let names = match self.plan.collections.get(collection) {
            Some(Collection { kind, .. }) => {
                let work = self.origin.list(*kind, urgency, deadline);
                let names = tokio::time::timeout_at(deadline.into(), work).await;
                names.unwrap_or_else(|_| Err(late())).map_err(|error| {
                    error.context(format!("the names of {} cannot be listed", kind.collection()))
                })
            }
            None => Err(Error::task_failed()),
        };
        let took = self.clock.now().saturating_duration_since(asked.instant);
        Told { collection, asked, took, names }
    }

    /// Whether a second list should say that names are gone.
    fn is_doubtful(&self, told: &Told) -> bool {
        let Ok(names) = &told.names else { return false };
        let absent = self.absent(told.collection, names);
        let lists = self.lists.lists();
        let missing = lists.get(told.collection).map(|known| &known.missing);
        // Those that hold a value are asked about by themselves.
        told.took <= CONFIRM
            && absent.iter().any(|slot| {
                Self::holds_nothing(slot)
                    && missing.is_none_or(|missing| !missing.contains_key(&slot.object))
            })
    }

    /// What is there, or has a reason why it is not, and is not in the list.
    fn absent(&self, collection: usize, list: &Names) -> Vec<Arc<Slot>> {
        let Some(collection) = self.plan.collections.get(collection) else { return Vec::new() };
        if list.more {
            // Perhaps it is in the rest.
            return Vec::new();
        }
        let names: HashSet<&str> = list.names.iter().map(|name| name.as_str()).collect();
        let current = self.generations().current.clone();
        let objects = self.plan.objects_of(collection).filter_map(|object| {
            let slot = current.slots.get(object)?;
            let planned = self.plan.objects.get(object)?;
            let absent =
                slot.wanted != Wanted::Nothing && !names.contains(planned.spec.name.as_str());
            absent.then(|| slot.clone())
        });
        objects.collect()
    }

    /// Whether nobody has read a value under the name, or is about to. What an old node holds is looked
    /// at when the name has gone.
    fn holds_nothing(slot: &Slot) -> bool {
        slot.live().is_none() && !slot.in_flight()
    }

    /// What follows from one list; returns what went wrong.
    pub(super) fn weigh_names(&self, told: Told, batch: &mut Batch) -> Option<Error> {
        let Told { collection: at, asked, took, names } = told;
        let now = Moment::now(&self.clock);
        let list = match names {
            Ok(list) => list,
            Err(error) => {
                let mut lists = self.lists.lists();
                let known = lists.get_mut(at)?;
                let none = known.listed.is_none();
                if known.could_not_be_had(&error, now) {
                    let consequence = if none { "there are none yet" } else { "the last stay" };
                    tracing::warn!(code = error.code().as_str(), "{error}; {consequence}");
                }
                return Some(error);
            }
        };
        let collection = self.plan.collections.get(at)?;
        let absent = self.absent(at, &list);
        let no_room = self.appear(collection, &list, batch);
        let trouble = no_room.or_else(|| {
            let what =
                || format!("the vault has more than {MAX_NAMES} {}", collection.kind.collection());
            let error = list.more.then(|| Error::new(Code::TooLarge, what()))?;
            Some(error.fix("only the first are shown: name what you want in a class"))
        });
        let mut lists = self.lists.lists();
        let known = lists.get_mut(at)?;
        if known.stale.take().is_some() && known.listed.is_some() {
            tracing::info!("the names of {} are listed again", collection.kind.collection());
        }
        (known.listed, known.names) = (Some(asked), list.names.len());
        known.next = Some(asked.instant + took * REST);
        let mut missing = HashMap::with_capacity(absent.len());
        for slot in absent {
            let since = known.missing.get(&slot.object).copied().unwrap_or(asked.instant);
            missing.insert(slot.object, since);
            let confirmed = asked.instant.saturating_duration_since(since) >= CONFIRM;
            if confirmed && Self::holds_nothing(&slot) {
                batch.forget(slot.object);
            }
        }
        known.missing = missing;
        match &trouble {
            None => known.failure = None,
            Some(error) if known.failed(error, now.wall) => {
                tracing::error!(code = error.code().as_str(), "{error}");
            }
            Some(_) => {}
        }
        trouble
    }

    /// Fetches the names that are new, where nothing is shown that is not fetched: one that cannot be had
    /// does not appear before it can. Returns what went wrong.
    pub(super) async fn fetch_names(&self, batch: &mut Batch) -> Vec<Error> {
        if !self.limits.eager {
            return Vec::new();
        }
        let (in_vain, most) = (AtomicUsize::new(0), self.limits.looks());
        let fetch = |change: Change| {
            let in_vain = &in_vain;
            async move {
                let fetched = match self.fetches.acquire().await {
                    _ if in_vain.load(Ordering::Relaxed) >= most => Err(not_asked()),
                    Ok(_turn) if !self.closed.load(Ordering::Acquire) => {
                        let limit = Instant::now() + self.limits.look_limit;
                        self.content(change.object, &Version::Latest, &Wish::SPARE, limit).await
                    }
                    _ => Err(Error::task_failed()),
                };
                if let Err(error) = &fetched
                    && !is_refusal(error)
                {
                    in_vain.fetch_add(1, Ordering::Relaxed);
                }
                (change, fetched)
            }
        };
        let names = batch.take_names(self.plan.tree.layout);
        let mut fetches = stream::iter(names).map(fetch).buffer_unordered(most);
        let mut failed = Vec::new();
        while let Some((change, fetched)) = fetches.next().await {
            match fetched {
                Ok(content) => batch.appear(Change { content: Some(content), ..change }),
                Err(error) => failed.push((change.object, error)),
            }
        }
        self.not_fetched(failed)
    }

    /// Says of names that they are not shown, and why.
    fn not_fetched(&self, mut failed: Vec<(usize, Error)>) -> Vec<Error> {
        let at = self.clock.wall();
        failed.sort_unstable_by_key(|(object, _)| *object);
        let mut errors = Vec::new();
        let mut lists = self.lists.lists();
        for (collection, known) in self.plan.collections.iter().zip(lists.iter_mut()) {
            let of_it = self.plan.objects_of(collection).collect::<HashSet<_>>();
            let mut its = failed.iter().filter(|(object, _)| of_it.contains(object));
            let Some((_, first)) = its.next() else { continue };
            let kind = collection.kind.collection();
            let error = first.clone().with_others(its.count());
            let error = error.context(format!("new {kind} are not shown before they are fetched"));
            if known.failed(&error, at) {
                tracing::warn!(code = error.code().as_str(), "{error}");
            }
            errors.push(error);
        }
        errors
    }

    /// Names that are new or back. What is taken away is not: the vault is asked about it by itself.
    fn appear(&self, collection: &Collection, list: &Names, batch: &mut Batch) -> Option<Error> {
        let mut no_room = None;
        let mut names: Vec<_> = list.names.iter().collect();
        names.sort_unstable();
        let current = self.generations().current.clone();
        for name in names {
            let object = match self.plan.place(collection, name) {
                Ok(object) => object,
                Err(error) if error.code() == Code::TooLarge => {
                    no_room = Some(error);
                    continue;
                }
                // It cannot be a file.
                Err(_) => continue,
            };
            let wanted = current.slots.get(object).map(|slot| &slot.wanted);
            if matches!(wanted, None | Some(Wanted::Nothing)) {
                let wanted = Wanted::Version(Version::Latest);
                batch.appear(Change { object, wanted, content: None });
            }
        }
        self.ledger.grow(self.plan.len());
        no_room
    }
}

fn not_asked() -> Error {
    Error::new(Code::TimedOut, "not asked for, the vault did not give others")
        .fix("check the vault's health; the next list tries again")
}
