//! A queue that is fair between groups: one entry of each group in turn.
//!
//! Whoever asks for much (a namespace that starts a hundred pods at once) waits behind himself, not in
//! front of everybody else.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Entries in the order of their groups' turns; within a group first come, first served.
#[derive(Debug)]
pub(crate) struct FairQueue<G, T> {
    groups: HashMap<G, VecDeque<T>>,
    /// Groups that have entries, the next one first.
    turns: VecDeque<G>,
    len: usize,
}

impl<G: Clone + Eq + Hash, T> FairQueue<G, T> {
    pub(crate) fn new() -> Self {
        Self { groups: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, group: G, entry: T) {
        let entries = self.groups.entry(group.clone()).or_default();
        if entries.is_empty() {
            self.turns.push_back(group);
        }
        entries.push_back(entry);
        self.len += 1;
    }

    /// Takes the next entry that may go now; the others keep their places. Its group's next turn comes
    /// after everybody else's.
    pub(crate) fn take(&mut self, mut may_go: impl FnMut(&G, &T) -> bool) -> Option<T> {
        for turn in 0..self.turns.len() {
            let group = self.turns.get(turn)?.clone();
            let entries = self.groups.get_mut(&group)?;
            let Some(at) = entries.iter().position(|entry| may_go(&group, entry)) else { continue };
            let entry = entries.remove(at)?;
            self.turns.remove(turn);
            if entries.is_empty() {
                self.groups.remove(&group);
            } else {
                self.turns.push_back(group);
            }
            self.len -= 1;
            return Some(entry);
        }
        None
    }

    /// Drops the entries that are not to be kept: those that nobody waits for any more.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        self.groups.retain(|_, entries| {
            entries.retain_mut(&mut keep);
            !entries.is_empty()
        });
        self.turns.retain(|group| self.groups.contains_key(group));
        self.len = self.groups.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_turns_and_keep_their_own_order() {
        let mut queue = FairQueue::new();
        for entry in ["a1", "a2", "a3", "b1", "c1", "b2"] {
            queue.push(&entry[..1], entry);
        }
        assert_eq!(queue.len(), 6);
        let order: Vec<_> = std::iter::from_fn(|| queue.take(|_, _| true)).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert_eq!((queue.len(), queue.groups.len(), queue.turns.len()), (0, 0, 0));
    }

    #[test]
    fn who_may_not_go_keeps_his_place() {
        let mut queue = FairQueue::new();
        for entry in ["a1", "a2", "b1"] {
            queue.push(&entry[..1], entry);
        }
        assert_eq!(queue.take(|_, entry| *entry != "a1"), Some("a2"));
        assert_eq!(queue.take(|group, _| *group == "c"), None);
        assert_eq!(queue.take(|_, _| true), Some("b1"));
        assert_eq!(queue.take(|_, _| true), Some("a1"));
    }

    #[test]
    fn entries_that_are_not_kept_are_gone() {
        let mut queue = FairQueue::new();
        for entry in ["a1", "a2", "b1"] {
            queue.push(&entry[..1], entry);
        }
        queue.retain(|entry| entry.ends_with('2'));
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.take(|_, _| true), Some("a2"));
        assert_eq!(queue.take(|_, _| true), None);
    }
}
