//! What was asked, by whom, and what came of it. Never a value, a token or a query.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::error::printable;

use super::faults::Service;
use super::lock;
use super::reply::Request;

/// Records kept; the oldest go first.
const MAX_RECORDS: usize = 10_000;
/// Objects counted one by one.
const MAX_OBJECTS: usize = 20_000;

/// One request.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// When it came.
    pub at: SystemTime,
    /// Who was asked.
    pub service: Service,
    /// `GET`
    pub method: String,
    /// Host, without port.
    pub host: String,
    /// Path, without query.
    pub path: String,
    /// The client that its token proved, or that it was given a token for.
    pub client: Option<String>,
    /// Its User-Agent.
    pub agent: String,
    /// Status; 0 while there is no answer, and for ever if the caller left.
    pub status: u16,
}

/// Sums since the start or the last reset.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Requests to vaults.
    pub vault_requests: u64,
    /// Requests to vaults without a token that was accepted.
    pub challenges: u64,
    /// Reads of an object with an accepted token, by `VAULT/secrets/NAME`, whatever the outcome.
    pub reads: BTreeMap<String, u64>,
    /// Pages of lists asked for with an accepted token.
    pub lists: u64,
    /// Tokens given, by mode: `service-principal`, `certificate`, `workload`, `binding`, `managed`,
    /// `pod`.
    pub tokens: BTreeMap<&'static str, u64>,
    /// Token requests to Entra, IMDS and NMI, refused ones too.
    pub token_requests: u64,
    /// Requests being answered now.
    pub in_flight: usize,
    /// The most that ever were at once.
    pub most_in_flight: usize,
    /// TCP connections accepted, those of the admin endpoint not counted here nor below.
    pub connections: u64,
    /// TCP connections that are open.
    pub open_connections: usize,
    /// TLS handshakes finished.
    pub handshakes: u64,
    /// Of these, the ones that resumed an earlier session.
    pub resumed: u64,
    /// Of these, the ones that chose HTTP/2.
    pub http2: u64,
}

impl Counters {
    /// Reads of all objects together.
    pub fn all_reads(&self) -> u64 {
        self.reads.values().sum()
    }
}

#[derive(Default)]
struct Inner {
    records: VecDeque<RequestRecord>,
    /// Number of the first record kept.
    first: u64,
    counters: Counters,
}

#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Inner>>);

/// A request being answered; dropped without an end when the caller leaves.
pub(super) struct Entry {
    log: Log,
    number: u64,
}

impl Log {
    pub(super) fn begin(&self, service: Service, request: &Request) -> Entry {
        let Request { method, host, path, .. } = request;
        let record = RequestRecord {
            at: SystemTime::now(),
            service,
            method: printable(method, 16),
            host: printable(host.split(':').next().unwrap_or(host), 128),
            path: printable(path, 512),
            client: None,
            agent: printable(request.header("user-agent").unwrap_or_default(), 512),
            status: 0,
        };
        let mut inner = lock(&self.0);
        if inner.records.len() >= MAX_RECORDS {
            inner.records.pop_front();
            inner.first += 1;
        }
        let number = inner.first + inner.records.len() as u64;
        inner.records.push_back(record);
        let counters = &mut inner.counters;
        match service {
            Service::Vault => counters.vault_requests += 1,
            Service::Entra if method != "POST" => {}
            Service::Entra | Service::Imds | Service::Nmi => counters.token_requests += 1,
        }
        counters.in_flight += 1;
        counters.most_in_flight = counters.most_in_flight.max(counters.in_flight);
        Entry { log: self.clone(), number }
    }

    pub(super) fn challenged(&self) {
        lock(&self.0).counters.challenges += 1;
    }

    pub(super) fn read(&self, object: &str) {
        let reads = &mut lock(&self.0).counters.reads;
        if reads.len() < MAX_OBJECTS || reads.contains_key(object) {
            *reads.entry(object.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn listed(&self) {
        lock(&self.0).counters.lists += 1;
    }

    pub(super) fn token(&self, mode: &'static str) {
        *lock(&self.0).counters.tokens.entry(mode).or_default() += 1;
    }

    pub(super) fn records(&self) -> Vec<RequestRecord> {
        lock(&self.0).records.iter().cloned().collect()
    }

    pub(super) fn counters(&self) -> Counters {
        lock(&self.0).counters.clone()
    }

    /// Forgets everything but what is being answered now.
    pub(super) fn reset(&self) {
        let mut inner = lock(&self.0);
        inner.first += inner.records.len() as u64;
        inner.records.clear();
        let in_flight = inner.counters.in_flight;
        inner.counters = Counters { in_flight, most_in_flight: in_flight, ..Counters::default() };
    }
}

impl Entry {
    pub(super) fn end(self, status: u16, client: Option<String>) {
        let mut inner = lock(&self.log.0);
        let index = self.number.checked_sub(inner.first).and_then(|i| usize::try_from(i).ok());
        if let Some(record) = index.and_then(|index| inner.records.get_mut(index)) {
            record.status = status;
            record.client = client;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.log.0).counters.in_flight -= 1;
    }
}
