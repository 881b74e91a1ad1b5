//! A slot: one object in one birth. Empty at first, filled once with one version, then never changed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use crate::budget::Reserved;
use crate::class::Version;
use crate::error::Result;
use crate::secret::Secret;

/// What a filled slot holds: every file of one version of an object.
pub(super) struct Content {
    /// The version id that the vault reported.
    pub(super) version: String,
    pub(super) modified: SystemTime,
    /// By file number; `None` for a file that this version does not have.
    files: Vec<Option<Arc<Secret>>>,
    _bytes: Reserved,
}

impl Content {
    pub(super) fn new(
        version: String,
        created: Option<i64>,
        files: Vec<Option<Secret>>,
        bytes: Reserved,
    ) -> Self {
        let modified = created
            .and_then(|seconds| u64::try_from(seconds).ok())
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
            .unwrap_or_else(SystemTime::now);
        let files = files.into_iter().map(|file| file.map(Arc::new)).collect();
        Self { version, modified, files, _bytes: bytes }
    }

    pub(super) fn file(&self, number: usize) -> Option<&Secret> {
        self.files.get(number)?.as_deref()
    }

    /// The same, to be kept.
    pub(super) fn shared(&self, number: usize) -> Option<Arc<Secret>> {
        self.files.get(number)?.clone()
    }
}

/// One object of one birth.
pub struct Slot {
    pub(super) birth: u32,
    pub(super) object: usize,
    /// The version to fill it with; `None` where a history has fewer versions than places.
    pub(super) wanted: Option<Version>,
    content: OnceLock<Arc<Content>>,
    flight: Mutex<Option<Flight>>,
    settled: AtomicBool,
}

pub(super) type Flight = Shared<BoxFuture<'static, Result<()>>>;

impl Slot {
    /// A slot that nobody ever saw empty, if it has content.
    pub(super) fn new(
        birth: u32,
        object: usize,
        wanted: Option<Version>,
        content: Option<Arc<Content>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            birth,
            object,
            wanted,
            settled: AtomicBool::new(content.is_some()),
            content: content.map_or_else(OnceLock::new, OnceLock::from),
            flight: Mutex::new(None),
        })
    }

    /// Whether its object is there at all.
    pub(super) fn exists(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether this file of it is there.
    pub(super) fn shows(&self, file: usize) -> bool {
        match self.content() {
            Some(content) => content.file(file).is_some(),
            None => self.exists(),
        }
    }

    /// The content, once filled.
    pub(super) fn content(&self) -> Option<&Arc<Content>> {
        self.content.get()
    }

    /// Whether the slot is filled, and whoever was shown the placeholder size was told.
    pub fn settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// The delivery's word that no reader can hold the placeholder size any more.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Whether a fetch is running.
    pub(super) fn in_flight(&self) -> bool {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The running fetch, or the one that `start` begins. One at a time, however many ask.
    pub(super) fn join(&self, start: impl FnOnce() -> BoxFuture<'static, Result<()>>) -> Flight {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        // Filled between the caller's look and this lock: nothing is left to do.
        if self.content.get().is_some() {
            return std::future::ready(Ok(())).boxed().shared();
        }
        flight.get_or_insert_with(|| start().shared()).clone()
    }

    /// Ends the flight. With content the slot is filled for ever; without, the next open tries again.
    pub(super) fn land(&self, content: Option<Content>) {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = content {
            // Only the one flight fills, so the cell is empty.
            let _ = self.content.set(Arc::new(content));
        }
        *flight = None;
    }
}
