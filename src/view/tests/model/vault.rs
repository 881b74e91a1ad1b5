//! A vault in memory that remembers every answer it gave.

use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::*;
use crate::vault::Urgency;

/// An object of the vault.
pub(super) struct Object {
    pub(super) name: String,
    /// Number and whether it is enabled; the newest is the last.
    pub(super) versions: Vec<(u32, bool)>,
    pub(super) certificate: bool,
    deleted: bool,
    forbidden: bool,
    unreadable: bool,
    failure: Option<Failure>,
    slow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Value(u32),
    /// Enabled versions, newest first.
    List(Vec<u32>),
    Refused(Code),
    Failed,
}

/// An answer that somebody has received.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    pub(super) object: usize,
    pub(super) outcome: Outcome,
    /// By somebody who shows a value, or of a list: these belong to a refresh.
    pub(super) refresh: bool,
    pub(super) list: bool,
    /// Nobody had opened what was shown of it when it was asked for.
    pub(super) unopened: bool,
    /// The refresh that ran when it was asked for, and when it arrived.
    pub(super) run: u64,
    pub(super) arrived_in_run: u64,
    pub(super) asked_step: usize,
    pub(super) arrived_step: usize,
    pub(super) asked: Instant,
    pub(super) arrived: Instant,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: Vec<Object>,
    outage: Option<Failure>,
    pending: Vec<oneshot::Sender<bool>>,
    pub(super) answers: Vec<Answered>,
    pub(super) step: usize,
}

pub(super) struct Vault {
    pub(super) state: Mutex<State>,
    pub(super) clock: Clock,
    /// Whose refreshes these are.
    pub(super) view: OnceLock<Weak<View>>,
}

impl Vault {
    pub(super) fn new(objects: &[(&str, bool)]) -> Arc<Self> {
        let object = |(name, certificate): &(&str, bool)| Object {
            name: (*name).to_owned(),
            versions: vec![(1, true)],
            certificate: *certificate,
            deleted: false,
            forbidden: false,
            unreadable: false,
            failure: None,
            slow: false,
        };
        let objects = objects.iter().map(object).collect();
        let state = Mutex::new(State { objects, ..State::default() });
        Arc::new(Self { state, clock: Clock::adjustable(), view: OnceLock::new() })
    }

    pub(super) fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap())
    }

    fn object<T>(&self, number: usize, with: impl FnOnce(&mut Object) -> T) -> T {
        self.with(|state| {
            let count = state.objects.len();
            with(&mut state.objects[number % count])
        })
    }

    /// What an operation does to the vault.
    pub(super) fn does(&self, op: &Op) {
        match *op {
            Op::Rotate(at) => self.object(at, |object| {
                let newest = object.versions.len() as u32;
                object.versions.push((newest + 1, true));
            }),
            Op::Delete(at) => self.object(at, |object| object.deleted = true),
            Op::Restore(at) => self.object(at, |object| object.deleted = false),
            Op::Disable(at, which) => self.object(at, |object| {
                let count = object.versions.len();
                object.versions[count - 1 - which % 3 % count].1 = false;
            }),
            Op::Enable(at) => self.object(at, |object| {
                object.versions.iter_mut().for_each(|version| version.1 = true);
            }),
            Op::Forbid(at) => self.object(at, |object| object.forbidden = true),
            Op::ForbidReading(at) => self.object(at, |object| object.unreadable = true),
            Op::Allow(at) => self.object(at, |object| {
                (object.forbidden, object.unreadable) = (false, false);
            }),
            Op::Fail(at, failure) => self.object(at, |object| object.failure = Some(failure)),
            Op::Mend(at) => self.object(at, |object| object.failure = None),
            Op::Outage(failure) => self.with(|state| state.outage = Some(failure)),
            Op::Over => self.with(|state| state.outage = None),
            Op::Slow(at) => self.object(at, |object| object.slow = true),
            Op::Quick(at) => self.object(at, |object| object.slow = false),
            Op::Deliver(at) => self.send(at, true),
            Op::Lose(at) => self.send(at, false),
            Op::Hours(hours) => self.clock.advance(Duration::from_secs(hours * 3600)),
            _ => {}
        }
    }

    fn send(&self, at: usize, arrives: bool) {
        let next = self.with(|state| {
            let count = state.pending.len();
            (count > 0).then(|| state.pending.remove(at % count))
        });
        if let Some(next) = next {
            let _ = next.send(arrives);
        }
    }

    /// Everything works again; answers that wait are still to be delivered.
    pub(super) fn heal(&self) {
        self.with(|state| {
            state.outage = None;
            for object in &mut state.objects {
                object.versions.iter_mut().for_each(|version| version.1 = true);
                (object.deleted, object.forbidden, object.unreadable) = (false, false, false);
                (object.failure, object.slow) = (None, false);
            }
        });
    }

    /// How many wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.with(|state| state.pending.len())
    }

    fn number(&self, name: &str) -> usize {
        self.with(|state| state.objects.iter().position(|object| object.name == name).unwrap())
    }

    fn run(&self) -> u64 {
        let view = self.view.get().and_then(Weak::upgrade);
        view.map_or(0, |view| view.runs.begun.load(Ordering::Acquire))
    }

    /// What is asked for is told as it is now; perhaps later.
    async fn answer(
        &self,
        name: &str,
        (refresh, list): (bool, bool),
        deadline: Instant,
        says: impl FnOnce(&Object) -> Result<Outcome, Code>,
    ) -> Result<Outcome> {
        let number = self.number(name);
        let (run, asked) = (self.run(), self.clock.now());
        let view = self.view.get().and_then(Weak::upgrade);
        let unopened = view.is_some_and(|view| view.is_unopened(number));
        let (outcome, late, asked_step, failure) = self.with(|state| {
            let object = &state.objects[number];
            let failure = state.outage.or(object.failure);
            let outcome = match failure {
                Some(_) => Outcome::Failed,
                None if object.forbidden => Outcome::Refused(Code::Forbidden),
                None if object.deleted => Outcome::Refused(Code::NotFound),
                None => says(object).unwrap_or_else(Outcome::Refused),
            };
            let late = object.slow.then(oneshot::channel).map(|(sender, receiver)| {
                state.pending.push(sender);
                receiver
            });
            (outcome, late, state.step, failure)
        });
        let arrives = match late {
            Some(late) => {
                let arrives = tokio::time::timeout_at(deadline.into(), late).await;
                matches!(arrives, Ok(Ok(true)))
            }
            None => true,
        };
        let outcome = if arrives { outcome } else { Outcome::Failed };
        let answered = Answered {
            object: number,
            outcome: outcome.clone(),
            refresh,
            list,
            unopened,
            run,
            arrived_in_run: self.run(),
            asked_step,
            arrived_step: self.with(|state| state.step),
            asked,
            arrived: self.clock.now(),
        };
        self.with(|state| state.answers.push(answered));
        match outcome {
            Outcome::Refused(code) => Err(Error::new(code, "as the vault says")),
            Outcome::Failed => Err(match failure.unwrap_or(Failure::TimedOut) {
                Failure::Throttled => Error::new(Code::Throttled, "later"),
                Failure::Unavailable => Error::new(Code::Unavailable, "down"),
                Failure::TimedOut => Error::new(Code::TimedOut, "no answer"),
                Failure::Firewall => Error::new(Code::Forbidden, "not here").by_firewall(true),
                Failure::Identity => Error::new(Code::Unauthenticated, "who?"),
            }),
            outcome => Ok(outcome),
        }
    }
}

