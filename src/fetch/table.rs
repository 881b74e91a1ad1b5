//! Values by key: one request for many, and what they left behind.

#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::budget::{Budget, Reserved};
use crate::clock::Clock;
use crate::error::{Code, Error, Hop, Result};
use crate::identity::Proof;
use crate::jitter;
use crate::patience::Patience;
use crate::process;
use crate::telemetry::metrics;
use crate::vault::{Ask, Urgency, Vault};

use super::state::{CONFIRM, Flight, Hold, Landed, State, Step, is_of_all_versions, is_refusal};
use super::{Ages, Demand, LEAST_REFRESH, ValueKey};

/// Most keys; the least recently asked go first.
const MAX_KEYS: usize = 65_536;
/// What a value that nobody asks for any more is kept for: several rotations.
const IDLE: Duration = Duration::from_secs(3600);
/// How often is looked for what may be forgotten.
const SWEEP: Duration = Duration::from_secs(30);
/// A request's answer until it is there; and whatever a key costs besides what is held for it.
const OVERHEAD: usize = 1024;
/// Most requests that run: all objects of the Mounts that work fit, and trees beside them.
const MAX_RUNNING: usize = 8192;
/// How long a second look at a refusal may take.
const SECOND_LOOK: Duration = Duration::from_secs(30);
/// How long somebody who has a value waits for a newer one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a caller begins anew when somebody else's request ended for somebody else's reason.
const TURNS: usize = 4;

/// Asks the source once, with this proof.
pub(super) type Request<V> = Arc<dyn Fn(Proof, Ask) -> BoxFuture<'static, Result<V>> + Send + Sync>;

/// One caller's wish.
pub(super) struct Wish<'a> {
    pub(super) key: Arc<ValueKey>,
    pub(super) proof: &'a Proof,
    pub(super) demand: Demand,
    pub(super) group: &'a Arc<str>,
    pub(super) deadline: Instant,
}

pub(super) struct Table<V> {
    /// Knows why a vault does not answer anybody.
    vault: Vault,
    /// Two pointers for each: up to half of the places of a map are empty.
    entries: DashMap<Arc<ValueKey>, Arc<Entry<V>>>,
    clock: Clock,
    ages: Ages,
    budget: Arc<Budget>,
    /// Bytes of a value.
    size: fn(&V) -> usize,
    sweeping: Mutex<bool>,
    /// Places for requests that run.
    running: Semaphore,
}

struct Entry<V> {
    state: Mutex<State<V>>,
    /// When it was asked for last, in a count of all askings.
    used: AtomicU64,
    /// For the key and this. An entry without room is forgotten when its request has landed.
    room: Option<Reserved>,
}

static ASKINGS: AtomicU64 = AtomicU64::new(0);

impl<V> Entry<V> {
    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Send + Sync + 'static> Table<V> {
    pub(super) fn new(
        vault: Vault,
        clock: Clock,
        ages: Ages,
        budget: Arc<Budget>,
        size: fn(&V) -> usize,
    ) -> Arc<Self> {
        let (entries, sweeping) = (DashMap::new(), Mutex::new(false));
        let running = Semaphore::new(MAX_RUNNING);
        Arc::new(Self { vault, entries, clock, ages, budget, size, sweeping, running })
    }

    /// The value, as the wish's demand wants it, by its deadline.
    pub(super) async fn get(
        self: &Arc<Self>,
        wish: Wish<'_>,
        request: impl Fn() -> Request<V>,
    ) -> Result<Arc<V>> {
        if !wish.proof.is_live() {
            return Err(Error::new(Code::Unauthenticated, "the proof of this identity has ended"));
        }
        let entry = self.entry(&wish.key);
        let came = self.clock.now();
        let max_age = self.ages.most(wish.demand.urgency);
        // With a slow vault a request that runs may have been sent long ago.
        let too_old = |asked| came.saturating_duration_since(asked) > max_age;
        for turn in 1..=TURNS {
            let now = self.clock.now();
            let step = {
                let mut state = entry.state();
                state.keep_until(now + IDLE.max(wish.demand.max_stale_at_first()));
                let start = || self.fly(&entry, &wish, request());
                state.step(now, wish.demand, self.ages, start)
            };
            let (flight, started) = match step {
                Step::Known(value) => {
                    metrics::value_given("held");
                    return Ok(value);
                }
                Step::Stale(value) => {
                    metrics::value_given("stale");
                    return Ok(value);
                }
                Step::Refused(error) => {
                    metrics::value_given("refused");
                    return Err(error);
                }
                Step::Wait(flight, started) => (flight, started),
            };
            if !started {
                flight.patience.extend(wish.deadline);
            }
            // Whoever has something to show does not wait long for something newer.
            let kept = entry.state().has_last_good(now, wish.demand);
            let patience = if kept { Instant::now() + PATIENCE } else { wish.deadline };
            let until = patience.min(wish.deadline);
            let (error, ended) = tokio::select! {
                outcome = flight.outcome.clone() => match outcome {
                    Ok(_) if !started
                        && turn < TURNS
                        && flight.patience.asked().is_some_and(too_old) => continue,
                    Ok(value) => {
                        metrics::value_given(if started { "asked" } else { "joined" });
                        return Ok(value);
                    }
                    Err(error) => (error, true),
                },
                error = flight.patience.hopeless(until) => (error, false),
                () = tokio::time::sleep_until(until.into()) => {
                    let trouble = self.vault.trouble(&wish.key.vault, &wish.key.to_string());
                    (trouble.unwrap_or_else(|| late(&wish.key)), false)
                }
            };
            // It may have failed for somebody else's reason: his token, or his deadline.
            let others = is_of_token(&error) && !flight.proof.same_as(wish.proof)
                || error.is_hurried() && Instant::now() < wish.deadline;
            let mut state = entry.state();
            let second = wish.demand.urgency == Urgency::Refresh && state.looks_again();
            if ended && turn < TURNS && (second || others && !started) {
                continue;
            }
            if let Some(value) = state.last_good(self.clock.now(), wish.demand, &error) {
                metrics::value_given("stale");
                return Ok(value);
            }
            return Err(error);
        }
        Err(late(&wish.key))
    }

