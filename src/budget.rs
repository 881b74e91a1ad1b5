//! Bytes of values that may be held: one budget for the process, with shares of it for its trees.
//!
//! Whatever holds values for others (the cache, the requests that run, each tree) reserves their bytes
//! first and gives them back when it lets go. What is only kept in case somebody asks again makes room
//! when a reservation would fail.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};

/// How often somebody who waits looks whether there is room.
const LOOK: Duration = Duration::from_millis(20);

type Reclaim = Box<dyn Fn(usize) + Send + Sync>;

/// Bytes that may be held together.
pub struct Budget {
    used: AtomicUsize,
    /// The most that was used since [`Budget::has_fallen`] was true.
    most: AtomicUsize,
    limit: usize,
    /// What this one is a share of.
    whole: Option<Arc<Budget>>,
    reclaim: OnceLock<Reclaim>,
}

/// A part of a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    budget: Arc<Budget>,
    bytes: usize,
    /// The same bytes of what the budget is a share of.
    _whole: Option<Box<Reserved>>,
}

impl Budget {
    /// Of the process.
    pub fn new(limit: usize) -> Arc<Self> {
        Self::with(limit, None)
    }

    /// A share of `whole`: at most `limit`, and what is left of the whole.
    pub(crate) fn share(whole: Option<Arc<Self>>, limit: usize) -> Arc<Self> {
        Self::with(limit, whole)
    }

    fn with(limit: usize, whole: Option<Arc<Self>>) -> Arc<Self> {
        let (used, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { used, most, limit, whole, reclaim: OnceLock::new() })
    }

    /// Says who makes room: called with the bytes that are missing. Once.
    pub(crate) fn on_need(&self, reclaim: impl Fn(usize) + Send + Sync + 'static) {
        let _ = self.reclaim.set(Box::new(reclaim));
    }

    /// The most that may be reserved.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes reserved now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Reserves so many bytes.
    ///
    /// # Errors
    /// TooLarge when they are not there, also after room was made.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reserved> {
        // First of the share: the whole need make no room for what the share does not allow.
        if !self.take(bytes) {
            // What can never be there is no reason to let go of anything.
            if let Some(reclaim) = self.reclaim.get().filter(|_| bytes <= self.limit) {
                reclaim(bytes);
            }
            if !self.take(bytes) {
                return Err(self.exhausted());
            }
        }
        let mut reserved = Reserved { budget: self.clone(), bytes, _whole: None };
        if let Some(whole) = &self.whole {
            reserved._whole = Some(Box::new(whole.reserve(bytes)?));
        }
        Ok(reserved)
    }

    /// The same, but waits for room until `deadline`.
    ///
    /// # Errors
    /// TooLarge when there is none by then, or can never be.
    pub(crate) async fn reserve_by(
        self: &Arc<Self>,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Reserved> {
        loop {
            match self.reserve(bytes) {
                Err(_) if bytes <= self.limit && Instant::now() + LOOK < deadline => {
                    tokio::time::sleep(LOOK).await;
                }
                result => return result,
            }
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let sum = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
        if let Ok(before) = taken {
            self.most.fetch_max(before + bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Whether less than half is used of the most that was used since this was true: memory that can be
    /// given back.
    pub(crate) fn has_fallen(&self) -> bool {
        let (used, most) = (self.used(), self.most.load(Ordering::Relaxed));
        let fallen = used < most / 2;
        if fallen {
            self.most.store(used, Ordering::Relaxed);
        }
        fallen
    }

    fn exhausted(&self) -> Error {
        let limit = self.limit;
        match self.whole {
            Some(_) => Error::new(
                Code::TooLarge,
                format!("the values of this mount are larger than {limit} bytes"),
            )
            .fix("mount fewer objects in one tree"),
            None => Error::new(
                Code::TooLarge,
                format!("the values that this process holds are larger than {limit} bytes"),
            )
            .fix("raise --max-held-bytes, or mount fewer objects at the same time"),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} of {})", self.used(), self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_share_takes_from_the_whole_and_gives_back() {
        let whole = Budget::new(10);
        let (a, b) = (Budget::share(Some(whole.clone()), 8), Budget::share(Some(whole.clone()), 8));
        let held = a.reserve(7).unwrap();
        assert_eq!(a.reserve(2).unwrap_err().code(), Code::TooLarge, "more than its share");
        assert_eq!(b.reserve(4).unwrap_err().code(), Code::TooLarge, "more than what is left");
        assert_eq!((whole.used(), a.used(), b.used()), (7, 7, 0));
        let further = b.reserve(3).unwrap();
        assert_eq!(whole.used(), 10);
        drop((held, further));
        assert_eq!((whole.used(), a.used(), b.used()), (0, 0, 0));
    }

    #[tokio::test]
    async fn whoever_waits_gets_room_when_it_is_there_and_is_told_in_time() {
        let whole = Budget::new(10);
        let held = whole.reserve(8).unwrap();
        let deadline = Instant::now() + Duration::from_millis(100);
        assert!(whole.reserve_by(3, deadline).await.is_err());
        assert!(whole.reserve_by(11, Instant::now() + Duration::from_secs(60)).await.is_err());
        let waiting = whole.reserve_by(3, Instant::now() + Duration::from_secs(60));
        let (waited, ()) = tokio::join!(waiting, async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(held);
        });
        assert_eq!(waited.unwrap().bytes, 3);
    }

    #[test]
    fn what_is_only_kept_makes_room() {
        let whole = Budget::new(10);
        let kept = Mutex::new(Some(whole.reserve(9).unwrap()));
        whole.on_need(move |_| drop(kept.lock().unwrap().take()));
        let share = Budget::share(Some(whole.clone()), 20);
        let held = share.reserve(8).unwrap();
        assert!(share.reserve(3).is_err());
        drop(held);
        assert_eq!(whole.used(), 0);
    }

    #[test]
    fn a_fall_is_told_once() {
        let whole = Budget::new(100);
        let (large, small) = (whole.reserve(60).unwrap(), whole.reserve(20).unwrap());
        assert!(!whole.has_fallen());
        drop(large);
        assert!(whole.has_fallen() && !whole.has_fallen());
        drop(small);
        assert!(whole.has_fallen() && !whole.has_fallen());
    }

    #[test]
    fn nothing_makes_room_for_more_than_a_share() {
        let whole = Budget::new(10);
        let kept = Mutex::new(Some(whole.reserve(9).unwrap()));
        whole.on_need(move |_| drop(kept.lock().unwrap().take()));
        let share = Budget::share(Some(whole.clone()), 5);
        assert!(share.reserve(6).is_err());
        assert_eq!((whole.used(), share.used()), (9, 0));
    }
}
