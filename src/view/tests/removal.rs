//! What the vault refuses goes: names, bytes, open files; and comes back when the vault gives it again.

use super::*;

const REFUSALS: [Code; 3] = [Code::NotFound, Code::Forbidden, Code::Disabled];

#[tokio::test]
async fn a_refused_object_goes_with_its_bytes_and_the_others_stay() {
    for (layout, code) in [Layout::Atomic, Layout::Flat]
        .into_iter()
        .flat_map(|layout| REFUSALS.map(|code| (layout, code)))
    {
        let (fake, view) = view(layout);
        for name in ["a", "b", "c"] {
            read(&view, name).await.unwrap();
        }
        let (first, bytes) = slot(&view, "a");
        view.hold(first, &bytes);
        fake.set("a", Answer::Value(2));
        view.refresh(soon()).await;
        let (second, late) = slot(&view, "a");
        let taken = view.shown();
        let mut announcements = view.subscribe();
        fake.set("a", Answer::Fails(code));
        let announced = async {
            let told = announcements.recv().await.unwrap();
            let _ = told.shown.send(());
            (told.names, told.withdrawn)
        };
        let (done, (names, withdrawn)) = tokio::join!(view.refresh(soon()), announced);
        assert_eq!((done.changed, done.failures[0].code()), (vec!["a".to_owned()], code));
        assert!(walk(&view, "a").is_none());
        assert!(names.contains(&(NodeId::ROOT, "a".to_owned())), "{names:?}");
        assert!(withdrawn.contains(&first) && withdrawn.contains(&second), "{withdrawn:?}");
        assert!(view.list(NodeId::ROOT, 0, |_, name, _| name != "a").is_ok());
        for id in [first, second] {
            assert_eq!(view.read(id, |_| ()), Err(NotServed::Refused(code)));
            assert_eq!(view.attr(id).err(), Some(NotServed::Refused(code)));
            assert_eq!(view.slot(id).err(), Some(NotServed::Refused(code)));
        }
        // An open that was about to be answered changes nothing.
        view.hold(second, &late);
        assert_eq!(view.read(second, |_| ()), Err(NotServed::Refused(code)));
        let status = view.status();
        assert_eq!((status.objects[0].withdrawn, status.objects[1].withdrawn), (Some(code), None));
        assert_eq!(status.objects[0].failure.clone().unwrap().error.code(), code);
        assert!(status.objects[0].files.is_empty() && status.objects[0].version.is_none());
        assert_eq!(view.shown().unwrap().len(), 2);
        // Whoever has taken the bytes has them, and they count.
        assert_eq!(status.bytes, 9);
        drop(taken);
        assert_eq!(view.status().bytes, 6, "of b and c");
        // Looked at again every time, and nothing changes meanwhile.
        drop(announcements);
        assert!(view.refresh(soon()).await.changed.is_empty());
        fake.set("a", Answer::Value(2));
        assert_eq!(view.refresh(soon()).await.changed, ["a"]);
        assert_eq!(read(&view, "a").await.unwrap(), "a 2");
        assert_eq!(view.read(first, |_| ()), Err(NotServed::Refused(code)));
        let status = view.status();
        assert!(status.objects[0].withdrawn.is_none() && status.objects[0].failure.is_none());
    }
}

