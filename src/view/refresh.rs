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

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{FutureExt, StreamExt, stream};

use super::publish::Batch;
use super::{View, late};
use crate::error::{Code, Error, Result};
use crate::fetch::Demand;
use crate::jitter;

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

/// One run at a time, and what the last one came to.
#[derive(Default)]
pub(super) struct Runs {
    pub(super) begun: AtomicU64,
    pub(super) last: tokio::sync::Mutex<(u64, Refreshed)>,
}

/// When somebody looked, and will look.
#[derive(Clone, Copy, Default)]
pub(super) struct Schedule {
    pub(super) looked: Option<SystemTime>,
    pub(super) next_look: Option<SystemTime>,
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
}

fn failed(error: Error) -> Refreshed {
    Refreshed { failures: vec![error], ..Refreshed::default() }
}

pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(jitter::between(0.9, 1.1))
}
