//! Looking for new versions, and publishing them.
//!
//! Every filled object is asked for, and so is every object that was taken away; every version history
//! is listed anew: a new version moves the others on, filled or not, and a history takes its new state
//! as a whole or keeps the old one. In the atomic layout new content is published only when all of it
//! was fetched: while one object cannot be told (an outage, throttling, a value that cannot be
//! rendered), the old generation stays as it is. What the vault refuses goes all the same, and soon: it
//! holds nobody back, and nobody holds it, neither looks that hang nor thousands of others. In the flat
//! layout every entry is on its own.
//!
//! One refresh runs at a time, as a task of its own. Whoever comes while one runs waits for the next
//! one, which is then everybody's: what it finds was asked for after all of them came. It goes on until
//! everything was looked at, whoever waits how long ([`super::run`]). What was not looked at after all
//! stays as it is: that says nothing about it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::task::JoinHandle;

use super::plan::PlannedObject;
use super::publish::Batch;
use super::room::Room;
use super::run::{Patience, Run};
use super::slot::{Slot, Wanted};
use super::{Limits, View};
use crate::error::{Code, Error, Result};
use crate::fetch::Demand;
use crate::jitter;
use crate::vault::Urgency;

/// Shortest pause between two looks that nobody asked for.
const SHORTEST: Duration = Duration::from_secs(1);

/// What a refresh came to.
#[derive(Clone, Debug, Default)]
pub struct Refreshed {
    /// Objects the vault was asked about, in vain or not; a version history is one.
    pub checked: usize,
    /// Files with new content, new ones and vanished ones; visible when this is returned, unless a
    /// failure says that they are not yet.
    pub changed: Vec<String>,
    /// Why objects could not be checked or shown, or were not looked at or shown in time.
    pub failures: Vec<Error>,
}

/// When somebody looked, and will look.
#[derive(Clone, Copy, Default)]
pub(super) struct Schedule {
    pub(super) looked: Option<SystemTime>,
    pub(super) next_look: Option<SystemTime>,
}

/// What goes before a run has ended.
#[derive(Default)]
struct Taking {
    /// Since when something waits for it.
    since: Option<Instant>,
    /// The last is being shown.
    showing: Option<JoinHandle<Result<()>>>,
}

impl Taking {
    fn due(&self, wait: Duration) -> Option<Instant> {
        self.since.and_then(|since| since.checked_add(wait))
    }

