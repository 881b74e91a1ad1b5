//! Looking for new versions, and publishing them.
//!
//! Every filled object is asked for, and so is every object that was taken away; every version history
//! is listed anew: a new version moves the others on, filled or not, and a history takes its new state
//! as a whole or keeps the old one. In the atomic layout new content is published only when all of it
//! was fetched: while one object cannot be told (an outage, throttling, a value that cannot be
//! rendered), the old generation stays as it is. What the vault refuses goes all the same: it holds
//! nobody back, and nobody holds it. In the flat layout every entry is on its own.
//!
//! One refresh runs at a time, as a task of its own. Whoever comes while one runs waits for the next
//! one, which is then everybody's: what it finds was asked for after all of them came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::check::{Looked, Trouble};
use super::generation::{Change, Generation};
use super::ledger::Moment;
use super::plan::{DATA_NAME, GENERATION, Layout};
use super::slot::Wanted;
use super::{NodeId, View, late};
use crate::error::{Code, Error, Result};
use crate::fetch::Demand;
use crate::jitter;

/// A delivery that cannot show a change in this time shows it late; nothing waits longer for it.
const SHOW: Duration = Duration::from_secs(5);
/// Announcements that a delivery may lag behind.
const LAG: usize = 16;
/// Shortest pause between two looks that nobody asked for.
const SHORTEST: Duration = Duration::from_secs(1);

/// What a refresh came to.
#[derive(Clone, Debug, Default)]
pub struct Refreshed {
    /// Objects the vault was asked about; a version history is one.
    pub checked: usize,
    /// Files with new content, new ones and vanished ones; visible when this is returned.
    pub changed: Vec<String>,
    /// Why objects could not be checked or shown.
    pub failures: Vec<Error>,
}

/// A new generation is current. Whoever shows the view makes readers look up `names` again, forgets the
/// bytes of `withdrawn`, and then says so on `shown`.
#[derive(Debug)]
pub struct Announcement {
    /// Directory and name of every entry that now leads somewhere else.
    pub names: Vec<(NodeId, String)>,
    /// Files whose bytes the vault has taken back, of old generations too: whoever holds them open reads
    /// no more of them.
    pub withdrawn: Vec<NodeId>,
    /// Refreshes wait for this, bounded.
    pub shown: oneshot::Sender<()>,
}

/// One run at a time, and what the last one came to.
#[derive(Default)]
pub(super) struct Runs {
    begun: AtomicU64,
    last: tokio::sync::Mutex<(u64, Refreshed)>,
}

/// When somebody looked, and will look.
#[derive(Clone, Copy, Default)]
pub(super) struct Schedule {
    pub(super) looked: Option<SystemTime>,
    pub(super) next_look: Option<SystemTime>,
}

/// What follows from all looks of a refresh.
#[derive(Default)]
struct Batch {
    /// New content, and where versions stand.
    changes: Vec<Change>,
    /// What goes whatever becomes of the others, by object.
    removals: BTreeMap<usize, Change>,
    /// Units whose bytes go, and why.
    refused: Vec<(usize, Code)>,
    /// Single versions whose bytes go, by unit.
    disabled: Vec<(usize, BTreeSet<String>)>,
    /// Something cannot be told, or not be shown.
    unknown: bool,
}

/// What readers have to be told.
struct Published {
    /// Files that changed, and whether each came or went.
    changed: Vec<(u32, bool)>,
    /// Nodes whose bytes are gone.
    withdrawn: Vec<NodeId>,
}

impl View {
    /// Finds out the names that only the vault can tell: lists the version histories, and fetches what
    /// may have more files than one. To be called once, before anybody sees the view.
    ///
    /// # Errors
    /// Of the first history or object that cannot be listed or fetched by `deadline`.
    pub async fn resolve(self: &Arc<Self>, deadline: Instant) -> Result<()> {
        let mut changes = Vec::new();
        let mut histories = stream::iter(&self.plan.histories)
            .map(|history| self.look_at_history(history, Demand::FIRST, deadline).boxed())
            .buffered(self.limits.fetches.max(1));
        while let Some(looked) = histories.next().await {
            if let Some(trouble) = looked.trouble {
                return Err(trouble.error().clone());
            }
            changes.extend(looked.changes);
        }
        drop(histories);
        let layout = self.plan.tree.layout;
        self.generations_mut(|generations| generations.begin(layout, changes));
        let slots = self.generations().current.slots.clone();
        let slots = slots.into_iter().zip(&self.plan.objects);
        let several = slots.filter(|(slot, planned)| planned.files > 1 && slot.exists());
        let mut fetches = stream::iter(several.map(|(slot, _)| slot).collect::<Vec<_>>())
            .map(|slot| async move { self.fill(&slot, deadline).await.map(|()| slot.settle()) })
            .buffered(self.limits.fetches.max(1));
        while let Some(filled) = fetches.next().await {
            filled?;
        }
        Ok(())
    }

