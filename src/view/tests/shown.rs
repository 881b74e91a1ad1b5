//! A view that is filled at once and taken as a whole.

use super::*;

fn shown(view: &View) -> Vec<(String, String)> {
    let text = |file: &super::super::ShownFile| {
        (file.path().to_owned(), file.contents().expose_str().unwrap().to_owned())
    };
    view.shown().unwrap().iter().map(text).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

#[tokio::test]
async fn everything_is_fetched_once_and_shown_in_the_plans_order() {
    // More objects than may wait for a fetch as opens.
    let limits = Limits { fetches: 2, queue: 1, ..Limits::default() };
    for layout in [Layout::Atomic, Layout::Flat] {
        let nested =
            ObjectSpec { path: FilePath::parse("a/b").unwrap(), mode: 0o440, ..object("nested") };
        let mut objects = vec![object("z"), nested];
        objects.extend((0..10).map(|n| object(&format!("n{n}"))));
        let (fake, view) = view_of(layout, objects, limits);
        assert!(view.shown().unwrap().is_empty());
        view.fill_all(soon()).await.unwrap();
        assert_eq!(fake.requests().len(), 12);
        let files = view.shown().unwrap();
        assert_eq!((files[0].path(), files[0].mode()), ("z", 0o444));
        assert_eq!((files[1].path(), files[1].mode()), ("a/b", 0o440));
        assert_eq!(files[1].contents().expose(), b"nested 1");
        assert_eq!(files.len(), 12);
        view.fill_all(soon()).await.unwrap();
        assert!(fake.requests().is_empty());
        // Whoever has a file has its bytes, and they count.
        fake.set("z", Answer::Value(2));
        assert_eq!(view.refresh(soon()).await.changed, ["z"]);
        assert_eq!(shown(&view)[0], ("z".to_owned(), "z 2".to_owned()));
        assert_eq!(files[0].contents().expose(), b"z 1");
        let budget = view.budget.clone();
        drop(view);
        assert!(budget.used() > 0);
        drop(files);
        assert_eq!(budget.used(), 0);
    }
}

#[tokio::test]
async fn what_cannot_be_filled_is_named_and_the_others_are_there() {
    let (fake, view) = view(Layout::Atomic);
    fake.set("b", Answer::Fails(Code::NotFound));
    let error = view.fill_all(soon()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("objectName:b") && !error.message().contains("more"));
    assert_eq!(shown(&view), pairs(&[("a", "a 1"), ("c", "c 1")]));
    assert_eq!(fake.requests().len(), 3);
    fake.set("b", Answer::Hangs);
    let error = view.fill_all(Instant::now() + Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.code(), Code::TimedOut);
    assert!(error.message().contains("objectName:b"), "{error}");
    assert_eq!(fake.requests(), ["b"]);

    let (fake, view) = self::view(Layout::Flat);
    for name in ["a", "c"] {
        fake.set(name, Answer::Fails(Code::Forbidden));
    }
    let error = view.fill_all(soon()).await.unwrap_err();
    assert!(error.message().contains("objectName:a"), "{error}");
    assert!(error.message().ends_with("(and 1 more objects failed)"), "{error}");
    let status = view.status();
    let failed = status.objects.iter().map(|object| object.failure.is_some());
    assert_eq!(failed.collect::<Vec<_>>(), [true, false, true]);
}

#[tokio::test]
async fn a_history_that_is_shorter_than_wanted_is_filled_all_the_same() {
    let history = ObjectSpec { history: 3, ..object("h") };
    let (fake, view) = view_of(Layout::Flat, vec![history], Limits::default());
    let listed = ListedVersion { id: "v7".to_owned(), enabled: true, created: None };
    *fake.versions.lock().unwrap() = Ok(vec![listed]);
    view.resolve(soon()).await.unwrap();
    view.fill_all(soon()).await.unwrap();
    assert_eq!(shown(&view), pairs(&[("h/0", "h 7")]));
}

#[tokio::test]
async fn a_refresh_in_between_leaves_nothing_unfilled() {
    let (fake, view) = view(Layout::Atomic);
    read(&view, "a").await.unwrap();
    fake.set("a", Answer::Value(2));
    let gate = fake.gate("b");
    let filling = tokio::spawn({
        let view = view.clone();
        async move { view.fill_all(soon()).await }
    });
    gate.asked().await;
    // The generation that the fill began with is not the current one any more.
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    gate.open();
    filling.await.unwrap().unwrap();
    assert_eq!(shown(&view), pairs(&[("a", "a 2"), ("b", "b 1"), ("c", "c 1")]));
}
