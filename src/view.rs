//! The live mount that all deliveries share: which names exist, which generation is current.
//!
//! A [`Plan`] has the names. A `Generation` is one immutable state of the view, numbered by its
//! birth; it has a [`Slot`] for every object, empty until somebody opens one of its files and then
//! filled once, with one version. [`View::refresh`] asks the vault about the filled ones and publishes
//! a new generation when something changed. A node is named by the birth it came with and its index
//! in the plan ([`NodeId`]), so a name that changes its content changes its node: readers of the old
//! one keep the old bytes.
//!
//! What the vault refuses (not there, disabled, forbidden) goes: its names at the next generation, its
//! bytes at once and everywhere, open files included. While the vault cannot be asked, what is there
//! stays, stale, at most [`Limits::max_stale`] after the vault's last positive answer. Either way it is
//! looked at again at every refresh, and comes back when the vault gives it.
//!
//! The names of a class are fixed. Those of a whole vault follow its lists ([`View::list_names`]).
//!
//! Nothing here knows FUSE or HTTP. Only [`View::resolve`], [`View::list_names`], [`View::fill`] and
//! [`View::refresh`] use the origin; every other call answers from memory.

mod about;
mod breaker;
mod check;
mod credential;
mod generation;
mod growing;
mod history;
mod ledger;
mod listing;
mod moves;
mod nodes;
mod object;
mod plan;
mod publish;
mod refresh;
mod room;
mod run;
mod shown;
mod slot;
mod status;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};

pub use about::About;
pub use history::expand;
pub use ledger::Failure;
pub use listing::CollectionStatus;
pub use moves::Move;
pub use nodes::{Attr, Kind, NodeId, NotServed, PLACEHOLDER, Totals};
pub use object::{Obtained, obtain};
pub(crate) use object::{fetch, refuse_meetings, rendered};
pub use plan::{Layout, Plan};
pub use publish::Announcement;
pub use refresh::Refreshed;
pub use shown::ShownFile;
pub use slot::Slot;
pub use status::{ObjectStatus, Status};

use crate::budget::Budget;
use crate::class::{ObjectSpec, Version};
use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::fetch::{Demand, Origin};
use crate::render;
use crate::secret::Secret;
use breaker::Breaker;
use generation::Generations;
use ledger::{Ledger, Moment};
use listing::Lists;
use plan::PlannedObject;
use publish::Listener;
use refresh::Schedule;
use room::{Room, Wish};
use run::Runs;
use slot::{Content, Wanted};

/// How often a fetch is begun anew because the vault took something back in the meantime.
const TURNS: usize = 3;

/// Bounds of a view.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of all values held, old generations included. When they are reached, what nobody has
    /// open is let go of, and fetched again by its version when somebody opens it.
    pub max_bytes: usize,
    /// Fetches that run at the same time.
    pub fetches: usize,
    /// Opens that wait for a fetch beyond the running ones.
    pub queue: usize,
    /// How long an open waits for room while everything is open: the kernel tells of a close a moment
    /// after it.
    pub room_wait: Duration,
    /// A fetch's own limit, waiting for its turn included; waiters have their own deadlines.
    pub fetch_limit: Duration,
    /// The limit of one look for a new version, from its turn on: twice a fetch's, because nobody waits
    /// and the vault may ask for a pause as long as that.
    pub look_limit: Duration,
    /// How long what the vault refuses waits for other looks, so that it goes together with what they find.
    pub refusal_wait: Duration,
    /// A delivery that takes longer to show a change shows it late; a refresh waits no longer for it.
    pub show_limit: Duration,
    /// Whoever shows the view has filled it before ([`View::fill_all`]): from then on nothing is shown
    /// that is not fetched; a new name of a whole vault appears when it is.
    pub eager: bool,
    /// How long after the vault's last positive answer an object stays while the vault cannot be asked.
    pub max_stale: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 16 * 1024 * 1024,
            fetches: 16,
            queue: 256,
            fetch_limit: Duration::from_secs(30),
            look_limit: Duration::from_secs(60),
            refusal_wait: Duration::from_secs(1),
            show_limit: Duration::from_secs(30),
            room_wait: Duration::from_millis(500),
            eager: false,
            max_stale: Duration::from_secs(24 * 3600),
        }
    }
}

