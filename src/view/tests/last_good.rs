//! While the vault cannot be asked, what is shown stays; not for ever.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_is_shown_stays_as_long_as_it_may_and_comes_back() {
    for (layout, code) in [
        (Layout::Atomic, Code::Unavailable),
        (Layout::Flat, Code::Throttled),
        (Layout::Atomic, Code::TimedOut),
        (Layout::Flat, Code::Unauthenticated),
        (Layout::Flat, Code::IdentityUnavailable),
    ] {
        let (fake, view) = view(layout);
        for name in ["a", "b"] {
            read(&view, name).await.unwrap();
        }
        let held = slot(&view, "a");
        view.hold(held.0, &held.1);
        fake.clock.advance(MINUTE);
        view.refresh(soon()).await;
        fake.clock.advance(DAY / 2);
        assert!(view.refresh(soon()).await.failures.is_empty());
        fake.set("a", Answer::Fails(code));
        let checked = view.status().objects[0].checked.unwrap();
        fake.clock.advance(MINUTE);
        assert!(view.refresh(soon()).await.changed.is_empty());
        let first = view.status().objects[0].clone();
        assert_eq!(first.checked.unwrap(), checked);
        let stale = first.stale.unwrap();
        assert!(stale >= checked + MINUTE && first.withdrawn.is_none());
        fake.clock.advance(DAY - 2 * MINUTE);
        assert!(view.refresh(soon()).await.changed.is_empty());
        assert_eq!(view.status().objects[0].stale.unwrap(), stale);
        assert_eq!(read(&view, "a").await.unwrap(), "a 1");
        fake.clock.advance(MINUTE);
        let done = view.refresh(soon()).await;
        assert_eq!(done.changed, ["a"]);
        assert!(done.failures[0].message().contains("has not answered for too long"), "{done:?}");
        assert!(walk(&view, "a").is_none() && walk(&view, "b").is_some());
        assert_eq!(view.read(held.0, |_| ()), Err(NotServed::Refused(Code::Unavailable)));
        let gone = view.status().objects[0].clone();
        assert_eq!(gone.withdrawn, Some(Code::Unavailable));
        assert_eq!(gone.failure.unwrap().error.code(), code);
        assert!(view.refresh(soon()).await.changed.is_empty());
        fake.set("a", Answer::Value(1));
        assert_eq!(view.refresh(soon()).await.changed, ["a"]);
        let back = view.status().objects[0].clone();
        assert!(back.stale.is_none() && back.withdrawn.is_none() && back.checked > gone.checked);
    }
}

#[tokio::test]
async fn the_bound_is_the_callers_and_counts_from_the_answer_of_each() {
    let limits = Limits { max_stale: MINUTE, ..Limits::default() };
    let (fake, view) = view_of(Layout::Flat, vec![object("a"), object("b")], limits);
    read(&view, "a").await.unwrap();
    fake.clock.advance(MINUTE / 2);
    read(&view, "b").await.unwrap();
    for name in ["a", "b"] {
        fake.set(name, Answer::Firewall);
    }
    fake.clock.advance(MINUTE / 2);
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    fake.clock.advance(MINUTE / 2);
    assert_eq!(view.refresh(soon()).await.changed, ["b"]);
}

#[tokio::test]
async fn a_history_has_the_same_bound() {
    let history = ObjectSpec { history: 3, ..object("h") };
    let (fake, view) = view_of(Layout::Atomic, vec![history], Limits::default());
    let listed = ListedVersion { id: "v1".to_owned(), enabled: true, created: None };
    *fake.versions.lock().unwrap() = Ok(vec![listed.clone()]);
    view.resolve(soon()).await.unwrap();
    *fake.versions.lock().unwrap() = Err(Error::new(Code::Unavailable, "as the test says"));
    fake.clock.advance(DAY - MINUTE);
    assert!(view.refresh(soon()).await.changed.is_empty());
    // Reads of what is listed are answers too, and they keep the rest.
    assert_eq!(read(&view, "h/0").await.unwrap(), "h 1");
    fake.clock.advance(DAY - MINUTE);
    assert!(view.refresh(soon()).await.changed.is_empty());
    fake.clock.advance(MINUTE);
    assert_eq!(view.refresh(soon()).await.changed, ["h/0"]);
    *fake.versions.lock().unwrap() = Ok(vec![listed]);
    assert_eq!(view.refresh(soon()).await.changed, ["h/0"]);
}

#[tokio::test]
async fn a_value_that_cannot_be_shown_is_an_answer() {
    let limits = Limits { max_bytes: 8, ..Limits::default() };
    let (fake, view) = view_of(Layout::Flat, vec![object("a")], limits);
    read(&view, "a").await.unwrap();
    fake.set("a", Answer::Value(1_000_000));
    fake.clock.advance(2 * DAY);
    let done = view.refresh(soon()).await;
    assert_eq!((done.changed.len(), done.failures[0].code()), (0, Code::TooLarge));
    assert!(view.status().objects[0].stale.is_none());
    assert_eq!(read(&view, "a").await.unwrap(), "a 1");
}

#[tokio::test]
async fn dates_are_told_and_follow_the_vault() {
    let (fake, view) = view(Layout::Flat);
    let date = |seconds: u64| Some(std::time::UNIX_EPOCH + Duration::from_secs(seconds));
    *fake.expires.lock().unwrap() = Some(1_000);
    read(&view, "a").await.unwrap();
    assert_eq!(view.status().objects[0].expires, date(1_000));
    let content = view.slot(walk(&view, "a").unwrap()).unwrap().content().unwrap().clone();
    assert!(!content.newly_expired(fake.clock.wall()), "told when it was fetched");
    *fake.expires.lock().unwrap() = Some(4_000_000_000);
    assert!(view.refresh(soon()).await.changed.is_empty());
    assert_eq!(view.status().objects[0].expires, date(4_000_000_000));
    assert!(!content.newly_expired(fake.clock.wall()));
    fake.clock.advance(Duration::from_secs(3_000_000_000));
    assert!(content.newly_expired(fake.clock.wall()) && !content.newly_expired(fake.clock.wall()));
    assert_eq!(read(&view, "a").await.unwrap(), "a 1");
}
