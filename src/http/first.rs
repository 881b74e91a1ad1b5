//! First contact: whoever comes first to a host goes alone, and the others find its connection.
//!
//! The client below opens a connection for each request that finds none free, and learns only then
//! whether the host speaks HTTP/2. A hundred requests at once would be a hundred handshakes, of which
//! ninety-nine are thrown away. Waiting for the first costs one round trip more, once; a host that is
//! slow with the first answer is waited for only a moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as Turn;

use crate::error::{Code, Error};

/// Longest wait for somebody else's first answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most hosts remembered; beyond them nobody waits.
const MAX_HOSTS: usize = 1024;

/// Hosts and when they last answered.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<HashMap<String, Arc<Host>>>);

#[derive(Debug, Default)]
struct Host {
    answered: Mutex<Option<Instant>>,
    /// Held by whoever goes alone; since when.
    turn: Arc<Turn<()>>,
    since: Mutex<Option<Instant>>,
}

/// The right to go; dropped when the exchange has ended.
#[derive(Debug)]
pub(super) struct Contact {
    host: Option<Arc<Host>>,
    _turn: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Contacts {
    /// Waits until the host is known, it is our turn, or patience ends. A host is known for as long as
    /// an idle connection to it is kept.
    pub(super) async fn wait(&self, host: &str, kept: Duration) -> Contact {
        let Some(host) = self.host(host, kept) else { return Contact { host: None, _turn: None } };
        if host.is_known(kept) {
            return Contact { host: Some(host), _turn: None };
        }
        let end = get(&host.since).unwrap_or_else(Instant::now) + PATIENCE;
        let turn = host.turn.clone().lock_owned();
        let turn = tokio::time::timeout_at(end.into(), turn).await.ok();
        // It may have answered whoever had the turn before: then nobody need wait for us.
        let turn = turn.filter(|_| !host.is_known(kept));
        if turn.is_some() {
            set(&host.since, Some(Instant::now()));
        }
        Contact { host: Some(host), _turn: turn }
    }

    /// All connections are gone.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn host(&self, host: &str, kept: Duration) -> Option<Arc<Host>> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host) {
            return Some(known.clone());
        }
        if hosts.len() >= MAX_HOSTS {
            hosts.retain(|_, host| Arc::strong_count(host) > 1 || host.is_known(kept));
        }
        (hosts.len() < MAX_HOSTS).then(|| hosts.entry(host.to_owned()).or_default().clone())
    }
}

impl Host {
    fn is_known(&self, kept: Duration) -> bool {
        get(&self.answered).is_some_and(|at| at.elapsed() < kept)
    }
}

impl Contact {
    /// The host has answered.
    pub(super) fn answered(self) {
        if let Some(host) = self.host {
            set(&host.answered, Some(Instant::now()));
        }
    }

    /// When the connection broke, or there was none, whoever comes next goes alone again.
    pub(super) fn failed(self, error: &Error) {
        let broke = matches!(error.code(), Code::Unavailable | Code::TimedOut);
        if let Some(host) = self.host.filter(|_| broke) {
            set(&host.answered, None);
        }
    }
}

fn get(at: &Mutex<Option<Instant>>) -> Option<Instant> {
    *at.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(at: &Mutex<Option<Instant>>, to: Option<Instant>) {
    *at.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(60);
    const MOMENT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn the_others_wait_for_the_first_answer_and_for_no_second() {
        let contacts = Contacts::default();
        let first = contacts.wait("a", KEPT).await;
        let other = contacts.wait("a", KEPT);
        tokio::pin!(other);
        assert!(tokio::time::timeout(MOMENT, &mut other).await.is_err());
        // Another host is another matter.
        contacts.wait("b", KEPT).await.answered();
        first.answered();
        let other = tokio::time::timeout(KEPT, other).await.unwrap();
        let third = tokio::time::timeout(KEPT, contacts.wait("a", KEPT)).await.unwrap();
        drop((other, third));
        let broken = contacts.wait("a", KEPT).await;
        assert!(broken._turn.is_none());
        broken.failed(&Error::new(Code::Unavailable, "x"));
        let next = contacts.wait("a", KEPT).await;
        assert!(next._turn.is_some());
        next.answered();
        contacts.forget();
        let again = contacts.wait("a", KEPT).await;
        assert!(again._turn.is_some());
    }

    #[tokio::test]
    async fn who_fails_lets_the_next_one_go_and_who_hangs_is_not_waited_for() {
        let contacts = Contacts::default();
        let first = contacts.wait("a", KEPT).await;
        drop(first);
        let second = contacts.wait("a", KEPT).await;
        assert!(second._turn.is_some());
        let third = contacts.wait("a", KEPT).await;
        assert!(third._turn.is_none());
    }

    #[tokio::test]
    async fn no_more_hosts_are_remembered_than_the_bound() {
        let contacts = Contacts::default();
        for n in 0..MAX_HOSTS + 10 {
            contacts.wait(&n.to_string(), KEPT).await.answered();
        }
        assert_eq!(contacts.0.lock().unwrap().len(), MAX_HOSTS);
        assert!(contacts.wait("more", Duration::ZERO).await.host.is_some(), "old ones make room");
    }
}
