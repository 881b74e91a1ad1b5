//! Asking the vault about what is shown: one look at one object, or at one history.
//!
//! The origin confirms a refusal before it tells somebody who shows a value, so a refusal counts here
//! as it comes. Whatever else fails says nothing about the object.
//!
//! A look's time is its own and begins with its turn. Whoever waits for the refresh may have less: what
//! has no answer by then asks again with the time that it has, and its reason so far is the caller's.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::FutureExt;

use super::generation::Change;
use super::history::Listed;
use super::ledger::Moment;
use super::object::{Obtained, rendered};
use super::plan::{History, PlannedObject};
use super::room::Wish;
use super::run::Run;
use super::slot::{Content, Slot, Wanted};
use super::{View, history, late};
use crate::class::{ObjectSpec, Version};
use crate::error::{Code, Error, Result};
use crate::fetch::{Demand, ObjectRef, is_refusal};

/// What a look came to.
#[derive(Default)]
pub(super) struct Looked {
    /// What is shown from now on, where that differs.
    pub(super) changes: Vec<Change>,
    /// A list with versions that the vault has taken back although it gives others of their object.
    pub(super) disabled: Option<Listed>,
    /// Why the new state, or whether there is one, cannot be told.
    pub(super) trouble: Option<Trouble>,
}

/// Why an object does not go on, and what follows for it and for the others.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is gone, disabled, or not for this identity.
    Refused(Error),
    /// The vault could not be asked.
    Unanswered(Error),
    /// The vault has something new that cannot be shown; the old stays, and in the atomic layout
    /// everything else does too.
    NotShowable(Error),
    /// The vault does not give what its list has: one of the two will follow soon.
    Contradicted(Error),
}

impl Trouble {
    fn of(error: Error) -> Self {
        if is_refusal(&error) { Self::Refused(error) } else { Self::Unanswered(error) }
    }

    pub(super) fn error(&self) -> &Error {
        match self {
            Self::Refused(error)
            | Self::Unanswered(error)
            | Self::NotShowable(error)
            | Self::Contradicted(error) => error,
        }
    }
}

impl View {
    /// Looks at the unit that begins with this object, once it has its turn. Nothing: it was not asked,
    /// because the vault has not answered about so many others, or nobody wants to know any more.
    pub(super) async fn look(&self, unit: usize, run: &Run<'_>) -> Option<Looked> {
        let _turn = self.fetches.acquire().await.ok()?;
        if run.gave_up() || self.closed.load(Ordering::Acquire) {
            return None;
        }
        let begun = Instant::now();
        let end = begun + self.limits.look_limit;
        let looked = match run.callers_end(unit, begun, end) {
            None => self.look_until(unit, end).await,
            Some(callers) => {
                let looked = self.look_until(unit, callers).await;
                match &looked.trouble {
                    Some(Trouble::Unanswered(error))
                        if Instant::now() >= callers || error.is_hurried() =>
                    {
                        run.explain(unit, error);
                        self.look_until(unit, end).await
                    }
                    _ => looked,
                }
            }
        };
        if let Some(Trouble::Unanswered(_)) = looked.trouble {
            run.was_in_vain(begun.elapsed());
        }
        Some(looked)
    }