    /// Asks the vault about everything that is shown and publishes what changed. Begins after this call;
    /// callers that wait for a running one share the next. The work goes on when the caller goes away.
    pub async fn refresh(self: &Arc<Self>, deadline: Instant) -> Refreshed {
        let before = self.runs.begun.load(Ordering::Acquire);
        let view = self.clone();
        let run = async move {
            let Ok(mut last) =
                tokio::time::timeout_at(deadline.into(), view.runs.last.lock()).await
            else {
                return failed(late(None, "another refresh is still running"));
            };
            if last.0 > before {
                return last.1.clone();
            }
            let number = view.runs.begun.fetch_add(1, Ordering::AcqRel) + 1;
            *last = (number, view.run(deadline).await);
            last.1.clone()
        };
        tokio::spawn(run).await.unwrap_or_else(|_| failed(Error::task_failed()))
    }

    async fn run(self: &Arc<Self>, deadline: Instant) -> Refreshed {
        self.generations_mut(|generations| generations.forget_old(self.clock.now()));
        let units = self.units();
        let mut done = Refreshed { checked: units.len(), ..Refreshed::default() };
        if self.closed.load(Ordering::Acquire) {
            done.failures.push(Error::new(Code::Draining, "the filesystem is being unmounted"));
            return done;
        }
        let mut batch = Batch::default();
        // Half of the fetches at most: opens must not queue behind a refresh.
        let mut looks = stream::iter(units)
            .map(|unit| async move { (unit, self.look(unit, deadline).await) })
            .buffer_unordered((self.limits.fetches / 2).max(1));
        while let Some((unit, looked)) = looks.next().await {
            done.failures.extend(self.weigh(unit, looked, &mut batch));
        }
        drop(looks);
        match self.publish(batch) {
            Ok(published) => {
                let files = published.changed.iter();
                done.changed = files.map(|(node, _)| self.plan.tree.path(*node)).collect();
                self.announce(published).await;
            }
            Err(error) => done.failures.push(error),
        }
        let slots = self.generations().current.slots.clone();
        slots.iter().for_each(|slot| self.warn_of_expired(slot));
        self.schedule().looked = Some(self.clock.wall());
        done
    }

    /// What follows from one look; returns what went wrong.
    fn weigh(&self, unit: usize, looked: Looked, batch: &mut Batch) -> Option<Error> {
        let now = Moment::now(&self.clock);
        let Looked { changes, disabled, trouble } = looked;
        batch.changes.extend(changes);
        if !disabled.is_empty() {
            let versions = disabled.iter().map(|content| content.version.clone()).collect();
            self.remove(unit, Code::Disabled, batch, |version| {
                disabled.iter().any(|content| Some(content.version.as_str()) == version)
            });
            batch.disabled.push((unit, versions));
        }
        let Some(trouble) = trouble else {
            self.ledger.worked(unit);
            return None;
        };
        let mut error = trouble.error().clone();
        let consequence = match &trouble {
            Trouble::Refused(error) => {
                self.remove(unit, error.code(), batch, |_| true);
                batch.refused.push((unit, error.code()));
                "; its files are taken away"
            }
            Trouble::Unanswered(_) => {
                batch.unknown = true;
                match self.ledger.unanswered(unit, now, self.limits.max_stale) {
                    true => {
                        error = error.context("the vault has not answered for too long");
                        self.remove(unit, Code::Unavailable, batch, |_| true);
                        batch.refused.push((unit, Code::Unavailable));
                        "; its files are taken away until the vault gives it again"
                    }
                    false => "; its files stay as they are, stale",
                }
            }
            Trouble::NotShowable(_) => {
                batch.unknown = true;
                "; its files stay as they are"
            }
            Trouble::Contradicted(_) => "; its files stay as they are",
        };
        self.ledger.failed(unit, &error, now.wall, consequence);
        Some(error)
    }

    /// Takes away the objects of a unit that show such a version.
    fn remove(
        &self,
        unit: usize,
        code: Code,
        batch: &mut Batch,
        which: impl Fn(Option<&str>) -> bool,
    ) {
        let current = self.generations().current.clone();
        let members = current.slots.get(self.plan.members(unit)).unwrap_or_default();
        for slot in members {
            let content = slot.content();
            let there = slot.exists() && which(content.map(|content| content.version.as_str()));
            // A history of nothing has one place that says why.
            let says_why = slot.object == unit && slot.wanted == Wanted::Nothing && which(None);
            if there || says_why {
                let wanted = Wanted::Withdrawn { code, filled: content.is_some() };
                let change = Change { object: slot.object, wanted, content: None };
                batch.removals.insert(slot.object, change);
            }
        }
    }

