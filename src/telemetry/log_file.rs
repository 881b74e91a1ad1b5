//! A file for log lines, written by a thread of its own: nobody who logs waits for a disk. What the disk
//! cannot take in time is lost.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::appended::Appended;
use crate::error::{Code, Error, Result};

/// Lines that wait for the disk.
const QUEUE: usize = 1024;

/// The way to the thread.
#[derive(Clone)]
pub(super) struct LogFile(SyncSender<Vec<u8>>);

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = Appended::open(path)?;
        let (lines, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("akvfs-log".to_owned());
        thread.spawn(move || add(file, queue)).map_err(|error| {
            Error::new(Code::Local, format!("threads cannot be started: {}", error.kind()))
        })?;
        Ok(Self(lines))
    }
}

fn add(mut file: Appended, lines: Receiver<Vec<u8>>) {
    for line in lines {
        // There is no other place to say so.
        let _ = file.add(&line);
    }
}

/// A line at a time is written.
impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
