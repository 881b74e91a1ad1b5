//! How long a request goes on that several callers wait for, each with a deadline of its own.
//!
//! It goes on as long as the most patient of them. When it has to pause (a service asked for that),
//! whoever cannot wait so long is told at once and not at the end of his time.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use crate::error::Error;

/// How long a request may go on, shared between it and those who wait for it.
#[derive(Debug)]
pub struct Patience {
    deadline: watch::Sender<Instant>,
    /// Until when the request does nothing, and why.
    pause: watch::Sender<Option<(Instant, Error)>>,
    /// When the try was sent that was answered last, by the clock that ages are measured with.
    asked: Mutex<Option<Instant>>,
}

impl Patience {
    /// Of one caller.
    pub fn new(deadline: Instant) -> Self {
        Self {
            deadline: watch::Sender::new(deadline),
            pause: watch::Sender::new(None),
            asked: Mutex::new(None),
        }
    }

    /// Another caller waits too.
    pub fn extend(&self, deadline: Instant) {
        self.deadline.send_if_modified(|latest| {
            let later = deadline > *latest;
            if later {
                *latest = deadline;
            }
            later
        });
    }

    /// When the most patient caller stops waiting. It may become later.
    pub fn deadline(&self) -> Instant {
        *self.deadline.borrow()
    }

    /// Waits until the most patient caller has stopped waiting.
    pub async fn ended(&self) {
        let mut deadline = self.deadline.subscribe();
        loop {
            let latest = *deadline.borrow_and_update();
            // A later deadline wakes us too; the sender lives as long as `self`.
            if tokio::time::timeout_at(latest.into(), deadline.changed()).await.is_err() {
                return;
            }
        }
    }

    /// The request does nothing before `until` (real time), because of `why`.
    pub fn pauses(&self, until: Instant, why: Error) {
        self.pause.send_replace(Some((until, why)));
    }

    /// The request works again.
    pub fn resumes(&self) {
        self.pause.send_if_modified(|pause| pause.take().is_some());
    }

    /// There is an answer to a try that was sent then; it is as old as that. With several tries under
    /// way the oldest may be the one that is answered.
    pub fn answered(&self, sent: Instant) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
    }

    /// When the last answer was asked for.
    pub fn asked(&self) -> Option<Instant> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a caller who waits until `deadline`: resolves, with the reason, as soon as it is known that
    /// nothing happens before that. For ever pending otherwise.
    pub async fn hopeless(&self, deadline: Instant) -> Error {
        let mut pause = self.pause.subscribe();
        loop {
            if let Some((until, why)) = &*pause.borrow_and_update()
                && *until >= deadline
            {
                return why.clone();
            }
            if pause.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn a_request_goes_on_as_long_as_the_most_patient_caller() {
        let now = Instant::now();
        let patience = Arc::new(Patience::new(now + Duration::from_millis(20)));
        let ended = tokio::spawn({
            let patience = patience.clone();
            async move {
                patience.ended().await;
                patience.deadline()
            }
        });
        let later = now + Duration::from_millis(120);
        patience.extend(later);
        patience.extend(now);
        assert_eq!(ended.await.unwrap(), later);
        assert!(Instant::now() >= later);
    }

    #[tokio::test]
    async fn who_cannot_wait_through_a_pause_is_told_at_once() {
        let now = Instant::now();
        let (near, far) = (now + Duration::from_secs(100), now + Duration::from_secs(300));
        let patience = Patience::new(far);
        let told = |deadline| {
            let hopeless = patience.hopeless(deadline);
            async { tokio::time::timeout(Duration::from_millis(20), hopeless).await.ok() }
        };
        assert!(told(near).await.is_none());
        patience.pauses(now + Duration::from_secs(200), Error::new(Code::Throttled, "busy"));
        assert_eq!(told(near).await.unwrap().code(), Code::Throttled);
        assert!(told(far).await.is_none());
        patience.resumes();
        assert!(told(near).await.is_none());
    }
}
