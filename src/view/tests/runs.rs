//! How long a refresh goes on, and what becomes of what it does not look at.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MANY: usize = 3_000;

/// So many objects, filled.
async fn filled(layout: Layout, count: usize, limits: Limits) -> (Arc<Fake>, Arc<View>) {
    let objects = (0..count).map(|number| object(&name(number))).collect();
    let (fake, view) = view_of(layout, objects, limits);
    view.fill_all(soon()).await.unwrap();
    fake.requests();
    (fake, view)
}

fn name(number: usize) -> String {
    format!("n{number}")
}

/// A refresh looks at one object at a time.
fn one_by_one() -> Limits {
    Limits { fetches: 2, look_limit: Duration::from_millis(100), ..Limits::default() }
}

fn birth(view: &View) -> u32 {
    view.generations().current.birth
}

fn stale(view: &View) -> usize {
    view.status().objects.iter().filter(|object| object.stale.is_some()).count()
}

fn nothing_is_wrong(view: &View) {
    for object in view.status().objects {
        assert!(object.stale.is_none() && object.failure.is_none(), "{object:?}");
        assert!(object.withdrawn.is_none(), "{object:?}");
    }
}

#[tokio::test]
async fn thousands_of_objects_of_a_slow_vault_move_on_together_and_nothing_is_stale() {
    for layout in [Layout::Atomic, Layout::Flat] {
        let limits = Limits { fetch_limit: Duration::from_millis(200), ..Limits::default() };
        let (fake, view) = filled(layout, MANY, limits).await;
        *fake.takes.lock().unwrap() = Duration::from_millis(3);
        let last = name(MANY - 1);
        fake.set(&last, Answer::Value(2));
        // Whatever counted as unanswered now would go at once.
        fake.clock.advance(2 * DAY);
        let done = view.refresh(Instant::now() + Duration::from_millis(50)).await;
        let said = done.failures.last().unwrap().to_string();
        assert!(said.contains("not everything was looked at in time"), "{said}");
        assert!(done.changed.is_empty() && done.checked < MANY, "{}", done.checked);
        eventually("the new value", || birth(&view) == 2).await;
        nothing_is_wrong(&view);
        assert_eq!(read(&view, &last).await.unwrap(), format!("{last} 2"));
        // Shorter than a run.
        let keeper = tokio::spawn(view.clone().keep_fresh(Duration::from_millis(200)));
        fake.set("n0", Answer::Value(3));
        eventually("the next", || birth(&view) == 3).await;
        nothing_is_wrong(&view);
        keeper.abort();
    }
}

#[tokio::test]
async fn a_vault_that_hangs_ends_a_run_and_everything_goes_when_it_must() {
    for layout in [Layout::Atomic, Layout::Flat] {
        let limits = Limits { look_limit: Duration::from_millis(100), ..Limits::default() };
        let (fake, view) = filled(layout, MANY, limits).await;
        (0..MANY).for_each(|number| fake.set(&name(number), Answer::Hangs));
        let done = view.refresh(soon()).await;
        // Two limits of eight looks.
        assert!((8..=16).contains(&done.checked), "{}", done.checked);
        let said = done.failures.last().unwrap().to_string();
        let expected = format!("{} of {MANY} objects were not looked at", MANY - done.checked);
        assert!(said.contains(&expected), "{said}");
        assert_eq!((done.failures.len(), stale(&view)), (done.checked + 1, done.checked));
        assert_eq!(view.shown().unwrap().len(), MANY);
        // The next one goes on with the others.
        assert_eq!(fake.requests().len(), done.checked);
        view.refresh(soon()).await;
        assert_eq!(fake.requests()[0], name(done.checked));
        fake.clock.advance(DAY);
        let done = view.refresh(soon()).await;
        assert_eq!((done.changed.len(), done.failures.len()), (MANY, MANY + 1));
        let last = view.status().objects.pop().unwrap();
        assert_eq!(last.withdrawn, Some(Code::Unavailable));
        assert!(last.stale.is_some());
        let said = last.failure.unwrap().error.to_string();
        assert!(said.contains("has not answered for too long: "), "{said}");
        assert!(said.contains("the vault did not answer about others"), "{said}");
        // And comes back; nothing is asked about twice.
        fake.requests();
        (0..MANY).for_each(|number| fake.set(&name(number), Answer::Value(2)));
        let done = view.refresh(soon()).await;
        assert_eq!((done.changed.len(), done.failures.len()), (MANY, 0), "{:?}", done.failures);
        assert_eq!(fake.requests().len(), MANY);
        nothing_is_wrong(&view);
    }
}

