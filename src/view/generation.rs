//! Generations: immutable states of a view, and how long a replaced one stays readable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::ledger::Moment;
use super::plan::{Layout, Plan};
use super::slot::{Content, Slot, Wanted};
use crate::error::{Code, Error, Result};

/// A replaced generation answers for this long to whoever still walks in it.
const RETENTION: Duration = Duration::from_secs(600);
/// What replaced generations may cost, their bytes apart: those have their own limit, and can be fetched
/// again. More than enough for a class that rotates every few seconds.
const MAX_COST: usize = 16 * 1024 * 1024;
/// Most replaced generations, and how many are kept whatever they cost.
const MAX_RETIRED: usize = 1000;
const LEAST_RETIRED: usize = 16;
/// Of a slot of its own: what counts it, what points to it, and a version's name.
const SLOT: usize = size_of::<Slot>() + 64;

/// One state of the view: a slot for every object that the plan had when it came. Never changed; only its empty slots get filled.
pub(super) struct Generation {
    pub(super) birth: u32,
    /// Name of its directory in the atomic layout.
    pub(super) directory: String,
    pub(super) born: SystemTime,
    pub(super) slots: Vec<Arc<Slot>>,
    /// In memory, without the values.
    cost: usize,
}

impl Generation {
    fn new(birth: u32, born: SystemTime, slots: Vec<Arc<Slot>>) -> Arc<Self> {
        let time = jiff::Timestamp::try_from(born).unwrap_or_else(|_| jiff::Timestamp::now());
        // The birth makes the name unique: two generations of one second must not share it.
        let directory = format!("..{}.{birth}", time.strftime("%Y_%m_%d_%H_%M_%S"));
        let own = slots.iter().filter(|slot| slot.birth == birth).count();
        let cost = slots.len() * size_of::<Arc<Slot>>() + own * SLOT;
        Arc::new(Self { birth, directory, born, slots, cost })
    }
}

/// What the next generation has for an object where it differs.
pub(super) struct Change {
    pub(super) object: usize,
    pub(super) wanted: Wanted,
    /// `None` leaves it to the first open, if there is to be any.
    pub(super) content: Option<Arc<Content>>,
}

/// The current generation and its predecessors.
pub(super) struct Generations {
    pub(super) current: Arc<Generation>,
    /// Where names lead: an older one while a delivery has yet to show the current one.
    shown: Option<Arc<Generation>>,
    retired: VecDeque<(Instant, Arc<Generation>)>,
}

impl Generations {
    pub(super) fn first(plan: &Plan, born: SystemTime) -> Self {
        let slots = plan.objects.iter().enumerate().map(|(object, planned)| {
            // Nobody knows yet which versions a history has.
            let wanted = match planned.spec.position {
                Some(_) => Wanted::Nothing,
                None => Wanted::Version(planned.spec.version.clone()),
            };
            Slot::new(1, object, wanted, None)
        });
        Self {
            current: Generation::new(1, born, slots.collect()),
            shown: None,
            retired: VecDeque::new(),
        }
    }

    /// The generation that names lead to.
    pub(super) fn shown(&self) -> &Arc<Generation> {
        self.shown.as_ref().unwrap_or(&self.current)
    }

    /// Names lead to the generation of this birth, or to a younger one if they do so already.
    pub(super) fn show(&mut self, birth: u32) {
        if self.shown().birth < birth {
            self.shown =
                self.of_birth(birth).filter(|one| one.birth != self.current.birth).cloned();
        }
    }

    /// Names go on to lead where they do, until [`Self::show`].
    pub(super) fn hold_names(&mut self) {
        self.shown.get_or_insert_with(|| self.current.clone());
    }

    /// Changes the first generation before anybody saw it.
    pub(super) fn begin(&mut self, layout: Layout, changes: Vec<Change>) {
        self.current = self.next(self.current.birth, self.current.born, layout, changes);
    }

    /// The current generation, then its predecessors, the youngest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Generation>> {
        std::iter::once(&self.current)
            .chain(self.retired.iter().rev().map(|(_, generation)| generation))
            // Until something else is shown, whatever was let go of.
            .chain(&self.shown)
    }

    pub(super) fn of_birth(&self, birth: u32) -> Option<&Arc<Generation>> {
        self.all().find(|generation| generation.birth == birth)
    }

    pub(super) fn slot(&self, birth: u32, object: usize) -> Option<&Arc<Slot>> {
        self.all()
            .filter_map(|generation| generation.slots.get(object))
            .find(|slot| slot.birth == birth)
    }

    /// Replaces the current generation by one with the changes.
    ///
    /// In the atomic layout every slot is new: filled ones share their content, unfilled ones stay
    /// unfilled. In the flat layout only changed objects get a new slot; the others keep theirs, and
    /// with it their inode and whatever the kernel has cached of it.
    pub(super) fn publish(
        &mut self,
        layout: Layout,
        changes: Vec<Change>,
        now: Moment,
    ) -> Result<()> {
        let birth = self.current.birth.checked_add(1).ok_or_else(|| {
            Error::new(Code::Internal, "this mount has used up its generations").fix("mount again")
        })?;
        let next = self.next(birth, now.wall, layout, changes);
        let old = std::mem::replace(&mut self.current, next);
        self.retired.push_back((now.instant, old));
        self.forget_old(now.instant);
        Ok(())
    }

    fn next(
        &self,
        birth: u32,
        born: SystemTime,
        layout: Layout,
        mut changes: Vec<Change>,
    ) -> Arc<Generation> {
        changes.sort_by_key(|change| change.object);
        let known = self.current.slots.len();
        let slots = self.current.slots.iter().map(|slot| {
            let object = slot.object;
            let new = changes.binary_search_by_key(&object, |change| change.object).ok();
            match new.and_then(|at| changes.get(at)) {
                Some(Change { wanted, content, .. }) => {
                    Slot::new(birth, object, wanted.clone(), content.clone())
                }
                None if layout == Layout::Flat => slot.clone(),
                None => Slot::new(birth, object, slot.wanted.clone(), slot.content().cloned()),
            }
        });
        let mut slots: Vec<_> = slots.collect();
        // Names that are new; those between them have a place and are not shown yet.
        for Change { object, wanted, content } in changes.iter().filter(|new| new.object >= known) {
            let nothing = |object| Slot::new(birth, object, Wanted::Nothing, None);
            slots.extend((slots.len()..*object).map(nothing));
            slots.push(Slot::new(birth, *object, wanted.clone(), content.clone()));
        }
        Generation::new(birth, born, slots)
    }

    /// Drops what is older than the retention, and the oldest beyond the bounds. Slots with an open
    /// handle live on in the view's table of open files.
    pub(super) fn forget_old(&mut self, now: Instant) {
        let mut cost: usize = self.retired.iter().map(|(_, generation)| generation.cost).sum();
        while let Some((since, oldest)) = self.retired.front() {
            let count = self.retired.len();
            let fits = count <= LEAST_RETIRED || count <= MAX_RETIRED && cost <= MAX_COST;
            if fits && now.saturating_duration_since(*since) < RETENTION {
                break;
            }
            cost -= oldest.cost;
            self.retired.pop_front();
        }
    }

    pub(super) fn retired(&self) -> usize {
        self.retired.len()
    }
}
