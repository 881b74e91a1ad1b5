//! A tree that is full: what is let go of, and that nobody ever gets another version.

use std::panic::AssertUnwindSafe;

use super::*;

/// Each value has three bytes; the tree has room for two.
fn full(layout: Layout) -> (Arc<Fake>, Arc<View>) {
    let limits = Limits { max_bytes: 7, ..Limits::default() };
    view_of(layout, vec![object("a"), object("b"), object("c")], limits)
}

async fn open(view: &Arc<View>, path: &str) -> Result<NodeId> {
    let (id, slot) = slot(view, path);
    view.open(id, &slot, soon()).await?;
    Ok(id)
}

fn text(view: &View, id: NodeId) -> Result<String, NotServed> {
    view.read(id, |bytes| bytes.expose_str().unwrap().to_owned())
}

/// Whose bytes are not held.
fn let_go(view: &View) -> Vec<String> {
    let objects = view.status().objects.into_iter().filter(|object| object.let_go);
    objects.map(|object| object.name).collect()
}

#[tokio::test]
async fn what_was_opened_longest_ago_goes_first_and_comes_back_as_it_was() {
    for layout in [Layout::Atomic, Layout::Flat] {
        let (fake, view) = full(layout);
        for name in ["a", "b", "a"] {
            let id = open(&view, name).await.unwrap();
            view.slot(id).unwrap().settle();
            view.release(id);
        }
        let b = walk(&view, "b").unwrap();
        let before = view.attr(b).unwrap();
        let c = open(&view, "c").await.unwrap();
        assert_eq!(let_go(&view), ["b"]);
        assert_eq!(view.status().bytes, 6);
        let after = view.attr(walk(&view, "b").unwrap()).unwrap();
        assert_eq!((after.id, after.size, after.modified), (b, 3, before.modified));
        assert!(view.slot(b).unwrap().settled(), "nobody sees the placeholder again");
        assert_eq!(fake.requests(), ["a", "b", "c"]);
        // The vault has a newer one: this node is of the old one.
        fake.set("b", Answer::Value(2));
        open(&view, "b").await.unwrap();
        assert_eq!((text(&view, b).unwrap(), let_go(&view)), ("b 1".into(), vec!["a".into()]));
        assert_eq!(view.status().objects[1].version.as_deref(), Some("v1"));
        assert_eq!(fake.requests(), ["b"]);
        assert_eq!(text(&view, c).unwrap(), "c 1");
    }
}

#[tokio::test]
async fn what_is_open_stays_and_when_all_is_there_is_no_room_for_more() {
    let (fake, view) = full(Layout::Atomic);
    let (a, b) = (open(&view, "a").await.unwrap(), open(&view, "b").await.unwrap());
    let error = open(&view, "c").await.unwrap_err();
    assert_eq!((error.code(), error.code().errno()), (Code::TooLarge, 23));
    assert!(error.message().contains("6 of at most 7 bytes are held, and all of them are open"));
    let failure = view.status().objects[2].failure.clone().unwrap();
    assert_eq!(failure.error.message(), error.message());
    assert_eq!((text(&view, a).unwrap(), text(&view, b).unwrap()), ("a 1".into(), "b 1".into()));
    assert_eq!(view.open_files().len(), 2, "who has failed holds nothing");
    view.release(b);
    open(&view, "c").await.unwrap();
    assert_eq!(let_go(&view), ["b"]);
    assert!(view.status().objects[2].failure.is_none());
    // One that can never fit costs nobody anything.
    let (_, small) = view_of(
        Layout::Flat,
        vec![object("a"), object("long")],
        Limits { max_bytes: 5, ..Limits::default() },
    );
    view.release(open(&small, "a").await.unwrap());
    let error = open(&small, "long").await.unwrap_err();
    assert_eq!(error.code(), Code::TooLarge);
    assert!(let_go(&small).is_empty() && fake.requests().len() == 4, "{error}");
}

