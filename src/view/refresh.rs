//! Looking for new versions, and publishing them.
//!
//! Only filled objects whose class asks for the latest version are looked at, and every version history
//! is listed anew: a new version moves the others on, filled or not, and a history takes its new state
//! as a whole or keeps the old one. In the atomic layout a
//! new generation is published only when every changed object was fetched: while one of them cannot
//! be told (an outage, throttling, a value that cannot be rendered), the old generation stays whole.
//! In this version an object that the vault says is gone, disabled or forbidden keeps its bytes and
//! does not hold the others back; the refusal stands in the status. In the flat layout every entry is
//! on its own.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::generation::{Change, Generation, Generations};
use super::object::{Obtained, rendered};
use super::plan::{DATA_NAME, GENERATION, History, Layout, PlannedObject};
use super::slot::{Content, Slot};
use super::{NodeId, View, history, late};
use crate::class::Version;
use crate::error::{Code, Error, Result};
use crate::fetch::{Demand, ObjectRef};
use crate::jitter;

/// A delivery that cannot show a change in this time shows it late; nothing waits longer for it.
const SHOW: Duration = Duration::from_secs(5);
/// Announcements that a delivery may lag behind.
const LAG: usize = 16;

/// What a refresh came to.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Objects the vault was asked about; a version history is one.
    pub checked: usize,
    /// Files with new content, new ones and vanished ones; visible when this is returned.
    pub changed: Vec<String>,
    /// Why objects could not be checked or shown.
    pub failures: Vec<Error>,
}

/// A new generation is current. Whoever shows the view makes readers look up `names` again, and then
/// says so on `shown`.
#[derive(Debug)]
pub struct Announcement {
    /// Directory and name of every entry that now leads somewhere else.
    pub names: Vec<(NodeId, String)>,
    /// Refreshes wait for this, bounded.
    pub shown: oneshot::Sender<()>,
}

impl View {
    /// Finds out the names that only the vault can tell: lists the version histories, and fetches what
    /// may have more files than one. To be called once, before anybody sees the view.
    ///
    /// # Errors
    /// Of the first history or object that cannot be listed or fetched by `deadline`.
    pub async fn resolve(self: &Arc<Self>, deadline: Instant) -> Result<()> {
        let mut changes = Vec::new();
        let firsts = self.plan.histories.iter().map(|history| history.members.start);
        let mut histories = stream::iter(firsts.collect::<Vec<_>>())
            .map(|first| self.check_history(first, Demand::FIRST, deadline).boxed())
            .buffered(self.limits.fetches.max(1));
        while let Some(members) = histories.next().await {
            changes.extend(members?);
        }
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

    /// Asks the vault about every filled object and publishes what changed.
    pub async fn refresh(self: &Arc<Self>, deadline: Instant) -> Refreshed {
        let Ok(_alone) = tokio::time::timeout_at(deadline.into(), self.refreshing.lock()).await
        else {
            return Refreshed {
                failures: vec![late(None, "another refresh is still running")],
                ..Refreshed::default()
            };
        };
        self.generations_mut(|generations| generations.forget_old(Instant::now()));
        let filled = self.filled();
        let checked = filled.len() + self.plan.histories.len();
        let mut done = Refreshed { checked, ..Refreshed::default() };
        if self.closed.load(Ordering::Acquire) {
            done.failures.push(Error::new(Code::Draining, "the filesystem is being unmounted"));
            return done;
        }
        let mut changed = Vec::new();
        let mut unknown = false;
        let objects = filled.into_iter().map(|(object, content)| (object, Some(content)));
        let histories = self.plan.histories.iter().map(|history| (history.members.start, None));
        // Half of the fetches at most: opens must not queue behind a refresh.
        let mut checks = stream::iter(objects.chain(histories).collect::<Vec<_>>())
            .map(|(object, content)| async move {
                let changes = match content {
                    Some(content) => self.check(object, &content, deadline).await,
                    None => self.check_history(object, Demand::REFRESH, deadline).await,
                };
                (object, changes)
            })
            .buffer_unordered((self.limits.fetches / 2).max(1));
        while let Some((object, result)) = checks.next().await {
            match result {
                Ok(changes) => {
                    self.notes.worked(object);
                    changed.extend(changes);
                }
                Err(error) => {
                    unknown |= !is_answer(error.code());
                    self.notes.failed(object, &error);
                    done.failures.push(error);
                }
            }
        }
        let layout = self.plan.tree.layout;
        if changed.is_empty() || layout == Layout::Atomic && unknown {
            return done;
        }
        let mut objects: Vec<usize> = changed.iter().map(|change| change.object).collect();
        objects.sort_unstable();
        let before = self.generations().current.clone();
        match self.generations_mut(|generations| generations.publish(layout, changed)) {
            Ok(()) => {
                let now = self.generations().current.clone();
                let shown = |generation: &Generation, index| {
                    let node = self.plan.tree.node(index);
                    node.is_some_and(|node| self.is_shown(generation, node))
                };
                let files = objects.iter().filter_map(|object| self.plan.objects.get(*object));
                let nodes: Vec<(u32, bool)> = files
                    .flat_map(|planned| planned.nodes.clone())
                    .map(|node| (node, shown(&before, node), shown(&now, node)))
                    .filter(|(_, before, now)| *before || *now)
                    .map(|(node, before, now)| (node, before != now))
                    .collect();
                done.changed = nodes.iter().map(|(node, _)| self.plan.tree.path(*node)).collect();
                self.announce(&nodes).await;
            }
            Err(error) => done.failures.push(error),
        }
        done
    }

    /// Refreshes about every `interval`, for ever. The pauses differ by up to a tenth: many mounts
    /// that started together must not ask together.
    pub async fn keep_fresh(self: Arc<Self>, interval: Duration) {
        loop {
            tokio::time::sleep(jittered(interval)).await;
            let limit = interval.max(self.limits.fetch_limit);
            let done = self.refresh(Instant::now() + limit).await;
            if !done.changed.is_empty() {
                tracing::info!(files = done.changed.len(), "new versions are shown");
            }
        }
    }

    /// Announcements of new generations, for the one delivery that shows the view.
    pub fn subscribe(&self) -> mpsc::Receiver<Announcement> {
        let (sender, receiver) = mpsc::channel(LAG);
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    fn filled(&self) -> Vec<(usize, Arc<Content>)> {
        let generations: &Generations = &self.generations();
        let objects = self.plan.objects.iter().zip(&generations.current.slots);
        objects
            .filter(|(_, slot)| slot.wanted == Some(Version::Latest))
            .filter_map(|(_, slot)| Some((slot.object, slot.content()?.clone())))
            .collect()
    }

    /// The new content, if there is one.
    async fn check(
        &self,
        object: usize,
        shown: &Content,
        deadline: Instant,
    ) -> Result<Vec<Change>> {
        let planned = self.plan.objects.get(object).ok_or_else(Error::task_failed)?;
        let content = AssertUnwindSafe(self.check_planned(planned, shown, deadline))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(Error::task_failed()))?;
        let wanted = Some(Version::Latest);
        let change =
            content.map(|content| Change { object, wanted, content: Some(content.into()) });
        Ok(change.into_iter().collect())
    }

    /// What the members of the history that begins with this object are from now on, where that
    /// differs. A version that only moves on brings its content along.
    async fn check_history(
        &self,
        first: usize,
        demand: Demand,
        deadline: Instant,
    ) -> Result<Vec<Change>> {
        let mut histories = self.plan.histories.iter();
        let history = histories
            .find(|history| history.members.start == first)
            .ok_or_else(Error::task_failed)?;
        let work = AssertUnwindSafe(self.check_members(history, demand, deadline)).catch_unwind();
        let late =
            || late(None, "no answer before the deadline").context(history.spec.error_prefix());
        tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|_| Ok(Err(late())))
            .unwrap_or_else(|_| Err(Error::task_failed()))
    }

