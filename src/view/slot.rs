//! A slot: one object in one birth. Empty at first, filled once with one version, then never changed.
//!
//! The bytes of a version can go while the slot stays what it is. When the tree is full they are let go of
//! where nobody has them open: sizes and digests stay, and the next open fetches that very version again.
//! And the vault's word that the object is not to be had any more takes them out for good.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use ring::hmac;
use ring::rand::SystemRandom;

use super::NotServed;
use crate::budget::Reserved;
use crate::class::Version;
use crate::error::{Code, Error, Result};
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
    /// By file number; `None` for a file that this version does not have.
    shapes: Vec<Option<Shape>>,
    bytes: RwLock<Bytes>,
    /// When it was last opened, in a count of all opens.
    opened: AtomicU64,
    /// Somebody is taking it to the slot that wants it.
    in_hand: AtomicBool,
    /// The vault does not render as this version does any more what it calls the same version.
    outdated: AtomicBool,
}

/// What stays known of a file without its bytes.
#[derive(PartialEq, Eq)]
struct Shape {
    size: usize,
    digest: [u8; 32],
}

/// Of digests. A plain hash of a short value would tell the value to whoever finds it in memory.
fn digest_key() -> &'static hmac::Key {
    static KEY: OnceLock<hmac::Key> = OnceLock::new();
    KEY.get_or_init(|| {
        let random = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        // Without random numbers there is no TLS, so nothing was fetched.
        random.unwrap_or_else(|_| hmac::Key::new(hmac::HMAC_SHA256, &[]))
    })
}

impl Shape {
    fn of(bytes: &Secret) -> Self {
        let mut shape = Self { size: bytes.len(), digest: [0; 32] };
        shape.digest.copy_from_slice(hmac::sign(digest_key(), bytes.expose()).as_ref());
        shape
    }
}

enum Bytes {
    Held(Arc<Files>),
    /// There was no room.
    LetGo,
    /// Why they are gone.
    Withdrawn(Code),
}

/// Why there are no bytes of what is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// There was no room; they can be fetched again.
    LetGo,
    Withdrawn(Code),
}

impl From<Missing> for NotServed {
    fn from(missing: Missing) -> Self {
        match missing {
            // Nobody has it open.
            Missing::LetGo => NotServed::Stale,
            Missing::Withdrawn(code) => NotServed::Refused(code),
        }
    }
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
    /// `now` stands for a creation time that the vault does not tell. Without a place in the budget only
    /// what the files are like is kept.
    pub(super) fn new(
        version: &ObjectVersion,
        files: Vec<Option<Secret>>,
        held: Option<Reserved>,
        now: SystemTime,
    ) -> Arc<Self> {
        let dates = Dates::of(version);
        let shapes = files.iter().map(|file| file.as_ref().map(Shape::of)).collect();
        let bytes = held.map_or(Bytes::LetGo, |held| {
            let files = files.into_iter().map(|file| file.map(Arc::new)).collect();
            Bytes::Held(Arc::new(Files { files, _held: held }))
        });
        Arc::new(Self {
            version: version.version.clone(),
            modified: dates.created.unwrap_or(now),
            dates: Mutex::new(dates),
            told_expired: AtomicBool::new(false),
            shapes,
            bytes: RwLock::new(bytes),
            opened: AtomicU64::new(0),
            in_hand: AtomicBool::new(false),
            outdated: AtomicBool::new(false),
        })
    }

    /// The bytes, or why they are gone.
    pub(super) fn files(&self) -> Result<Arc<Files>, Missing> {
        match &*self.bytes.read().unwrap_or_else(PoisonError::into_inner) {
            Bytes::Held(files) => Ok(files.clone()),
            Bytes::LetGo => Err(Missing::LetGo),
            Bytes::Withdrawn(code) => Err(Missing::Withdrawn(*code)),
        }
    }

    /// Whether there is this file, and to be had.
    pub(super) fn has(&self, number: usize) -> bool {
        self.size(number).is_some() && !self.is_withdrawn()
    }

    /// Bytes of a file, held or not.
    pub(super) fn size(&self, number: usize) -> Option<usize> {
        Some(self.shapes.get(number)?.as_ref()?.size)
    }

