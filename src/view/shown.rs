//! A view as a whole: for deliveries that write everything instead of answering opens.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};

use super::plan::NodeKind;
use super::room::Room;
use super::slot::Files;
use super::{Slot, View, late};
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

/// A file of the current generation. Shares its bytes with the view; they count as held, and are wiped
/// when the last who has them lets go.
#[derive(Clone)]
pub struct ShownFile {
    path: String,
    mode: u32,
    contents: Arc<Secret>,
    /// Keeps the bytes in the view's budget.
    _held: Arc<Files>,
}

impl ShownFile {
    /// Where it stands, as in the class: `/` between components.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Permission bits.
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// What is in it.
    pub fn contents(&self) -> &Secret {
        &self.contents
    }
}

/// Whether there is something to fetch.
pub(super) fn is_missing(slot: &Slot) -> bool {
    slot.exists() && !slot.is_ready()
}

impl View {
    /// Fills every object that there is, as many at a time as the limits allow: what the current
    /// generation has when this returns, if a refresh publishes one in between.
    ///
    /// # Errors
    /// When not all are filled by `deadline`: why the first of them is not, in the plan's order, and how
    /// many more there are. [`View::status`] has the failure of each; what was filled stays filled, and
    /// the next call tries only the others again.
    pub async fn fill_all(self: &Arc<Self>, deadline: Instant) -> Result<()> {
        loop {
            let tried = self.generations().current.clone();
            let missing = tried.slots.iter().filter(|slot| is_missing(slot));
            let missing: Vec<usize> = missing.map(|slot| slot.object).collect();
            let filled = self.fill_these(missing, self.limits.fetches, deadline).await;
            let current = self.generations().current.clone();
            // What was filled of a generation that was replaced meanwhile may be empty in the next.
            let Some(slot) = current.slots.iter().find(|slot| is_missing(slot)) else {
                return Ok(());
            };
            if current.birth != tried.birth && Instant::now() < deadline {
                continue;
            }
            filled?;
            if slot.content().is_some() {
                return Err(self.error_of(slot.object, self.not_all_fits()));
            }
            let planned = self.plan.objects.get(slot.object);
            return Err(late(planned, "not fetched before the deadline"));
        }
    }

    /// Nobody has seen the view: what is filled by now never showed another size.
    pub fn settle(&self) {
        let current = self.generations().current.clone();
        current.slots.iter().filter(|slot| slot.content().is_some()).for_each(|slot| slot.settle());
    }

    /// Fetches again what a refresh has brought and had no room for, until it had replaced the old.
    pub(super) async fn refill(self: &Arc<Self>, deadline: Instant) -> Result<()> {
        let current = self.generations().current.clone();
        let let_go = current.slots.iter().filter(|slot| slot.content().is_some());
        let let_go = let_go.filter(|slot| is_missing(slot)).map(|slot| slot.object).collect();
        self.fill_these(let_go, self.limits.fetches, deadline).await
    }

    /// Fills these objects, each as it is when its turn comes.
    pub(super) async fn fill_these(
        self: &Arc<Self>,
        objects: Vec<usize>,
        at_a_time: usize,
        deadline: Instant,
    ) -> Result<()> {
        let mut fills = stream::iter(objects)
            .map(|object| async move {
                let slot = self.generations().current.slots.get(object).cloned();
                match slot.filter(|slot| is_missing(slot)) {
                    Some(slot) => self.fill_in(&slot, Room::Whole, deadline).await,
                    None => Ok(()),
                }
            })
            .buffered(at_a_time.max(1));
        let (mut first, mut others) = (None, 0);
        while let Some(filled) = fills.next().await {
            let Err(error) = filled else { continue };
            match &first {
                None => first = Some(error),
                Some(_) => others += 1,
            }
        }
        match first {
            None => Ok(()),
            Some(error) if others == 0 => Err(error),
            Some(error) => Err(error.with_others(others)),
        }
    }

    /// All files of the current generation that are filled, in the plan's order. After
    /// [`View::fill_all`] that is every file; what the vault refuses later is not among them any more.
    /// They belong together as the layout says: with [`super::Layout::Atomic`] they are one generation.
    /// A history that has grown can have files that are not filled: fill again before taking them.
    ///
    /// # Errors
    /// Bytes of something that was filled were let go of: it would be missing among the others.
    pub fn shown(&self) -> Result<Vec<ShownFile>> {
        let current = self.generations().current.clone();
        let objects = self.plan.objects.iter().zip(&current.slots);
        let let_go = |slot: &&Arc<Slot>| slot.content().is_some_and(|content| content.is_let_go());
        if let Some(slot) = current.slots.iter().find(let_go) {
            return Err(self.error_of(slot.object, self.not_all_fits()));
        }
        let filled =
            objects.filter_map(|(planned, slot)| Some((planned, slot.content()?.files().ok()?)));
        let files = filled.flat_map(|(planned, files)| {
            planned.nodes.iter().filter_map(move |index| {
                let NodeKind::File { file, mode, .. } = self.plan.tree.node(*index)?.kind else {
                    return None;
                };
                Some(ShownFile {
                    path: self.plan.tree.path(*index),
                    mode,
                    contents: files.file(file)?.clone(),
                    _held: files.clone(),
                })
            })
        });
        Ok(files.collect())
    }

    fn not_all_fits(&self) -> Error {
        let limit = self.budget.limit();
        let what = format!("not all values of this mount fit in {limit} bytes at the same time");
        Error::new(Code::TooLarge, what).fix("show fewer objects in one tree")
    }
}
