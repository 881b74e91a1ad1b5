//! Version histories in a tree: the vault's list decides which files there are.

use super::*;

/// `v1` is the oldest.
fn list(fake: &Fake, ids: &[u32]) {
    let listed = |id: &u32| ListedVersion {
        id: format!("v{id}"),
        enabled: true,
        created: Some(i64::from(*id)),
    };
    *fake.versions.lock().unwrap() = Ok(ids.iter().map(listed).collect());
}

async fn resolved(ids: &[u32]) -> (Arc<Fake>, Arc<View>) {
    let history = ObjectSpec { history: 3, ..object("h") };
    let (fake, view) = view_of(Layout::Atomic, vec![object("a"), history], Limits::default());
    list(&fake, ids);
    view.resolve(soon()).await.unwrap();
    assert_eq!(fake.requests(), ["h/versions"]);
    (fake, view)
}

/// Names of the folder, and the file below each that is filled.
fn files(view: &View) -> Vec<(String, Option<String>)> {
    let mut names = Vec::new();
    view.list(walk(view, "h").unwrap(), 0, |_, name, attr| {
        let text = view.read(attr.id, |bytes| bytes.expose_str().unwrap().to_owned()).ok();
        names.push((name.to_owned(), text));
        true
    })
    .unwrap();
    names
}

fn shown(expected: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    let file = |(name, text): &(&str, Option<&str>)| (name.to_string(), text.map(str::to_owned));
    expected.iter().map(file).collect()
}

#[tokio::test]
async fn as_many_files_as_the_vault_has_versions_and_each_is_fetched_by_id() {
    let (fake, view) = resolved(&[1, 2]).await;
    assert_eq!(files(&view), shown(&[("0", None), ("1", None)]));
    assert_eq!(view.status().objects.len(), 3);
    assert_eq!(view.lookup(walk(&view, "h").unwrap(), "2").unwrap().map(|attr| attr.id), None);
    assert_eq!(read(&view, "h/1").await.unwrap(), "h 1");
    assert_eq!(fake.requests(), ["h"]);
    let (_, many) = resolved(&[1, 2, 3, 4, 5]).await;
    assert_eq!(files(&many), shown(&[("0", None), ("1", None), ("2", None)]));
}

#[tokio::test]
async fn a_new_version_moves_the_others_on_and_only_it_is_fetched() {
    let (fake, view) = resolved(&[1, 2]).await;
    for name in ["h/0", "h/1"] {
        read(&view, name).await.unwrap();
    }
    let old = walk(&view, "h/0").unwrap();
    list(&fake, &[1, 2, 3]);
    fake.requests();
    let done = view.refresh(soon()).await;
    assert_eq!((done.checked, done.changed), (1, vec!["h/0".into(), "h/1".into(), "h/2".into()]));
    assert_eq!(fake.requests(), ["h/versions", "h"]);
    let expected = [("0", Some("h 3")), ("1", Some("h 2")), ("2", Some("h 1"))];
    assert_eq!(files(&view), shown(&expected));
    // The one who still walks in the old generation finds what was there.
    assert_eq!(view.read(old, |bytes| bytes.expose().to_vec()).unwrap(), b"h 2");
    assert!(view.refresh(soon()).await.changed.is_empty());
}

#[tokio::test]
async fn files_nobody_opened_move_on_too_and_those_of_disabled_versions_go() {
    let (fake, view) = resolved(&[1, 2, 3]).await;
    list(&fake, &[1, 2, 3, 4]);
    assert_eq!(view.refresh(soon()).await.changed.len(), 3);
    assert_eq!(fake.requests(), ["h/versions"], "nothing was opened, so nothing is fetched");
    assert_eq!(read(&view, "h/0").await.unwrap(), "h 4");
    list(&fake, &[1, 4]);
    assert_eq!(view.refresh(soon()).await.changed, ["h/1", "h/2"]);
    assert_eq!(files(&view), shown(&[("0", Some("h 4")), ("1", None)]));
    assert_eq!(read(&view, "h/1").await.unwrap(), "h 1");
}

#[tokio::test]
async fn a_history_that_cannot_be_told_keeps_what_it_shows() {
    let (fake, view) = resolved(&[1, 2]).await;
    for name in ["a", "h/0"] {
        read(&view, name).await.unwrap();
    }
    fake.set("a", Answer::Value(2));
    let before = files(&view);
    for code in [Code::Unavailable, Code::Throttled, Code::Unauthenticated] {
        *fake.versions.lock().unwrap() = Err(Error::new(code, "as the test says"));
        let done = view.refresh(soon()).await;
        assert_eq!((done.failures[0].code(), done.changed.len()), (code, 0));
        assert_eq!(files(&view), before);
        let status = view.status();
        assert_eq!(status.objects[1].failure.clone().unwrap().error.code(), code);
        assert!(status.objects[1].stale.is_some() && status.objects[2].stale.is_some());
    }
    // The list names a version that then cannot be fetched: no half of a history, and nobody waits.
    list(&fake, &[1, 2, 3]);
    fake.missing("v3");
    let done = view.refresh(soon()).await;
    assert_eq!((done.failures[0].code(), done.changed), (Code::NotFound, vec!["a".to_owned()]));
    assert_eq!(files(&view), before);
    assert!(view.status().objects[1].stale.is_none());
}