#[tokio::test]
async fn all_of_a_full_tree_can_rotate_at_once() {
    let limits = Limits { max_bytes: 7, ..Limits::default() };
    let (fake, view) = view_of(Layout::Atomic, vec![object("a"), object("b")], limits);
    for name in ["a", "b"] {
        open(&view, name).await.unwrap();
        fake.set(name, Answer::Value(2));
    }
    let old = ["a", "b"].map(|name| walk(&view, name).unwrap());
    let done = view.refresh(soon()).await;
    assert_eq!((done.changed, done.failures.len()), (vec!["a".into(), "b".into()], 0));
    assert_eq!(let_go(&view), ["a", "b"], "who has an old one open keeps it");
    let new = walk(&view, "a").unwrap();
    assert_eq!((view.attr(new).unwrap().size, text(&view, old[0]).unwrap()), (3, "a 1".into()));
    assert_eq!(open(&view, "a").await.unwrap_err().code(), Code::TooLarge);
    old.iter().for_each(|id| view.release(*id));
    fake.requests();
    for name in ["a", "b"] {
        let id = open(&view, name).await.unwrap();
        assert_eq!(text(&view, id).unwrap(), format!("{name} 2"));
        view.release(id);
    }
    assert_eq!(fake.requests(), ["a", "b"]);
    // The old generation is there, and is fetched as what it was.
    let (id, slot) = (old[0], view.slot(old[0]).unwrap());
    view.open(id, &slot, soon()).await.unwrap();
    assert_eq!(text(&view, id).unwrap(), "a 1");
    // What is let go of is still looked at.
    assert_eq!(let_go(&view), ["a"]);
    fake.set("a", Answer::Value(3));
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    assert!(view.refresh(soon()).await.changed.is_empty());
    assert_eq!(view.status().objects[0].version.as_deref(), Some("v3"));
}

#[tokio::test]
async fn a_version_that_is_not_there_any_more_fails_the_open_and_the_refresh_tells() {
    let (fake, view) = full(Layout::Flat);
    for name in ["a", "b", "c"] {
        view.release(open(&view, name).await.unwrap());
    }
    assert_eq!(let_go(&view), ["a"]);
    let a = walk(&view, "a").unwrap();
    for code in [Code::NotFound, Code::Disabled, Code::Unavailable] {
        fake.set("a", Answer::Fails(code));
        assert_eq!(open(&view, "a").await.unwrap_err().code(), code);
        assert_eq!(walk(&view, "a"), Some(a));
    }
    fake.set("a", Answer::Fails(Code::Disabled));
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    assert_eq!(view.slot(a).err(), Some(NotServed::Refused(Code::Disabled)));
    fake.set("a", Answer::Value(1));
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    let again = open(&view, "a").await.unwrap();
    assert_ne!(again, a);
    assert_eq!(text(&view, again).unwrap(), "a 1");
}

#[tokio::test]
async fn bytes_that_come_when_the_vault_has_taken_them_back_are_not_shown() {
    let (fake, view) = full(Layout::Atomic);
    for name in ["a", "b", "c"] {
        view.release(open(&view, name).await.unwrap());
    }
    let (a, bytes) = slot(&view, "a");
    let gate = fake.gate("a");
    let opening = tokio::spawn({
        let view = view.clone();
        async move { view.open(a, &bytes, soon()).await }
    });
    gate.asked().await;
    fake.set("a", Answer::Fails(Code::Forbidden));
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    fake.set("a", Answer::Value(1));
    gate.open();
    let _ = opening.await.unwrap();
    assert_eq!(text(&view, a), Err(NotServed::Refused(Code::Forbidden)));
}

