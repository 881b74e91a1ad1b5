//! How many Mounts work at the same time, and who is next.
//!
//! A Mount that waits for a vault holds its slot, so no vault may take all of them: what hangs must not
//! keep away what does not. Namespaces take turns, and none may take all slots either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Code, Error, Result};
use crate::fair::FairQueue;

/// Mounts of one vault.
pub(super) const PER_VAULT: usize = 32;
/// Mounts of one namespace.
const PER_NAMESPACE: usize = 96;
/// All Mounts together.
const ALL: usize = 128;

#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Mutex<State>>);

struct State {
    working: usize,
    /// By vault, and by namespace.
    vaults: HashMap<Arc<str>, usize>,
    namespaces: HashMap<Arc<str>, usize>,
    waiting: FairQueue<Arc<str>, Waiter>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            working: 0,
            vaults: HashMap::new(),
            namespaces: HashMap::new(),
            waiting: FairQueue::new(),
        }
    }
}

struct Waiter {
    vault: Arc<str>,
    namespace: Arc<str>,
    granted: oneshot::Sender<Slot>,
}

/// The right to work; given back when dropped.
pub(super) struct Slot {
    slots: Slots,
    vault: Arc<str>,
    namespace: Arc<str>,
}

impl Slots {
    /// Waits for a slot. Who waits is bounded by the number of Mounts that are taken on at all.
    pub(super) async fn enter(&self, namespace: &str, vault: &str) -> Result<Slot> {
        let (namespace, vault): (Arc<str>, Arc<str>) = (namespace.into(), vault.into());
        let (granted, grant) = oneshot::channel();
        self.state().waiting.push(namespace.clone(), Waiter { vault, namespace, granted });
        self.serve();
        // The sender is in the queue until it is used.
        grant.await.map_err(|_| Error::new(Code::Internal, "the queue of mounts is lost"))
    }

    /// Gives out what is free.
    fn serve(&self) {
        loop {
            let Some(Waiter { vault, namespace, granted }) = self.state().next() else { return };
            // Whoever has left gives it back at once, by the drop.
            let _ = granted.send(Slot { slots: self.clone(), vault, namespace });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<Waiter> {
        // Those who have left; else each gives its slot back within another's giving back.
        self.waiting.retain(|waiter| !waiter.granted.is_closed());
        if self.working >= ALL {
            return None;
        }
        let (vaults, namespaces) = (&self.vaults, &self.namespaces);
        let waiter = self.waiting.take(|namespace, waiter| {
            below(vaults, &waiter.vault, PER_VAULT) && below(namespaces, namespace, PER_NAMESPACE)
        })?;
        self.working += 1;
        *self.vaults.entry(waiter.vault.clone()).or_default() += 1;
        *self.namespaces.entry(waiter.namespace.clone()).or_default() += 1;
        Some(waiter)
    }
}

fn below(counts: &HashMap<Arc<str>, usize>, key: &Arc<str>, most: usize) -> bool {
    counts.get(key).is_none_or(|count| *count < most)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.state();
        state.working -= 1;
        let State { vaults, namespaces, .. } = &mut *state;
        for (counts, key) in [(vaults, &self.vault), (namespaces, &self.namespace)] {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
        drop(state);
        self.slots.serve();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    async fn now(slots: &Slots, namespace: &str, vault: &str) -> Option<Slot> {
        let entered = slots.enter(namespace, vault);
        tokio::time::timeout(Duration::from_millis(20), entered).await.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn a_vault_that_hangs_leaves_room_for_the_others() {
        let slots = Slots::default();
        let mut held = Vec::new();
        for _ in 0..PER_VAULT {
            held.push(now(&slots, "a", "hangs").await.unwrap());
        }
        assert!(now(&slots, "a", "hangs").await.is_none());
        assert!(now(&slots, "b", "hangs").await.is_none());
        drop(now(&slots, "a", "works").await.unwrap());
        drop(held.pop());
        assert!(now(&slots, "a", "hangs").await.is_some(), "a waiter that left holds nothing");
    }

    #[tokio::test]
    async fn a_namespace_leaves_room_for_the_others_and_all_together_are_bounded() {
        let slots = Slots::default();
        let mut held = Vec::new();
        for number in 0..PER_NAMESPACE {
            held.push(now(&slots, "a", &format!("v{}", number / PER_VAULT)).await.unwrap());
        }
        assert!(now(&slots, "a", "another").await.is_none());
        for _ in PER_NAMESPACE..ALL {
            held.push(now(&slots, "b", "of-b").await.unwrap());
        }
        assert!(now(&slots, "c", "of-c").await.is_none());
        drop(held);
        let state = slots.state();
        assert_eq!(state.working + state.vaults.len() + state.namespaces.len(), 0);
    }

    #[tokio::test]
    async fn those_who_left_are_forgotten_and_cost_nothing() {
        let slots = Slots::default();
        let mut held = Vec::new();
        for _ in 0..PER_VAULT {
            held.push(slots.enter("a", "hangs").await.unwrap());
        }
        for _ in 0..10_000 {
            assert!(slots.enter("a", "hangs").now_or_never().is_none());
        }
        assert_eq!(slots.state().waiting.len(), 1, "each makes room for the next");
        drop(held.pop());
        assert_eq!(slots.state().waiting.len(), 0);
        assert!(now(&slots, "a", "hangs").await.is_some());
    }

    #[tokio::test]
    async fn namespaces_take_turns() {
        let slots = Slots::default();
        let mut held = Vec::new();
        for _ in 0..PER_VAULT {
            held.push(slots.enter("a", "v").await.unwrap());
        }
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        for namespace in ["a", "a", "a", "b"] {
            let (slots, told) = (slots.clone(), told.clone());
            tokio::spawn(async move {
                let slot = slots.enter(namespace, "v").await.unwrap();
                told.send(namespace).unwrap();
                drop(slot);
            });
            tokio::task::yield_now().await;
        }
        drop(held.pop());
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(order.recv().await.unwrap());
        }
        assert_eq!(seen, ["a", "b", "a", "a"]);
    }
}
