//! How long a vault is asked that does not answer, and what is fetched before nobody may ask any more.

use super::*;

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

fn names() -> Vec<ObjectSpec> {
    ["a", "b", "c", "d", "e"].map(object).to_vec()
}

async fn gives_up(view: &Arc<View>, name: &str) -> Code {
    let (_, slot) = slot(view, name);
    let deadline = Instant::now() + Duration::from_millis(20);
    view.fill(&slot, deadline).await.unwrap_err().code()
}

/// A view that leaves its vault alone; `e` was read before.
async fn silent() -> (Arc<Fake>, Arc<View>) {
    let limits = Limits { fetch_limit: Duration::from_millis(400), ..Limits::default() };
    let (fake, view) = view_of(Layout::Atomic, names(), limits);
    read(&view, "e").await.unwrap();
    for name in ["a", "b", "c"] {
        fake.set(name, Answer::Hangs);
        assert!(view.status().left_alone_until.is_none());
        assert_eq!(gives_up(&view, name).await, Code::TimedOut);
    }
    assert_eq!(fake.requests(), ["e", "a", "b", "c"]);
    (fake, view)
}

#[tokio::test]
async fn opens_fail_at_once_after_three_objects_without_an_answer() {
    let (fake, view) = silent().await;
    let until = view.status().left_alone_until.unwrap();
    let now = fake.clock.wall();
    assert!(until > now + HALF_A_MINUTE / 2 && until <= now + HALF_A_MINUTE);
    for name in ["a", "d"] {
        let (_, slot) = slot(&view, name);
        let error = view.fill(&slot, soon()).await.unwrap_err();
        assert_eq!(error.code(), Code::TimedOut);
        assert!(error.message().contains("did not answer; it is asked again in "), "{error}");
    }
    assert_eq!(read(&view, "e").await.unwrap(), "e 1");
    assert!(fake.requests().is_empty());
    // One at a time finds out.
    fake.clock.advance(HALF_A_MINUTE);
    fake.set("d", Answer::Fails(Code::Unavailable));
    assert_eq!(read(&view, "d").await.unwrap_err().code(), Code::Unavailable);
    fake.set("d", Answer::Value(7));
    assert_eq!(read(&view, "d").await.unwrap_err().code(), Code::TimedOut);
    assert_eq!(fake.requests(), ["d"]);
    fake.clock.advance(HALF_A_MINUTE);
    assert_eq!(read(&view, "d").await.unwrap(), "d 7");
    assert!(view.status().left_alone_until.is_none());
    fake.set("a", Answer::Value(1));
}

#[tokio::test]
async fn any_answer_ends_it() {
    let (fake, view) = silent().await;
    // A refresh is not held up.
    fake.set("e", Answer::Fails(Code::Unavailable));
    view.refresh(soon()).await;
    assert!(view.status().left_alone_until.is_some());
    fake.set("e", Answer::Fails(Code::NotFound));
    view.refresh(soon()).await;
    assert!(view.status().left_alone_until.is_none());
    assert_eq!(read(&view, "d").await.unwrap(), "d 1");
    // An answer between them begins the count anew.
    let (fake, view) = view_of(Layout::Flat, names(), Limits::default());
    for name in ["a", "b", "c"] {
        fake.set(name, Answer::Hangs);
    }
    for name in ["a", "b", "a"] {
        gives_up(&view, name).await;
    }
    assert_eq!(read(&view, "d").await.unwrap(), "d 1");
    gives_up(&view, "c").await;
    assert!(view.status().left_alone_until.is_none());
    assert_eq!(read(&view, "e").await.unwrap(), "e 1");
}

#[tokio::test]
async fn a_turn_that_never_came_is_no_silence_of_the_vault() {
    let limits = Limits { fetches: 1, ..Limits::default() };
    let (fake, view) = view_of(Layout::Flat, names(), limits);
    fake.set("a", Answer::Hangs);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(gives_up(&view, name).await, Code::TimedOut);
    }
    assert!(view.status().left_alone_until.is_none());
    assert_eq!(fake.requests(), ["a"]);
}

#[tokio::test]
async fn an_answer_that_comes_after_all_ends_it() {
    let (fake, view) = view_of(Layout::Flat, names(), Limits::default());
    let gates = ["a", "b", "c"].map(|name| fake.gate(name));
    for name in ["a", "b", "c"] {
        gives_up(&view, name).await;
    }
    assert!(view.status().left_alone_until.is_some());
    gates[1].open();
    eventually("an answer", || view.status().left_alone_until.is_none()).await;
    assert_eq!(read(&view, "b").await.unwrap(), "b 1");
}

#[tokio::test]
async fn an_answer_that_cannot_be_shown_is_an_answer_too() {
    let limits = Limits { fetch_limit: Duration::from_millis(400), ..Limits::default() };
    let mut objects = names();
    // What the vault has is no base64.
    objects[3].encoding = crate::class::Encoding::Base64;
    let (fake, view) = view_of(Layout::Flat, objects, limits);
    for name in ["a", "b"] {
        fake.set(name, Answer::Hangs);
        gives_up(&view, name).await;
    }
    assert_eq!(read(&view, "d").await.unwrap_err().code(), Code::BadContent);
    fake.set("c", Answer::Hangs);
    gives_up(&view, "c").await;
    assert!(view.status().left_alone_until.is_none());
    assert_eq!(read(&view, "e").await.unwrap(), "e 1");
}

