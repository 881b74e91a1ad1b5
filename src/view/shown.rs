//! A view as a whole: for deliveries that write everything instead of answering opens.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};

use super::plan::NodeKind;
use super::slot::Files;
use super::{Slot, View, late};
use crate::error::Result;
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

fn is_missing(slot: &Slot) -> bool {
    slot.exists() && slot.content().is_none()
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
            let filled = self.fill_these(missing, deadline).await;
            let current = self.generations().current.clone();
            // What was filled of a generation that was replaced meanwhile may be empty in the next.
            let Some(slot) = current.slots.iter().find(|slot| is_missing(slot)) else {
                return Ok(());
            };
            if current.birth != tried.birth && Instant::now() < deadline {
                continue;
            }
            filled?;
            let planned = self.plan.objects.get(slot.object);
            return Err(late(planned, "not fetched before the deadline"));
        }
    }

    /// Fills these objects, each as it is when its turn comes.
    async fn fill_these(self: &Arc<Self>, objects: Vec<usize>, deadline: Instant) -> Result<()> {
        let mut fills = stream::iter(objects)
            .map(|object| async move {
                let slot = self.generations().current.slots.get(object).cloned();
                match slot.filter(|slot| is_missing(slot)) {
                    Some(slot) => self.fill(&slot, deadline).await,
                    None => Ok(()),
                }
            })
            .buffered(self.limits.fetches.max(1));
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
    pub fn shown(&self) -> Vec<ShownFile> {
        let current = self.generations().current.clone();
        let objects = self.plan.objects.iter().zip(&current.slots);
        let filled =
            objects.filter_map(|(planned, slot)| Some((planned, slot.content()?.files().ok()?)));
        filled
            .flat_map(|(planned, files)| {
                planned.nodes.iter().filter_map(move |index| {
                    let NodeKind::File { file, mode, .. } = self.plan.tree.node(*index)?.kind
                    else {
                        return None;
                    };
                    Some(ShownFile {
                        path: self.plan.tree.path(*index),
                        mode,
                        contents: files.file(file)?.clone(),
                        _held: files.clone(),
                    })
                })
            })
            .collect()
    }
}
