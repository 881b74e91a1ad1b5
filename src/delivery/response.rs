//! The response delivery: everything is fetched and rendered at once, and the CSI driver writes it, or we
//! do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::stream::FuturesOrdered;
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{self, Reserved};
use crate::class::{MountMode, ObjectSpec};
use crate::error::{Code, Error, Result};
use crate::fetch::{Demand, Origin};
use crate::render::{self, FileView};
use crate::vault::ObjectVersion;
use crate::view::{expand, fetch, refuse_meetings, rendered};

/// Values of a mount that are held without being counted against the process's budget.
const SMALL: usize = 64 * 1024;
/// Hexadecimal text is twice as long as what it becomes, base64 a third longer.
const MOST_ENCODED: usize = 2;
/// Objects of one mount that are fetched at the same time.
const IN_FLIGHT: usize = 32;
/// The same while much is held by all of them together.
const FEW: usize = 4;

/// How Mounts are answered.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How certificates are rendered.
    pub render: render::Options,
    /// What a class gets that names no `mountMode`.
    pub mode: MountMode,
    /// Most bytes of one response, ids and framing included; the driver's gRPC client takes 4 MiB.
    pub max_bytes: usize,
    /// Most bytes of the files that are written for one Mount.
    pub max_written_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            render: render::Options::default(),
            mode: MountMode::Files,
            max_bytes: 4 * 1024 * 1024,
            max_written_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Options {
    /// What files may hold together that reach the pod in this way.
    pub fn bound(&self, mode: MountMode) -> Bound {
        match mode {
            MountMode::Write => {
                let raise = "--max-written-bytes";
                Bound { bytes: self.max_written_bytes, raise, copies: 1 }
            }
            MountMode::Files | MountMode::Fuse => Bound {
                bytes: self.max_bytes,
                raise: "--max-response-bytes and the driver's --max-call-recv-msg-size",
                copies: COPIES,
            },
        }
    }
}

/// Most bytes of the files of a Mount together.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// So many.
    pub bytes: usize,
    /// The flags that raise it.
    raise: &'static str,
    /// How often they are in memory, see [`Room`].
    copies: usize,
}

impl Bound {
    /// The error of a class that is larger.
    pub(crate) fn too_large(self) -> Error {
        let Self { bytes, raise, .. } = self;
        Error::new(
            Code::TooLarge,
            format!("the objects of this class are larger than {bytes} bytes together"),
        )
        .fix(format!("split the class, or raise {raise}"))
    }
}

/// One object version of a response, in the class's order.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// What was asked for.
    pub object: ObjectSpec,
    /// The version id that the vault reported.
    pub version: String,
    /// The object's files.
    pub files: Vec<FileView>,
}

/// Room for the responses that are being made and sent, in KiB of values. A response is up to three
/// times in memory for a moment: as a message, and on the wire in a buffer that has doubled.
#[derive(Clone)]
pub struct Room {
    kib: Arc<Semaphore>,
    /// The same for responses of ordinary pods: they need not wait until large ones were sent.
    ordinary: Arc<Semaphore>,
    /// For one of those that hold values already and find no room for more: if all of them waited, each
    /// would wait for the others until the end of its time.
    beyond: Arc<Semaphore>,
    /// Bytes of the values that all Mounts under way have fetched.
    underway: Arc<AtomicUsize>,
}