    async fn check_members(
        &self,
        history: &History,
        demand: Demand,
        deadline: Instant,
    ) -> Result<Vec<Change>> {
        let _turn = self.fetches.acquire().await.map_err(|_| Error::task_failed())?;
        let versions =
            history::versions(self.origin.as_ref(), &history.spec, demand, deadline).await?;
        let slots: Vec<Arc<Slot>> = self
            .generations()
            .current
            .slots
            .get(history.members.clone())
            .unwrap_or_default()
            .to_vec();
        let held: Vec<_> = slots.iter().filter_map(|slot| slot.content().cloned()).collect();
        let planned =
            self.plan.objects.get(history.members.start).ok_or_else(Error::task_failed)?;
        let several = planned.files > 1;
        let mut changes = Vec::new();
        for (position, slot) in slots.iter().enumerate() {
            let wanted = versions.get(position);
            if wanted == slot.wanted.as_ref() {
                continue;
            }
            let content = match wanted {
                Some(id) => match held.iter().find(|content| content.version == id.as_str()) {
                    Some(content) => Some(content.clone()),
                    // Whoever has read this name gets the next value without waiting; and only its
                    // content can tell which files there are.
                    None if slot.content().is_some() || several => {
                        Some(Arc::new(self.content(slot.object, id, deadline).await?))
                    }
                    None => None,
                },
                None => None,
            };
            changes.push(Change { object: slot.object, wanted: wanted.cloned(), content });
        }
        Ok(changes)
    }

    async fn check_planned(
        &self,
        planned: &PlannedObject,
        shown: &Content,
        deadline: Instant,
    ) -> Result<Option<Content>> {
        let work = async {
            let _turn = self.fetches.acquire().await.map_err(|_| Error::task_failed())?;
            self.origin.get(ObjectRef::of(&planned.spec), Demand::REFRESH, deadline).await
        };
        let version = tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|_| Err(late(None, "no answer before the refresh's deadline")))
            .map_err(|error| error.context(planned.spec.error_prefix()))?;
        if version.version == shown.version {
            return Ok(None);
        }
        let files = rendered(&planned.spec, &version, self.render).await?;
        self.contained(planned, Obtained { version, files }).map(Some)
    }

    /// Tells of changed files, and whether each came or went.
    async fn announce(&self, nodes: &[(u32, bool)]) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(listener) = listener else { return };
        let tree = &self.plan.tree;
        let nodes = nodes.iter().filter_map(|(node, moved)| Some((tree.node(*node)?, *moved)));
        let names = match tree.layout {
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
            if listener.send(Announcement { names, shown }).await.is_ok() {
                let _ = told.await;
            }
        };
        if tokio::time::timeout(SHOW, show).await.is_err() {
            tracing::warn!("a new generation was not shown in time; readers see it later");
        }
    }
}

/// Whether the vault has answered: the object is gone, disabled or not for this identity.
fn is_answer(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::Forbidden | Code::Disabled)
}

pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(jitter::between(0.9, 1.1))
}
