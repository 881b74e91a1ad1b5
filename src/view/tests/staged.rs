//! A delivery that moves the names itself: they lead where they did until it has.

use super::*;
use crate::view::Move;

#[tokio::test]
async fn names_lead_where_they_did_until_the_delivery_has_moved_them() {
    for layout in [Layout::Atomic, Layout::Flat] {
        let (fake, view) = view(layout);
        for name in ["a", "b"] {
            read(&view, name).await.unwrap();
        }
        let mut announcements = view.subscribe_staged();
        let before = walk(&view, "a").unwrap();
        let mut listed = Vec::new();
        let all = |_, name: &str, _| {
            listed.push(name.to_owned());
            true
        };
        view.list(NodeId::ROOT, 0, all).unwrap();
        fake.set("a", Answer::Value(2));
        fake.set("b", Answer::Fails(Code::NotFound));
        let delivery = async {
            let told = announcements.recv().await.unwrap();
            assert_eq!(walk(&view, "a").unwrap(), before, "not moved yet");
            assert!(walk(&view, "b").is_none(), "its bytes are gone");
            assert_eq!(view.read(before, |bytes| bytes.len()), Ok(3), "of the old version");
            assert!(!view.is_replaced(before), "it is what everybody finds");
            view.move_names(told.birth);
            assert!(view.is_replaced(before) && !view.is_replaced(NodeId::ROOT));
            let now = walk(&view, "a").unwrap();
            assert!(now != before && !view.is_replaced(now));
            // Late, or again: nothing goes back.
            view.move_names(told.birth - 1);
            assert_eq!(walk(&view, "a").unwrap(), now);
            let _ = told.shown.send(());
            (told.moves, told.leavings, now)
        };
        let (_, (moves, leavings, now)) = tokio::join!(view.refresh(soon()), delivery);
        let leads = |one: &Move| (one.name.clone(), one.before.is_some(), one.now.is_some());
        let moved: Vec<_> = moves.iter().map(leads).collect();
        let entry = |name: &str, before, now| (name.to_owned(), before, now);
        match layout {
            Layout::Atomic => {
                assert_eq!(moved, [entry("..data", true, true), entry("b", true, false)]);
                let left: Vec<_> = leavings.iter().map(|one| one.name.as_str()).collect();
                assert_eq!(left, ["a", "b", "c"]);
                assert_eq!(leavings[0].before, Some(before));
                assert!(listed.contains(&leavings[0].folder), "{listed:?}");
            }
            Layout::Flat => {
                assert_eq!(moved, [entry("a", true, true), entry("b", true, false)]);
                assert_eq!((moves[0].before, moves[0].now), (Some(before), Some(now)));
                assert_eq!(leavings, []);
            }
        }
        // A name that goes can still be told of.
        let gone = moves[1].before.unwrap();
        assert!(view.outline(gone).is_some_and(|outline| outline.id == gone));
    }
}

#[tokio::test]
async fn a_delivery_that_is_gone_holds_no_name() {
    for layout in [Layout::Atomic, Layout::Flat] {
        let (fake, view) = view(layout);
        assert_eq!(read(&view, "a").await.unwrap(), "a 1");
        let mut announcements = view.subscribe_staged();
        fake.set("a", Answer::Value(2));
        let delivery = async { drop(announcements.recv().await.unwrap()) };
        tokio::join!(view.refresh(soon()), delivery);
        assert_eq!(read(&view, "a").await.unwrap(), "a 2", "not told");
        drop(announcements);
        fake.set("a", Answer::Value(3));
        view.refresh(soon()).await;
        assert_eq!(read(&view, "a").await.unwrap(), "a 3", "nobody to be told");
    }
}