#[tokio::test]
async fn a_refusal_goes_through_while_another_object_cannot_be_told() {
    let (fake, view) = view(Layout::Atomic);
    for name in ["a", "b", "c"] {
        read(&view, name).await.unwrap();
    }
    fake.set("a", Answer::Fails(Code::Forbidden));
    fake.set("b", Answer::Fails(Code::Unavailable));
    fake.set("c", Answer::Value(2));
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    assert!(walk(&view, "a").is_none());
    assert_eq!(read(&view, "c").await.unwrap(), "c 1", "new content is shown together");
    // And so it is when the first one is back and the second is not.
    fake.set("a", Answer::Value(1));
    assert!(view.refresh(soon()).await.changed.is_empty());
    fake.set("b", Answer::Value(1));
    assert_eq!(view.refresh(soon()).await.changed, ["a", "c"]);
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_looks_that_hang() {
    for layout in [Layout::Atomic, Layout::Flat] {
        let limits = Limits { refusal_wait: Duration::from_millis(20), ..Limits::default() };
        let (fake, view) = view_of(layout, ["a", "b", "c", "d"].map(object).to_vec(), limits);
        for name in ["a", "b", "c", "d"] {
            read(&view, name).await.unwrap();
        }
        let (id, open) = slot(&view, "a");
        view.hold(id, &open);
        let mut announcements = view.subscribe();
        let (hangs, later) = (fake.gate("b"), fake.gate("c"));
        for name in ["a", "c"] {
            fake.set(name, Answer::Fails(Code::Forbidden));
        }
        fake.set("d", Answer::Value(2));
        let refreshing = tokio::spawn({
            let view = view.clone();
            async move { view.refresh(soon()).await }
        });
        let first = announcements.recv().await.unwrap();
        assert!(first.withdrawn.contains(&id) && walk(&view, "a").is_none());
        assert_eq!(view.read(id, |_| ()), Err(NotServed::Refused(Code::Forbidden)));
        // Not before the first is shown, and what is new comes with all of it.
        later.open();
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(walk(&view, "c").is_some() && !refreshing.is_finished());
        let _ = first.shown.send(());
        let second = announcements.recv().await.unwrap();
        assert!(walk(&view, "c").is_none() && !refreshing.is_finished());
        assert_eq!(read(&view, "d").await.unwrap(), "d 1");
        let _ = second.shown.send(());
        hangs.open();
        let _ = announcements.recv().await.unwrap().shown.send(());
        let done = refreshing.await.unwrap();
        assert_eq!((done.checked, done.changed), (4, ["a", "c", "d"].map(str::to_owned).to_vec()));
        assert_eq!(read(&view, "d").await.unwrap(), "d 2");
        assert_eq!(done.failures.len(), 2);
    }
}

#[tokio::test]
async fn a_firewall_is_no_refusal_and_nobody_opened_is_nobody_refused() {
    let (fake, view) = view(Layout::Flat);
    read(&view, "a").await.unwrap();
    fake.set("a", Answer::Firewall);
    fake.set("b", Answer::Fails(Code::NotFound));
    assert!(view.refresh(soon()).await.changed.is_empty());
    assert_eq!(read(&view, "a").await.unwrap(), "a 1");
    assert!(view.status().objects[0].stale.is_some());
    assert_eq!(read(&view, "b").await.unwrap_err().code(), Code::NotFound);
    assert!(walk(&view, "b").is_some());
}

/// The first generation's `b`, opened when the second is there; its own `b` is empty.
async fn opened_late(layout: Layout) -> (Arc<Fake>, Arc<View>, NodeId) {
    let (fake, view) = view(layout);
    let (id, old) = slot(&view, "b");
    read(&view, "a").await.unwrap();
    fake.set("a", Answer::Value(2));
    view.refresh(soon()).await;
    view.open(id, &old, soon()).await.unwrap();
    assert_eq!(view.read(id, |bytes| bytes.len()), Ok(3));
    (fake, view, id)
}

#[tokio::test]
async fn what_was_opened_by_an_old_node_is_looked_at_too() {
    let (fake, view, id) = opened_late(Layout::Atomic).await;
    // Whoever opens the name asks by himself.
    let before = view.status().birth;
    fake.set("b", Answer::Value(2));
    assert!(view.refresh(soon()).await.changed.is_empty());
    assert_eq!((view.status().birth, view.status().objects[1].version.clone()), (before, None));
    assert_eq!(view.read(id, |bytes| bytes.len()), Ok(3));
    fake.set("b", Answer::Fails(Code::Forbidden));
    assert_eq!(view.refresh(soon()).await.changed, ["b"]);
    assert_eq!(view.read(id, |_| ()), Err(NotServed::Refused(Code::Forbidden)));
}

#[tokio::test]
async fn nor_does_it_stay_longer_than_it_may() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let (fake, view, id) = opened_late(Layout::Atomic).await;
    fake.set("b", Answer::Fails(Code::Unavailable));
    fake.clock.advance(DAY / 2);
    view.refresh(soon()).await;
    assert_eq!(view.read(id, |bytes| bytes.len()), Ok(3));
    fake.clock.advance(DAY);
    let mut announcements = view.subscribe();
    let announced = async {
        let told = announcements.recv().await.unwrap();
        let _ = told.shown.send(());
        (told.names, told.withdrawn)
    };
    let (done, (names, withdrawn)) = tokio::join!(view.refresh(soon()), announced);
    assert!(done.changed.is_empty() && names.is_empty(), "{names:?}");
    assert_eq!(withdrawn, [id]);
    assert_eq!(view.read(id, |_| ()), Err(NotServed::Refused(Code::Unavailable)));
    // The name leads to what the vault has, and hurries nobody meanwhile.
    assert!(view.status().objects[1].stale.is_none());
    assert!(view.pause(DAY) > DAY / 2);
    fake.requests();
    view.refresh(soon()).await;
    assert_eq!(fake.requests(), ["a"]);
    fake.set("b", Answer::Value(2));
    assert_eq!(read(&view, "b").await.unwrap(), "b 2");
}

#[tokio::test]
async fn an_answer_on_its_way_does_not_bring_back_what_was_refused() {
    let (fake, view) = view(Layout::Atomic);
    // The first generation's slot of b stays empty, since a changes first.
    read(&view, "a").await.unwrap();
    let (_, old) = slot(&view, "b");
    fake.set("a", Answer::Value(2));
    view.refresh(soon()).await;
    read(&view, "b").await.unwrap();
    let gate = fake.gate("b");
    let filling = {
        let (view, old) = (view.clone(), old.clone());
        tokio::spawn(async move { view.fill(&old, soon()).await })
    };
    gate.asked().await;
    fake.set("b", Answer::Fails(Code::Disabled));
    assert_eq!(view.refresh(soon()).await.changed, ["b"]);
    gate.open();
    assert_eq!(filling.await.unwrap().unwrap_err().code(), Code::Disabled);
    assert!(old.content().is_none());
}

#[tokio::test]
async fn files_of_a_certificate_go_together() {
    const OPTIONS: render::Options =
        render::Options { construct_pem_chain: true, separate_files: true };
    let fake = Arc::new(Fake::default());
    let nested = ObjectSpec { path: FilePath::parse("n/tls").unwrap(), ..object("tls") };
    let plan = Plan::rendered(vec![nested, object("a")], Layout::Atomic, OPTIONS).unwrap();
    let view = View::new(plan, fake.clone(), OPTIONS, Limits::default());
    fake.set("tls", Answer::Certificate { version: 1, key: true });
    view.resolve(soon()).await.unwrap();
    fake.set("tls", Answer::Fails(Code::NotFound));
    assert_eq!(view.refresh(soon()).await.changed, ["n/tls", "n/tls.crt", "n/tls.key"]);
    assert!(["n/tls", "n/tls.crt", "n/tls.key"].iter().all(|path| walk(&view, path).is_none()));
    assert!(walk(&view, "n").is_some(), "folders stay");
    fake.set("tls", Answer::Certificate { version: 2, key: false });
    assert_eq!(view.refresh(soon()).await.changed, ["n/tls", "n/tls.crt"]);
}
