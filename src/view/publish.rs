//! What follows from the looks of a refresh: a new generation, bytes that go, and who is told.
//!
//! New content is published together in the atomic layout, or not at all. What the vault refuses goes all
//! the same: it holds nobody back, and nobody holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::check::{Looked, Trouble};
use super::generation::{Change, Generation};
use super::history::Listed;
use super::ledger::Moment;
use super::plan::{DATA_NAME, GENERATION, Layout};
use super::slot::Wanted;
use super::{Move, NodeId, View, late};
use crate::error::{Code, Error, Result};

/// Of what may not stay any longer.
const TOO_LONG: &str = "the vault has not answered for too long";
/// Announcements that a delivery may lag behind.
const LAG: usize = 16;

/// A new generation is current. Whoever shows the view makes readers look up `names` again, forgets the
/// bytes of `withdrawn`, and then says so on `shown`.
#[derive(Debug)]
pub struct Announcement {
    /// Number of the generation, for [`View::move_names`].
    pub birth: u32,
    /// The same as `names`, as single steps in the order in which watchers are to see them; for a
    /// delivery that stages.
    pub moves: Vec<Move>,
    /// The files in the directory of the generation that was replaced; likewise.
    pub leavings: Vec<Move>,
    /// Directory and name of every entry that now leads somewhere else.
    pub names: Vec<(NodeId, String)>,
    /// Files whose bytes the vault has taken back, of old generations too: whoever holds them open reads
    /// no more of them.
    pub withdrawn: Vec<NodeId>,
    /// Refreshes wait for this, bounded.
    pub shown: oneshot::Sender<()>,
}

/// What follows from all looks of a refresh.
#[derive(Default)]
pub(super) struct Batch {
    /// New content, and where versions stand.
    changes: Vec<Change>,
    /// Names that lists have and the view does not.
    names: Vec<Change>,
    /// What goes whatever becomes of the others, by object.
    removals: BTreeMap<usize, Change>,
    /// Units whose bytes go, and why.
    refused: Vec<(usize, Code)>,
    /// Units of which only old bytes are held, and may not be any more.
    overdue: Vec<usize>,
    /// Lists of units: the bytes of versions that may not be read any more go.
    disabled: Vec<(usize, Listed)>,
    /// Something cannot be told, or not be shown.
    unknown: bool,
}

impl Batch {
    /// Whether nothing follows from it.
    pub(super) fn is_empty(&self) -> bool {
        let Self { changes, names, removals, refused, overdue, disabled, unknown: _ } = self;
        changes.is_empty()
            && names.is_empty()
            && removals.is_empty()
            && refused.is_empty()
            && overdue.is_empty()
            && disabled.is_empty()
    }

    /// Whether something goes whatever becomes of the others.
    pub(super) fn takes_away(&self) -> bool {
        !(self.removals.is_empty() && self.refused.is_empty())
    }

    /// That, by itself.
    pub(super) fn take_removals(&mut self) -> Self {
        let removals = std::mem::take(&mut self.removals);
        Self { removals, refused: std::mem::take(&mut self.refused), ..Self::default() }
    }

    /// A name that is there from now on.
    pub(super) fn appear(&mut self, change: Change) {
        self.names.push(change);
    }

    /// A name that is not there any more, and may come back.
    pub(super) fn forget(&mut self, object: usize) {
        let nothing = Change { object, wanted: Wanted::Nothing, content: None };
        self.removals.entry(object).or_insert(nothing);
    }

    /// Names that are new, to be decided about once more; none where none can be shown now.
    pub(super) fn take_names(&mut self, layout: Layout) -> Vec<Change> {
        let held_back = layout == Layout::Atomic && self.unknown;
        let names = std::mem::take(&mut self.names);
        if held_back { Vec::new() } else { names }
    }

    /// Of a batch that is not published: nobody has seen the view.
    pub(super) fn into_changes(self) -> Vec<Change> {
        self.names
    }
}

