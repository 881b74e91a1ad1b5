//! Proofs in the last part of their lives.

use crate::emulator::{POD_IDENTITY, Service, Trouble, Where};

use super::*;

/// Until when tokens of the emulator (3599 s) are used, less a minute.
const LATE: Duration = Duration::from_secs(3500);

async fn is_renewed(site: &Site, claim: &Claim, old: &Proof) {
    for _ in 0..1000 {
        let proof = site.prove(claim).await.unwrap();
        if !proof.same_as(old) {
            assert_eq!(proof.identity(), old.identity());
            assert!(proof.ends() > old.ends());
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not renewed within ten seconds");
}

#[tokio::test]
async fn every_mode_is_renewed_by_one_request_while_callers_go_on() {
    let site = Site::new().await;
    let day = 24 * 60 * MINUTE;
    let claims = [
        site.principal(),
        site.certificate(),
        site.workload(day),
        site.binding(day),
        managed(),
        pod(),
    ];
    for claim in &claims {
        site.control.reset_log();
        let old = site.prove(claim).await.unwrap();
        site.clock.advance(MINUTE * 30);
        site.prove(claim).await.unwrap();
        assert!(site.is_quiet(), "half of its life is not the last part");
        site.clock.advance(LATE - MINUTE * 30);
        for outcome in crowd((0..100).map(|_| site.prove(claim))).await {
            assert!(outcome.unwrap().identity() == old.identity());
        }
        is_renewed(&site, claim, &old).await;
        assert_eq!(site.asked(), 2, "{claim:?}");
    }
}

/// Whatever the token service does, a caller with a live proof does not wait for it.
#[tokio::test]
async fn callers_do_not_wait_for_a_renewal() {
    let site = Site::new().await;
    let claim = site.principal();
    let old = site.prove(&claim).await.unwrap();
    site.clock.advance(LATE);
    site.control.always(Where::service(Service::Entra), Trouble::Hang);
    for _ in 0..10 {
        assert!(site.prove(&claim).await.unwrap().same_as(&old));
    }
    assert!(!site.is_quiet());
    eventually("the renewal is asked for", || site.asked() == 2).await;
}

#[tokio::test]
async fn what_ends_with_its_evidence_is_not_renewed() {
    let site = Site::new().await;
    for claim in [Site::workload, Site::binding] {
        let claim = claim(&site, MINUTE * 50);
        site.control.reset_log();
        let old = site.prove(&claim).await.unwrap();
        site.clock.advance(MINUTE * 49);
        assert!(site.prove(&claim).await.unwrap().same_as(&old));
        assert!(site.is_quiet());
        assert_eq!(site.asked(), 1);
    }
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_proof_and_is_tried_again_after_a_pause() {
    for (service, claim) in [(Service::Entra, None), (Service::Imds, Some(managed()))] {
        for trouble in [Trouble::Status(503), Trouble::Throttle(None)] {
            let site = Site::new().await;
            let claim = claim.clone().unwrap_or_else(|| site.principal());
            site.control.set_token_lifetime(MINUTE * 600);
            let old = site.prove(&claim).await.unwrap();
            site.clock.advance(MINUTE * 597);
            site.control.always(Where::service(service), trouble);
            let tried = async |asked: u64| {
                assert!(site.prove(&claim).await.unwrap().same_as(&old));
                eventually("the renewal fails", || site.is_quiet()).await;
                assert!(site.prove(&claim).await.unwrap().same_as(&old));
                assert!(site.is_quiet(), "not again at once");
                assert_eq!(site.asked(), asked);
            };
            tried(1 + 4).await;
            tried(1 + 4).await;
            site.clock.advance(Duration::from_secs(40));
            tried(1 + 8).await;
            // The second pause is longer.
            site.clock.advance(Duration::from_secs(40));
            tried(1 + 8).await;
            site.control.clear_faults();
            site.clock.advance(Duration::from_secs(40));
            is_renewed(&site, &claim, &old).await;
            assert_eq!(site.asked(), 1 + 8 + 1);
        }
    }
}

/// IMDS answers so while it updates.
#[tokio::test]
async fn imds_that_is_not_itself_takes_nothing_away() {
    for status in [404, 410] {
        let site = Site::new().await;
        let old = site.prove(&managed()).await.unwrap();
        site.clock.advance(LATE);
        site.control.always(Where::service(Service::Imds), Trouble::Status(status));
        site.prove(&managed()).await.unwrap();
        eventually("the renewal fails", || site.is_quiet()).await;
        assert!(site.prove(&managed()).await.unwrap().same_as(&old));
        assert_eq!(site.asked(), 1 + 4);
    }
}

/// Whom the token service refuses has no proof any more, however long the token would be good.
#[tokio::test]
async fn a_refused_renewal_ends_the_proof() {
    let site = Site::new().await;
    let (principal, _) = site.emulator.service_principal();
    let take = |client: &str| site.control.remove_client(client);
    let refuse: [(Claim, &dyn Fn(), Code); 3] = [
        (site.principal(), &|| take(principal), Code::Unauthenticated),
        (managed(), &|| take(USER_IDENTITY), Code::IdentityUnavailable),
        (pod(), &|| site.control.refuse_pods(100), Code::IdentityUnavailable),
    ];
    for (claim, refuse, code) in refuse {
        let old = site.prove(&claim).await.unwrap();
        site.clock.advance(LATE);
        refuse();
        assert!(site.prove(&claim).await.unwrap().same_as(&old));
        eventually("the renewal fails", || site.is_quiet()).await;
        assert!(old.is_live());
        assert_eq!(site.prove(&claim).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_renewal_for_somebody_else_is_not_used() {
    let site = Site::new().await;
    let old = site.prove(&pod()).await.unwrap();
    assert_eq!(old.identity().client_id, POD_IDENTITY);
    let other = "00000000-0000-4000-8000-0000000000a0";
    site.control.assign_pod("default", "app", other);
    site.clock.advance(LATE);
    assert!(site.prove(&pod()).await.unwrap().same_as(&old));
    eventually("the renewal ends", || site.is_quiet()).await;
    assert_eq!(site.asked(), 2);
    assert_eq!(site.identities.0.table().len(), 0, "neither is kept");
    assert_eq!(site.prove(&pod()).await.unwrap().identity().client_id, other);
    assert_eq!(site.asked(), 3);
}

#[tokio::test]
async fn few_renewals_run_at_a_time() {
    let site = Site::new().await;
    let claims: Vec<_> = (0..3 * RENEWALS).map(|number| site.another(number)).collect();
    for outcome in crowd(claims.iter().map(|claim| site.prove(claim))).await {
        outcome.unwrap();
    }
    site.clock.advance(LATE);
    site.control.always(Where::service(Service::Entra), Trouble::Hang);
    for claim in &claims {
        site.prove(claim).await.unwrap();
    }
    let running = || site.control.counters().in_flight;
    eventually("renewals run", || running() == RENEWALS).await;
    for claim in &claims {
        site.prove(claim).await.unwrap();
    }
    assert_eq!(site.asked(), (claims.len() + RENEWALS) as u64);
}

/// A proof may end while its renewal is under way; whoever comes then waits for that one.
#[tokio::test]
async fn a_renewal_serves_who_comes_after_the_end() {
    let site = Site::new().await;
    let claim = site.principal();
    let old = site.prove(&claim).await.unwrap();
    site.clock.advance(LATE);
    let at = Where::service(Service::Entra);
    site.control.times(1, at, Trouble::Delay(Duration::from_millis(300)));
    site.prove(&claim).await.unwrap();
    site.clock.advance(MINUTE * 3);
    assert!(!old.is_live());
    let proofs = crowd((0..10).map(|_| site.prove(&claim))).await;
    assert!(proofs.into_iter().all(|proof| proof.unwrap().is_live()));
    assert_eq!(site.asked(), 2);
}
