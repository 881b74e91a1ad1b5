//! The asynchronous side of a [`Gate`]: a lock, one timer, and guards that give back what they hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::error::{Code, Error, Hop, Result};
use crate::http;
use crate::telemetry::metrics::Ongoing;

use super::Moment;
use super::gate::{Gate, Outcome, Pass, Signal, Story, Verdict, Wish};
use super::rules::Rules;

/// One vault's gate, shared by all requests to it.
#[derive(Debug)]
pub(super) struct Door {
    clock: Clock,
    state: Mutex<State>,
    /// The timer must go off earlier than it is set to.
    sooner: Notify,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    /// When the timer goes off, on the clock; nothing when there is no timer.
    timer: Option<Instant>,
    outage: Option<Ongoing>,
}

impl State {
    fn count_outage(&mut self) {
        if self.gate.in_outage() != self.outage.is_some() {
            self.outage = self.gate.in_outage().then(Ongoing::outage);
        }
    }

    /// When time alone changes something, on the clock.
    fn next(&self, now: Moment) -> Option<Instant> {
        self.gate.next(now).map(|left| now.clock + left)
    }
}

impl Door {
    pub(super) fn new(clock: Clock, rules: Rules) -> Arc<Self> {
        let state = State { gate: Gate::new(rules), timer: None, outage: None };
        Arc::new(Self { clock, state: Mutex::new(state), sooner: Notify::new() })
    }

    /// Something happens at the gate, now.
    pub(super) fn with<T>(self: &Arc<Self>, act: impl FnOnce(&mut Gate, Moment) -> T) -> T {
        let mut state = self.lock();
        let now = Moment::now(&self.clock);
        let result = act(&mut state.gate, now);
        state.count_outage();
        if let Some(next) = state.next(now) {
            match state.timer {
                // Guards may be dropped when the runtime is gone; then nobody waits either.
                None => {
                    if let Ok(runtime) = Handle::try_current() {
                        state.timer = Some(next);
                        runtime.spawn(self.clone().keep_time(next));
                    }
                }
                Some(timer) if next < timer => {
                    state.timer = Some(next);
                    self.sooner.notify_one();
                }
                // It goes off early, and is set anew then.
                Some(_) => {}
            }
        }
        result
    }

    /// The one timer: runs while the gate waits for time to pass.
    async fn keep_time(self: Arc<Self>, mut timer: Instant) {
        loop {
            tokio::select! {
                () = self.clock.sleep_until(timer) => {}
                () = self.sooner.notified() => {}
            }
            let mut state = self.lock();
            // One reading for both: what is due now is done, and what comes later is waited for.
            let now = Moment::now(&self.clock);
            state.gate.tick(now);
            state.count_outage();
            state.timer = state.next(now);
            match state.timer {
                Some(next) => timer = next,
                None => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a permit for one try.
    pub(super) async fn pass(self: &Arc<Self>, wish: Wish) -> Result<Pass> {
        let (what, patience, story) =
            (wish.what.clone(), wish.patience.clone(), wish.story.clone());
        let receiver = self.with(|gate, now| gate.ask(now, wish))?;
        let mut place = Place { door: self.clone(), receiver };
        let waits = Ongoing::waiting_request();
        let verdict = tokio::select! {
            biased;
            verdict = &mut place.receiver => verdict,
            () = patience.ended() => return Err(self.too_late(&what, &story)),
        };
        drop(waits);
        match verdict {
            Ok(Verdict::Go(pass)) => {
                patience.resumes();
                Ok(pass)
            }
            Ok(Verdict::Refused(error)) => Err(error),
            Err(_) => Err(Error::new(Code::Internal, format!("{what}: lost its turn"))),
        }
    }

    /// For a request whose callers have all stopped waiting.
    pub(super) fn too_late(self: &Arc<Self>, what: &str, story: &Story) -> Error {
        let trouble = self.with(|gate, _| gate.trouble(what));
        trouble.unwrap_or_else(|| {
            let late = || http::late(what, Hop::Vault);
            let own = story.last.clone();
            own.map_or_else(late, |own| own.tried(story.tries, "no time is left")).hurried()
        })
    }
}

/// A place in the queue; leaving it gives back what it may have got meanwhile.
struct Place {
    door: Arc<Door>,
    receiver: oneshot::Receiver<Verdict>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let receiver = &mut self.receiver;
        if receiver.is_terminated() {
            return;
        }
        self.door.with(|gate, now| {
            receiver.close();
            match receiver.try_recv() {
                Ok(Verdict::Go(pass)) => gate.report(now, pass.id, Outcome::Dropped),
                Ok(Verdict::Refused(_)) => {}
                Err(_) => gate.left(),
            }
        });
    }
}

/// A request that is under way.
pub(super) struct Visit(Arc<Door>);

impl Visit {
    pub(super) fn begin(door: &Arc<Door>) -> Self {
        door.with(|gate, _| gate.enter());
        Self(door.clone())
    }

    pub(super) fn door(&self) -> &Arc<Door> {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.with(|gate, _| gate.leave());
    }
}

/// A permit in use; dropped, it goes back.
pub(super) struct Permit {
    door: Arc<Door>,
    id: Option<u64>,
    signal: oneshot::Receiver<Signal>,
}

impl Permit {
    pub(super) fn new(door: &Arc<Door>, pass: Pass) -> Self {
        Self { door: door.clone(), id: Some(pass.id), signal: pass.signal }
    }

    /// What the gate says about this try while it hangs; once.
    pub(super) async fn signal(&mut self) -> Signal {
        if !self.signal.is_terminated()
            && let Ok(signal) = (&mut self.signal).await
        {
            return signal;
        }
        // The gate has nothing more to say.
        std::future::pending().await
    }

    /// The try has ended. Tells whether the vault is in an outage now.
    pub(super) fn report(mut self, outcome: Outcome) -> bool {
        self.end(outcome)
    }

    fn end(&mut self, outcome: Outcome) -> bool {
        let Some(id) = self.id.take() else { return false };
        let signal = &mut self.signal;
        self.door.with(|gate, now| {
            if !signal.is_terminated() {
                signal.close();
                // A second permit that came too late to be used.
                if let Ok(Signal::Again(pass)) = signal.try_recv() {
                    gate.report(now, pass.id, Outcome::Dropped);
                }
            }
            gate.report(now, id, outcome);
            gate.in_outage()
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end(Outcome::Dropped);
    }
}
