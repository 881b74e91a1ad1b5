//! When a view looks: by itself, on demand, and who shares what.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn pauses_differ_by_a_tenth_at_most() {
    let hundred = Duration::from_secs(100);
    let pauses: Vec<_> =
        (0..50).map(|_| super::super::refresh::jittered(hundred).as_secs_f64()).collect();
    assert!(pauses.iter().all(|pause| (89.9..=110.1).contains(pause)), "{pauses:?}");
    assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
}

#[tokio::test]
async fn a_view_is_kept_fresh_by_its_clock() {
    let (fake, view) = view(Layout::Atomic);
    read(&view, "a").await.unwrap();
    fake.requests();
    let keeper = tokio::spawn(view.clone().keep_fresh(10 * MINUTE));
    eventually("a schedule", || view.status().next_look.is_some()).await;
    let (now, next) = (fake.clock.wall(), view.status().next_look.unwrap());
    assert!(next > now + 8 * MINUTE && next < now + 12 * MINUTE);
    assert!(view.status().looked.is_none());
    fake.clock.advance(8 * MINUTE);
    assert!(fake.requests().is_empty());
    fake.set("a", Answer::Value(2));
    fake.clock.advance(3 * MINUTE);
    eventually("a look", || view.status().looked.is_some()).await;
    eventually("the next", || view.status().next_look.is_some_and(|then| then > next)).await;
    assert_eq!(read(&view, "a").await.unwrap(), "a 2");
    assert_eq!(fake.requests(), ["a"]);
    keeper.abort();
}

#[tokio::test]
async fn what_may_not_stay_until_the_next_look_is_looked_at_in_time() {
    let limits = Limits { max_stale: MINUTE, ..Limits::default() };
    let (fake, view) = view_of(Layout::Flat, vec![object("a"), object("b")], limits);
    read(&view, "a").await.unwrap();
    fake.set("a", Answer::Fails(Code::Unavailable));
    view.refresh(soon()).await;
    let keeper = tokio::spawn(view.clone().keep_fresh(100 * MINUTE));
    eventually("a schedule", || view.status().next_look.is_some()).await;
    assert!(view.status().next_look.unwrap() <= fake.clock.wall() + MINUTE);
    fake.clock.advance(MINUTE);
    eventually("the end", || walk(&view, "a").is_none()).await;
    // What is gone already hurries nobody.
    let later = fake.clock.wall() + 10 * MINUTE;
    eventually("a long pause", || view.status().next_look.is_some_and(|then| then > later)).await;
    keeper.abort();
}

#[tokio::test]
async fn who_comes_while_a_refresh_runs_shares_the_next_one() {
    let (fake, view) = view(Layout::Atomic);
    read(&view, "a").await.unwrap();
    fake.requests();
    let gate = fake.gate("a");
    let spawned = |view: &Arc<View>| {
        let view = view.clone();
        tokio::spawn(async move { view.refresh(soon()).await })
    };
    let first = spawned(&view);
    gate.asked().await;
    // The first one has asked already: it cannot know of this.
    fake.set("a", Answer::Value(2));
    let others: Vec<_> = (0..5).map(|_| spawned(&view)).collect();
    let hasty = view.refresh(Instant::now() + Duration::from_millis(20)).await;
    assert_eq!(hasty.failures[0].code(), Code::TimedOut);
    gate.open();
    assert!(first.await.unwrap().changed.is_empty());
    for other in others {
        assert_eq!(other.await.unwrap().changed, ["a"]);
    }
    assert_eq!(fake.requests(), ["a", "a"]);
}

#[tokio::test]
async fn a_refresh_goes_on_when_its_caller_goes_away() {
    let (fake, view) = view(Layout::Atomic);
    read(&view, "a").await.unwrap();
    fake.set("a", Answer::Value(2));
    let gate = fake.gate("a");
    let caller = tokio::spawn({
        let view = view.clone();
        async move { view.refresh(soon()).await }
    });
    gate.asked().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    gate.open();
    eventually("the new value", || view.status().birth == 2).await;
}

#[tokio::test]
async fn old_generations_stay_for_ten_minutes_by_the_clock() {
    let (fake, view) = view(Layout::Atomic);
    read(&view, "a").await.unwrap();
    let old = walk(&view, "a").unwrap();
    fake.set("a", Answer::Value(2));
    view.refresh(soon()).await;
    fake.clock.advance(9 * MINUTE);
    view.refresh(soon()).await;
    assert_eq!((view.status().retired, view.read(old, |bytes| bytes.len())), (1, Ok(3)));
    fake.clock.advance(MINUTE);
    view.refresh(soon()).await;
    assert_eq!((view.status().retired, view.read(old, |_| ())), (0, Err(NotServed::Stale)));
}