#[tokio::test]
async fn the_same_version_with_another_content_is_another_node() {
    let limits = Limits { max_bytes: 120, ..Limits::default() };
    let (fake, view) = view_of(Layout::Flat, vec![object("a"), object("b")], limits);
    let long = |key| Answer::Certificate { version: 1, key };
    fake.set("a", long(true));
    fake.set("b", long(true));
    for name in ["a", "b"] {
        view.release(open(&view, name).await.unwrap());
    }
    let before = walk(&view, "a").unwrap();
    let size = view.attr(before).unwrap().size;
    assert_eq!(let_go(&view), ["a"]);
    fake.set("a", long(false));
    assert_eq!(open(&view, "a").await.unwrap_err().code(), Code::BadContent);
    assert_eq!((walk(&view, "a"), view.attr(before).unwrap().size), (Some(before), size));
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    let after = open(&view, "a").await.unwrap();
    assert!(after != before && !text(&view, after).unwrap().contains("KEY"));
}

#[tokio::test]
async fn who_wants_all_at_once_is_told_when_it_does_not_fit() {
    for layout in [Layout::Atomic, Layout::Flat] {
        let (fake, view) = full(layout);
        let error = view.fill_all(soon()).await.unwrap_err();
        assert_eq!(error.code(), Code::TooLarge);
        assert!(error.message().contains("objectName:c"), "{error}");
        assert_eq!(fake.requests().len(), 3);
        assert!(let_go(&view).is_empty());
        let limits = Limits { max_bytes: 7, ..Limits::default() };
        let (fake, view) = view_of(layout, vec![object("a"), object("b")], limits);
        view.fill_all(soon()).await.unwrap();
        fake.set("a", Answer::Value(2));
        assert_eq!(view.refresh(soon()).await.changed, ["a"]);
        let said = view.shown().err().unwrap();
        assert!(said.message().contains("not all values of this mount fit in 7 bytes"), "{said}");
        view.fill_all(soon()).await.unwrap();
        let shown = view.shown().unwrap();
        assert_eq!(shown[0].contents().expose(), b"a 2");
        assert_eq!(shown[1].contents().expose(), b"b 1");
    }
}

#[tokio::test]
async fn bytes_that_a_reader_holds_a_moment_after_its_close_are_waited_for() {
    let (_fake, view) = full(Layout::Atomic);
    for name in ["a", "b"] {
        let id = open(&view, name).await.unwrap();
        view.release(id);
    }
    // Nobody says when these are let go of.
    let held: Vec<_> = [0, 1]
        .map(|at| view.generations().current.slots[at].content().unwrap().files().ok().unwrap())
        .into();
    let opener = tokio::spawn({
        let view = view.clone();
        async move { open(&view, "c").await.map(|id| text(&view, id).unwrap()) }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!opener.is_finished());
    drop(held);
    assert_eq!(opener.await.unwrap().unwrap(), "c 1");
}

#[tokio::test]
async fn an_open_makes_room_while_others_open() {
    const OBJECTS: usize = 1_000;
    let objects = (0..OBJECTS).map(|n| object(&format!("n{n}"))).collect();
    let (_, view) = view_of(Layout::Flat, objects, Limits::default());
    view.fill_all(soon()).await.unwrap();
    let all = view.budget.limit();
    let slots = view.generations().current.slots.clone();
    let makes = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let others = std::thread::spawn({
        let (makes, slots) = (makes.clone(), slots.clone());
        move || {
            let mut tick = 1_u64;
            while makes.load(std::sync::atomic::Ordering::Relaxed) {
                // In another order each time.
                tick = tick.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let slot = &slots[(tick >> 33) as usize % OBJECTS];
                slot.content().unwrap().opened_at(tick >> 1);
            }
        }
    });
    // More than there is, so that nothing goes.
    let panicked = (0..500).any(|_| {
        let asks = || view.make_room(all + 1, super::super::room::Room::Open).is_some();
        std::panic::catch_unwind(AssertUnwindSafe(asks)).is_err()
    });
    makes.store(false, std::sync::atomic::Ordering::Relaxed);
    others.join().unwrap();
    assert!(!panicked);
}
