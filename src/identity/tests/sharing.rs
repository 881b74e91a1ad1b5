//! One request for equal inputs, and none that nobody needs.

use super::*;

#[tokio::test]
async fn a_hundred_callers_make_one_request_for_each_distinct_input() {
    let site = Site::new().await;
    let day = 24 * 60 * MINUTE;
    let claims = [
        site.principal(),
        site.another(1),
        site.workload(day),
        site.workload(day),
        site.workload(day),
        managed(),
        Claim::Managed { client_id: None },
    ];
    let calls = (0..100).map(|number| site.prove(&claims[number % claims.len()]));
    let proofs: Vec<_> = crowd(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(site.asked(), claims.len() as u64);
    for (number, proof) in proofs.iter().enumerate() {
        assert!(proof.same_as(&proofs[number % claims.len()]));
    }
    for claim in &claims {
        site.prove(claim).await.unwrap();
    }
    assert_eq!(site.asked(), claims.len() as u64);
}

/// Twenty seconds are less than the usual margin.
#[tokio::test]
async fn an_assertion_that_ends_soon_is_good_until_then() {
    let site = Site::new().await;
    let claim = site.workload(Duration::from_secs(20));
    for _ in 0..10 {
        site.prove(&claim).await.unwrap();
    }
    assert_eq!(site.asked(), 1);
    site.clock.advance(Duration::from_secs(17));
    for _ in 0..10 {
        site.prove(&claim).await.unwrap();
    }
    assert_eq!(site.asked(), 2, "what is left of it is worth one more");
    site.clock.advance(Duration::from_secs(10));
    let error = site.prove(&claim).await.unwrap_err();
    assert_eq!(error.service_code(), Some("AADSTS700024"), "{error}");
}

/// Entra says how long a token lives, so whose clock is off does not matter.
#[tokio::test]
async fn clocks_that_differ_by_hours_make_no_more_requests() {
    for (ours, theirs) in [(2, 0), (0, 2)] {
        let clocks = [ours, theirs].map(|hours| {
            let clock = Clock::adjustable();
            clock.advance(hours * 60 * MINUTE);
            clock
        });
        let [ours, theirs] = clocks;
        let site = Site::with(ours, theirs).await;
        let claim = site.principal();
        for _ in 0..3 {
            let proof = site.prove(&claim).await.unwrap();
            assert!(proof.is_live());
            let left = proof.ends().duration_since(site.clock.wall()).unwrap();
            assert!(left < 60 * MINUTE, "{left:?}");
        }
        assert_eq!(site.asked(), 1);
        // An assertion has an end of its own; what Entra accepted serves those who wait for it.
        let claim = site.workload(60 * MINUTE);
        assert!(crowd([site.prove(&claim), site.prove(&claim)]).await.iter().all(Result::is_ok));
        assert_eq!(site.asked(), 2);
    }
}

/// A thousand identities, then silence: nobody comes back, and their tokens do not stay.
#[tokio::test]
async fn ended_proofs_go_although_nobody_asks() {
    let site = Site::new().await;
    let claims: Vec<_> = (0..1000).map(|_| site.workload(60 * MINUTE)).collect();
    for outcome in crowd(claims.iter().map(|claim| site.prove(claim))).await {
        outcome.unwrap();
    }
    let kept = || site.identities.0.table().len();
    assert_eq!((kept(), site.asked()), (1000, 1000));
    site.clock.advance(30 * MINUTE);
    site.prove(&claims[0]).await.unwrap();
    assert_eq!((kept(), site.asked()), (1000, 1000));
    site.clock.advance(31 * MINUTE);
    eventually("ended proofs are dropped", || kept() == 0).await;
    // The same again, by another sweeper.
    eventually("the sweeper ends", || !site.identities.0.table().swept).await;
    site.prove(&site.principal()).await.unwrap();
    assert_eq!(kept(), 1);
    site.clock.advance(61 * MINUTE);
    eventually("ended proofs are dropped again", || kept() == 0).await;
}

#[tokio::test]
async fn what_was_refused_or_failed_leaves_nothing_behind() {
    let site = Site::new().await;
    let Claim::ServicePrincipal { tenant, client_id, .. } = site.principal() else { panic!() };
    let client_secret = Secret::from("wrong");
    let claim = Claim::ServicePrincipal { tenant, client_id, client_secret };
    let outcomes = crowd((0..100).map(|_| site.prove(&claim))).await;
    assert!(outcomes.iter().all(|outcome| {
        outcome.as_ref().is_err_and(|error| error.service_code() == Some("AADSTS7000215"))
    }));
    assert_eq!((site.asked(), site.identities.0.table().len()), (1, 0));
}
