//! Separate certificate and key files in a tree: the content decides which files there are.

use super::*;

const OPTIONS: render::Options =
    render::Options { construct_pem_chain: true, separate_files: true };

fn separate(objects: Vec<ObjectSpec>) -> (Arc<Fake>, Arc<View>) {
    let fake = Arc::new(Fake::default());
    let plan = Plan::rendered(objects, Layout::Atomic, OPTIONS).unwrap();
    (fake.clone(), View::new(plan, fake, OPTIONS, Limits::default()))
}

fn names(view: &View, directory: NodeId) -> Vec<String> {
    let mut names = Vec::new();
    view.list(directory, 0, |_, name, _| {
        names.extend((!name.starts_with("..")).then(|| name.to_owned()));
        true
    })
    .unwrap();
    names
}

fn generation(view: &View) -> NodeId {
    let data = walk(view, "..data").unwrap();
    assert_eq!(names(view, data), names(view, NodeId::ROOT), "links and files");
    data
}

#[tokio::test]
async fn names_are_those_that_the_content_has_and_nothing_is_fetched_again() {
    let nested = ObjectSpec { path: FilePath::parse("n/tls").unwrap(), ..object("nested") };
    let key = ObjectSpec { kind: ObjectKind::Key, ..object("key") };
    let (fake, view) = separate(vec![object("tls"), object("plain"), nested]);
    fake.set("tls", Answer::Certificate { version: 1, key: true });
    fake.set("nested", Answer::Certificate { version: 1, key: false });
    view.resolve(soon()).await.unwrap();
    assert_eq!(fake.requests().len(), 3);
    assert_eq!(names(&view, NodeId::ROOT), ["n", "plain", "tls", "tls.crt", "tls.key"]);
    assert_eq!(names(&view, walk(&view, "n").unwrap()), ["tls", "tls.crt"]);
    assert!(walk(&view, "plain.crt").is_none() && walk(&view, "n/tls.key").is_none());
    generation(&view);
    let (certificate, key_file, whole) = (
        read(&view, "tls.crt").await.unwrap(),
        read(&view, "tls.key").await.unwrap(),
        read(&view, "tls").await.unwrap(),
    );
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----\n0001\n"));
    assert_eq!(key_file + &certificate, whole);
    let status = view.status();
    assert_eq!(status.objects[0].files, ["tls", "tls.crt", "tls.key"]);
    assert_eq!(status.objects[1].files, ["plain"]);
    assert!(fake.requests().is_empty());
    assert!(slot(&view, "tls.key").1.settled(), "nobody was shown a placeholder");

    let (fake, view) = separate(vec![key]);
    view.resolve(soon()).await.unwrap();
    assert!(fake.requests().is_empty(), "a key is one file, whatever it holds");
}

#[tokio::test]
async fn a_file_comes_and_goes_with_its_content_and_its_name_is_announced() {
    let (fake, view) = separate(vec![object("tls"), object("plain")]);
    fake.set("tls", Answer::Certificate { version: 1, key: false });
    view.resolve(soon()).await.unwrap();
    let mut announcements = view.subscribe();
    for (version, key) in [(2, true), (3, true), (4, false)] {
        fake.set("tls", Answer::Certificate { version, key });
        let changed = view.refresh(soon());
        let told = async {
            let told = announcements.recv().await.unwrap();
            let _ = told.shown.send(());
            told.names
        };
        let (done, told) = tokio::join!(changed, told);
        assert_eq!(done.changed, ["tls", "tls.crt", "tls.key"]);
        let moved = told.iter().any(|(parent, name)| *parent == NodeId::ROOT && name == "tls.key");
        assert_eq!(moved, version != 3, "{told:?}");
        assert_eq!(walk(&view, "tls.key").is_some(), key);
        generation(&view);
    }
    drop(announcements);
    // A certificate that becomes a plain secret is one file.
    fake.set("tls", Answer::Value(5));
    assert_eq!(view.refresh(soon()).await.changed, ["tls", "tls.crt"]);
    assert_eq!(names(&view, NodeId::ROOT), ["plain", "tls"]);
    // And nothing changes where nothing changed.
    assert!(view.refresh(soon()).await.changed.is_empty());
}

#[tokio::test]
async fn a_file_of_another_object_is_in_the_way_only_if_it_is_needed() {
    for path in ["tls.key", "tls.key/x"] {
        let other = ObjectSpec { path: FilePath::parse(path).unwrap(), ..object("other") };
        let (fake, view) = separate(vec![object("tls"), other.clone()]);
        view.resolve(soon()).await.unwrap();
        assert!(walk(&view, path).is_some());
        fake.set("tls", Answer::Certificate { version: 2, key: false });
        assert_eq!(view.refresh(soon()).await.changed, ["tls", "tls.crt"]);
        fake.set("tls", Answer::Certificate { version: 3, key: true });
        let done = view.refresh(soon()).await;
        assert!(done.failures[0].message().contains("tls.key stands where"), "{done:?}");
        assert!(done.changed.is_empty());

        let (fake, view) = separate(vec![object("tls"), other]);
        fake.set("tls", Answer::Certificate { version: 1, key: true });
        let error = view.resolve(soon()).await.unwrap_err();
        assert_eq!(error.code(), Code::ClassInvalid);
        assert!(error.to_string().contains("write-cert-and-key-in-separate-files"), "{error}");
    }
}

#[tokio::test]
async fn a_history_of_certificates_has_the_files_of_each() {
    let history = ObjectSpec { history: 3, ..object("h") };
    let (fake, view) = separate(vec![history]);
    let listed = |ids: &[u32]| {
        let version = |id: &u32| ListedVersion {
            id: format!("v{id}"),
            enabled: true,
            created: Some(i64::from(*id)),
        };
        *fake.versions.lock().unwrap() = Ok(ids.iter().map(version).collect());
    };
    listed(&[1]);
    fake.set("h", Answer::Certificate { version: 0, key: true });
    view.resolve(soon()).await.unwrap();
    assert_eq!(fake.requests(), ["h/versions", "h"]);
    let folder = |view: &View| names(view, walk(view, "h").unwrap());
    assert_eq!(folder(&view), ["0", "0.crt", "0.key"]);
    listed(&[1, 2]);
    assert_eq!(view.refresh(soon()).await.changed.len(), 6);
    assert_eq!(fake.requests(), ["h/versions", "h"], "the older one only moved");
    assert_eq!(folder(&view), ["0", "0.crt", "0.key", "1", "1.crt", "1.key"]);
    assert!(read(&view, "h/1.crt").await.unwrap().contains("\n0001\n"));
}

#[tokio::test]
async fn a_secret_that_cannot_be_fetched_is_told_before_the_tree_is_there() {
    let (fake, view) = separate(vec![object("a"), object("b")]);
    fake.set("b", Answer::Fails(Code::Forbidden));
    let error = view.resolve(soon()).await.unwrap_err();
    assert_eq!(error.code(), Code::Forbidden);
    assert!(error.message().contains("objectName:b"), "{error}");
}