/// A live mount: names at once, values when somebody opens them.
pub struct View {
    plan: Plan,
    origin: Arc<dyn Origin>,
    render: render::Options,
    limits: Limits,
    generations: RwLock<Generations>,
    /// Files with an open handle: their bytes outlive their generation.
    open: Mutex<HashMap<NodeId, (usize, Arc<Slot>)>>,
    /// How often a file was opened.
    opens: AtomicU64,
    /// A file was closed.
    closes: Notify,
    budget: Arc<Budget>,
    fetches: Semaphore,
    waiting: Semaphore,
    breaker: Breaker,
    runs: Runs,
    schedule: Mutex<Schedule>,
    listener: Mutex<Option<Listener>>,
    ledger: Ledger,
    lists: Lists,
    clock: Clock,
    born: SystemTime,
    closed: AtomicBool,
}

impl View {
    /// A view of the plan. Nothing is requested yet; a version history shows nothing until
    /// [`View::resolve`].
    pub fn new(
        plan: Plan,
        origin: Arc<dyn Origin>,
        render: render::Options,
        limits: Limits,
    ) -> Arc<Self> {
        let clock = origin.clock();
        let born = clock.wall();
        Arc::new(Self {
            generations: RwLock::new(Generations::first(&plan, born)),
            ledger: Ledger::new(plan.len()),
            lists: Lists::new(plan.collections.len()),
            plan,
            budget: Budget::share(origin.budget(), limits.max_bytes),
            origin,
            render,
            limits,
            open: Mutex::new(HashMap::new()),
            opens: AtomicU64::new(0),
            closes: Notify::new(),
            fetches: Semaphore::new(limits.fetches),
            waiting: Semaphore::new(limits.fetches.saturating_add(limits.queue)),
            breaker: Breaker::default(),
            runs: Runs::default(),
            schedule: Mutex::default(),
            listener: Mutex::new(None),
            born,
            clock,
            closed: AtomicBool::new(false),
        })
    }

    /// Fills the slot of a file and keeps its bytes until [`View::release`].
    ///
    /// # Errors
    /// As [`View::fill`]; nothing is to be released then.
    pub async fn open(
        self: &Arc<Self>,
        id: NodeId,
        slot: &Arc<Slot>,
        deadline: Instant,
    ) -> Result<()> {
        // From now on what is fetched is not let go of before it is read.
        let counted = self.hold(id, slot);
        let mut opening = Opening { view: self, id, stays: false };
        self.fill(slot, deadline).await?;
        opening.stays = true;
        if !counted {
            self.count_open(slot);
        }
        Ok(())
    }

    /// Fills the slot, unless it is filled. However many callers ask, one fetch runs; it is a task of
    /// its own, so a caller that gives up at its `deadline` takes nothing from the others. A failed
    /// fetch leaves the slot empty: the next call tries again.
    ///
    /// # Errors
    /// Why there is no content by `deadline`.
    pub async fn fill(self: &Arc<Self>, slot: &Arc<Slot>, deadline: Instant) -> Result<()> {
        self.fill_in(slot, Room::Open, deadline).await
    }