    /// Bytes of all files.
    pub(super) fn total(&self) -> usize {
        self.shapes.iter().flatten().map(|shape| shape.size).sum()
    }

    pub(super) fn withdrawn(&self) -> Option<Code> {
        match &*self.bytes.read().unwrap_or_else(PoisonError::into_inner) {
            Bytes::Withdrawn(code) => Some(*code),
            _ => None,
        }
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn().is_some()
    }

    pub(super) fn is_let_go(&self) -> bool {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        matches!(*bytes, Bytes::LetGo)
    }

    /// Lets go of the bytes for good: in every birth, open files included.
    pub(super) fn withdraw(&self, code: Code) {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*bytes, Bytes::Withdrawn(_)) {
            *bytes = Bytes::Withdrawn(code);
        }
    }

    /// Lets go of the bytes until somebody opens a file again. Whoever calls knows that nobody has one
    /// open.
    pub(super) fn let_go(&self) {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*bytes, Bytes::Held(_)) {
            *bytes = Bytes::LetGo;
        }
    }

    /// Takes the bytes back that were fetched again. Not if they are others: what somebody may have read
    /// of this node, and the kernel may have kept, must never meet anything else.
    pub(super) fn restore(&self, fetched: &Content) -> Result<()> {
        if fetched.version != self.version || fetched.shapes != self.shapes {
            self.outdated.store(true, Ordering::Release);
            return Err(Error::new(
                Code::BadContent,
                "the vault gives this version with another content than before",
            )
            .fix("open it again after the next refresh"));
        }
        let files = match fetched.files() {
            Ok(files) => files,
            // Taken back, or let go of, as soon as it was there.
            Err(_) => return Ok(()),
        };
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*bytes, Bytes::LetGo) {
            *bytes = Bytes::Held(files);
        }
        Ok(())
    }

    /// Whether it is still what the vault gives under this version.
    pub(super) fn is_current(&self, version: &str) -> bool {
        self.version == version && !self.outdated.load(Ordering::Acquire)
    }

    /// Whether its bytes must stay although no slot has them yet.
    pub(super) fn is_in_hand(&self) -> bool {
        self.in_hand.load(Ordering::Acquire)
    }

    pub(super) fn take_in_hand(&self, is: bool) {
        self.in_hand.store(is, Ordering::Release);
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn opened_at(&self, tick: u64) {
        self.opened.fetch_max(tick, Ordering::Relaxed);
    }

    /// Whoever opened this before it was replaced would open the next version.
    pub(super) fn opened_as(&self, replaced: &Slot) {
        self.opened_at(replaced.content().map_or(0, |before| before.opened()));
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
    /// Whether the last flight has asked the vault: it may have waited for its turn only.
    asked: AtomicBool,
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
            asked: AtomicBool::new(false),
        })
    }

    /// Whether its object is there at all.
    pub(super) fn exists(&self) -> bool {
        matches!(self.wanted, Wanted::Version(_))
    }

    /// Whether its object is there, and nobody has read it yet.
    pub(super) fn is_unopened(&self) -> bool {
        self.exists() && self.content().is_none()
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
            _ => self.content()?.withdrawn(),
        }
    }

    /// The content, once filled.
    pub(super) fn content(&self) -> Option<&Arc<Content>> {
        self.content.get()
    }

    /// Whether nothing has to be fetched before it can be read, or be refused.
    pub(super) fn is_ready(&self) -> bool {
        self.content().is_some_and(|content| !content.is_let_go())
    }

    /// The content, if it is still to be had; perhaps without its bytes.
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
        if self.is_ready() {
            return std::future::ready(Ok(())).boxed().shared();
        }
        let start = || {
            self.asked.store(false, Ordering::Release);
            start().shared()
        };
        flight.get_or_insert_with(start).clone()
    }

    /// The flight asks the vault now.
    pub(super) fn asks(&self) {
        self.asked.store(true, Ordering::Release);
    }

    pub(super) fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Ends the flight. With content the slot is filled for ever; without, the next open tries again, or
    /// a version has got its bytes back.
    pub(super) fn land(&self, content: Option<Arc<Content>>) {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = content {
            // Only the one flight fills, so the cell is empty.
            let _ = self.content.set(content.clone());
            content.take_in_hand(false);
        }
        *flight = None;
    }
}
