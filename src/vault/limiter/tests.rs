//! The gate with its lock, its timer and its guards, before a vault that is a closure.

use std::future::pending;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::identity::Mode;
use crate::vault::ask::Urgency;

const MILLI: Duration = Duration::from_millis(1);
const VAULT: &str = "https://kv.vault.azure.net";

fn limiter(clock: &Clock) -> Limiter {
    let retry = Retry { tries: 4, pause: 4 * MILLI, longest: Duration::from_secs(60) };
    let rules =
        Rules { retry, stall: 50 * MILLI, limits: [200, 400, 800, 1600].map(|n| n * MILLI) };
    Limiter::with(clock.clone(), rules)
}

pub(super) fn identity(name: &str) -> ProvenIdentity {
    ProvenIdentity {
        mode: Mode::Workload,
        authority: String::new(),
        tenant: String::new(),
        client_id: name.to_owned(),
        pod: None,
    }
}

fn ask_within(time: Duration) -> Ask {
    Ask::first(Instant::now() + time)
}

fn minute() -> Ask {
    ask_within(Duration::from_secs(60))
}

async fn run<T, F>(
    limiter: &Limiter,
    who: &str,
    ask: Ask,
    attempt: impl FnMut(Instant) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let identity = identity(who);
    let request = Request { vault: VAULT, identity: Some(&identity), what: "GET x", ask: &ask };
    let run = limiter.run(request, attempt);
    timeout(Duration::from_secs(20), run).await.expect("the limiter hangs")
}

fn door(limiter: &Limiter) -> Arc<Door> {
    limiter.known(VAULT).unwrap()
}

/// Polls until `done`.
async fn eventually(mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(10 * MILLI).await;
    }
    panic!("not within ten seconds");
}

fn refused_connection() -> Error {
    Error::new(Code::Unavailable, "GET x: cannot connect: refused").at(Hop::Connect)
}

