//! The rows of the table. Each sample starts a provider that was never asked anything.

mod footprint;
mod speed;
mod trouble;

use std::time::Duration;

use super::Outcome;
use super::azure::Identity;
use super::contest::{Contestant, Lab, Sample};

pub struct Row {
    pub id: &'static str,
    pub title: String,
    /// What the services speak.
    pub http2: bool,
    /// One sample for so many repeats of a cheap row.
    pub weight: usize,
    /// Whether plain GETs are measured too.
    pub raw: bool,
    kind: Kind,
}

enum Kind {
    First {
        objects: usize,
        latency: Duration,
    },
    Republish,
    Storm {
        identity: Identity,
        limited: bool,
    },
    /// Pods known to the provider, so many Mounts at once.
    Warm {
        at_once: usize,
    },
    Throttled {
        distinct: bool,
        retry_after: Option<u64>,
    },
    Outage {
        hang: bool,
    },
    Start,
    Memory,
    Growth,
    Binary,
}

/// Most latency that a row adds to the services.
const LATENCY: Duration = Duration::from_millis(20);
/// Pods of a storm, each with ten objects.
const PODS: usize = 100;
const OBJECTS: usize = 10;

pub fn all(quick: bool) -> Vec<Row> {
    let pods = if quick { 20 } else { PODS };
    let outage = trouble::outage(quick).as_secs();
    let mut rows = Vec::new();
    let mut row = |id, title: String, kind: Kind| {
        rows.push(Row { id, title, http2: true, weight: 1, raw: false, kind });
        rows.len() - 1
    };
    for (id, objects, ms) in [("first-1", 1, 20), ("first-100", 100, 20), ("first-500", 500, 50)] {
        let latency = Duration::from_millis(ms);
        row(
            id,
            format!("first mount, {objects} objects, {ms} ms"),
            Kind::First { objects, latency },
        );
    }
    let workload = || Kind::Storm { identity: Identity::Workload, limited: false };
    row("republish-100", "republish of 100 objects within the age".into(), Kind::Republish);
    row("storm-h2", format!("{pods} pods x 10 objects, a token each, HTTP/2"), workload());
    let principal = Kind::Storm { identity: Identity::Principal, limited: false };
    row("storm-principal", format!("{pods} pods x 10 objects, one secret, HTTP/2"), principal);
    row("cpu-h2", "warm mounts of 10 objects one by one, HTTP/2".into(), Kind::Warm { at_once: 1 });
    row(
        "rate-h2",
        "warm mounts of 10 objects, 16 at once, HTTP/2".into(),
        Kind::Warm { at_once: 16 },
    );
    for (id, distinct, retry_after) in [
        ("throttled", false, None),
        ("throttled-hint", false, Some(1)),
        ("throttled-distinct", true, None),
    ] {
        let what = if distinct { "10 of their own" } else { "the same 10" };
        let hint = if retry_after.is_some() { " with Retry-After: 1" } else { "" };
        let title = format!("vault at most 50/s{hint}, {pods} pods x {what}");
        row(id, title, Kind::Throttled { distinct, retry_after });
    }
    row("hang", format!("vault hangs for {outage} s, 50 pods"), Kind::Outage { hang: true });
    row(
        "unavailable",
        format!("vault says 503 for {outage} s, 50 pods"),
        Kind::Outage { hang: false },
    );
    row("start", "start to the first Version reply".into(), Kind::Start);
    row("memory", format!("memory: idle, and in a storm of {pods} pods"), Kind::Memory);
    row("growth", "growth over refused mounts".into(), Kind::Growth);
    row("binary", "size of the binary".into(), Kind::Binary);
    // Last, so that the emulator is started anew only once.
    let http1 =
        row("storm-h1", format!("{pods} pods x 10 objects, a token each, HTTP/1.1"), workload());
    let limited = Kind::Storm { identity: Identity::Workload, limited: true };
    row("storm-limited", format!("{pods} pods x 10 objects at 50 millicores, HTTP/1.1"), limited);
    row(
        "cpu-h1",
        "warm mounts of 10 objects one by one, HTTP/1.1".into(),
        Kind::Warm { at_once: 1 },
    );
    row(
        "rate-h1",
        "warm mounts of 10 objects, 16 at once, HTTP/1.1".into(),
        Kind::Warm { at_once: 16 },
    );
    for (index, row) in rows.iter_mut().enumerate() {
        row.http2 = index < http1;
        (row.weight, row.raw) = match &row.kind {
            Kind::First { objects, .. } => (if *objects > 100 { 3 } else { 1 }, true),
            Kind::Storm { limited, .. } => (if *limited { 3 } else { 1 }, !limited),
            Kind::Warm { .. } => (3, true),
            Kind::Throttled { .. } | Kind::Outage { .. } | Kind::Growth => (100, false),
            Kind::Memory => (3, false),
            Kind::Republish | Kind::Start => (1, false),
            Kind::Binary => (100, false),
        };
    }
    rows
}

impl Row {
    pub async fn run(&self, lab: &Lab, who: &Contestant) -> Outcome<Sample> {
        let azure = lab.azure()?;
        let Some(binary) = &who.binary else {
            return match self.kind {
                Kind::First { objects, latency } => speed::raw_first(azure, objects, latency).await,
                Kind::Storm { .. } => speed::raw_storm(lab, azure).await,
                Kind::Warm { at_once } => speed::raw_warm(lab, azure, at_once).await,
                _ => Err("nothing to measure without a provider".into()),
            };
        };
        match self.kind {
            Kind::First { objects, latency } => speed::first(lab, binary, objects, latency).await,
            Kind::Republish => speed::republish(lab, binary).await,
            Kind::Storm { identity, limited } => speed::storm(lab, binary, identity, limited).await,
            Kind::Warm { at_once } => speed::warm(lab, binary, at_once).await,
            Kind::Throttled { distinct, retry_after } => {
                trouble::throttled(lab, binary, distinct, retry_after).await
            }
            Kind::Outage { hang } => trouble::outage_of(lab, binary, hang).await,
            Kind::Start => footprint::start(lab, binary).await,
            Kind::Memory => footprint::memory(lab, binary).await,
            Kind::Growth => footprint::growth(lab, binary).await,
            Kind::Binary => footprint::binary(binary),
        }
    }
}
