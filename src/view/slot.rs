//! A slot: one object in one birth. Empty at first, filled once with one version, then never changed;
//! only the vault's word that the object is not to be had any more takes the bytes out again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use crate::budget::Reserved;
use crate::class::Version;
use crate::error::{Code, Result};
use crate::secret::Secret;
use crate::vault::ObjectVersion;

/// Dates of an object version. All but the first can be changed in the vault without a new version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dates {
    pub(super) created: Option<SystemTime>,
    pub(super) expires: Option<SystemTime>,
    pub(super) not_before: Option<SystemTime>,
}

impl Dates {
    pub(super) fn of(version: &ObjectVersion) -> Self {
        let date = |seconds: Option<i64>| {
            let seconds = Duration::from_secs(u64::try_from(seconds?).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        Self {
            created: date(version.created),
            expires: date(version.expires),
            not_before: date(version.not_before),
        }
    }
}

/// What a filled slot holds: every file of one version of an object. Slots of several births share it.
pub(super) struct Content {
    /// The version id that the vault reported.
    pub(super) version: String,
    pub(super) modified: SystemTime,
    dates: Mutex<Dates>,
    told_expired: AtomicBool,
    bytes: RwLock<Bytes>,
}

enum Bytes {
    Held(Arc<Files>),
    /// Why they are gone.
    Withdrawn(Code),
}

/// The bytes of a version's files, and their place in the budget.
pub(super) struct Files {
    /// By file number; `None` for a file that this version does not have.
    files: Vec<Option<Arc<Secret>>>,
    _held: Reserved,
}

impl Files {
    pub(super) fn file(&self, number: usize) -> Option<&Arc<Secret>> {
        self.files.get(number)?.as_ref()
    }
}

impl Content {
    /// `now` stands for a creation time that the vault does not tell.
    pub(super) fn new(
        version: &ObjectVersion,
        files: Vec<Option<Secret>>,
        held: Reserved,
        now: SystemTime,
    ) -> Arc<Self> {
        let dates = Dates::of(version);
        let files = files.into_iter().map(|file| file.map(Arc::new)).collect();
        Arc::new(Self {
            version: version.version.clone(),
            modified: dates.created.unwrap_or(now),
            dates: Mutex::new(dates),
            told_expired: AtomicBool::new(false),
            bytes: RwLock::new(Bytes::Held(Arc::new(Files { files, _held: held }))),
        })
    }

    /// The bytes, or why they are gone.
    pub(super) fn files(&self) -> Result<Arc<Files>, Code> {
        match &*self.bytes.read().unwrap_or_else(PoisonError::into_inner) {
            Bytes::Held(files) => Ok(files.clone()),
            Bytes::Withdrawn(code) => Err(*code),
        }
    }

    /// Whether there is this file, and readable.
    pub(super) fn has(&self, number: usize) -> bool {
        self.files().is_ok_and(|files| files.file(number).is_some())
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.files().is_err()
    }

    /// Lets go of the bytes: in every birth, open files included.
    pub(super) fn withdraw(&self, code: Code) {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*bytes, Bytes::Held(_)) {
            *bytes = Bytes::Withdrawn(code);
        }
    }

    pub(super) fn dates(&self) -> Dates {
        *self.dates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the vault says of the same version now.
    pub(super) fn update(&self, version: &ObjectVersion) {
        let new = Dates::of(version);
        let mut dates = self.dates.lock().unwrap_or_else(PoisonError::into_inner);
        if new.expires != dates.expires {
            self.told_expired.store(false, Ordering::Relaxed);
        }
        *dates = new;
    }

    /// Whether it has expired, and nobody was told yet.
    pub(super) fn newly_expired(&self, now: SystemTime) -> bool {
        self.dates().expires.is_some_and(|expires| expires <= now)
            && !self.told_expired.swap(true, Ordering::Relaxed)
    }
}

/// What a slot is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// This version of its object.
    Version(Version),
    /// Nothing: a history has fewer versions than places.
    Nothing,
    /// Nothing any more. Whether it was filled before: then it is again when the object comes back.
    Withdrawn { code: Code, filled: bool },
}

/// One object of one birth.
pub struct Slot {
    pub(super) birth: u32,
    pub(super) object: usize,
    pub(super) wanted: Wanted,
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
        wanted: Wanted,
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
        matches!(self.wanted, Wanted::Version(_))
    }

    /// Whether this file of it is there.
    pub(super) fn shows(&self, file: usize) -> bool {
        match self.content() {
            Some(content) => content.has(file),
            None => self.exists(),
        }
    }

    /// Why the vault does not let it be shown any more.
    pub(super) fn refused(&self) -> Option<Code> {
        match self.wanted {
            Wanted::Withdrawn { code, .. } => Some(code),
            _ => self.content()?.files().err(),
        }
    }

    /// The content, once filled.
    pub(super) fn content(&self) -> Option<&Arc<Content>> {
        self.content.get()
    }

    /// The content, if it is still to be had.
    pub(super) fn live(&self) -> Option<&Arc<Content>> {
        self.content().filter(|content| !content.is_withdrawn())
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
    pub(super) fn land(&self, content: Option<Arc<Content>>) {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = content {
            // Only the one flight fills, so the cell is empty.
            let _ = self.content.set(content);
        }
        *flight = None;
    }
}