    async fn look_until(&self, unit: usize, deadline: Instant) -> Looked {
        let work = async {
            match self.plan.history(unit) {
                Some(history) => self.look_at_history(history, Demand::REFRESH, deadline).await,
                None => match self.look_at_object(unit, deadline).await {
                    Ok(change) => {
                        Looked { changes: change.into_iter().collect(), ..Looked::default() }
                    }
                    Err(trouble) => Looked { trouble: Some(trouble), ..Looked::default() },
                },
            }
        };
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Looked {
            trouble: Some(Trouble::Unanswered(Error::task_failed())),
            ..Looked::default()
        })
    }

    /// The new content, if there is one.
    async fn look_at_object(
        &self,
        object: usize,
        deadline: Instant,
    ) -> Result<Option<Change>, Trouble> {
        let lost = || Trouble::Unanswered(Error::task_failed());
        let planned = self.plan.objects.get(object).ok_or_else(lost)?;
        let slot = self.generations().current.slots.get(object).cloned().ok_or_else(lost)?;
        let seen = self.ledger.refusals(planned.unit);
        let asked = Moment::now(&self.clock);
        // Only older births hold something of it. An open that comes meanwhile may get a newer answer.
        let unopened = slot.is_unopened();
        let version = self.ask(&planned.spec, deadline).await.map_err(Trouble::of)?;
        self.heard(planned, asked);
        if unopened {
            return Ok(None);
        }
        if let Some(shown) = slot.live()
            && shown.is_current(&version.version)
        {
            shown.update(&version);
            return Ok(None);
        }
        let files = rendered(&planned.spec, &version, self.render).await;
        let content = match files {
            Ok(files) => self.contained(planned, Obtained { version, files }, &Wish::SPARE).await,
            Err(error) => Err(error),
        };
        let content = content.map_err(Trouble::NotShowable)?;
        if !self.ledger.admit(planned.unit, &content, seen, asked) {
            return Err(lost());
        }
        content.opened_as(&slot);
        let wanted = Wanted::Version(planned.spec.version.clone());
        Ok(Some(Change { object, wanted, content: Some(content) }))
    }

    /// The newest state of an object, asked for by somebody who shows an older one.
    async fn ask(
        &self,
        spec: &ObjectSpec,
        deadline: Instant,
    ) -> Result<Arc<crate::vault::ObjectVersion>> {
        let work = self.origin.get(ObjectRef::of(spec), Demand::REFRESH, deadline);
        let asked = tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|_| Err(late(None, "no answer before the look's deadline")));
        self.hear(&asked);
        asked.map_err(|error| error.context(spec.error_prefix()))
    }

    fn heard(&self, planned: &PlannedObject, asked: Moment) {
        if self.ledger.answered(planned.unit, asked) {
            let (object_type, object_name) = (planned.spec.kind.as_str(), &planned.spec.name);
            tracing::info!(object_type, %object_name, "the vault answers again");
        }
    }

    /// What the members of a history are from now on, where that differs. A version that only moves on
    /// brings its content along. The caller has a turn, or is alone with the view.
    pub(super) async fn look_at_history(
        &self,
        history: &History,
        demand: Demand,
        deadline: Instant,
    ) -> Looked {
        let mut looked = Looked::default();
        let work = self.look_at_members(history, demand, deadline, &mut looked);
        let outcome = tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| {
            let error = late(None, "no answer before the deadline");
            Err(Trouble::Unanswered(error.context(history.spec.error_prefix())))
        });
        match outcome {
            Ok(changes) => looked.changes = changes,
            Err(trouble) => looked.trouble = Some(trouble),
        }
        looked
    }

    async fn look_at_members(
        &self,
        history: &History,
        demand: Demand,
        deadline: Instant,
        looked: &mut Looked,
    ) -> Result<Vec<Change>, Trouble> {
        let lost = || Trouble::Unanswered(Error::task_failed());
        let planned = self.plan.objects.get(history.members.start).ok_or_else(lost)?;
        let slots: Vec<Arc<Slot>> = {
            let generations = self.generations();
            generations.current.slots.get(history.members.clone()).unwrap_or_default().to_vec()
        };
        let held: Vec<_> = slots.iter().filter_map(|slot| slot.live().cloned()).collect();
        let asked = Moment::now(&self.clock);
        let listed = history::listed(self.origin.as_ref(), &history.spec, demand, deadline).await;
        self.hear(&listed);
        let listed = listed.map_err(Trouble::of)?;
        let gone = |content: &Content| !listed.has(&content.version);
        if listed.some_disabled || !self.ledger.held(planned.unit, gone).is_empty() {
            looked.disabled = Some(listed.clone());
        }
        let mut fetched = false;
        let changes = self
            .moved(&slots, &held, &listed.shown, planned.files > 1, deadline, &mut fetched)
            .await;
        let changes = match changes {
            // Perhaps the identity may list, and read no more: a second opinion follows.
            Err(error) if is_refusal(&error) => Err(Trouble::Contradicted(error)),
            Err(error) => return Err(Trouble::of(error)),
            Ok(changes) => Ok(changes),
        };
        // Only a read can tell whether what is shown may still be read.
        let readable = held.iter().find(|content| listed.has(&content.version));
        if let Some(content) = readable.filter(|_| !fetched) {
            let version = Version::Exact(content.version.clone());
            let spec = ObjectSpec { version, ..planned.spec.clone() };
            match self.ask(&spec, deadline).await {
                Ok(version) => content.update(&version),
                Err(error) if error.code() != Code::Forbidden && is_refusal(&error) => {
                    self.heard(planned, asked);
                    return Err(Trouble::Contradicted(error));
                }
                Err(error) => return Err(Trouble::of(error)),
            }
        }
        self.heard(planned, asked);
        changes
    }

    /// Where the versions stand now.
    async fn moved(
        &self,
        slots: &[Arc<Slot>],
        held: &[Arc<Content>],
        versions: &[Version],
        several: bool,
        deadline: Instant,
        fetched: &mut bool,
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for (position, slot) in slots.iter().enumerate() {
            let wanted = match versions.get(position) {
                Some(version) => Wanted::Version(version.clone()),
                None => Wanted::Nothing,
            };
            if wanted == slot.wanted {
                continue;
            }
            let was_filled = match slot.wanted {
                Wanted::Withdrawn { filled, .. } => filled,
                _ => slot.content().is_some(),
            };
            let content = match &wanted {
                Wanted::Version(id) => match held.iter().find(|one| one.version == id.as_str()) {
                    Some(content) => Some(content.clone()),
                    // Whoever has read this name gets the next value without waiting; and only its
                    // content can tell which files there are.
                    None if was_filled || several || self.limits.eager => {
                        let content = self.content(slot.object, id, &Wish::SPARE, deadline).await?;
                        content.opened_as(slot);
                        *fetched = true;
                        Some(content)
                    }
                    None => None,
                },
                _ => None,
            };
            changes.push(Change { object: slot.object, wanted, content });
        }
        Ok(changes)
    }
}