#[tokio::test]
async fn one_that_hangs_keeps_nobody_else_back_for_ever() {
    let (fake, view) = filled(Layout::Flat, 3, one_by_one()).await;
    fake.set("n0", Answer::Hangs);
    for number in [1, 2] {
        fake.set(&name(number), Answer::Value(2));
    }
    let done = view.refresh(soon()).await;
    assert_eq!((done.checked, done.changed.len(), done.failures.len()), (1, 0, 2));
    let done = view.refresh(soon()).await;
    assert_eq!((done.checked, done.changed, done.failures.len()), (3, name_pair(), 1));
    assert_eq!(fake.requests(), ["n0", "n1", "n2", "n0"]);
    assert_eq!(stale(&view), 1);
}

fn name_pair() -> Vec<String> {
    vec![name(1), name(2)]
}

#[tokio::test]
async fn an_atomic_generation_is_not_published_without_what_was_passed_over() {
    let (fake, view) = filled(Layout::Atomic, 3, one_by_one()).await;
    for number in [0, 2] {
        fake.set(&name(number), Answer::Value(2));
    }
    fake.set("n1", Answer::Hangs);
    assert!(view.refresh(soon()).await.changed.is_empty());
    fake.set("n1", Answer::Value(1));
    assert_eq!(view.refresh(soon()).await.changed, [name(0), name(2)]);
    assert_eq!(fake.requests(), ["n0", "n1", "n2", "n0", "n1"]);
}

#[tokio::test]
async fn what_was_passed_over_is_looked_at_before_it_must_go() {
    let minute = Duration::from_secs(60);
    let limits = Limits { max_stale: 60 * minute, ..one_by_one() };
    let (fake, view) = view_of(Layout::Flat, vec![object("n0"), object("n1")], limits);
    read(&view, "n1").await.unwrap();
    fake.clock.advance(30 * minute);
    read(&view, "n0").await.unwrap();
    fake.set("n0", Answer::Hangs);
    view.refresh(soon()).await;
    assert!(view.status().objects[1].stale.is_none());
    let keeper = tokio::spawn(view.clone().keep_fresh(100 * minute));
    eventually("a schedule", || view.status().next_look.is_some()).await;
    assert!(view.status().next_look.unwrap() <= fake.clock.wall() + 31 * minute);
    keeper.abort();
}

#[tokio::test]
async fn a_history_that_was_passed_over_goes_as_a_whole_when_it_must() {
    let history = ObjectSpec { history: 3, ..object("h") };
    let (fake, view) = view_of(Layout::Atomic, vec![object("n0"), history], one_by_one());
    let listed = |id: &str| ListedVersion { id: id.to_owned(), enabled: true, created: None };
    *fake.versions.lock().unwrap() = Ok(vec![listed("v2"), listed("v1")]);
    view.resolve(soon()).await.unwrap();
    view.fill_all(soon()).await.unwrap();
    fake.set("n0", Answer::Hangs);
    assert!(view.refresh(soon()).await.changed.is_empty());
    // Begins with what was left.
    fake.requests();
    view.refresh(soon()).await;
    assert_eq!(fake.requests()[0], "h/versions");
    fake.set("h", Answer::Hangs);
    fake.clock.advance(DAY);
    view.refresh(soon()).await;
    assert_eq!(view.status().objects.len(), 3);
    assert!(view.status().objects.iter().all(|one| one.withdrawn == Some(Code::Unavailable)));
    assert!(view.shown().unwrap().is_empty());
}

