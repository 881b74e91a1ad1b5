//! Names of a whole vault, which follow its lists.

mod model;

use super::*;

use crate::view::listing::CollectionStatus;

const KINDS: [ObjectKind; 2] = [ObjectKind::Secret, ObjectKind::Key];

fn names(names: &[&str]) -> Result<Names> {
    let names = names.iter().map(|name| ObjectName::parse(name).unwrap()).collect();
    Ok(Names { names, more: false })
}

fn fails<T>(code: Code) -> Result<T> {
    Err(Error::new(code, "as the test says"))
}

impl Fake {
    fn lists(&self, listed: Result<Names>) {
        self.lists.lock().unwrap().insert(ObjectKind::Secret, listed);
    }
}

/// A view of a vault with these secrets.
async fn of_vault(layout: Layout, secrets: &[&str]) -> (Arc<Fake>, Arc<View>) {
    let fake = Arc::new(Fake::default());
    fake.lists(names(secrets));
    let plan = Plan::listing(&KINDS, 0o400, layout);
    let view = View::new(plan, fake.clone(), render::Options::default(), Limits::default());
    assert!(view.list_names(soon()).await.is_empty());
    fake.requests();
    (fake, view)
}

/// Time passes, so that a second list comes.
async fn refresh(fake: &Fake, view: &Arc<View>) -> Refreshed {
    fake.clock.advance(Duration::from_secs(60));
    let mut refreshing = std::pin::pin!(view.refresh(soon()));
    loop {
        let others = async {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            done = &mut refreshing => return done,
            () = others => fake.clock.advance(Duration::from_secs(5)),
        }
    }
}

/// Positions and names of the secrets.
fn listed(view: &View) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let each = |at, name: &str, _| {
        found.push((at, name.to_owned()));
        true
    };
    view.list(walk(view, "secrets").unwrap(), 0, each).unwrap();
    found
}

fn at(expected: &[(usize, &str)]) -> Vec<(usize, String)> {
    expected.iter().map(|(at, name)| (*at, (*name).to_owned())).collect()
}

fn secrets(view: &View) -> CollectionStatus {
    view.status().collections[0].clone()
}

#[tokio::test]
async fn new_names_appear_and_those_that_two_lists_lack_go() {
    for layout in [Layout::Flat, Layout::Atomic] {
        let (fake, view) = of_vault(layout, &["b", "a"]).await;
        assert_eq!(listed(&view), at(&[(0, "a"), (1, "b")]));
        assert!(walk(&view, "keys").is_some(), "a folder, although it is empty");
        let first = walk(&view, "secrets/b").unwrap();
        let mut announcements = view.subscribe();
        fake.lists(names(&["a", "b", "0"]));
        let announced = async {
            let told = announcements.recv().await.unwrap();
            let _ = told.shown.send(());
            told.names
        };
        let (done, told) = tokio::join!(view.refresh(soon()), announced);
        assert_eq!(
            (done.changed, fake.requests()),
            (vec!["secrets/0".into()], vec!["secrets".into(), "keys".into()])
        );
        drop(announcements);
        // Positions stay, so that nobody who is listing misses a name or sees it twice.
        assert_eq!(listed(&view), at(&[(0, "a"), (1, "b"), (2, "0")]));
        if layout == Layout::Flat {
            assert_eq!(told, [(walk(&view, "secrets").unwrap(), "0".to_owned())]);
            assert_eq!(walk(&view, "secrets/b"), Some(first));
        }
        assert_eq!(read(&view, "secrets/0").await.unwrap(), "0 1");

        fake.lists(names(&["0", "a"]));
        assert_eq!(refresh(&fake, &view).await.changed, ["secrets/b"]);
        assert!(walk(&view, "secrets/b").is_none());
        assert_eq!(listed(&view), at(&[(0, "a"), (2, "0")]));
        assert_eq!(view.status().objects.len(), 2);
        assert!(view.refresh(soon()).await.changed.is_empty());

        fake.lists(names(&["0", "a", "b"]));
        assert_eq!(view.refresh(soon()).await.changed, ["secrets/b"]);
        let again = walk(&view, "secrets/b").unwrap();
        assert!(again.birth > first.birth && again.index == first.index);
        assert_eq!(read(&view, "secrets/b").await.unwrap(), "b 1");
        assert_eq!(view.plan.len(), 3);
    }
}