const HOUR: Duration = Duration::from_secs(3600);

fn filled(view: &View) -> usize {
    view.status().objects.iter().filter(|object| object.version.is_some()).count()
}

#[tokio::test]
async fn what_nobody_opened_is_fetched_before_the_credential_ends_and_tried_to_the_end() {
    let (fake, view) = view_of(Layout::Atomic, names(), Limits::default());
    *fake.ends.lock().unwrap() = Some(fake.clock.wall() + HOUR);
    read(&view, "a").await.unwrap();
    fake.set("d", Answer::Fails(Code::Unavailable));
    // So that nothing else asks.
    let keeper = tokio::spawn(view.clone().keep_fresh(100 * HOUR));
    eventually("a schedule", || view.status().next_look.is_some()).await;
    fake.clock.advance(HOUR * 3 / 4 - Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(fake.requests(), ["a"]);
    fake.clock.advance(Duration::from_secs(6 * 60));
    eventually("all but one", || filled(&view) == 4).await;
    assert!(view.status().objects[3].failure.is_some());
    fake.set("d", Answer::Value(1));
    fake.clock.advance(Duration::from_secs(60));
    eventually("that one too", || filled(&view) == 5).await;
    // The next credential, with as much time.
    *fake.ends.lock().unwrap() = Some(fake.clock.wall() + 2 * HOUR);
    fake.requests();
    fake.clock.advance(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(fake.requests().is_empty());
    keeper.abort();
}

#[tokio::test]
async fn a_tree_that_is_full_asks_for_no_more_at_the_credentials_end() {
    // Room for two of them, and two of five are fetched at the same time.
    let limits = Limits { max_bytes: 7, fetches: 8, ..Limits::default() };
    let (fake, view) = view_of(Layout::Atomic, names(), limits);
    *fake.ends.lock().unwrap() = Some(fake.clock.wall() + HOUR);
    let keeper = tokio::spawn(view.clone().keep_fresh(100 * HOUR));
    eventually("a schedule", || view.status().next_look.is_some()).await;
    fake.clock.advance(HOUR * 3 / 4 + Duration::from_secs(5 * 60));
    eventually("a tree that is full", || view.status().objects[3].failure.is_some()).await;
    assert_eq!(filled(&view), 2);
    // What an open lets go of is not fetched again either.
    fake.set("e", Answer::Value(1));
    assert_eq!(read(&view, "e").await.unwrap(), "e 1");
    fake.requests();
    for _ in 0..5 {
        fake.clock.advance(Duration::from_secs(61));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(fake.requests().is_empty());
    keeper.abort();
}

#[tokio::test]
async fn an_identity_that_is_renewed_leaves_a_tree_lazy() {
    let (fake, view) = view_of(Layout::Flat, names(), Limits::default());
    let keeper = tokio::spawn(view.clone().keep_fresh(100 * HOUR));
    eventually("a schedule", || view.status().next_look.is_some()).await;
    fake.clock.advance(99 * HOUR / 2);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(fake.requests().is_empty());
    keeper.abort();
}

#[tokio::test]
async fn an_eager_view_shows_nothing_new_that_is_not_fetched() {
    // Room for both, and for no third: a rotation has room only when the old ones went.
    for max_bytes in [1000, 15] {
        let limits = Limits { eager: true, max_bytes, ..Limits::default() };
        let history = ObjectSpec { history: 3, ..object("h") };
        let (fake, view) = view_of(Layout::Atomic, vec![object("a"), history], limits);
        let list = |ids: &[u32]| {
            let listed = ids.iter().map(|id| ListedVersion {
                id: format!("v{id}"),
                enabled: true,
                created: Some(i64::from(*id)),
            });
            *fake.versions.lock().unwrap() = Ok(listed.collect());
        };
        list(&[1]);
        view.resolve(soon()).await.unwrap();
        view.fill_all(soon()).await.unwrap();
        list(&[1, 2, 3]);
        fake.set("a", Answer::Value(2));
        assert_eq!(view.refresh(soon()).await.failures.len(), 0);
        fake.requests();
        for (name, text) in [("a", "a 2"), ("h/0", "h 3"), ("h/1", "h 2"), ("h/2", "h 1")] {
            assert_eq!(read(&view, name).await.unwrap(), text);
        }
        assert!(fake.requests().is_empty(), "with {max_bytes} bytes");
    }
}

#[tokio::test]
async fn what_replaced_generations_cost_is_bounded() {
    let objects = (0..2000).map(|n| object(&format!("n{n}"))).collect();
    let (fake, view) = view_of(Layout::Atomic, objects, Limits::default());
    read(&view, "n0").await.unwrap();
    for version in 2..=120 {
        fake.set("n0", Answer::Value(version));
        assert_eq!(view.refresh(soon()).await.changed, ["n0"]);
    }
    let retired = view.status().retired;
    assert!((16..100).contains(&retired), "{retired}");
}