#[tokio::test]
async fn what_the_vault_has_refused_is_refused_whatever_was_passed_over_since() {
    let (fake, view) = filled(Layout::Flat, 2, one_by_one()).await;
    fake.set("n1", Answer::Fails(Code::NotFound));
    assert_eq!(view.refresh(soon()).await.changed, ["n1"]);
    fake.set("n0", Answer::Hangs);
    fake.clock.advance(2 * DAY);
    assert_eq!(view.refresh(soon()).await.changed, ["n0"]);
    let status = view.status();
    let withdrawn: Vec<_> = status.objects.iter().map(|object| object.withdrawn).collect();
    assert_eq!(withdrawn, [Some(Code::Unavailable), Some(Code::NotFound)]);
    let failure = status.objects[1].failure.clone().unwrap();
    assert_eq!(failure.error.code(), Code::NotFound);
}

#[tokio::test]
async fn whoever_has_less_time_is_told_what_is_known_and_the_run_goes_on() {
    let limits = Limits { fetches: 2, ..Limits::default() };
    let (fake, view) = filled(Layout::Atomic, 3, limits).await;
    fake.set("n2", Answer::Value(2));
    fake.set("n0", Answer::Hangs);
    fake.clock.advance(2 * DAY);
    let done = view.refresh(Instant::now() + Duration::from_millis(50)).await;
    assert_eq!((done.checked, done.changed.len(), done.failures.len()), (1, 0, 2));
    assert!(done.failures[0].to_string().contains("objectName:n0"), "{done:?}");
    assert!(done.failures[1].to_string().contains("2 of 3 objects are left"), "{done:?}");
    nothing_is_wrong(&view);
    // Asked again with the time that it has.
    eventually("the second question", || fake.requests.lock().unwrap().len() == 2).await;
    assert_eq!(fake.requests(), ["n0", "n0"]);
    let hasty = view.refresh(Instant::now() + Duration::from_millis(20)).await;
    let said = hasty.failures[0].to_string();
    assert!(said.contains("another refresh is still running, 0 of 3 objects"), "{said}");
}

#[tokio::test]
async fn whoever_waits_for_his_turn_has_his_own_time_after_that() {
    let (fake, view) = filled(Layout::Atomic, 1, Limits::default()).await;
    let time = Duration::from_secs(2);
    let first_gate = fake.gate("n0");
    let first = tokio::spawn({
        let view = view.clone();
        async move { view.refresh(soon()).await }
    });
    first_gate.asked().await;
    let begun = Instant::now();
    let second = tokio::spawn({
        let view = view.clone();
        async move { view.refresh_in_turn(time).await }
    });
    eventually("most of its time", || begun.elapsed() >= time * 3 / 4).await;
    let second_gate = fake.gate("n0");
    first_gate.open();
    second_gate.asked().await;
    assert!(first.await.unwrap().failures.is_empty());
    eventually("more than that", || begun.elapsed() >= time * 5 / 4).await;
    second_gate.open();
    let done = second.await.unwrap();
    assert_eq!((done.checked, done.failures.len()), (1, 0), "{done:?}");
}

#[tokio::test]
async fn what_is_not_shown_in_time_is_a_failure() {
    let limits = Limits { show_limit: Duration::from_secs(1), ..Limits::default() };
    let (fake, view) = filled(Layout::Atomic, 1, limits).await;
    let mut announcements = view.subscribe();
    fake.set("n0", Answer::Value(2));
    // Of a caller that waits for it, and of one that does not.
    for (version, time) in [(2, Duration::from_secs(20)), (3, Duration::from_millis(500))] {
        fake.set("n0", Answer::Value(version));
        let done = view.refresh(Instant::now() + time).await;
        assert_eq!((done.checked, done.changed), (1, vec![name(0)]));
        assert_eq!(done.failures.len(), 1, "{:?}", done.failures);
        let said = done.failures[0].to_string();
        assert!(said.contains("what was found is not shown yet"), "{said}");
        announcements.recv().await.unwrap();
    }
    let shows = tokio::spawn(async move {
        while let Some(one) = announcements.recv().await {
            let _ = one.shown.send(());
        }
    });
    fake.set("n0", Answer::Value(4));
    let done = view.refresh(soon()).await;
    assert_eq!((done.changed, done.failures.len()), (vec![name(0)], 0));
    shows.abort();
}