    /// Publishes a generation, if there is anything for one, and lets go of what was taken back.
    fn publish(&self, batch: Batch) -> Result<Published> {
        let layout = self.plan.tree.layout;
        let mut changes = batch.removals;
        if layout == Layout::Flat || !batch.unknown {
            changes.extend(batch.changes.into_iter().map(|change| (change.object, change)));
        }
        let before = self.generations().current.clone();
        let touched: Vec<_> = changes.keys().filter_map(|at| self.plan.objects.get(*at)).collect();
        let nodes: Vec<u32> =
            touched.iter().flat_map(|planned| planned.nodes.iter().copied()).collect();
        // As readers saw it, before bytes go.
        let shown_before = self.shown_of(&before, &nodes);
        let published = match changes.is_empty() {
            true => Ok(()),
            false => self.generations_mut(|generations| {
                generations.publish(
                    layout,
                    changes.into_values().collect(),
                    Moment::now(&self.clock),
                )
            }),
        };
        let mut gone = BTreeSet::new();
        for (unit, code) in batch.refused {
            self.ledger.withdraw(unit, code, |_| true);
            gone.extend(self.plan.members(unit));
        }
        for (unit, versions) in batch.disabled {
            self.ledger.withdraw(unit, Code::Disabled, |one| versions.contains(&one.version));
            gone.extend(self.plan.members(unit));
        }
        published?;
        let now = self.generations().current.clone();
        let shown_now = self.shown_of(&now, &nodes);
        let shown = shown_before.into_iter().zip(shown_now);
        let changed = nodes
            .into_iter()
            .zip(shown)
            .filter(|(_, (before, now))| *before || *now)
            .map(|(node, (before, now))| (node, before != now));
        Ok(Published { changed: changed.collect(), withdrawn: self.withdrawn_nodes(&gone) })
    }

    fn shown_of(&self, generation: &Generation, nodes: &[u32]) -> Vec<bool> {
        let shown = |index: &u32| {
            self.plan.tree.node(*index).is_some_and(|node| self.is_shown(generation, node))
        };
        nodes.iter().map(shown).collect()
    }

    /// Refreshes about every `interval`, for ever. The pauses differ by up to a tenth: many mounts
    /// that started together must not ask together. An object that may not stay so long is looked at in
    /// time.
    pub async fn keep_fresh(self: Arc<Self>, interval: Duration) {
        loop {
            let pause = self.pause(interval);
            self.schedule().next_look = Some(self.clock.wall() + pause);
            self.clock.sleep(pause).await;
            self.schedule().next_look = None;
            let limit = interval.max(self.limits.fetch_limit);
            let done = self.refresh(Instant::now() + limit).await;
            if !done.changed.is_empty() {
                tracing::info!(files = done.changed.len(), "new versions are shown");
            }
        }
    }

    fn pause(&self, interval: Duration) -> Duration {
        let pause = jittered(interval);
        let current = self.generations().current.clone();
        let gone = |unit: usize| {
            let members = current.slots.get(self.plan.members(unit)).unwrap_or_default();
            !members.iter().any(|slot| slot.exists())
        };
        let end = self.ledger.patience_ends(self.limits.max_stale, gone);
        let left = end.map(|end| end.saturating_duration_since(self.clock.now()).max(SHORTEST));
        left.map_or(pause, |left| left.min(pause))
    }

    /// Announcements of new generations, for the one delivery that shows the view.
    pub fn subscribe(&self) -> mpsc::Receiver<Announcement> {
        let (sender, receiver) = mpsc::channel(LAG);
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be asked about: what is filled, what was taken away, and every history.
    fn units(&self) -> Vec<usize> {
        let current = self.generations().current.clone();
        let objects = self.plan.objects.iter().zip(&current.slots);
        let asked = objects.filter(|(planned, slot)| match planned.spec.position {
            Some(_) => planned.unit == slot.object,
            None => slot.content().is_some() || !slot.exists(),
        });
        asked.map(|(_, slot)| slot.object).collect()
    }

    /// Tells of changed files and whether each came or went, and of nodes that have no bytes any more.
    async fn announce(&self, published: Published) {
        let Published { changed, withdrawn } = published;
        if changed.is_empty() && withdrawn.is_empty() {
            return;
        }
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(listener) = listener else { return };
        let tree = &self.plan.tree;
        let nodes = changed.iter().filter_map(|(node, moved)| Some((tree.node(*node)?, *moved)));
        let names = match tree.layout {
            Layout::Atomic if changed.is_empty() => Vec::new(),
            Layout::Atomic => {
                let directory = self.generations().current.directory.clone();
                // Links at the top come and go with their files.
                let links = nodes
                    .filter(|(node, moved)| *moved && node.parent == GENERATION)
                    .map(|(node, _)| node.name.to_string());
                [directory, DATA_NAME.to_owned()]
                    .into_iter()
                    .chain(links)
                    .map(|name| (NodeId::ROOT, name))
                    .collect()
            }
            // Directories of a flat tree belong to no birth.
            Layout::Flat => nodes
                .map(|(node, _)| node)
                .map(|node| (NodeId { birth: 0, index: node.parent }, node.name.to_string()))
                .collect(),
        };
        let (shown, told) = oneshot::channel();
        let show = async {
            if listener.send(Announcement { names, withdrawn, shown }).await.is_ok() {
                let _ = told.await;
            }
        };
        if tokio::time::timeout(SHOW, show).await.is_err() {
            tracing::warn!("a new generation was not shown in time; readers see it later");
        }
    }
}

fn failed(error: Error) -> Refreshed {
    Refreshed { failures: vec![error], ..Refreshed::default() }
}

pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(jitter::between(0.9, 1.1))
}