    async fn shown(self) -> Result<()> {
        match self.showing {
            Some(showing) => showing.await.unwrap_or_else(|_| Err(Error::task_failed())),
            None => Ok(()),
        }
    }
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
        let slots = slots.into_iter().zip(self.plan.objects.iter());
        let several = slots.filter(|(slot, planned)| planned.files > 1 && slot.exists());
        let mut fetches = stream::iter(several.map(|(slot, _)| slot).collect::<Vec<_>>())
            .map(|slot| async move {
                let filled = self.fill_in(&slot, Room::Spare, deadline).await;
                filled.map(|()| slot.settle())
            })
            .buffered(self.limits.fetches.max(1));
        while let Some(filled) = fetches.next().await {
            filled?;
        }
        Ok(())
    }

    /// Asks the vault about everything that is shown and publishes what changed. Begins after this call;
    /// callers that wait for a running one share the next. It goes on when the caller goes away, or waits
    /// no longer than until `deadline`: then this is what is known so far.
    pub async fn refresh(self: &Arc<Self>, deadline: Instant) -> Refreshed {
        self.runs.lists.store(true, Ordering::Release);
        self.next_run(Patience::Until(deadline)).await
    }

    /// The same for somebody who waits so long for a refresh that runs already, and then again for his
    /// own.
    pub async fn refresh_in_turn(self: &Arc<Self>, time: Duration) -> Refreshed {
        self.runs.lists.store(true, Ordering::Release);
        self.next_run(Patience::Each(time)).await
    }

    async fn next_run(self: &Arc<Self>, patience: Patience) -> Refreshed {
        let before = self.runs.begun.load(Ordering::Acquire);
        let (view, turn_ends) = (self.clone(), patience.end());
        let run = tokio::spawn(async move {
            let mut last = within(turn_ends, view.runs.last.lock()).await?;
            if last.0 <= before {
                let number = view.runs.begun.fetch_add(1, Ordering::AcqRel) + 1;
                *last = (number, view.run(number, patience.end()).await);
            }
            Some(last.1.clone())
        });
        let patient = async {
            let mut progress = self.runs.progress.subscribe();
            let begun = progress.wait_for(|progress| progress.number > before);
            if within(turn_ends, begun).await.is_some() {
                within(patience.end(), std::future::pending::<()>()).await;
            }
        };
        let so_far = async {
            patient.await;
            self.runs.so_far(before).await
        };
        let done = tokio::select! {
            biased;
            done = run => done.map_err(|_| Error::task_failed()),
            so_far = so_far => Ok(Some(so_far)),
        };
        match done {
            Ok(Some(done)) => done,
            // Its turn has not come.
            Ok(None) => self.runs.so_far(before).await,
            Err(error) => failed(error),
        }
    }

    async fn run(self: &Arc<Self>, number: u64, callers_end: Option<Instant>) -> Refreshed {
        self.generations_mut(|generations| generations.forget_old(self.clock.now()));
        let mut units = self.units();
        let all = units.len();
        let lists = self.lists.due(self.runs.lists.swap(false, Ordering::AcqRel), self.clock.now());
        let listing = usize::from(!lists.is_empty());
        let run = Run::begin(&self.runs, number, all + listing, callers_end, &self.limits);
        let mut done = Refreshed::default();
        if self.closed.load(Ordering::Acquire) {
            done.failures.push(closed());
            return done;
        }
        // Beside the looks: a second list comes as late as the second look at what is refused.
        let ask = |lists| self.clone().ask_names(lists, Urgency::Refresh, self.list_deadline());
        let names = (!lists.is_empty()).then(|| tokio::spawn(ask(lists)));
        let first = self.runs.first.load(Ordering::Relaxed);
        let before = units.partition_point(|unit| *unit < first);
        units.rotate_left(before);
        let (mut batch, mut left) = (Batch::default(), Vec::new());
        let mut looks = stream::iter(units.into_iter().enumerate())
            .map(|(place, unit)| {
                let look = self.look(unit, &run);
                async move { (place, unit, look.await) }
            })
            .buffer_unordered(self.limits.looks());
        let mut taking = Taking::default();
        loop {
            match within(taking.due(self.limits.refusal_wait), looks.next()).await {
                Some(None) => break,
                Some(Some((place, unit, None))) => left.push((place, unit)),
                Some(Some((_, unit, Some(looked)))) => {
                    done.checked += 1;
                    let failure = self.weigh(unit, looked, &mut batch);
                    self.runs.looked(unit, failure.as_ref());
                    done.failures.extend(failure);
                }
                None => {}
            }
            if batch.takes_away() {
                self.take_away(&mut taking, &mut batch, &mut done);
            }
        }
        drop(looks);
        done.failures.extend(taking.shown().await.err());
        left.sort_unstable();
        self.runs.first.store(left.first().map_or(0, |(_, unit)| *unit), Ordering::Relaxed);
        if !left.is_empty() {
            batch.incomplete();
            if self.closed.load(Ordering::Acquire) {
                done.failures.push(closed());
            } else {
                let over = left.iter().filter_map(|(_, unit)| self.pass_over(*unit, &mut batch));
                done.failures.extend(over);
                done.failures.push(passed_over(left.len(), all));
            }
        }
        if let Some(names) = names {
            // A list that takes long holds no new version back.
            if !names.is_finished() && !batch.is_empty() {
                self.show(std::mem::take(&mut batch), &mut done).await;
            }
            let told = names.await.unwrap_or_default();
            let mut failures = self.weigh_lists(told, &mut batch);
            failures.extend(self.fetch_names(&mut batch).await);
            self.runs.looked(usize::MAX, failures.first());
            done.failures.extend(failures);
        }
        self.show(batch, &mut done).await;
        let slots = self.generations().current.slots.clone();
        slots.iter().for_each(|slot| self.warn_of_expired(slot));
        self.schedule().looked = Some(self.clock.wall());
        done
    }

    /// What the vault refuses goes while others are still looked at, once it has waited for them a little.
    fn take_away(self: &Arc<Self>, taking: &mut Taking, batch: &mut Batch, done: &mut Refreshed) {
        let now = Instant::now();
        taking.since.get_or_insert(now);
        if taking.due(self.limits.refusal_wait).is_none_or(|due| now < due) {
            return;
        }
        taking.since = None;
        if taking.showing.as_ref().is_some_and(|showing| !showing.is_finished()) {
            // One after the other.
            taking.since = Some(now);
            return;
        }
        match self.publish(batch.take_removals()) {
            Ok(published) => {
                let files = published.changed.iter();
                done.changed.extend(files.map(|(node, _)| self.plan.tree.path(*node)));
                let view = self.clone();
                taking.showing = Some(tokio::spawn(async move { view.announce(published).await }));
            }
            Err(error) => done.failures.push(error),
        }
    }

    /// Publishes what was found, and waits until it is shown.
    async fn show(self: &Arc<Self>, batch: Batch, done: &mut Refreshed) {
        match self.publish(batch) {
            Ok(published) => {
                if self.limits.eager {
                    let end = Instant::now() + self.limits.look_limit;
                    done.failures.extend(self.refill(end).await.err());
                }
                let files = published.changed.iter();
                done.changed.extend(files.map(|(node, _)| self.plan.tree.path(*node)));
                self.runs.found(done);
                done.failures.extend(self.announce(published).await.err());
            }
            Err(error) => done.failures.push(error),
        }
    }

    /// Refreshes about every `interval`, until the view is closed. The pauses differ by up to a tenth: many mounts
    /// that started together must not ask together. An object that may not stay so long is looked at in
    /// time.
    ///
    /// Where the credential ends that the vault is asked with, what nobody has opened is fetched before.
    pub async fn keep_fresh(self: Arc<Self>, interval: Duration) {
        tokio::join!(self.look_for_ever(interval), self.outlive_credential());
    }

    /// Until the view is closed.
    async fn look_for_ever(self: &Arc<Self>, interval: Duration) {
        let is_closed = || self.closed.load(Ordering::Acquire);
        while !is_closed() {
            let pause = self.pause(interval);
            let next = self.clock.now() + pause;
            self.schedule().next_look = Some(self.clock.wall() + pause);
            while let Some(soon) = self.lists.next_try().filter(|soon| *soon < next) {
                self.clock.sleep_until(soon).await;
                if is_closed() {
                    return;
                }
                self.list_again().await;
            }
            self.clock.sleep_until(next).await;
            self.schedule().next_look = None;
            let done = self.next_run(Patience::Endless).await;
            if !done.changed.is_empty() {
                tracing::info!(files = done.changed.len(), "new versions are shown");
            }
        }
    }

    pub(super) fn pause(&self, interval: Duration) -> Duration {
        let pause = jittered(interval);
        let current = self.generations().current.clone();
        // Nothing can be taken away of what nobody looks at, nor of what is gone.
        let is_past = |unit: usize| {
            let looked_at = current.slots.get(unit).zip(self.plan.objects.get(unit));
            self.is_gone(unit)
                || !looked_at.is_some_and(|(slot, planned)| self.is_looked_at(planned, slot))
        };
        let end = self.ledger.patience_ends(self.limits.max_stale, is_past);
        let left = end.map(|end| end.saturating_duration_since(self.clock.now()).max(SHORTEST));
        left.map_or(pause, |left| left.min(pause))
    }

    /// Whether nobody has opened what is shown of a unit now: only older births hold something of it, if any.
    /// A history is never like that.
    pub(super) fn is_unopened(&self, unit: usize) -> bool {
        let current = self.generations().current.clone();
        let slot = current.slots.get(unit).zip(self.plan.objects.get(unit));
        slot.is_some_and(|(slot, planned)| planned.spec.position.is_none() && slot.is_unopened())
    }

    /// Whether nothing of a unit is there, and nobody holds anything of it.
    pub(super) fn is_gone(&self, unit: usize) -> bool {
        let current = self.generations().current.clone();
        let members = current.slots.get(self.plan.members(unit)).unwrap_or_default();
        !members.iter().any(|slot| slot.exists()) && self.ledger.held(unit, |_| true).is_empty()
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be asked about.
    fn units(&self) -> Vec<usize> {
        let current = self.generations().current.clone();
        let objects = self.plan.objects.iter().zip(&current.slots);
        let asked = objects.filter(|(planned, slot)| self.is_looked_at(planned, slot));
        asked.map(|(_, slot)| slot.object).collect()
    }

    /// Whether a unit that begins with this slot is to be asked about: what is filled, in whatever birth,
    /// what was taken away, and every history.
    fn is_looked_at(&self, planned: &PlannedObject, slot: &Slot) -> bool {
        match planned.spec.position {
            Some(_) => planned.unit == slot.object,
            None => match slot.wanted {
                Wanted::Withdrawn { .. } => true,
                // Somebody may have opened a node of an earlier birth, or a name just before it went: what
                // that holds is the vault's.
                Wanted::Version(_) | Wanted::Nothing => {
                    slot.content().is_some() || !self.ledger.held(slot.object, |_| true).is_empty()
                }
            },
        }
    }
}

impl Limits {
    /// Looks at the same time: half of the fetches at most, opens must not queue behind a refresh.
    pub(super) fn looks(&self) -> usize {
        (self.fetches / 2).max(1)
    }
}

/// Waits for it, at most until then. Nothing: it has not come.
async fn within<T>(end: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match end {
        Some(end) => tokio::time::timeout_at(end.into(), work).await.ok(),
        None => Some(work.await),
    }
}

fn closed() -> Error {
    Error::new(Code::Draining, "the filesystem is being unmounted")
}

/// The vault did not answer, so the others were not asked.
fn passed_over(left: usize, all: usize) -> Error {
    let what = format!("the vault does not answer: {left} of {all} objects were not looked at");
    tracing::warn!("{what}");
    Error::new(Code::TimedOut, what)
        .fix("check the vault's health; the next refresh begins with them")
}

pub(super) fn failed(error: Error) -> Refreshed {
    Refreshed { failures: vec![error], ..Refreshed::default() }
}

pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(jitter::between(0.9, 1.1))
}
