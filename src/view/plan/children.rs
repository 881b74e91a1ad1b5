//! Entries of a directory: by position, and by name; more may come while somebody reads.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::view::growing::Growing;

/// Nodes in the order in which they came, and chains of those whose names share a hash.
#[derive(Debug)]
pub(in crate::view) struct Children {
    entries: Growing<Entry>,
    /// The newest entry of each chain, counted from 1.
    chains: Box<[AtomicU32]>,
    hashes: RandomState,
}

#[derive(Debug)]
struct Entry {
    node: u32,
    /// The entry before it in its chain, counted from 1; 0 ends it.
    before: u32,
}

impl Children {
    /// None yet, and quick to find for about so many.
    pub(super) fn about(names: usize) -> Box<Self> {
        let chains = (0..names.max(1)).map(|_| AtomicU32::new(0)).collect();
        Box::new(Self { entries: Growing::new(), chains, hashes: RandomState::new() })
    }

    /// One at a time.
    pub(super) fn add(&self, name: &str, node: u32) {
        let Some(chain) = self.chain(name) else { return };
        let at = self.entries.push(Entry { node, before: chain.load(Ordering::Acquire) });
        // Names per directory are bounded far below this.
        chain.store(u32::try_from(at + 1).unwrap_or(0), Ordering::Release);
    }

    /// The node at a position.
    pub(in crate::view) fn at(&self, position: usize) -> Option<u32> {
        self.entries.get(position).map(|entry| entry.node)
    }

    /// The node that is the one with this name.
    pub(super) fn find(&self, name: &str, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut next = self.chain(name)?.load(Ordering::Acquire);
        while let Some(at) = next.checked_sub(1) {
            let entry = self.entries.get(at as usize)?;
            if is_it(entry.node) {
                return Some(entry.node);
            }
            next = entry.before;
        }
        None
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().map(|entry| entry.node)
    }

    fn chain(&self, name: &str) -> Option<&AtomicU32> {
        let hash = usize::try_from(self.hashes.hash_one(name) & u64::from(u32::MAX)).ok()?;
        self.chains.get(hash.checked_rem(self.chains.len())?)
    }
}
