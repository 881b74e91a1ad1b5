//! A list that grows while others read it: what is in it stays where it is, and no reader waits.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Entries of the first chunk; each further chunk is twice as long.
const FIRST: usize = 64;
/// Sixty million entries, far beyond what is ever in one.
const CHUNKS: usize = 20;

type Chunk<T> = OnceLock<Box<[OnceLock<T>]>>;

/// An append-only list.
#[derive(Debug)]
pub(super) struct Growing<T> {
    chunks: [Chunk<T>; CHUNKS],
    /// Places that were given out; the last of them may not be filled yet.
    len: AtomicUsize,
}

impl<T> Growing<T> {
    pub(super) fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], len: AtomicUsize::new(0) }
    }

    /// Appends, and says where.
    pub(super) fn push(&self, value: T) -> usize {
        let at = self.len.fetch_add(1, Ordering::AcqRel);
        let (chunk, within) = place(at);
        if let Some(slots) = self.chunks.get(chunk) {
            let empty = || (0..FIRST << chunk).map(|_| OnceLock::new()).collect();
            if let Some(slot) = slots.get_or_init(empty).get(within) {
                // Nobody else was given this place.
                let _ = slot.set(value);
            }
        }
        at
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        let (chunk, within) = place(at);
        self.chunks.get(chunk)?.get()?.get(within)?.get()
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// What is in it now, and perhaps what comes meanwhile.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..).map_while(|at| self.get(at))
    }
}

impl<T> FromIterator<T> for Growing<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let list = Self::new();
        for one in all {
            list.push(one);
        }
        list
    }
}

/// Which chunk, and where in it.
const fn place(at: usize) -> (usize, usize) {
    let from_first = at.saturating_add(FIRST);
    let chunk = (from_first.ilog2() - FIRST.ilog2()) as usize;
    (chunk, from_first - (FIRST << chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are_while_readers_read() {
        let list = Growing::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < 10_000 {
                        seen = list.iter().zip(0..).map(|(one, at)| assert_eq!(*one, at)).count();
                    }
                });
            }
            (0..10_000).for_each(|n| assert_eq!(list.push(n), n));
        });
        assert_eq!((list.len(), list.get(9_999), list.get(10_000)), (10_000, Some(&9_999), None));
        assert!(list.get(usize::MAX).is_none());
        let first = std::ptr::from_ref(list.get(0).unwrap());
        assert_eq!((0..10_000).map(|n| list.push(n)).last(), Some(19_999));
        assert!(std::ptr::eq(first, list.get(0).unwrap()));
    }
}