impl Origin for Vault {
    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn get(
        &self,
        object: ObjectRef,
        demand: Demand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
        Box::pin(async move {
            let says = |held: &Object| {
                let wanted = match &object.version {
                    Version::Latest => held.versions.last(),
                    Version::Exact(id) => {
                        held.versions.iter().find(|(number, _)| format!("v{number}") == *id)
                    }
                };
                match wanted {
                    _ if held.unreadable => Err(Code::Forbidden),
                    None => Err(Code::NotFound),
                    Some((_, false)) => Err(Code::Disabled),
                    Some((number, true)) => Ok(Outcome::Value(*number)),
                }
            };
            let refresh = demand.urgency == Urgency::Refresh;
            let outcome =
                self.answer(object.name.as_str(), (refresh, false), deadline, says).await?;
            let Outcome::Value(version) = outcome else { panic!("{outcome:?}") };
            let name = object.name.to_string();
            let certificate =
                self.with(|state| state.objects.iter().any(|o| o.certificate && o.name == name));
            Ok(Arc::new(ObjectVersion {
                kind: object.kind,
                version: format!("v{version}"),
                created: None,
                expires: None,
                not_before: None,
                body: match certificate {
                    true => super::certificate(&format!("{version:04}"), version % 3 > 0),
                    false => Body::Secret {
                        value: Secret::from(text(&name, version)),
                        content_type: None,
                        kid: None,
                    },
                },
                name,
            }))
        })
    }

    fn list(&self, _: ObjectKind, _: Urgency, _: Instant) -> BoxFuture<'_, Result<Names>> {
        Box::pin(async { Ok(Names::default()) })
    }

    fn versions(
        &self,
        _: ObjectKind,
        name: ObjectName,
        _: Demand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Arc<Vec<ListedVersion>>>> {
        Box::pin(async move {
            let says = |held: &Object| {
                let enabled = held.versions.iter().rev().filter(|(_, enabled)| *enabled);
                Ok(Outcome::List(enabled.map(|(number, _)| *number).collect()))
            };
            let outcome = self.answer(name.as_str(), (true, true), deadline, says).await?;
            let Outcome::List(enabled) = outcome else { panic!("{outcome:?}") };
            let newest = enabled.first().copied().unwrap_or(1);
            let listed = (1..=newest).map(|number| ListedVersion {
                id: format!("v{number}"),
                enabled: enabled.contains(&number),
                created: Some(i64::from(number)),
            });
            Ok(Arc::new(listed.collect()))
        })
    }
}

/// What a version holds: twice the same, so that a mixture would be seen.
pub(super) fn text(name: &str, version: u32) -> String {
    format!("{name} {version} {name} {version}")
}