/// What readers have to be told.
pub(super) struct Published {
    /// Files that changed, and whether each came or went.
    pub(super) changed: Vec<(u32, bool)>,
    /// Nodes whose bytes are gone.
    withdrawn: Vec<NodeId>,
    /// The generation that was current before, and the one that is now.
    pub(super) before: Arc<Generation>,
    pub(super) now: Arc<Generation>,
    /// What was in the directory of the one before.
    leavings: Vec<Move>,
}

/// The one delivery that shows the view.
#[derive(Clone)]
pub(super) struct Listener {
    announcements: mpsc::Sender<Announcement>,
    /// It moves the names itself.
    stages: bool,
}

impl Batch {
    /// Something was not looked at.
    pub(super) fn incomplete(&mut self) {
        self.unknown = true;
    }
}

impl View {
    /// What follows from one look; returns what went wrong.
    pub(super) fn weigh(&self, unit: usize, looked: Looked, batch: &mut Batch) -> Option<Error> {
        let now = Moment::now(&self.clock);
        let Looked { changes, disabled, trouble } = looked;
        batch.changes.extend(changes);
        batch.disabled.extend(disabled.map(|listed| (unit, listed)));
        let Some(trouble) = trouble else {
            self.ledger.worked(unit);
            return None;
        };
        let mut error = trouble.error().clone();
        let consequence = match &trouble {
            Trouble::Refused(error) => {
                self.ledger.reached(unit);
                self.remove(unit, error.code(), batch, |_| true);
                batch.refused.push((unit, error.code()));
                "; its files are taken away"
            }
            Trouble::Unanswered(_) => {
                batch.unknown = true;
                match self.ledger.unanswered(unit, now, self.limits.max_stale) {
                    true => {
                        error = error.context(TOO_LONG);
                        self.give_up(unit, batch)
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

    /// What follows for a unit that was not asked about, because the vault did not answer about others:
    /// nothing, unless its last positive answer is too long ago. Then that went wrong.
    pub(super) fn pass_over(&self, unit: usize, batch: &mut Batch) -> Option<Error> {
        let now = Moment::now(&self.clock);
        if self.is_gone(unit) || !self.ledger.passed_over(unit, now, self.limits.max_stale) {
            return None;
        }
        let what = "not asked again, the vault did not answer about others";
        let error = late(self.plan.objects.get(unit), what).context(TOO_LONG);
        let consequence = self.give_up(unit, batch);
        self.ledger.failed(unit, &error, now.wall, consequence);
        Some(error)
    }

    /// Takes away what cannot be asked about any more, and says so.
    fn give_up(&self, unit: usize, batch: &mut Batch) -> &'static str {
        if self.is_unopened(unit) {
            // Its name stays: whoever opens it asks the vault.
            batch.overdue.push(unit);
            return "; who has an old version open reads no more of it";
        }
        self.remove(unit, Code::Unavailable, batch, |_| true);
        batch.refused.push((unit, Code::Unavailable));
        "; its files are taken away until the vault gives it again"
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
                batch.removals.entry(slot.object).or_insert(change);
            }
        }
    }

    /// Publishes a generation, if there is anything for one, and lets go of what was taken back.
    pub(super) fn publish(&self, mut batch: Batch) -> Result<Published> {
        // Only now: what was asked for before a list may have come after it.
        let disabled = std::mem::take(&mut batch.disabled);
        for (unit, listed) in &disabled {
            let gone = |version: Option<&str>| version.is_some_and(|one| !listed.has(one));
            self.remove(*unit, Code::Disabled, &mut batch, gone);
        }
        let (now, most) = (Moment::now(&self.clock), self.limits.max_stale);
        let (unopened, opened): (Vec<_>, Vec<_>) = std::mem::take(&mut batch.overdue)
            .into_iter()
            .partition(|unit| self.is_unopened(*unit));
        for unit in opened.into_iter().filter(|unit| self.ledger.is_overdue(*unit, now, most)) {
            // An answer from long ago has filled it meanwhile.
            self.give_up(unit, &mut batch);
        }
        let layout = self.plan.tree.layout;
        let mut changes = batch.removals;
        if layout == Layout::Flat || !batch.unknown {
            // A look at an object that has just come back has more to say than the list.
            let new = batch.names.into_iter().chain(batch.changes);
            changes.extend(new.map(|change| (change.object, change)));
        }
        let before = self.generations().current.clone();
        let touched: Vec<_> = changes.keys().filter_map(|at| self.plan.objects.get(*at)).collect();
        let nodes: Vec<u32> =
            touched.iter().flat_map(|planned| planned.nodes.iter().copied()).collect();
        // As readers saw it, before bytes go.
        let shown_before = self.shown_of(&before, &nodes);
        let staged = !changes.is_empty() && self.is_staged();
        let leavings = if staged { self.leavings(&before) } else { Vec::new() };
        let published = match changes.is_empty() {
            true => Ok(()),
            false => self.generations_mut(|generations| {
                if staged {
                    generations.hold_names();
                }
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
        for unit in unopened {
            self.ledger.withdraw_overdue(unit, now, most, Code::Unavailable);
            gone.extend(self.plan.members(unit));
        }
        for (unit, listed) in disabled {
            self.ledger.withdraw(unit, Code::Disabled, |one| !listed.has(&one.version));
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
        let (changed, withdrawn) = (changed.collect(), self.withdrawn_nodes(&gone));
        Ok(Published { changed, withdrawn, before, now, leavings })
    }

    fn shown_of(&self, generation: &Generation, nodes: &[u32]) -> Vec<bool> {
        let shown = |index: &u32| {
            self.plan.tree.node(*index).is_some_and(|node| self.is_shown(generation, node))
        };
        nodes.iter().map(shown).collect()
    }

    /// Announcements of new generations, for the one delivery that shows the view.
    pub fn subscribe(&self) -> mpsc::Receiver<Announcement> {
        self.listen(false)
    }

    /// The same for a delivery that moves the names by itself: until it says [`View::move_names`], or has had
    /// its time, they lead where they did.
    pub fn subscribe_staged(&self) -> mpsc::Receiver<Announcement> {
        self.listen(true)
    }

    fn listen(&self, stages: bool) -> mpsc::Receiver<Announcement> {
        let (announcements, receiver) = mpsc::channel(LAG);
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Listener { announcements, stages });
        receiver
    }

    fn is_staged(&self) -> bool {
        self.listener().is_some_and(|one| one.stages && !one.announcements.is_closed())
    }

    fn listener(&self) -> Option<Listener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of changed files and whether each came or went, and of nodes that have no bytes any more.
    ///
    /// # Errors
    /// The delivery has not shown it in time.
    pub(super) async fn announce(&self, published: Published) -> Result<()> {
        let birth = published.now.birth;
        let told = self.tell(published).await;
        // Shown or not: whoever looks a name up from now on finds the new generation.
        self.move_names(birth);
        told
    }

    async fn tell(&self, mut published: Published) -> Result<()> {
        let leavings = std::mem::take(&mut published.leavings);
        let moves = if self.is_staged() { self.moves(&published) } else { Vec::new() };
        let Published { changed, withdrawn, before, now, .. } = published;
        let replaced = before.birth != now.birth;
        let Some(Listener { announcements, .. }) = self.listener() else { return Ok(()) };
        let tree = &self.plan.tree;
        let nodes = changed.iter().filter_map(|(node, moved)| Some((tree.node(*node)?, *moved)));
        let names = match tree.layout {
            Layout::Atomic if !replaced => Vec::new(),
            Layout::Atomic => {
                let directory = now.directory.clone();
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
        if names.is_empty() && withdrawn.is_empty() {
            return Ok(());
        }
        let (shown, told) = oneshot::channel();
        let show = async {
            let announcement =
                Announcement { birth: now.birth, moves, leavings, names, withdrawn, shown };
            if announcements.send(announcement).await.is_ok() {
                let _ = told.await;
            }
        };
        tokio::time::timeout(self.limits.show_limit, show).await.map_err(|_| {
            let what = "what was found is not shown yet; readers see it later";
            tracing::warn!("{what}");
            Error::new(Code::TimedOut, what).fix("check akvfs status and what the process logs")
        })
    }
}