    /// Starts the request as a task of its own, which lands whatever happens.
    fn fly(
        self: &Arc<Self>,
        entry: &Arc<Entry<V>>,
        wish: &Wish<'_>,
        request: Request<V>,
    ) -> Arc<Flight<V>> {
        let patience = Arc::new(Patience::new(wish.deadline));
        let ask = Ask { urgency: wish.demand.urgency, group: wish.group.clone(), patience };
        let flight = Takeoff {
            table: self.clone(),
            entry: entry.clone(),
            key: wish.key.clone(),
            proof: wish.proof.clone(),
            ask,
            request,
        };
        flight.start(false)
    }

    fn entry(self: &Arc<Self>, key: &Arc<ValueKey>) -> Arc<Entry<V>> {
        let used = ASKINGS.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = self.entries.get(key) {
            entry.used.store(used, Ordering::Relaxed);
            return entry.clone();
        }
        if self.entries.len() >= MAX_KEYS {
            self.evict(|evicted, _| evicted < MAX_KEYS / 8);
        }
        let room = self.budget.reserve(OVERHEAD).ok();
        let new = || {
            let state = Mutex::new(State::new(self.clock.now()));
            Arc::new(Entry { state, used: AtomicU64::new(used), room })
        };
        // The map's lock is let go here: a sweep takes the two locks the other way round.
        let entry = self.entries.entry(key.clone()).or_insert_with(new).value().clone();
        self.sweep_later();
        entry
    }

    /// Lets go of values that nobody uses now, the least recently used first, until `bytes` are free.
    pub(super) fn make_room(&self, bytes: usize) {
        // Some more, so that this is not done for every value.
        let goal = self.budget.used().saturating_sub(bytes.max(self.budget.limit() / 8));
        self.evict(|_, budget| budget.used() > goal);
    }

    fn evict(&self, mut more: impl FnMut(usize, &Budget) -> bool) {
        // Only what their order is by: copies of all keys would be half as large as all that is held.
        let mut uses: Vec<_> =
            self.entries.iter().map(|entry| entry.used.load(Ordering::Relaxed)).collect();
        uses.sort_unstable();
        let mut evicted = 0;
        for oldest in uses.chunks(uses.len() / 64 + 1) {
            let Some(last) = oldest.last().filter(|_| more(evicted, &self.budget)) else { return };
            self.entries.retain(|_, entry| {
                let stays = entry.used.load(Ordering::Relaxed) > *last || entry.state().is_busy();
                evicted += usize::from(!stays);
                stays
            });
        }
    }

    /// Lets go of an entry for which there was no room.
    fn forget(&self, key: &Arc<ValueKey>, entry: &Arc<Entry<V>>) {
        let same = |found: &Arc<Entry<V>>| Arc::ptr_eq(found, entry) && !found.state().is_busy();
        self.entries.remove_if(key, |_, found| same(found));
    }

    /// Lets go of every version of an object: the vault has refused the object.
    fn wipe_versions(&self, refused: &ValueKey) {
        let same = |key: &ValueKey| {
            key.object.name == refused.object.name
                && key.object.kind == refused.object.kind
                && key.vault == refused.vault
                && key.identity == refused.identity
        };
        for entry in self.entries.iter().filter(|entry| same(entry.key())) {
            entry.state().wipe();
        }
    }