#[tokio::test]
async fn a_list_takes_no_value_and_the_vaults_word_about_the_object_does() {
    for layout in [Layout::Flat, Layout::Atomic] {
        let (fake, view) = of_vault(layout, &["a", "b"]).await;
        read(&view, "secrets/a").await.unwrap();
        let (held, bytes) = slot(&view, "secrets/a");
        view.hold(held, &bytes);
        fake.lists(names(&["b"]));
        assert!(refresh(&fake, &view).await.changed.is_empty());
        assert!(refresh(&fake, &view).await.changed.is_empty());
        assert_eq!(read(&view, "secrets/a").await.unwrap(), "a 1");
        fake.set("a", Answer::Value(2));
        assert_eq!(view.refresh(soon()).await.changed, ["secrets/a"], "and it is kept fresh");

        fake.set("a", Answer::Fails(Code::NotFound));
        assert_eq!(refresh(&fake, &view).await.changed, ["secrets/a"]);
        assert_eq!(view.read(held, |_| ()), Err(NotServed::Refused(Code::NotFound)));
        // Status says why it went, until the lists have said it too; nobody asks for it any more.
        assert!(refresh(&fake, &view).await.changed.is_empty());
        assert_eq!(view.status().objects.len(), 1);
        fake.requests();
        assert!(view.refresh(soon()).await.changed.is_empty());
        assert_eq!(fake.requests(), ["secrets", "keys"]);

        fake.set("a", Answer::Value(3));
        fake.lists(names(&["a", "b"]));
        assert_eq!(view.refresh(soon()).await.changed, ["secrets/a"]);
        assert_eq!(read(&view, "secrets/a").await.unwrap(), "a 3");
        assert_eq!(view.read(held, |_| ()), Err(NotServed::Refused(Code::NotFound)));
    }
}

