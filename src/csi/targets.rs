//! One running Mount per target.
//!
//! The driver retries a publish, sometimes while the first attempt still runs. A retry with the very
//! same request joins the running task. A different request for the same target waits for it first:
//! it may carry another identity, and an outcome is never given to a caller whose request did not
//! produce it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Code, Error, Result};

use super::mount::{Answered, FAILED, Incoming};

/// Running and waiting mounts together, several for one target among them.
const MAX_MOUNTS: usize = 4096;

type Outcome = Result<Arc<Answered>>;
type Running = Shared<BoxFuture<'static, Outcome>>;

/// What runs or waits for a target: a number that tells it from its predecessors, the request, and
/// the outcome to come.
type Entry = (u64, Arc<Incoming>, Running);
type Table = Arc<Mutex<HashMap<String, Entry>>>;

#[derive(Clone)]
pub(super) struct Targets {
    running: Table,
    places: Arc<Semaphore>,
}

impl Default for Targets {
    fn default() -> Self {
        Self { running: Arc::default(), places: Arc::new(Semaphore::new(MAX_MOUNTS)) }
    }
}

impl Targets {
    /// The outcome of this request's task. `work` is called when no equal request runs.
    pub(super) fn start_or_join<F>(
        &self,
        request: &Arc<Incoming>,
        work: impl FnOnce(Arc<Incoming>) -> F,
    ) -> Running
    where
        F: Future<Output = Result<Answered>> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = running.get(&request.target_path);
        // It is forgotten before it is answered: whoever asks again after an answer wants a new one.
        if let Some((_, same, outcome)) = before.filter(|(_, other, _)| other.same_as(request)) {
            tracing::debug!(
                target_path = same.target_path,
                "joined the running mount of this target"
            );
            return outcome.clone();
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let error = Error::new(Code::TooLarge, format!("{MAX_MOUNTS} mounts are waiting"));
            return async move { Err(error.context(FAILED)) }.boxed().shared();
        };
        let (number, previous) = match before {
            Some((number, _, outcome)) => (number + 1, Some(outcome.clone())),
            None => (0, None),
        };
        let (tell, told) = oneshot::channel();
        let outcome =
            told.map(|told| told.unwrap_or_else(|_| Err(Error::task_failed().context(FAILED))));
        let outcome: Running = outcome.boxed().shared();
        let target = request.target_path.clone();
        running.insert(target.clone(), (number, request.clone(), outcome.clone()));
        drop(running);
        let (table, work) = (self.running.clone(), work(request.clone()));
        let entry = Forgotten { table, target, number };
        // A task of its own: it comes to its end although every caller may have gone.
        tokio::spawn(async move {
            // Dropped from the last to the first, also when the work panics.
            let (_place, tell, entry) = (place, tell, entry);
            if let Some(previous) = previous {
                // Only its end counts here, not its outcome.
                let _ = previous.await;
            }
            let outcome = work.await.map(Arc::new);
            drop(entry);
            let _ = tell.send(outcome);
        });
        outcome
    }
}

/// Its target is forgotten when this is dropped, so when the task panics too.
struct Forgotten {
    table: Table,
    target: String,
    number: u64,
}

impl Drop for Forgotten {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.get(&self.target).is_some_and(|(current, ..)| *current == self.number) {
            table.remove(&self.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn request(target: &str, secrets: &str) -> Arc<Incoming> {
        Arc::new(Incoming::from(super::super::proto::MountRequest {
            target_path: target.to_owned(),
            secrets: secrets.to_owned(),
            ..Default::default()
        }))
    }

    #[tokio::test]
    async fn equal_requests_join_and_different_ones_take_turns() {
        let (targets, calls) = (Targets::default(), Arc::new(AtomicUsize::new(0)));
        let active = Arc::new(AtomicUsize::new(0));
        let start = |request: &Arc<Incoming>| {
            let (calls, active) = (calls.clone(), active.clone());
            targets.start_or_join(request, move |_| async move {
                calls.fetch_add(1, Ordering::SeqCst);
                assert_eq!(active.fetch_add(1, Ordering::SeqCst), 0, "two at once on one target");
                tokio::time::sleep(Duration::from_millis(50)).await;
                active.fetch_sub(1, Ordering::SeqCst);
                Ok(Answered::default())
            })
        };
        let (first, retry) = (start(&request("/t", "a")), start(&request("/t", "a")));
        let other = start(&request("/t", "b"));
        assert!(first.await.is_ok() && retry.await.is_ok() && other.await.is_ok());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        for _ in 0..100 {
            if targets.running.lock().unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("a finished target is still remembered");
    }

    #[tokio::test]
    async fn waiting_is_bounded_on_one_target_too() {
        let targets = Targets::default();
        let start = |number: usize| {
            targets.start_or_join(&request("/t", &number.to_string()), |_| std::future::pending())
        };
        let waiting: Vec<_> = (0..MAX_MOUNTS).map(start).collect();
        assert!(waiting.iter().all(|outcome| outcome.peek().is_none()));
        let error = start(MAX_MOUNTS).await.err().unwrap();
        assert!(error.message().contains("mounts are waiting"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_and_the_next_mount_works() {
        let targets = Targets::default();
        let error = targets
            .start_or_join(&request("/t", "a"), |_| async { panic!("planned") })
            .await
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::Internal);
        let next =
            targets.start_or_join(&request("/t", "b"), |_| async { Ok(Answered::default()) }).await;
        assert!(next.is_ok());
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_stop_the_mount() {
        let (targets, done) = (Targets::default(), Arc::new(AtomicUsize::new(0)));
        let counter = done.clone();
        drop(targets.start_or_join(&request("/t", "a"), move |_| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(Answered::default())
        }));
        for _ in 0..100 {
            if done.load(Ordering::SeqCst) == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the mount was dropped with its caller");
    }
}