    /// Starts a task that forgets what is of no more use, unless it runs. It ends when nothing is left.
    fn sweep_later(self: &Arc<Self>) {
        let mut sweeping = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *sweeping, true) {
            return;
        }
        let (table, clock) = (Arc::downgrade(self), self.clock.clone());
        tokio::spawn(async move {
            loop {
                clock.sleep(SWEEP).await;
                match Weak::upgrade(&table) {
                    Some(table) if table.sweep() => {}
                    _ => return,
                }
            }
        });
    }

    /// Whether anything is left that may have to go.
    fn sweep(&self) -> bool {
        let now = self.clock.now();
        let before = self.entries.len();
        // Whoever holds the entry is about to use it.
        self.entries.retain(|_, entry| {
            Arc::strong_count(entry) > 1 || !entry.state().is_idle(now, self.ages)
        });
        if self.entries.len() < before / 2 {
            self.entries.shrink_to_fit();
        }
        // Of what others hold too: values that found no room here, responses.
        if self.budget.has_fallen() {
            process::give_back_memory();
        }
        let mut sweeping = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        *sweeping = !self.entries.is_empty() || self.budget.used() > 0;
        *sweeping
    }
}

/// A flight before it starts.
struct Takeoff<V> {
    table: Arc<Table<V>>,
    entry: Arc<Entry<V>>,
    key: Arc<ValueKey>,
    proof: Proof,
    ask: Ask,
    request: Request<V>,
}

impl<V: Send + Sync + 'static> Takeoff<V> {
    fn start(self, second: bool) -> Arc<Flight<V>> {
        let (proof, patience) = (self.proof.clone(), self.ask.patience.clone());
        let task = tokio::spawn(self.fly(second));
        let outcome = async move { task.await.unwrap_or_else(|_| Err(Error::task_failed())) }
            .boxed()
            .shared();
        Arc::new(Flight { proof, patience, outcome })
    }

    /// Asks, and lands.
    async fn fly(self, second: bool) -> Result<Arc<V>> {
        let clock = &self.table.clock;
        if second {
            clock.sleep(CONFIRM).await;
        }
        let begun = clock.now();
        let patience = &self.ask.patience;
        let work = async {
            let _running = self.table.running.try_acquire().map_err(|_| crowded())?;
            // Requests that run hold memory too. But whoever waits for memory waits for some of them, and
            // what an ordinary pod holds is granted whatever the others do: none is refused for that.
            let _counted = self.table.budget.reserve(OVERHEAD).ok();
            tokio::select! {
                outcome = (self.request)(self.proof.clone(), self.ask.clone()) => outcome,
                () = patience.ended() => Err(late(&self.key).hurried()),
            }
        };
        let outcome = AssertUnwindSafe(work).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| Err(Error::task_failed())).map(Arc::new);
        // What finds no room is given to those who wait, and not kept.
        let held = self.entry.room.as_ref().and_then(|_| {
            let size = match &outcome {
                Ok(value) => (self.table.size)(value),
                Err(error) if is_refusal(error) => error.size(),
                Err(_) => return None,
            };
            let room = self.table.budget.reserve(size).ok()?;
            let refresh = self.table.ages.refresh.mul_f64(jitter::between(LEAST_REFRESH, 1.0));
            Some(Hold { room, refresh })
        });
        let asked = patience.asked().unwrap_or(begun);
        self.land(asked, &outcome, held, second);
        outcome
    }

    fn land(self, asked: Instant, outcome: &Result<Arc<V>>, held: Option<Hold>, second: bool) {
        let (table, key, entry) = (self.table.clone(), self.key.clone(), self.entry.clone());
        let mut state = entry.state();
        let landed = state.land(self.table.clock.now(), asked, outcome, held, second);
        let wiped = landed == Landed::Wiped;
        match (landed, outcome) {
            (Landed::Confirm, _) => {
                let patience = Arc::new(Patience::new(Instant::now() + CONFIRM + SECOND_LOOK));
                let ask = Ask { urgency: Urgency::Refresh, patience, ..self.ask.clone() };
                state.confirm(Self { ask, ..self }.start(true));
            }
            (Landed::TurnedStale, Err(error)) => {
                let code = error.code().as_str();
                tracing::warn!(request = %self.key, code, "the vault cannot be asked; values that are mounted stay, stale");
            }
            (Landed::Recovered, _) => {
                tracing::info!(request = %self.key, "the vault answers again");
            }
            _ => {}
        }
        // Others take one of these after a lock of the table.
        drop(state);
        match outcome {
            Err(error) if wiped && is_of_all_versions(error, &key.object.version) => {
                table.wipe_versions(&key);
            }
            _ if entry.room.is_none() => table.forget(&key, &entry),
            _ => {}
        }
    }
}

/// The vault did not take this token; another caller's may be good.
fn is_of_token(error: &Error) -> bool {
    error.code() == Code::Unauthenticated || error.wanted_scope().is_some()
}

fn late(key: &ValueKey) -> Error {
    Error::new(Code::TimedOut, format!("{key}: no answer before the deadline"))
        .at(Hop::Vault)
        .fix("check the vault's health and that the node may reach it")
}

fn crowded() -> Error {
    Error::new(Code::TooLarge, format!("more than {MAX_RUNNING} requests to vaults run"))
}