#[tokio::test]
async fn one_short_list_takes_nothing() {
    let (fake, view) = of_vault(Layout::Flat, &["a", "b"]).await;
    for _ in 0..3 {
        fake.lists(names(&["b"]));
        let refreshing = {
            let view = view.clone();
            tokio::spawn(async move { view.refresh(soon()).await })
        };
        while fake.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        // The second list has it.
        fake.lists(names(&["a", "b"]));
        while !refreshing.is_finished() {
            fake.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(refreshing.await.unwrap().changed.is_empty());
        fake.clock.advance(Duration::from_secs(60));
    }
    fake.lists(names(&[]));
    assert_eq!(refresh(&fake, &view).await.changed, ["secrets/a", "secrets/b"]);
    assert!(walk(&view, "secrets").is_some());
}

#[tokio::test]
async fn what_is_opened_while_its_name_goes_is_not_forgotten() {
    let (fake, view) = of_vault(Layout::Flat, &["a", "b"]).await;
    let (id, empty) = slot(&view, "secrets/a");
    // A fetch that runs.
    let gate = fake.gate("a");
    let filling = {
        let (view, empty) = (view.clone(), empty.clone());
        tokio::spawn(async move { view.fill(&empty, soon()).await })
    };
    gate.asked().await;
    fake.lists(names(&["b"]));
    refresh(&fake, &view).await;
    assert_eq!(walk(&view, "secrets/a"), Some(id));
    gate.open();
    filling.await.unwrap().unwrap();
    assert_eq!(read(&view, "secrets/a").await.unwrap(), "a 1");
    // A fetch that begins when it has gone: the vault gives it, so it is there.
    let (id, empty) = slot(&view, "secrets/b");
    fake.lists(names(&["a"]));
    assert_eq!(refresh(&fake, &view).await.changed, ["secrets/b"]);
    view.fill(&empty, soon()).await.unwrap();
    view.hold(id, &empty);
    assert_eq!(refresh(&fake, &view).await.changed, ["secrets/b"]);
    assert_eq!(read(&view, "secrets/b").await.unwrap(), "b 1");
    fake.set("b", Answer::Fails(Code::NotFound));
    assert_eq!(refresh(&fake, &view).await.changed, ["secrets/b"]);
    assert_eq!(view.read(id, |_| ()), Err(NotServed::Refused(Code::NotFound)));
}

#[tokio::test]
async fn without_a_list_the_last_names_stay_and_status_says_why() {
    let (fake, view) = of_vault(Layout::Flat, &["a"]).await;
    assert_eq!((secrets(&view).names, secrets(&view).failure.is_none()), (1, true));
    for code in [Code::Unavailable, Code::Forbidden] {
        fake.lists(fails(code));
        let done = view.refresh(soon()).await;
        assert_eq!((done.failures[0].code(), done.failures.len()), (code, 1));
        assert!(done.failures[0].message().contains("the names of secrets cannot be listed"));
        assert_eq!(listed(&view), at(&[(0, "a")]));
        let status = secrets(&view);
        assert!(status.listed.is_some() && status.stale >= status.listed && status.names == 1);
        assert_eq!(status.failure.unwrap().error.code(), code);
        assert!(view.status().collections[1].failure.is_none());
    }
    fake.lists(names(&["a", "b"]));
    assert_eq!(view.refresh(soon()).await.changed, ["secrets/b"]);
    assert!(secrets(&view).stale.is_none() && secrets(&view).failure.is_none());
}

#[tokio::test]
async fn a_vault_that_told_no_names_at_first_is_asked_again_soon() {
    let fake = Arc::new(Fake::default());
    fake.lists(fails(Code::Unavailable));
    fake.lists.lock().unwrap().insert(ObjectKind::Key, fails(Code::Forbidden));
    let plan = Plan::listing(&KINDS, 0o400, Layout::Flat);
    let view = View::new(plan, fake.clone(), render::Options::default(), Limits::default());
    let failed = view.list_names(soon()).await;
    let codes: Vec<_> = failed.iter().map(|(kind, error)| (*kind, error.code())).collect();
    assert_eq!(
        codes,
        [(ObjectKind::Secret, Code::Unavailable), (ObjectKind::Key, Code::Forbidden)]
    );
    assert!(listed(&view).is_empty() && walk(&view, "keys").is_some());
    assert!(secrets(&view).listed.is_none() && secrets(&view).stale.is_some());
    fake.requests();
    let begun = fake.clock.now();
    let keeper = tokio::spawn(view.clone().keep_fresh(Duration::from_secs(3600)));
    let mut asked = Vec::new();
    let mut tries = async |fake: &Fake, count: usize| {
        while asked.len() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
            fake.clock.advance(Duration::from_secs(1));
            asked.extend(fake.requests());
            assert!(fake.clock.now() < begun + Duration::from_secs(1800), "{asked:?}");
        }
        asked.clone()
    };
    // Whom the vault has answered is not asked again so soon.
    assert_eq!(tries(&fake, 3).await, ["secrets"; 3]);
    fake.lists(names(&["a"]));
    tries(&fake, 4).await;
    while listed(&view).is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(read(&view, "secrets/a").await.unwrap(), "a 1");
    keeper.abort();
    // Told at first, and no failure of each refresh.
    assert!(view.refresh(soon()).await.failures.is_empty());
    assert_eq!(view.status().collections[1].failure.clone().unwrap().error.code(), Code::Forbidden);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_asks_for_names_of_a_view_that_is_closed() {
    let fake = Arc::new(Fake::default());
    fake.lists(fails(Code::Unavailable));
    let plan = Plan::listing(&KINDS, 0o400, Layout::Flat);
    let view = View::new(plan, fake.clone(), render::Options::default(), Limits::default());
    assert_eq!(view.list_names(soon()).await.len(), 1);
    let keeper = tokio::spawn(view.clone().keep_fresh(Duration::from_secs(3600)));
    eventually("a schedule", || view.status().next_look.is_some()).await;
    view.close();
    fake.clock.advance(Duration::from_secs(60));
    eventually("the keeper's end", || keeper.is_finished()).await;
}

#[tokio::test]
async fn an_eager_view_shows_a_new_name_when_it_is_fetched() {
    for layout in [Layout::Flat, Layout::Atomic] {
        let fake = Arc::new(Fake::default());
        fake.lists(names(&["a"]));
        let plan = Plan::listing(&KINDS, 0o400, layout);
        let limits = Limits { eager: true, ..Limits::default() };
        let view = View::new(plan, fake.clone(), render::Options::default(), limits);
        assert!(view.list_names(soon()).await.is_empty());
        view.fill_all(soon()).await.unwrap();
        fake.lists(names(&["a", "b", "c", "d"]));
        fake.set("b", Answer::Fails(Code::Forbidden));
        fake.set("c", Answer::Fails(Code::NotFound));
        let done = refresh(&fake, &view).await;
        assert_eq!((done.changed, done.failures.len()), (vec!["secrets/d".to_owned()], 1));
        assert!(walk(&view, "secrets/b").is_none() && walk(&view, "secrets/c").is_none());
        let said = secrets(&view).failure.unwrap().error.to_string();
        assert!(said.contains("new secrets are not shown before they are fetched"), "{said}");
        assert!(said.contains("objectName:b") && said.contains("1 more"), "{said}");
        for name in ["b", "c"] {
            fake.set(name, Answer::Value(2));
        }
        let mut changed = refresh(&fake, &view).await.changed;
        changed.sort();
        assert_eq!(changed, ["secrets/b", "secrets/c"]);
        assert!(secrets(&view).failure.is_none());
        fake.requests();
        for (name, text) in [("b", "b 2"), ("c", "c 2"), ("d", "d 1")] {
            assert_eq!(read(&view, &format!("secrets/{name}")).await.unwrap(), text);
        }
        assert!(fake.requests().is_empty());
    }
}

#[tokio::test]
async fn a_list_that_is_cut_short_takes_nothing_and_is_told() {
    let (fake, view) = of_vault(Layout::Flat, &["a", "b"]).await;
    fake.lists(names(&["b", "c"]).map(|list| Names { more: true, ..list }));
    for _ in 0..3 {
        let done = refresh(&fake, &view).await;
        assert_eq!(done.failures[0].code(), Code::TooLarge);
    }
    assert_eq!(listed(&view), at(&[(0, "a"), (1, "b"), (2, "c")]));
    let status = secrets(&view);
    assert!(status.stale.is_none());
    let said = status.failure.unwrap().error.to_string();
    assert!(said.contains("more than 10000 secrets"), "{said}");
}

#[tokio::test]
async fn places_are_bounded_and_the_same_names_need_no_more() {
    let (fake, view) = of_vault(Layout::Flat, &[]).await;
    let list = |from: usize, to: usize| {
        let all: Vec<_> = (from..to).map(|n| format!("n{n}")).collect();
        names(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for _ in 0..20 {
        fake.lists(list(0, 10_000));
        view.refresh(soon()).await;
        assert_eq!((view.plan.len(), view.totals().names), (10_000, 10_003));
    }
    // A vault that has ever new names.
    fake.lists(list(0, 100_001));
    let done = view.refresh(soon()).await;
    assert_eq!((done.failures[0].code(), view.plan.len()), (Code::TooLarge, 100_000));
    assert_eq!(secrets(&view).failure.unwrap().error.code(), Code::TooLarge);
    assert_eq!(listed(&view).len(), 100_000);
    assert_eq!(read(&view, "secrets/n99990").await.unwrap(), "n99990 1");
}
