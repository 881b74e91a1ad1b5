//! A vault that does not answer: one probe at a time finds out when it does again.

use std::time::{Duration, Instant};

use crate::error::Error;

use super::super::rules::{Rules, jittered};

#[derive(Debug)]
pub(super) struct Outage {
    began: Instant,
    /// Without what was asked: it is shown to those who asked for something else.
    last: Error,
    /// The pause after the next failed probe.
    pause: Duration,
    longest: Duration,
    next_probe: Instant,
    /// The probe that is being waited for.
    probe: Option<u64>,
}

impl Outage {
    /// A try hangs. It has hung long enough for the first probe to go at once.
    pub(super) fn hangs(rules: &Rules, now: Instant, last: Error) -> Self {
        let (pause, longest) = (rules.first_probe_pause(), rules.longest_probe_pause());
        Self { began: now, last, pause, longest, next_probe: now, probe: None }
    }

    /// A try failed.
    pub(super) fn fails(rules: &Rules, now: Instant, last: Error) -> Self {
        let mut outage = Self::hangs(rules, now, last);
        outage.pauses(now);
        outage
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn last(&self) -> &Error {
        &self.last
    }

    /// Whether it is time for another probe.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.probe.is_none() && self.next_probe <= now
    }

    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.probe.is_none().then_some(self.next_probe)
    }

    pub(super) fn probes(&mut self, id: u64) {
        self.probe = Some(id);
    }

    /// A try has ended; tells whether it was the probe.
    pub(super) fn ended(&mut self, id: u64) -> bool {
        let probed = self.probe == Some(id);
        if probed {
            self.probe = None;
        }
        probed
    }

    /// A try hangs. The pause between probes has passed with waiting for this one.
    pub(super) fn stalled(&mut self, id: u64, now: Instant) {
        if self.ended(id) {
            self.next_probe = now;
        }
    }

    /// The probe failed.
    pub(super) fn failed(&mut self, now: Instant, error: Error) {
        self.last = error;
        self.pauses(now);
    }

    /// A try from before the outage failed too.
    pub(super) fn also(&mut self, error: Error) {
        self.last = error;
    }

    /// The probe found out nothing.
    pub(super) fn later(&mut self, now: Instant) {
        self.next_probe = now + jittered(self.pause);
    }

    fn pauses(&mut self, now: Instant) {
        self.later(now);
        self.pause = (self.pause * 2).min(self.longest);
    }
}
