//! Token services that are down, slow or busy.

use crate::emulator::{Service, Trouble, Where};
use crate::error::Hop;

use super::limits::PLACES;
use super::*;

/// For services that never answer: short, and real.
const SHORT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn every_error_names_the_service_and_the_tries() {
    let four = "(4 tries)";
    for (service, hop, trouble, tries) in [
        (Service::Entra, Hop::Entra, Trouble::Hang, "(1 try; no answer yet)"),
        (Service::Entra, Hop::Entra, Trouble::Status(500), four),
        (Service::Entra, Hop::Entra, Trouble::Status(503), four),
        (Service::Entra, Hop::Entra, Trouble::Throttle(None), four),
        (Service::Entra, Hop::Entra, Trouble::CutBody, four),
        (Service::Imds, Hop::Imds, Trouble::Hang, "(1 try; no answer yet)"),
        (Service::Imds, Hop::Imds, Trouble::Status(500), four),
        (Service::Imds, Hop::Imds, Trouble::Status(404), four),
        (Service::Imds, Hop::Imds, Trouble::Status(410), four),
        (Service::Imds, Hop::Imds, Trouble::Throttle(None), four),
        (Service::Imds, Hop::Imds, Trouble::CutBody, "(2 tries)"),
        (Service::Nmi, Hop::Nmi, Trouble::Hang, "(1 try; no answer yet)"),
    ] {
        let site = Site::new().await;
        let claim = match service {
            Service::Entra => site.principal(),
            Service::Nmi => pod(),
            _ => managed(),
        };
        site.control.always(Where::service(service), trouble.clone());
        let patience = if matches!(trouble, Trouble::Hang) { SHORT } else { PATIENT };
        let begun = Instant::now();
        let error = site.prove_within(&claim, patience).await.unwrap_err();
        assert!(begun.elapsed() < PATIENT);
        assert_eq!(error.hop(), Some(hop), "{trouble:?}: {error}");
        assert!(error.message().contains(tries), "{trouble:?}: {error}");
        // Nothing of it is remembered.
        site.control.clear_faults();
        site.prove(&claim).await.unwrap();
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_by_the_hop_that_failed() {
    let site = Site::new().await;
    let (principal, managed) = (site.principal(), managed());
    let Site { emulator, identities, .. } = site;
    let cloud = emulator.cloud();
    emulator.shutdown().await;
    let scope = format!("{}/.default", cloud.resource);
    for (claim, hop, tries) in
        [(principal, Hop::Connect, "(4 tries)"), (managed, Hop::Imds, "(2 tries)")]
    {
        let deadline = Instant::now() + PATIENT;
        let error = identities.prove(&claim, &cloud, &scope, deadline).await.unwrap_err();
        assert_eq!(error.hop(), Some(hop), "{error}");
        assert!(error.message().contains(tries), "{error}");
    }
}

/// One request for both; the one with less time gives up alone, and so does one that goes away.
#[tokio::test]
async fn nobody_is_failed_by_another_callers_deadline_or_end() {
    for service in [Service::Entra, Service::Imds] {
        let site = Site::new().await;
        let claim = match service {
            Service::Entra => site.principal(),
            _ => managed(),
        };
        site.control.always(Where::service(service), Trouble::Delay(SHORT * 2));
        let gone = tokio::time::timeout(SHORT / 2, site.prove_within(&claim, SHORT));
        assert!(gone.await.is_err());
        let hasty = site.prove_within(&claim, SHORT / 2);
        let (hasty, patient) = tokio::join!(hasty, site.prove(&claim));
        let error = hasty.unwrap_err();
        assert!(error.message().contains("(1 try; no answer yet)"), "{error}");
        assert!(patient.is_ok(), "{service:?}: {:?}", patient.err());
        assert_eq!(site.asked(), 1, "{service:?}");
    }
}

/// A hundred mounts and more, each with its own assertion, while Entra hangs.
#[tokio::test]
async fn a_storm_finds_few_places_and_everybody_an_answer() {
    let site = Site::new().await;
    site.control.always(Where::service(Service::Entra), Trouble::Hang);
    let claims: Vec<_> = (0..3 * PLACES).map(|_| site.workload(MINUTE * 60)).collect();
    let outcomes = crowd(claims.iter().map(|claim| site.prove_within(claim, SHORT * 3))).await;
    let errors: Vec<_> = outcomes.into_iter().map(Result::unwrap_err).collect();
    assert!(errors.iter().all(|error| error.hop() == Some(Hop::Entra)));
    let queued = errors.iter().filter(|error| {
        error.message().contains("(0 tries; 64 other token requests are under way)")
    });
    // A place may become free in the last moment.
    assert!(queued.count() >= PLACES);
    assert!(site.control.counters().most_in_flight <= PLACES);
    // It comes back, and nothing of the storm is in the way.
    site.control.clear_faults();
    for outcome in crowd(claims.iter().map(|claim| site.prove(claim))).await {
        outcome.unwrap();
    }
}

/// IMDS takes five at a time from a VM, and says 429 to the others.
#[tokio::test]
async fn a_machine_with_many_identities_asks_imds_five_times_at_once() {
    let site = Site::new().await;
    site.control.always(Where::service(Service::Imds), Trouble::Hang);
    let identity = |number| Claim::Managed {
        client_id: Some(format!("5ca1ab1e-0000-4000-8000-{number:012x}")),
    };
    let claims: Vec<_> = (0..20).map(identity).collect();
    let outcomes = crowd(claims.iter().map(|claim| site.prove_within(claim, SHORT * 3))).await;
    let queued = outcomes.into_iter().map(Result::unwrap_err).filter(|error| {
        error.message().contains("(0 tries; 5 other token requests are under way)")
    });
    // A place may become free in the last moment.
    assert!(queued.count() >= 5);
    assert_eq!(site.control.counters().most_in_flight, 5);
}

#[tokio::test]
async fn a_retry_after_holds_later_requests_of_that_client() {
    let site = Site::new().await;
    let hour = MINUTE * 60;
    let (one, two, three) = (site.workload(hour), site.workload(hour), site.workload(hour));
    site.control.times(1, Where::service(Service::Entra), Trouble::Throttle(Some(40)));
    let deadline = Instant::now() + MINUTE / 2;
    for (claim, text) in [(&one, "(1 try; asked to wait 40s,"), (&two, "(0 tries; asked to wait ")]
    {
        let error = site.prove_within(claim, MINUTE / 2).await.unwrap_err();
        assert_eq!(error.code(), Code::Throttled, "{error}");
        assert!(error.message().contains(text), "{error}");
        assert!(error.message().contains("more time than is left"), "{error}");
    }
    assert!(Instant::now() < deadline, "told at once");
    assert_eq!(site.asked(), 1);
    // Others are not meant.
    site.prove_within(&site.principal(), MINUTE / 2).await.unwrap();
    // Whoever has the time waits, with one of less time beside him.
    let hasty = site.prove_within(&three, MINUTE / 2);
    let patient = site.prove_within(&three, MINUTE * 2);
    let later = async {
        let error = hasty.await.unwrap_err();
        assert_eq!(error.code(), Code::Throttled, "{error}");
        assert_eq!(site.asked(), 2);
        site.clock.advance(MINUTE);
    };
    let (proof, ()) = tokio::join!(patient, later);
    assert!(proof.unwrap().is_live());
    assert_eq!(site.asked(), 3);
}

/// The first caller has no time for a pause; the second one has.
#[tokio::test]
async fn a_pause_is_for_those_who_have_the_time() {
    let site = Site::new().await;
    let claim = site.principal();
    site.control.times(1, Where::service(Service::Entra), Trouble::Throttle(Some(20)));
    let hasty = site.prove_within(&claim, MINUTE / 6);
    let later = async {
        let error = hasty.await.unwrap_err();
        assert!(error.message().contains("(1 try; asked to wait 20s"), "{error}");
        site.clock.advance(MINUTE);
    };
    let (proof, ()) = tokio::join!(site.prove(&claim), later);
    proof.unwrap();
    assert_eq!(site.asked(), 2);
}

/// A flight that was begun by a caller with a second, and that somebody with more time waits for.
async fn joined(
    site: &Site,
    then: impl FnOnce(Landing, Instant),
) -> (Result<Proof>, Result<Proof>) {
    let (claim, cloud) = (site.principal(), site.emulator.cloud());
    let inputs = Inputs::of(&claim).await.unwrap();
    let scope = format!("{}/.default", cloud.resource);
    let inner = &site.identities.0;
    let key = ProofKeyInput::new(&inputs, &cloud, &scope).key(&inner.hmac);
    let deadline = Instant::now() + MINUTE / 2;
    let now = site.clock.now();
    let (service, refused) = (inputs.service(), None);
    let caller = Caller { service, refused, deadline, now };
    let Found::Begin(flight) = inner.table().find(&key, &caller, || None) else { panic!() };
    let request = Request { inputs, cloud, scope, key };
    let landing = Landing { inner: inner.clone(), request, flight: flight.clone(), landed: false };
    let joins = async {
        while flight.patience.deadline() == deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        then(landing, deadline);
    };
    let (waiter, ()) = tokio::join!(site.prove(&claim), joins);
    (waiter, site.prove(&claim).await)
}

#[tokio::test]
async fn who_joins_a_flight_that_was_given_up_begins_again() {
    let site = Site::new().await;
    let (waiter, _) = joined(&site, |landing, deadline| {
        let error = landing.flight.given_up(deadline, Error::new(Code::TimedOut, "x"));
        landing.land(Err(error));
    })
    .await;
    waiter.unwrap();
    assert_eq!(site.asked(), 1);
}

#[tokio::test]
async fn a_flight_that_breaks_off_is_told_and_leaves_nothing_behind() {
    let site = Site::new().await;
    let (waiter, next) = joined(&site, |landing, _| drop(landing)).await;
    assert_eq!(waiter.unwrap_err().code(), Code::Internal);
    next.unwrap();
}
