//! What keeps token requests few: places for those under way, and pauses that services asked for.
//!
//! An authority that hangs may not collect requests without end, so each service has so many places,
//! for one try each; whoever finds none waits. A `Retry-After` holds later requests too: for 429
//! those of the same client, since the service means that client (and whoever has his own throttled
//! must not stop the others on the node); for 503 and its like all to that service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;
use crate::cloud::Cloud;
use crate::error::{Code, Error, Result};

use super::inputs::{Inputs, Service};

/// Most requests under way at a service that names no limit of its own.
pub(super) const PLACES: usize = 64;
/// IMDS answers 429 to more requests for tokens of managed identities at the same time, for each VM.
const PLACES_AT_IMDS: usize = 5;
/// Most services that are told apart; authorities come from the operator's files.
const MAX_SERVICES: usize = 64;
/// Longest hold, whatever the service asks for.
const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// Most holds kept; the one that ends first goes first.
const MAX_HOLDS: usize = 1024;

/// Most requests under way at one service of this kind.
pub(super) const fn places(service: Service) -> usize {
    match service {
        Service::Machine => PLACES_AT_IMDS,
        Service::Entra | Service::TokenProxy | Service::Nmi | Service::AzureCli => PLACES,
    }
}

/// One service: a kind, and of Entra which one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    service: Service,
    authority: String,
}

/// The client that a hold is for; everybody without.
type Client = Option<(String, String)>;

/// Whom a request asks, and for which client.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    place: Place,
    client: (String, String),
}

impl Asked {
    pub(super) fn new(inputs: &Inputs, cloud: &Cloud) -> Self {
        let service = inputs.service();
        let authority = match service {
            Service::Entra => cloud.authority.clone(),
            _ => String::new(),
        };
        let (tenant, client_id) = inputs.client();
        let client = (tenant.to_ascii_lowercase(), client_id.to_ascii_lowercase());
        Self { place: Place { service, authority }, client }
    }
}

/// The places and holds of the process.
pub(super) struct Limits {
    clock: Clock,
    places: Mutex<HashMap<Place, Arc<Semaphore>>>,
    /// Ends by the clock, and what the service said.
    holds: Mutex<HashMap<(Place, Client), (Instant, Error)>>,
}

impl Limits {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, places: Mutex::default(), holds: Mutex::default() }
    }

    /// Waits for a place for one try.
    pub(super) async fn place(&self, asked: &Asked) -> Result<OwnedSemaphorePermit> {
        let places = {
            let mut services = lock(&self.places);
            if services.len() >= MAX_SERVICES && !services.contains_key(&asked.place) {
                services.retain(|_, places| Arc::strong_count(places) > 1);
            }
            let service = match services.len() < MAX_SERVICES {
                true => asked.place.clone(),
                // Too many hang at once: the rest shares one.
                false => Place { authority: String::new(), ..asked.place.clone() },
            };
            let places = places(service.service);
            services.entry(service).or_insert_with(|| Arc::new(Semaphore::new(places))).clone()
        };
        let place = places.acquire_owned().await;
        place.map_err(|_| Error::new(Code::Internal, "no token requests are made any more"))
    }

    /// Records the pause that came with an error, if there was one.
    pub(super) fn hold(&self, asked: &Asked, error: &Error) {
        let (Some(429 | 500..), Some(pause)) = (error.status(), error.wait()) else { return };
        let now = self.clock.now();
        let client = (error.status() == Some(429)).then(|| asked.client.clone());
        let mut holds = lock(&self.holds);
        holds.retain(|_, (until, _)| *until > now);
        if holds.len() >= MAX_HOLDS {
            let first = holds.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                holds.remove(&first);
            }
        }
        let until = now + pause.min(LONGEST_HOLD);
        holds.insert((asked.place.clone(), client), (until, error.clone()));
    }

    /// Until when (by the clock) the service wants to hear nothing from this client, and what it said.
    pub(super) fn held(&self, asked: &Asked) -> Option<(Instant, Error)> {
        let now = self.clock.now();
        let holds = lock(&self.holds);
        [None, Some(asked.client.clone())]
            .into_iter()
            .filter_map(|client| holds.get(&(asked.place.clone(), client)))
            .filter(|(until, _)| *until > now)
            .max_by_key(|(until, _)| *until)
            .cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(authority: &str, client: &str) -> Asked {
        let place = Place { service: Service::Entra, authority: authority.to_owned() };
        Asked { place, client: ("t".to_owned(), client.to_owned()) }
    }

    fn said(status: u16, seconds: u64) -> Error {
        let wait = Some(Duration::from_secs(seconds));
        Error::new(Code::Throttled, "x").answered(status, None).retry_after(wait)
    }

    #[test]
    fn a_throttled_client_holds_itself_and_a_service_that_is_down_holds_everybody() {
        let clock = Clock::adjustable();
        let limits = Limits::new(clock.clone());
        let (a, b, elsewhere) = (asked("e", "a"), asked("e", "b"), asked("f", "a"));
        let held = |who: &Asked| limits.held(who).is_some();
        limits.hold(&a, &said(429, 10));
        assert_eq!([&a, &b, &elsewhere].map(held), [true, false, false]);
        limits.hold(&b, &said(503, 5));
        assert_eq!([&a, &b, &elsewhere].map(held), [true, true, false]);
        clock.advance(Duration::from_secs(6));
        assert_eq!([&a, &b, &elsewhere].map(held), [true, false, false]);
        clock.advance(Duration::from_secs(6));
        assert!(!held(&a));
        limits.hold(&a, &Error::new(Code::Unavailable, "x").answered(503, None));
        assert!(!held(&a), "it named no pause");
        limits.hold(&a, &said(400, 10));
        assert!(!held(&a), "a refusal is no pause");
    }

    #[test]
    fn holds_are_short_and_few() {
        let clock = Clock::adjustable();
        let limits = Limits::new(clock.clone());
        for number in 0..MAX_HOLDS + 10 {
            limits.hold(&asked("e", &number.to_string()), &said(429, 1 << 30));
        }
        assert_eq!(lock(&limits.holds).len(), MAX_HOLDS);
        assert!(limits.held(&asked("e", &(MAX_HOLDS + 9).to_string())).is_some());
        clock.advance(LONGEST_HOLD + Duration::from_secs(1));
        limits.hold(&asked("e", "0"), &said(429, 1));
        assert_eq!(lock(&limits.holds).len(), 1, "what has ended is gone");
    }

    #[tokio::test]
    async fn one_service_that_hangs_takes_nobody_elses_places() {
        let limits = Limits::new(Clock::system());
        let mut taken = Vec::new();
        for _ in 0..PLACES {
            taken.push(limits.place(&asked("e", "a")).await.unwrap());
        }
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, limits.place(&asked("e", "b"))).await.is_err());
        for number in 0..2 * MAX_SERVICES {
            assert!(limits.place(&asked(&number.to_string(), "a")).await.is_ok());
        }
        assert!(lock(&limits.places).len() <= MAX_SERVICES);
        taken.pop();
        assert!(limits.place(&asked("e", "b")).await.is_ok());
    }
}