#[tokio::test]
async fn a_tree_whose_history_cannot_be_listed_is_not_shown() {
    let history = ObjectSpec { history: 3, ..object("h") };
    let (fake, view) = view_of(Layout::Atomic, vec![history], Limits::default());
    let error = view.resolve(soon()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(
        error.message().starts_with("failed to get objectType:secret, objectName:h"),
        "{error}"
    );
    *fake.versions.lock().unwrap() = Err(Error::new(Code::Forbidden, "as the test says"));
    assert_eq!(view.resolve(soon()).await.unwrap_err().code(), Code::Forbidden);
}

fn names(view: &View) -> Vec<String> {
    files(view).into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_history_that_the_vault_refuses_goes_and_comes_back_as_it_was() {
    for gone in [
        Ok(Vec::new()),
        Ok(vec![ListedVersion { id: "v2".to_owned(), enabled: false, created: None }]),
        Err(Error::new(Code::Forbidden, "as the test says")),
        Err(Error::new(Code::NotFound, "as the test says")),
    ] {
        let (fake, view) = resolved(&[1, 2]).await;
        read(&view, "h/0").await.unwrap();
        let held = slot(&view, "h/0");
        view.hold(held.0, &held.1);
        *fake.versions.lock().unwrap() = gone.clone();
        let done = view.refresh(soon()).await;
        assert_eq!(done.changed, ["h/0", "h/1"]);
        assert!(names(&view).is_empty());
        let refused = view.read(held.0, |_| ()).unwrap_err();
        assert!(matches!(refused, NotServed::Refused(_)), "{refused:?}");
        assert_eq!(view.status().bytes, 0);
        let withdrawn: Vec<_> = view.status().objects.iter().map(|one| one.withdrawn).collect();
        assert_eq!(withdrawn, [None, Some(done.failures[0].code()), Some(done.failures[0].code())]);
        // Once more, and nothing changes.
        assert!(view.refresh(soon()).await.changed.is_empty());
        list(&fake, &[1, 2, 3]);
        fake.requests();
        assert_eq!(view.refresh(soon()).await.changed, ["h/0", "h/1", "h/2"]);
        assert_eq!(fake.requests(), ["h/versions", "h"]);
        assert_eq!(files(&view), shown(&[("0", Some("h 3")), ("1", None), ("2", None)]));
        assert_eq!(read(&view, "h/1").await.unwrap(), "h 2");
        view.release(held.0);
    }
}

#[tokio::test]
async fn versions_that_may_be_listed_and_not_read_go() {
    let (fake, view) = resolved(&[1, 2]).await;
    read(&view, "h/1").await.unwrap();
    for ids in [&[1, 2][..], &[1, 2, 3]] {
        list(&fake, ids);
        assert_eq!(view.refresh(soon()).await.failures.len(), 0);
        read(&view, "h/1").await.unwrap();
        fake.set("h", Answer::Fails(Code::Forbidden));
        let done = view.refresh(soon()).await;
        assert_eq!(done.failures[0].code(), Code::Forbidden);
        assert!(names(&view).is_empty() && view.status().bytes == 0, "{done:?}");
        fake.set("h", Answer::Value(1));
        assert_eq!(view.refresh(soon()).await.failures.len(), 0);
        assert_eq!(names(&view).len(), ids.len());
    }
}

#[tokio::test]
async fn a_version_that_is_disabled_is_no_more_readable_in_old_generations() {
    let (fake, view) = resolved(&[1, 2, 3]).await;
    for name in ["a", "h/0", "h/1"] {
        read(&view, name).await.unwrap();
    }
    let (old, older) = (walk(&view, "h/0").unwrap(), walk(&view, "h/1").unwrap());
    list(&fake, &[1, 2, 3, 4]);
    view.refresh(soon()).await;
    assert_eq!(files(&view)[1].1.as_deref(), Some("h 3"));
    // While something else cannot be told, the rest of the history waits, and the version does not.
    list(&fake, &[1, 2, 4]);
    fake.set("a", Answer::Fails(Code::Unavailable));
    assert_eq!(view.refresh(soon()).await.changed, ["h/1"]);
    let expected = [("0", Some("h 4")), ("2", Some("h 2"))];
    assert_eq!(files(&view), shown(&expected));
    assert_eq!(view.read(old, |_| ()), Err(NotServed::Refused(Code::Disabled)));
    assert_eq!(view.read(older, |bytes| bytes.len()), Ok(3));
    fake.set("a", Answer::Value(1));
    view.refresh(soon()).await;
    let expected = [("0", Some("h 4")), ("1", Some("h 2")), ("2", Some("h 1"))];
    assert_eq!(files(&view), shown(&expected));
}