/// The values that one Mount has fetched.
struct Underway {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Underway {
    fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether the Mounts under way hold so much that each should fetch no more than it can use soon.
    fn is_crowded(&self, process: Option<&budget::Budget>) -> bool {
        process.is_some_and(|process| self.all.load(Ordering::Relaxed) > process.limit() / 4)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a Mount holds its values by.
enum Share {
    Counted(#[allow(dead_code)] Reserved),
    /// Nothing more of it is counted; it is one Mount at a time, and its size is bounded.
    Beyond(#[allow(dead_code)] OwnedSemaphorePermit),
}

/// How often a response is in memory, see [`Room`].
const COPIES: usize = 3;

/// What all responses together may take, in KiB of values.
const ROOM: u32 = 4 * 1024;
/// The same of those with values of at most [`SMALL`].
const ORDINARY: u32 = 2 * 1024;

impl Default for Room {
    fn default() -> Self {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        let (kib, ordinary, beyond) = (semaphore(ROOM), semaphore(ORDINARY), semaphore(1));
        Self { kib, ordinary, beyond, underway: Arc::default() }
    }
}

/// A part of the room, and of the process's budget; given back when dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    /// Makes room among values that are only kept; what they do not hold is not needed.
    _counted: Option<Reserved>,
}

impl Room {
    fn underway(&self) -> Underway {
        Underway { all: self.underway.clone(), bytes: 0 }
    }

    /// Waits until there is room for so many bytes. A response larger than all of it has it alone.
    pub(crate) async fn place(
        &self,
        process: Option<&Arc<budget::Budget>>,
        bytes: usize,
        copies: usize,
        deadline: Instant,
    ) -> Result<Place> {
        let copies = bytes.saturating_mul(copies);
        let (room, most) = match bytes <= SMALL {
            true => (&self.ordinary, ORDINARY),
            false => (&self.kib, ROOM),
        };
        let kib = u32::try_from(bytes / 1024).unwrap_or(most).saturating_add(1).min(most);
        let place = room.clone().acquire_many_owned(kib);
        match tokio::time::timeout_at(deadline.into(), place).await {
            Ok(Ok(permit)) => {
                // Not at the price of everything that is kept.
                let counts =
                    |process: &&Arc<budget::Budget>| bytes > SMALL && copies <= process.limit() / 2;
                let copies =
                    process.filter(counts).and_then(|process| process.reserve(copies).ok());
                Ok(Place { _permit: permit, _counted: copies })
            }
            _ => Err(Error::new(Code::TimedOut, "too many large responses are being made")
                .fix("mount large classes of fewer pods at the same time")),
        }
    }

    /// Waits for `bytes` of the process's budget, or to be the one that needs none.
    async fn share(
        &self,
        process: &Arc<budget::Budget>,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Share> {
        if let Ok(reserved) = process.reserve(bytes) {
            return Ok(Share::Counted(reserved));
        }
        tokio::select! {
            biased;
            Ok(permit) = self.beyond.clone().acquire_owned() => Ok(Share::Beyond(permit)),
            reserved = process.reserve_by(bytes, deadline) => reserved.map(Share::Counted),
        }
    }
}

/// Fetches and renders every object, all or nothing. The place is to be kept as long as what was
/// delivered.
///
/// # Errors
/// The error of the first failing object in the class's order, with the number of other failures.
pub async fn respond(
    origin: Arc<dyn Origin>,
    objects: Vec<ObjectSpec>,
    render: render::Options,
    bound: Bound,
    room: &Room,
    demand: Demand,
    deadline: Instant,
) -> Result<(Vec<Delivered>, Place)> {
    // What a history means must be known before it can be fetched. One that cannot be listed fails
    // in its place, like an object that cannot be fetched.
    let expanded: Vec<Result<Vec<ObjectSpec>>> = stream::iter(objects)
        .map(|object| {
            let origin = origin.clone();
            async move { expand(origin.as_ref(), &object, demand, deadline).await }
        })
        .buffered(IN_FLIGHT)
        .collect()
        .await;
    let mut objects = Vec::with_capacity(expanded.len());
    for result in expanded {
        match result {
            Ok(singles) => objects.extend(singles.into_iter().map(Ok)),
            Err(error) => objects.push(Err(error)),
        }
    }
    // Everything is fetched first: nothing takes room while a vault is waited for.
    let process = origin.budget();
    let mut objects = objects.into_iter();
    let mut fetches = FuturesOrdered::new();
    let mut fetched: Vec<Result<Fetched>> = Vec::new();
    let mut underway = room.underway();
    let mut held: Vec<Share> = Vec::new();
    loop {
        // What is fetched and not yet counted is this many values at most.
        let at_once = if underway.is_crowded(process.as_deref()) { FEW } else { IN_FLIGHT };
        let more = at_once.saturating_sub(fetches.len());
        fetches.extend(objects.by_ref().take(more).map(|object| {
            let origin = origin.clone();
            async move {
                let object = object?;
                let version = fetch(origin.as_ref(), &object, demand, deadline).await?;
                Ok((object, version))
            }
        }));
        let Some(result) = fetches.next().await else { break };
        let size = result.as_ref().map_or(0, |(_, version): &Fetched| version.size());
        underway.add(size);
        // Encoded values may become smaller, but not by so much.
        if underway.bytes > bound.bytes.saturating_mul(MOST_ENCODED) {
            return Err(bound.too_large());
        }
        // What an ordinary pod holds is always granted, whatever the others do.
        let counts = underway.bytes > SMALL && !matches!(held.last(), Some(Share::Beyond(_)));
        if let Some(process) = process.as_ref().filter(|_| counts) {
            held.push(room.share(process, size, deadline).await?);
        }
        fetched.push(result);
    }
    let bytes = underway.bytes;
    let fetched = all(fetched)?;
    let place = room.place(process.as_ref(), bytes, bound.copies, deadline).await?;
    let mut budget = Budget { left: bound.bytes, bound };
    let mut rendered = stream::iter(fetched)
        .map(|(object, version)| async move {
            let files = rendered(&object, &version, render).await?;
            Ok(Delivered { object, version: version.version.clone(), files })
        })
        .buffered(IN_FLIGHT);
    let mut results = Vec::new();
    // What derives keys may take long, and others wait for this room.
    while let Some(result) =
        tokio::time::timeout_at(deadline.into(), rendered.next()).await.map_err(|_| slow())?
    {
        if let Ok(delivered) = &result {
            // Counted while rendering: a class that is too large must not be held whole first.
            budget.take(delivered)?;
        }
        results.push(result);
    }
    let delivered = all(results)?;
    if render.separate_files {
        refuse_meetings(
            delivered
                .iter()
                .flat_map(|one| one.files.iter().map(move |file| (&one.object, &file.path))),
        )?;
    }
    Ok((delivered, place))
}

fn slow() -> Error {
    Error::new(Code::TimedOut, "the objects cannot be turned into files in time")
        .fix("mount fewer PFX certificates in one class, or give the provider more CPU")
}

/// An object and the version of it that the vault gave.
type Fetched = (ObjectSpec, Arc<ObjectVersion>);

/// All of them, or the first failure with the number of the others.
fn all<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let failures = results.iter().filter(|result| result.is_err()).count();
    let found: Result<Vec<T>> = results.into_iter().collect();
    found.map_err(|error| if failures > 1 { error.with_others(failures - 1) } else { error })
}

struct Budget {
    left: usize,
    bound: Bound,
}

impl Budget {
    fn take(&mut self, delivered: &Delivered) -> Result<()> {
        let size: usize =
            delivered.files.iter().map(|file| file.contents.len() + file.path.as_str().len()).sum();
        self.left = self.left.checked_sub(size).ok_or_else(|| self.bound.too_large())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use crate::class::{FilePath, ObjectKind, ObjectName};
    use crate::fetch::ObjectRef;
    use crate::secret::Secret;
    use crate::testing;
    use crate::vault::{ListedVersion, Names, Urgency};

    use super::*;

    /// Gives values of so many bytes that two of them leave no room.
    struct Large(Arc<budget::Budget>);

    const LARGE: usize = 70 * 1024;

    impl Origin for Large {
        fn budget(&self) -> Option<Arc<budget::Budget>> {
            Some(self.0.clone())
        }

        fn get(
            &self,
            object: ObjectRef,
            _: Demand,
            _: Instant,
        ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
            let value = Secret::from("x".repeat(LARGE));
            let found = testing::secret(object.name.as_str(), "v", value);
            async {
                tokio::task::yield_now().await;
                Ok(Arc::new(found))
            }
            .boxed()
        }

        fn list(&self, _: ObjectKind, _: Urgency, _: Instant) -> BoxFuture<'_, Result<Names>> {
            async { Ok(Names::default()) }.boxed()
        }

        fn versions(
            &self,
            _: ObjectKind,
            _: ObjectName,
            _: Demand,
            _: Instant,
        ) -> BoxFuture<'_, Result<Arc<Vec<ListedVersion>>>> {
            async { Ok(Arc::default()) }.boxed()
        }
    }

    fn object(name: &str) -> ObjectSpec {
        let (path, name) = (FilePath::parse(name).unwrap(), ObjectName::parse(name).unwrap());
        ObjectSpec::newest(0, ObjectKind::Secret, name, path, 0o644)
    }

    #[tokio::test]
    async fn responses_that_hold_a_part_of_all_room_do_not_wait_for_each_other() {
        let budget = budget::Budget::new(3 * LARGE);
        let (origin, room) = (Arc::new(Large(budget.clone())), Room::default());
        let (render, bound) =
            (render::Options::default(), Options::default().bound(MountMode::Files));
        let deadline = Instant::now() + Duration::from_secs(5);
        let responses = (0..4).map(|_| {
            let objects = ["a", "b", "c"].map(object).to_vec();
            respond(origin.clone(), objects, render, bound, &room, Demand::FIRST, deadline)
        });
        for response in futures_util::future::join_all(responses).await {
            assert_eq!(response.unwrap().0.len(), 3);
        }
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn large_responses_take_turns_and_none_is_too_large_to_get_one() {
        let room = Room::default();
        let soon = || Instant::now() + Duration::from_millis(20);
        let first = room.place(None, 3 << 20, COPIES, soon()).await.unwrap();
        let small = room.place(None, 1 << 19, COPIES, soon()).await.unwrap();
        let error = room.place(None, 3 << 20, COPIES, soon()).await.err().unwrap();
        assert_eq!(error.code(), Code::TimedOut);
        drop(first);
        drop(room.place(None, 3 << 20, COPIES, soon()).await.unwrap());
        drop(small);
        assert!(room.place(None, 1 << 30, COPIES, soon()).await.is_ok());
    }
}