    async fn fill_in(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        room: Room,
        deadline: Instant,
    ) -> Result<()> {
        if slot.is_ready() {
            return Ok(());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(Code::Draining, "the filesystem is being unmounted"));
        }
        // Only a program that hangs in an open is spared the wait.
        let leave = match room {
            Room::Open => Some(
                self.breaker
                    .ask(slot.object, self.clock.now())
                    .map_err(|error| self.error_of(slot.object, error))?,
            ),
            Room::Whole | Room::Spare => None,
        };
        let place = self.waiting.try_acquire();
        // Whoever joins a running fetch asks the vault for nothing more.
        if place.is_err() && !slot.in_flight() {
            let error = Error::new(Code::Throttled, "too many opens wait for the vault already")
                .fix("check the vault's health; open fewer files at the same time");
            self.open_failed(slot.object, &error);
            return Err(error);
        }
        let flight = slot.join(|| {
            let task = tokio::spawn(self.clone().flight(slot.clone(), room));
            async move { task.await.unwrap_or_else(|_| Err(Error::task_failed())) }.boxed()
        });
        let filled = tokio::time::timeout_at(deadline.into(), flight).await.unwrap_or_else(|_| {
            let error =
                late(self.plan.objects.get(slot.object), "no answer before the open's deadline");
            self.open_failed(slot.object, &error);
            Err(error)
        });
        if let (Err(error), Some(leave)) = (&filled, leave)
            && slot.has_asked()
            && leave.failed(error, self.clock.now())
        {
            tracing::warn!(
                "the vault does not answer; for a while opens of what has to be fetched fail at once"
            );
        }
        filled
    }

    /// The fetch of one slot: takes its turn, fetches, fills.
    async fn flight(self: Arc<Self>, slot: Arc<Slot>, room: Room) -> Result<()> {
        let limit = Instant::now() + self.limits.fetch_limit;
        let work = async {
            let turn = tokio::time::timeout_at(limit.into(), self.fetches.acquire()).await;
            let Ok(Ok(_turn)) = turn else {
                return Err(late(self.plan.objects.get(slot.object), "too many fetches before it"));
            };
            slot.asks();
            let room = Wish { room, slot: Some(&slot) };
            if let Some(held) = slot.content() {
                let wanted = Version::Exact(held.version.clone());
                return match self.content(slot.object, &wanted, &room, limit).await {
                    Ok(fetched) => {
                        let restored = held.restore(&fetched).map(|()| None);
                        restored.map_err(|error| self.error_of(slot.object, error))
                    }
                    // An open of another birth was quicker, and there was no room for both.
                    Err(_) if held.files().is_ok() => Ok(None),
                    Err(error) => Err(error),
                };
            }
            let Wanted::Version(wanted) = &slot.wanted else { return Err(Error::task_failed()) };
            let content = self.content(slot.object, wanted, &room, limit).await?;
            content.opened_at(self.opens.load(Ordering::Relaxed));
            Ok(Some(content))
        };
        // The slot must land whatever happens: a flight that stays would be joined for ever.
        let fetched = AssertUnwindSafe(work).catch_unwind().await;
        let (content, result) = match fetched.unwrap_or_else(|_| Err(Error::task_failed())) {
            Ok(content) => (content, Ok(())),
            Err(error) => (None, Err(error)),
        };
        match &result {
            Ok(()) => self.ledger.worked(slot.object),
            Err(error) => self.open_failed(slot.object, error),
        }
        slot.land(content);
        self.warn_of_expired(&slot);
        result
    }

    /// The error, with what it is about.
    fn error_of(&self, object: usize, error: Error) -> Error {
        match self.plan.objects.get(object) {
            Some(planned) => error.context(planned.spec.error_prefix()),
            None => error,
        }
    }

    /// Takes note of a vault that answers.
    fn hear<T>(&self, outcome: &Result<T>) {
        if breaker::hears(outcome) && self.breaker.answered() {
            tracing::info!("the vault answers again");
        }
    }

    fn open_failed(&self, object: usize, error: &Error) {
        self.ledger.failed(object, error, self.clock.wall(), "");
    }

    /// Says once of a version that it has expired: it is shown all the same.
    fn warn_of_expired(&self, slot: &Slot) {
        let Some(planned) = self.plan.objects.get(slot.object) else { return };
        if slot.live().is_some_and(|content| content.newly_expired(self.clock.wall())) {
            let (object_type, object_name) = (planned.spec.kind.as_str(), &planned.spec.name);
            tracing::warn!(object_type, %object_name, "a version that is shown has expired");
        }
    }

    /// Fetches a version of an object and renders its files. An answer that was on its way while the
    /// vault took something back is asked for again.
    async fn content(
        &self,
        object: usize,
        wanted: &Version,
        room: &Wish<'_>,
        limit: Instant,
    ) -> Result<Arc<Content>> {
        let planned = self.plan.objects.get(object).ok_or_else(Error::task_failed)?;
        let spec = ObjectSpec { version: wanted.clone(), ..planned.spec.clone() };
        for _ in 0..TURNS {
            let (seen, asked) = (self.ledger.refusals(planned.unit), Moment::now(&self.clock));
            let work = async {
                let version = fetch(self.origin.as_ref(), &spec, Demand::FIRST, limit).await;
                // Whatever becomes of it: the vault has answered.
                self.hear(&version);
                let version = version?;
                let files = rendered(&spec, &version, self.render).await?;
                Ok(Obtained { version, files })
            };
            let obtained = tokio::time::timeout_at(limit.into(), work).await;
            let obtained = obtained
                .unwrap_or_else(|_| Err(late(Some(planned), "no answer before the fetch's limit")));
            let content = self.contained(planned, obtained?, room).await.inspect_err(|error| {
                if error.code() == Code::TooLarge {
                    self.ledger.gave(planned.unit, seen, asked);
                }
            })?;
            if self.ledger.admit(planned.unit, &content, seen, asked) {
                return Ok(content);
            }
        }
        Err(late(Some(planned), "the vault takes the object back again and again"))
    }

    /// Sorts the rendered files to their nodes, within the budget.
    async fn contained(
        &self,
        planned: &PlannedObject,
        obtained: Obtained,
        room: &Wish<'_>,
    ) -> Result<Arc<Content>> {
        let Obtained { version, files: mut views } = obtained;
        let mut files = vec![None; planned.files];
        for node in &planned.nodes {
            let path = self.plan.tree.path(*node);
            let Some(at) = views.iter().position(|view| view.path.as_str() == path) else {
                continue;
            };
            if let Some(file) = self.plan.tree.file(*node).and_then(|file| files.get_mut(file)) {
                *file = Some(views.swap_remove(at).contents);
            }
        }
        if let Some(view) = views.first() {
            let what = format!("{} stands where another object has a file or folder", view.path);
            let error = Error::class(what).fix(render::SEPARATE_FIX);
            return Err(error.context(planned.spec.error_prefix()));
        }
        let bytes = files.iter().flatten().map(Secret::len).sum();
        let reserved = self
            .room(bytes, room)
            .await
            .map_err(|error| error.context(planned.spec.error_prefix()))?;
        let content = Content::new(&version, files, reserved, self.clock.wall());
        content.take_in_hand(room.slot.is_some());
        Ok(content)
    }

    /// No new fetches from now on: opens of unfilled files and refreshes fail.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits until no open waits for a fetch, at most until `deadline`.
    pub async fn drained(&self, deadline: Instant) {
        let all = self.limits.fetches.saturating_add(self.limits.queue);
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        // Whoever holds every place knows that nobody else holds one.
        let _ = tokio::time::timeout_at(deadline.into(), self.waiting.acquire_many(all)).await;
    }

    fn generations(&self) -> RwLockReadGuard<'_, Generations> {
        self.generations.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn generations_mut<T>(&self, change: impl FnOnce(&mut Generations) -> T) -> T {
        change(&mut self.generations.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn open_files(&self) -> MutexGuard<'_, HashMap<NodeId, (usize, Arc<Slot>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open that has no answer yet.
struct Opening<'a> {
    view: &'a View,
    id: NodeId,
    stays: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.view.release(self.id);
        }
    }
}

fn late(planned: Option<&PlannedObject>, what: &str) -> Error {
    let error = Error::new(Code::TimedOut, what)
        .fix("check the vault's health and that this machine may reach it");
    match planned {
        Some(planned) => error.context(planned.spec.error_prefix()),
        None => error,
    }
}