fn throttled(wait: u64) -> Error {
    Error::new(Code::Throttled, "GET x: RESPONSE 429")
        .answered(429, None)
        .retry_after(Some(Duration::from_secs(wait)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_hung_serves_everybody_when_it_is_back() {
    let limiter = limiter(&Clock::system());
    let hangs = Arc::new(AtomicBool::new(true));
    let sent = Arc::new(AtomicU64::new(0));
    let mut mounts = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (limiter, hangs, sent) = (limiter.clone(), hangs.clone(), sent.clone());
        mounts.spawn(async move {
            let ask = Ask { group: Arc::from(["a", "b"][n % 2]), ..minute() };
            run(&limiter, "w", ask, |_| {
                // What was sent while the vault hung is never answered.
                let lost = hangs.load(Ordering::SeqCst);
                sent.fetch_add(1, Ordering::SeqCst);
                async move { if lost { pending().await } else { Ok(n) } }
            })
            .await
        });
    }
    eventually(|| limiter.trouble(VAULT, "GET y").is_some()).await;
    let before = sent.load(Ordering::SeqCst);
    eventually(|| sent.load(Ordering::SeqCst) > before + 2).await;
    assert!(sent.load(Ordering::SeqCst) < 100, "one at a time");
    hangs.store(false, Ordering::SeqCst);
    let mut served = 0;
    while let Some(result) = mounts.join_next().await {
        result.unwrap().unwrap();
        served += 1;
    }
    assert_eq!(served, 200);
    assert!(limiter.trouble(VAULT, "GET y").is_none());
}

#[tokio::test]
async fn a_try_that_hangs_alone_is_sent_again_and_is_no_try() {
    let limiter = limiter(&Clock::system());
    let mut sent = 0;
    let result = run(&limiter, "w", minute(), |_| {
        sent += 1;
        let number = sent;
        async move {
            match number {
                1 => pending().await,
                _ => Err::<(), _>(Error::new(Code::NotFound, "x").answered(404, None)),
            }
        }
    });
    assert_eq!(result.await.unwrap_err().message(), "x");
    assert_eq!(sent, 2);
}

#[tokio::test]
async fn a_slow_vault_is_not_given_up_for_its_probes() {
    let limiter = limiter(&Clock::system());
    let result = run(&limiter, "w", minute(), |limit| async move {
        let answer = tokio::time::sleep(300 * MILLI);
        match tokio::time::timeout_at(limit.into(), answer).await {
            Ok(()) => Ok(7),
            Err(_) => Err(Error::new(Code::TimedOut, "slow").at(Hop::Vault)),
        }
    });
    assert_eq!(result.await.unwrap(), 7, "longer than the first limit, shorter than the second");
}

#[tokio::test]
async fn a_dead_connection_costs_one_try_where_there_is_no_outage() {
    // As if others were answered meanwhile: the gate's tests have that by value.
    let mut limiter = limiter(&Clock::system());
    if let Some(inner) = Arc::get_mut(&mut limiter.0) {
        inner.rules.stall = Duration::from_secs(60);
    }
    let mut sent = 0;
    let result = run(&limiter, "w", minute(), |limit| {
        sent += 1;
        let number = sent;
        async move {
            if number > 1 {
                return Err::<(), _>(Error::new(Code::NotFound, "x").answered(404, None));
            }
            tokio::time::sleep_until(limit.into()).await;
            Err(Error::new(Code::TimedOut, "silent").at(Hop::Vault))
        }
    });
    assert_eq!(result.await.unwrap_err().message(), "x (2 tries)");
    assert_eq!(sent, 2);
}

#[tokio::test]
async fn a_refused_connection_is_told_long_before_the_deadline() {
    let limiter = limiter(&Clock::system());
    let mut sent = 0;
    let ask = minute();
    let result = run(&limiter, "w", ask, |_| {
        sent += 1;
        async { Err::<(), _>(refused_connection()) }
    });
    let error = result.await.unwrap_err();
    assert_eq!((error.code(), error.hop()), (Code::Unavailable, Some(Hop::Connect)));
    assert!(error.message().starts_with("GET x: cannot connect: refused ("), "{error}");
    assert!(sent >= 4, "{sent}");
    assert!(door(&limiter).with(|gate, _| gate.is_idle() && !gate.in_outage()));
}

#[tokio::test]
async fn the_deadline_of_a_waiter_names_the_last_failure_but_not_others_objects() {
    let limiter = limiter(&Clock::system());
    let ask = ask_within(200 * MILLI);
    let hang = run(&limiter, "w", ask, |_| pending::<Result<()>>());
    let error = hang.await.unwrap_err();
    let text = "GET x: no answer before the deadline; akvfs waits for the vault to come back; last \
                failure: no answer within 50ms";
    assert_eq!((error.message(), error.code()), (text, Code::TimedOut));
    assert!(error.is_hurried());
    let what = "GET https://kv/secrets/of-another-pod";
    let ask = minute();
    let crossing = Crossing {
        rules: limiter.0.rules,
        what,
        ask: &ask,
        asker: None,
        door: &door(&limiter),
        timeouts: 0,
        story: Story::default(),
    };
    let failure = |text: &str| Error::new(Code::Unavailable, format!("{what}: {text}"));
    let other = crossing.without_what(&failure("cannot connect: refused").at(Hop::Connect));
    assert_eq!((other.message(), other.hop()), ("cannot connect: refused", Some(Hop::Connect)));
    let other = crossing.without_what(&failure("RESPONSE 503: of-another-pod").answered(503, None));
    assert_eq!((other.message(), other.status()), ("RESPONSE 503", Some(503)));
}

#[tokio::test]
async fn four_tries_of_a_request_and_its_pauses_hold_no_permit() {
    let limiter = limiter(&Clock::system());
    let (mut sent, ask) = (0, minute());
    let busy = || Error::new(Code::Unavailable, "busy").answered(503, None);
    let result = run(&limiter, "w", ask, |_| {
        sent += 1;
        async { Err::<(), _>(busy()) }
    });
    assert_eq!((result.await.unwrap_err().message(), sent), ("busy (4 tries)", 4));
    let ask = ask_within(Duration::ZERO);
    let result = run(&limiter, "w", ask, |_| async { Err::<(), _>(busy()) });
    assert!(result.await.unwrap_err().is_hurried());
    // A pause that lasts: the gate is free meanwhile.
    let wait = || throttled(0).answered(408, None).retry_after(Some(Duration::from_secs(50)));
    let (ask, early) = (minute(), Instant::now() + Duration::from_secs(40));
    let request = ask.clone();
    let pauses = tokio::spawn({
        let limiter = limiter.clone();
        async move {
            let identity = identity("w");
            let request =
                Request { vault: VAULT, identity: Some(&identity), what: "GET x", ask: &request };
            limiter.run(request, |_| async { Err::<(), _>(wait()) }).await
        }
    });
    let told = timeout(Duration::from_secs(10), ask.patience.hopeless(early)).await;
    assert!(told.unwrap().message().ends_with("asked to wait 50s, more time than is left)"));
    assert!(door(&limiter).with(|gate, _| !gate.is_idle() && gate.in_flight() == 0));
    pauses.abort();
    eventually(|| door(&limiter).with(|gate, _| gate.is_idle())).await;
}

#[tokio::test]
async fn a_hold_ends_on_the_clock_and_is_one_identitys() {
    let clock = Clock::adjustable();
    let limiter = limiter(&clock);
    let held = tokio::spawn({
        let limiter = limiter.clone();
        async move {
            let mut sent = 0;
            run(&limiter, "held", minute(), |_| {
                sent += 1;
                let result = if sent == 1 { Err(throttled(30)) } else { Ok(sent) };
                async { result }
            })
            .await
        }
    });
    eventually(|| {
        limiter.known(VAULT).is_some_and(|_| limiter.held(VAULT, &identity("held")).is_some())
    })
    .await;
    assert!(limiter.held(VAULT, &identity("free")).is_none());
    assert!(limiter.held("https://other.vault.azure.net", &identity("held")).is_none());
    // The pace of a vault that was throttled lets one through each second.
    clock.advance(Duration::from_secs(1));
    assert_eq!(run(&limiter, "free", minute(), |_| async { Ok(1) }).await.unwrap(), 1);
    let ask = ask_within(Duration::from_secs(5));
    let error = run(&limiter, "held", ask, |_| async { Ok(()) }).await.unwrap_err();
    assert!(error.is_hurried() && error.message().contains("more time than is left"), "{error}");
    assert!(!held.is_finished());
    clock.advance(Duration::from_secs(30));
    assert_eq!(held.await.unwrap().unwrap(), 2);
    assert!(limiter.held(VAULT, &identity("held")).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_dropped_leaves_nothing_behind() {
    let limiter = limiter(&Clock::system());
    for _ in 0..20 {
        let mut crowd = tokio::task::JoinSet::new();
        for n in 0..100_u64 {
            let limiter = limiter.clone();
            crowd.spawn(async move {
                let urgency = if n % 3 == 0 { Urgency::Refresh } else { Urgency::First };
                let ask = Ask { urgency, ..minute() };
                run(&limiter, "w", ask, |_| async move {
                    if n % 2 == 0 {
                        return pending().await;
                    }
                    tokio::time::sleep(MILLI * (n % 5) as u32).await;
                    if n % 11 == 0 { Err(refused_connection()) } else { Ok(()) }
                })
                .await
            });
        }
        tokio::time::sleep(60 * MILLI).await;
        crowd.shutdown().await;
        let left = door(&limiter)
            .with(|gate, _| (gate.is_idle(), gate.in_flight(), gate.waiting(), gate.in_outage()));
        assert_eq!(left, (true, 0, 0, false));
    }
    assert_eq!(run(&limiter, "w", minute(), |_| async { Ok(1) }).await.unwrap(), 1);
}

#[tokio::test]
async fn vaults_are_few_and_the_idle_one_that_was_used_first_goes() {
    let limiter = limiter(&Clock::system());
    let ask = minute();
    let request = |vault| Request { vault, identity: None, what: "GET x", ask: &ask };
    let names: Vec<_> = (0..=MAX_VAULTS).map(|n| format!("https://kv{n}.test")).collect();
    let busy = limiter.enter(&names[0]).unwrap();
    for name in &names {
        limiter.run(request(name), |_| async { Ok(()) }).await.unwrap();
    }
    assert_eq!(limiter.0.doors.lock().unwrap().len(), MAX_VAULTS);
    assert!(limiter.known(&names[0]).is_some(), "in use");
    assert!(limiter.known(&names[1]).is_none());
    assert!(limiter.known(&names[MAX_VAULTS].to_uppercase()).is_some());
    drop(busy);
    let visits: Vec<_> = names[..MAX_VAULTS].iter().map(|name| limiter.enter(name)).collect();
    assert!(visits.iter().all(Result::is_ok));
    let full = limiter.run(request(&names[MAX_VAULTS]), |_| async { Ok(()) }).await;
    assert_eq!(full.unwrap_err().code(), Code::TooLarge);
}
