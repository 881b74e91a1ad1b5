//! Room for bytes: what is let go of when a tree is full.
//!
//! The bytes of a version are let go of, never the version: its name, its size and its inode stay, and the
//! next open fetches that very version by its id. What nobody has open goes, in this order: what only
//! replaced generations show, the oldest first; then, for an open, what is shown now and was opened
//! longest ago. What is open stays whatever happens.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::slot::{Content, Slot};
use super::{NodeId, View};
use crate::budget::Reserved;
use crate::error::{Code, Error, Result};

/// Who waits for room looks again after this time, whether somebody has closed a file or not.
const AGAIN: Duration = Duration::from_millis(10);

/// Who needs room, and so what goes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// An open: whatever nobody has open.
    Open,
    /// Everything that is shown is wanted at the same time: only what was replaced goes.
    Whole,
    /// A look for new versions, and for names: only what was replaced goes. Where there is no room all
    /// the same, a version is shown without its bytes.
    Spare,
}

/// Room for a fetch.
pub(super) struct Wish<'a> {
    pub(super) room: Room,
    /// Who has opened it by the time that its bytes are there counts too.
    pub(super) slot: Option<&'a Slot>,
}

impl Wish<'_> {
    pub(super) const SPARE: Self = Self { room: Room::Spare, slot: None };
}

impl View {
    /// A place for so many bytes; `None` where it can be done without.
    pub(super) async fn room(&self, bytes: usize, wish: &Wish<'_>) -> Result<Option<Reserved>> {
        let end = Instant::now() + self.limits.room_wait;
        loop {
            let closed = self.closes.notified();
            let room = wish.slot.map_or(wish.room, |slot| self.room_of(slot, wish.room));
            let outcome = self.room_now(bytes, room);
            let waits = outcome.is_err() && room == Room::Open && bytes <= self.budget.limit();
            let now = Instant::now();
            if !waits || end <= now {
                return outcome;
            }
            // A reader that has its bytes and has closed its file may hold them a moment longer here, and
            // nobody tells when it lets go.
            let again = end.min(now + AGAIN);
            let _ = tokio::time::timeout_at(again.into(), closed).await;
        }
    }

    fn room_of(&self, slot: &Slot, room: Room) -> Room {
        let nodes = self.plan.objects.get(slot.object).map_or(&[][..], |planned| &planned.nodes);
        let open = self.open_files();
        let is_open = |index: &u32| open.contains_key(&NodeId { birth: slot.birth, index: *index });
        if nodes.iter().any(is_open) { Room::Open } else { room }
    }

    fn room_now(&self, bytes: usize, room: Room) -> Result<Option<Reserved>> {
        let refused = match self.budget.reserve(bytes) {
            Ok(reserved) => return Ok(Some(reserved)),
            Err(error) => error,
        };
        if let Some(reserved) = self.make_room(bytes, room) {
            return Ok(Some(reserved));
        }
        match room {
            // What can never be read stays out, and what it would replace stays.
            Room::Spare if bytes <= self.budget.limit() => Ok(None),
            Room::Open if self.is_full(bytes) && bytes <= self.budget.limit() => {
                let (used, limit) = (self.budget.used(), self.budget.limit());
                let what = format!(
                    "there is no room for another value: {used} of at most {limit} bytes are held, \
                     and all of them are open"
                );
                Err(Error::new(Code::TooLarge, what)
                    .fix("close files that are not needed, or show fewer objects in one tree"))
            }
            _ => Err(refused),
        }
    }

    fn is_full(&self, bytes: usize) -> bool {
        self.budget.used().saturating_add(bytes) > self.budget.limit()
    }

    pub(super) fn make_room(&self, bytes: usize, room: Room) -> Option<Reserved> {
        let (current, old) = {
            let generations = self.generations();
            let old: Vec<_> = generations.all().skip(1).cloned().collect();
            (generations.current.clone(), old)
        };
        let mut seen: HashSet<*const Content> = HashSet::new();
        let mut is_new = |content: &Arc<Content>| seen.insert(Arc::as_ptr(content));
        let mut of = |slots: &[Arc<Slot>]| -> Vec<Arc<Content>> {
            let contents = slots.iter().filter_map(|slot| slot.content());
            contents.filter(|content| is_new(content)).cloned().collect()
        };
        let mut shown = of(&current.slots);
        // The youngest first, as each has what is new in it.
        let mut going: Vec<_> = old.iter().map(|generation| of(&generation.slots)).collect();
        going.reverse();
        let mut going: Vec<_> = going.into_iter().flatten().collect();
        if room == Room::Open {
            // What a refresh has fetched that still waits for others, before what is shown.
            going.extend(self.ledger.contents().into_iter().filter(is_new));
            // Each is read once: others open meanwhile, and an order that changes under the sort is none.
            shown.sort_by_cached_key(|content| content.opened());
            going.extend(shown);
        }
        // Nobody can open a file meanwhile.
        let open = self.open_files();
        let held: HashSet<*const Content> =
            open.values().filter_map(|(_, slot)| slot.content()).map(Arc::as_ptr).collect();
        going.retain(|content| {
            let is_held = held.contains(&Arc::as_ptr(content)) || content.is_in_hand();
            !is_held && content.files().is_ok()
        });
        let possible: usize = going.iter().map(|content| content.total()).sum();
        if self.budget.used().saturating_sub(possible).saturating_add(bytes) > self.budget.limit() {
            // It would be of no use to anybody.
            return None;
        }
        going.iter().find_map(|content| {
            content.let_go();
            // They go only when nobody reads them just now.
            self.budget.reserve(bytes).ok()
        })
    }
}
