//! Log lines of a command that stays, written by a thread of its own: nobody who logs waits for a disk, or
//! for whoever reads stderr. What cannot be taken in time is lost, and the log says how much that was.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::error::{Code, Error, Result};

/// Lines that wait.
const QUEUE: usize = 1024;
/// The last lines of a process get this long.
const GOODBYE: Duration = Duration::from_millis(500);

/// The one that is installed.
static INSTALLED: OnceLock<Lines> = OnceLock::new();
/// Lines that found no place.
static LOST: AtomicU64 = AtomicU64::new(0);

enum Said {
    Line(Vec<u8>),
    /// All lines before it are written.
    Reached(SyncSender<()>),
}

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Lines(SyncSender<Said>);

impl Lines {
    /// `add` writes a line, and may take as long as it likes.
    pub(super) fn start(add: impl FnMut(&[u8]) + Send + 'static) -> Result<Self> {
        let (lines, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("akvfs-log".to_owned());
        thread.spawn(move || serve(add, queue)).map_err(|error| {
            Error::new(Code::Local, format!("threads cannot be started: {}", error.kind()))
        })?;
        Ok(Self(lines))
    }

    /// To be told by [`flush`] when the process ends.
    pub(super) fn install(&self) {
        let _ = INSTALLED.set(self.clone());
    }

    fn reached(&self) -> bool {
        let (told, reached) = sync_channel(1);
        self.0.try_send(Said::Reached(told)).is_ok() && reached.recv_timeout(GOODBYE).is_ok()
    }
}

/// Waits for the lines so far, not for long.
pub(crate) fn flush() {
    if let Some(lines) = INSTALLED.get() {
        lines.reached();
    }
}

fn serve(mut add: impl FnMut(&[u8]), queue: Receiver<Said>) {
    for said in queue {
        match said {
            Said::Line(line) => add(&line),
            Said::Reached(told) => drop(told.try_send(())),
        }
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            add(format!("akvfs: {lost} lines of this log could not be written in time\n")
                .as_bytes());
        }
    }
}

/// A line at a time is written.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Said::Line(line.to_vec())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn nobody_waits_for_a_log_that_is_not_read_and_it_says_what_it_lost() {
        let (go, gate) = sync_channel::<()>(0);
        let written = Arc::new(Mutex::new(Vec::new()));
        let seen = written.clone();
        let mut lines = Lines::start(move |line| {
            // Until the sender is gone.
            let _ = gate.recv();
            seen.lock().unwrap().push(String::from_utf8(line.to_vec()).unwrap());
        })
        .unwrap();
        let all = QUEUE + 500;
        for number in 0..all {
            lines.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        assert!(!lines.reached(), "nothing was read, and nobody waits for ever");
        drop(go);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !lines.reached() {
            assert!(std::time::Instant::now() < end);
        }
        let written = written.lock().unwrap();
        assert_eq!(written[0], "line 0\n");
        let lost: Vec<_> = written.iter().filter(|line| line.starts_with("akvfs: ")).collect();
        let told: usize = lost[0].split(' ').nth(1).unwrap().parse().unwrap();
        // The thread holds one that has left the queue.
        assert!((499..=500).contains(&told), "{lost:?}");
        assert_eq!(written.len() - lost.len() + told, all);
    }
}
