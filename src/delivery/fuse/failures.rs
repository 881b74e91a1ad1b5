//! Error replies in the log: each once a minute, however often it is given, with what a reader's errno
//! does not tell.
//!
//! A program that tries again in a loop must not fill a disk: repeats are counted, and told in one line at
//! the end of the minute. Nothing here waits for whoever reads the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::opening::Refusal;

/// In which an error is told once.
const WINDOW: Duration = Duration::from_secs(60);
/// Different errors that are told in it.
const NAMES: usize = 256;

/// The errors of a mount.
#[derive(Clone)]
pub(super) struct Failures {
    window: Arc<Mutex<Window>>,
    runtime: Handle,
}

#[derive(Default)]
struct Window {
    /// Somebody waits for its end.
    open: bool,
    /// How often again, by operation, file and code.
    told: HashMap<(&'static str, String, &'static str), u64>,
    /// Of those that had no place in it.
    beyond: u64,
}

/// Errors that were not told one by one.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    count: u64,
    /// The file of most of them, and how many.
    most: Option<(String, u64)>,
}

impl Window {
    /// Whether this one is told.
    fn admits(&mut self, operation: &'static str, file: &str, code: &'static str) -> bool {
        let key = (operation, file.to_owned(), code);
        if let Some(again) = self.told.get_mut(&key) {
            *again += 1;
            return false;
        }
        if self.told.len() >= NAMES {
            self.beyond += 1;
            return false;
        }
        self.told.insert(key, 0);
        true
    }

    fn close(&mut self) -> Option<Summary> {
        let Window { told, beyond, .. } = std::mem::take(self);
        let count = told.values().sum::<u64>() + beyond;
        let most = told.into_iter().max_by_key(|(_, again)| *again);
        let most = most.map(|((_, file, _), again)| (file, again)).filter(|(_, again)| *again > 0);
        (count > 0).then_some(Summary { count, most })
    }
}

impl Failures {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { window: Arc::default(), runtime }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of an error that a reader gets.
    pub(super) fn tell(&self, operation: &'static str, file: &str, request: u64, why: &Refusal) {
        let mut window = self.window();
        let told = window.admits(operation, file, why.code);
        let first = !std::mem::replace(&mut window.open, true);
        drop(window);
        if first {
            self.runtime.spawn(self.clone().summarize());
        }
        if told {
            let (code, errno, cause) = (why.code, why.errno.code(), why.cause.clone());
            let file = file.to_owned();
            // At most so many in a minute, so these threads are bounded by the runtime's own limit.
            self.blocking(move || {
                tracing::warn!(operation, file, errno, code, request, "error reply: {cause}");
            });
        }
    }

    async fn summarize(self) {
        tokio::time::sleep(WINDOW).await;
        let Some(Summary { count, most }) = self.window().close() else { return };
        let (file, times) = most.unwrap_or_default();
        self.blocking(move || {
            tracing::warn!(count, file, times, "more error replies in the last minute, as before");
        });
    }

    fn blocking(&self, line: impl FnOnce() + Send + 'static) {
        drop(self.runtime.spawn_blocking(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_and_repeats_are_counted() {
        let mut window = Window::default();
        assert_eq!(window.close(), None);
        assert!(window.admits("open", "one", "forbidden"));
        assert_eq!(window.close(), None);
        // A new window tells again; another operation or another reason is another error.
        assert!(window.admits("open", "one", "forbidden"));
        assert!(window.admits("open", "one", "timed_out"));
        assert!(window.admits("read", "one", "forbidden"));
        for _ in 0..3 {
            assert!(!window.admits("open", "one", "forbidden"));
        }
        assert!(!window.admits("read", "one", "forbidden"));
        let most = Some(("one".to_owned(), 3));
        assert_eq!(window.close(), Some(Summary { count: 4, most }));
    }

    #[test]
    fn what_a_reader_makes_up_takes_no_more_room() {
        let mut window = Window::default();
        let told = (0..1000).filter(|n| window.admits("open", &n.to_string(), "stale")).count();
        assert_eq!((told, window.told.len()), (NAMES, NAMES));
        assert_eq!(window.close(), Some(Summary { count: 1000 - NAMES as u64, most: None }));
    }
}
