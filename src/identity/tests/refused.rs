//! Tokens that a vault does not accept before their end.

use crate::emulator::{Service, Trouble, Where};

use super::*;

#[tokio::test]
async fn a_hundred_callers_that_were_refused_together_share_one_new_token() {
    let site = Site::new().await;
    for claim in [site.principal(), site.workload(MINUTE * 60), managed()] {
        site.control.reset_log();
        let old = site.prove(&claim).await.unwrap();
        site.clock.advance(FRESH);
        let calls = (0..100).map(|_| site.anew(&claim, Some(&old), PATIENT));
        let proofs: Vec<_> = crowd(calls).await.into_iter().map(Result::unwrap).collect();
        assert!(proofs.iter().all(|proof| proof.same_as(&proofs[0]) && !proof.same_as(&old)));
        // And who hears of the refusal later.
        let late = site.anew(&claim, Some(&old), PATIENT).await.unwrap();
        assert!(late.same_as(&proofs[0]));
        assert_eq!(site.asked(), 2);
    }
}

#[tokio::test]
async fn a_fresh_token_is_not_asked_for_again() {
    let site = Site::new().await;
    let claim = site.principal();
    let proof = site.prove(&claim).await.unwrap();
    for _ in 0..3 {
        assert!(site.anew(&claim, Some(&proof), PATIENT).await.unwrap().same_as(&proof));
    }
    assert_eq!(site.asked(), 1);
}

#[tokio::test]
async fn a_refused_proof_does_not_come_back_when_there_is_no_other() {
    let site = Site::new().await;
    let claim = site.principal();
    let old = site.prove(&claim).await.unwrap();
    site.clock.advance(FRESH);
    for (trouble, code) in
        [(Trouble::Status(503), Code::Unavailable), (Trouble::Status(401), Code::Unauthenticated)]
    {
        site.control.clear_faults();
        site.control.always(Where::service(Service::Entra), trouble);
        let error = site.anew(&claim, Some(&old), PATIENT).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        // Others, who were not refused themselves, do not get it either.
        assert_eq!(site.prove(&claim).await.unwrap_err().code(), code);
    }
    site.control.clear_faults();
    assert!(!site.prove(&claim).await.unwrap().same_as(&old));
}

/// Refused while its renewal is under way: that one is the new one.
#[tokio::test]
async fn a_refusal_during_a_renewal_waits_for_it() {
    let site = Site::new().await;
    let claim = site.principal();
    let old = site.prove(&claim).await.unwrap();
    site.clock.advance(MINUTE * 58);
    let at = Where::service(Service::Entra);
    site.control.times(1, at, Trouble::Delay(Duration::from_millis(300)));
    assert!(site.prove(&claim).await.unwrap().same_as(&old));
    let proof = site.anew(&claim, Some(&old), PATIENT).await.unwrap();
    assert!(!proof.same_as(&old));
    assert_eq!(site.asked(), 2);
}
