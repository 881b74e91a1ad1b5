//! The view without any delivery: filling, refreshing, forgetting.

mod bounds;
mod history;
mod last_good;
mod listing;
mod locks;
mod model;
mod removal;
mod room;
mod runs;
mod schedule;
mod separate;
mod shown;
mod staged;

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{Kind, Layout, Limits, NodeId, NotServed, Plan, Refreshed, Slot, Status, View};
use crate::class::{FilePath, ObjectKind, ObjectName, ObjectSpec, Version};
use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::fetch::{Demand, ObjectRef, Origin};
use crate::render;
use crate::secret::Secret;
use crate::vault::{Body, ListedVersion, Names, ObjectVersion, Urgency};

#[derive(Clone, Copy)]
enum Answer {
    Value(u32),
    /// A certificate's secret, as PEM; without its key where that may not be exported.
    Certificate {
        version: u32,
        key: bool,
    },
    Fails(Code),
    /// The vault's network rules.
    Firewall,
    Panics,
    Hangs,
}

struct Fake {
    answers: Mutex<HashMap<String, Answer>>,
    requests: Mutex<Vec<String>>,
    /// Of every object that has a history.
    versions: Mutex<Result<Vec<ListedVersion>>>,
    /// Of a whole vault.
    lists: Mutex<HashMap<ObjectKind, Result<Names>>>,
    expires: Mutex<Option<i64>>,
    /// Answers that wait: the next request of each name, once.
    gates: Mutex<HashMap<String, Gate>>,
    /// A version that is listed and not there.
    missing: Mutex<String>,
    /// How long every answer takes.
    takes: Mutex<Duration>,
    /// When nobody may ask any more.
    ends: Mutex<Option<SystemTime>>,
    clock: Clock,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
            requests: Mutex::default(),
            versions: Mutex::new(Ok(Vec::new())),
            lists: Mutex::default(),
            expires: Mutex::default(),
            gates: Mutex::default(),
            missing: Mutex::new("none".to_owned()),
            takes: Mutex::default(),
            ends: Mutex::default(),
            clock: Clock::adjustable(),
        }
    }
}

impl Fake {
    fn set(&self, name: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(name.to_owned(), answer);
    }

    /// Holds back the answer to the next request for the name; it is the one of when it was asked for.
    fn gate(&self, name: &str) -> Gate {
        let gate = Gate::default();
        self.gates.lock().unwrap().insert(name.to_owned(), gate.clone());
        gate
    }

    fn missing(&self, version: &str) {
        version.clone_into(&mut self.missing.lock().unwrap());
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

/// One answer that is held back.
#[derive(Clone, Default)]
struct Gate(Arc<(Notify, Notify)>);

impl Gate {
    /// Waits until somebody waits for the answer.
    async fn asked(&self) {
        self.0.0.notified().await;
    }

    fn open(&self) {
        self.0.1.notify_one();
    }
}

impl Origin for Fake {
    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn usable_until(&self) -> Option<SystemTime> {
        *self.ends.lock().unwrap()
    }

    fn get(
        &self,
        object: ObjectRef,
        _: Demand,
        _: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
        let name = object.name.to_string();
        self.requests.lock().unwrap().push(name.clone());
        let answer = self.answers.lock().unwrap().get(&name).copied();
        let gate = self.gates.lock().unwrap().remove(&name);
        let takes = *self.takes.lock().unwrap();
        Box::pin(async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            if let Some(Gate(gate)) = gate {
                gate.0.notify_one();
                gate.1.notified().await;
            }
            if *self.missing.lock().unwrap() == object.version.as_str() {
                return Err(Error::new(Code::NotFound, "as the test says"));
            }
            let answer = answer.unwrap_or(Answer::Value(1));
            let version = match answer {
                Answer::Value(version) | Answer::Certificate { version, .. } => version,
                Answer::Fails(code) => return Err(Error::new(code, "as the test says")),
                Answer::Firewall => {
                    return Err(Error::new(Code::Forbidden, "not from here").by_firewall(true));
                }
                Answer::Panics => panic!("as the test says"),
                Answer::Hangs => pending().await,
            };
            let exact = object.version.as_str().strip_prefix('v');
            let version = exact.map_or(version, |exact| exact.parse().unwrap());
            Ok(Arc::new(ObjectVersion {
                kind: object.kind,
                version: format!("v{version}"),
                created: None,
                expires: *self.expires.lock().unwrap(),
                not_before: None,
                body: match answer {
                    Answer::Certificate { key, .. } => certificate(&format!("{version:04}"), key),
                    _ => Body::Secret {
                        value: Secret::from(format!("{name} {version}")),
                        content_type: None,
                        kid: None,
                    },
                },
                name,
            }))
        })
    }

    fn list(&self, kind: ObjectKind, _: Urgency, _: Instant) -> BoxFuture<'_, Result<Names>> {
        self.requests.lock().unwrap().push(kind.collection().to_owned());
        let listed = self.lists.lock().unwrap().get(&kind).cloned();
        Box::pin(async { listed.unwrap_or_else(|| Ok(Names::default())) })
    }

    fn versions(
        &self,
        _: ObjectKind,
        name: ObjectName,
        _: Demand,
        _: Instant,
    ) -> BoxFuture<'_, Result<Arc<Vec<ListedVersion>>>> {
        self.requests.lock().unwrap().push(format!("{name}/versions"));
        let listed = self.versions.lock().unwrap().clone();
        Box::pin(async { listed.map(Arc::new) })
    }
}

fn certificate(base64: &str, key: bool) -> Body {
    let block = |label| format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
    let key = if key { block("PRIVATE KEY") } else { String::new() };
    Body::Secret {
        value: Secret::from(key + &block("CERTIFICATE")),
        content_type: Some("application/x-pem-file".to_owned()),
        kid: Some("kid".to_owned()),
    }
}

fn object(name: &str) -> ObjectSpec {
    let (path, name) = (FilePath::parse(name).unwrap(), ObjectName::parse(name).unwrap());
    ObjectSpec::newest(7, ObjectKind::Secret, name, path, 0o444)
}

fn view_of(layout: Layout, objects: Vec<ObjectSpec>, limits: Limits) -> (Arc<Fake>, Arc<View>) {
    let fake = Arc::new(Fake::default());
    let plan = Plan::new(objects, layout).unwrap();
    (fake.clone(), View::new(plan, fake, render::Options::default(), limits))
}

fn view(layout: Layout) -> (Arc<Fake>, Arc<View>) {
    view_of(layout, vec![object("a"), object("b"), object("c")], Limits::default())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Polls until it holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The node that a path leads to now, through `..data` where there is one.
fn walk(view: &View, path: &str) -> Option<NodeId> {
    let mut at = NodeId::ROOT;
    for name in path.split('/') {
        let attr = view.lookup(at, name).unwrap()?;
        at = attr.id;
        if attr.kind == Kind::Link {
            let target = view.target(at).unwrap();
            at = walk(view, &target)?;
        }
    }
    Some(at)
}

fn slot(view: &View, path: &str) -> (NodeId, Arc<Slot>) {
    let id = walk(view, path).unwrap();
    (id, view.slot(id).unwrap())
}

async fn read(view: &Arc<View>, path: &str) -> Result<String> {
    let (id, slot) = slot(view, path);
    view.fill(&slot, soon()).await?;
    Ok(view.read(id, |bytes| bytes.expose_str().unwrap().to_owned()).unwrap())
}

#[test]
fn a_plan_refuses_what_cannot_be_shown() {
    let message = |objects: Vec<ObjectSpec>, layout| {
        let error = Plan::new(objects, layout).unwrap_err();
        assert_eq!(error.code(), Code::ClassInvalid);
        error.to_string()
    };
    let at = |path: &str| ObjectSpec { path: FilePath::parse(path).unwrap(), ..object("x") };
    for (one, other) in [("x", "x"), ("x", "x/y"), ("x/y", "x")] {
        let said = message(vec![at(one), at(other)], Layout::Flat);
        assert!(said.starts_with("objects[7]: x stands where"), "{said}");
    }
    let history = ObjectSpec { history: 3, ..object("x") };
    let said = message(vec![history, at("x/2")], Layout::Atomic);
    assert!(said.starts_with("objects[7]: 2 stands where"), "{said}");
}

#[tokio::test]
async fn names_and_positions_are_there_before_any_request() {
    let (fake, view) = view(Layout::Atomic);
    let mut names = Vec::new();
    view.list(NodeId::ROOT, 0, |_, name, _| {
        names.push(name.to_owned());
        true
    })
    .unwrap();
    assert_eq!(
        (names[0].as_str(), &names[2..]),
        ("..data", &["a", "b", "c"].map(String::from)[..])
    );
    let mut rest = Vec::new();
    view.list(NodeId::ROOT, 3, |_, name, attr| {
        rest.push((name.to_owned(), attr.kind));
        rest.len() < 2
    })
    .unwrap();
    assert_eq!(rest, [("b".to_owned(), Kind::Link), ("c".to_owned(), Kind::Link)]);
    assert!(view.lookup(NodeId::ROOT, "d").unwrap().is_none());
    assert!(view.lookup(NodeId::ROOT, "..other").unwrap().is_none());
    let id = walk(&view, "a").unwrap();
    assert_eq!((view.attr(id).unwrap().size, view.attr(id).unwrap().mode), (4096, 0o444));
    assert_eq!(view.parent(id).unwrap().id, walk(&view, "..data").unwrap());
    assert_eq!(view.read(id, |_| ()).unwrap_err(), NotServed::Stale);
    assert!(fake.requests().is_empty());
    assert_eq!(read(&view, "a").await.unwrap(), "a 1");
    assert_eq!(view.attr(id).unwrap().size, 3);
    assert_eq!(fake.requests(), ["a"]);
}

#[tokio::test]
async fn a_waiter_that_gives_up_takes_nothing_from_the_others() {
    let (fake, view) = view(Layout::Atomic);
    fake.set("a", Answer::Hangs);
    let (_, hung) = slot(&view, "a");
    let short = view.fill(&hung, Instant::now() + Duration::from_millis(20));
    assert_eq!(short.await.unwrap_err().code(), Code::TimedOut);
    // The flight goes on: the next caller joins it instead of asking again.
    let again = view.fill(&hung, Instant::now() + Duration::from_millis(20));
    assert_eq!(again.await.unwrap_err().code(), Code::TimedOut);
    assert_eq!(fake.requests(), ["a"]);
}

#[tokio::test]
async fn a_panic_in_a_fetch_is_an_error_and_the_next_open_tries_again() {
    let (fake, view) = view(Layout::Atomic);
    for answer in [Answer::Panics, Answer::Fails(Code::Unavailable)] {
        fake.set("a", answer);
        let code = read(&view, "a").await.unwrap_err().code();
        assert!(matches!(code, Code::Internal | Code::Unavailable), "{code}");
        assert_eq!(view.status().objects[0].failure.clone().unwrap().error.code(), code);
    }
    fake.set("a", Answer::Value(4));
    assert_eq!(read(&view, "a").await.unwrap(), "a 4");
    assert!(view.status().objects[0].failure.is_none());
}

#[tokio::test]
async fn fetches_and_their_queue_are_bounded_and_have_a_limit_of_their_own() {
    let limits = Limits {
        fetches: 1,
        queue: 1,
        fetch_limit: Duration::from_millis(200),
        ..Limits::default()
    };
    let objects = vec![object("a"), object("b"), object("c")];
    let (fake, view) = view_of(Layout::Flat, objects, limits);
    fake.set("a", Answer::Hangs);
    let slots = ["a", "b", "c"].map(|name| slot(&view, name).1);
    let [a, b, c] = slots.each_ref().map(|slot| view.fill(slot, soon()));
    // Whoever wants what is being fetched already takes nobody's place.
    let also_a = view.fill(&slots[0], soon());
    let (a, _, c, also_a) = tokio::join!(a, b, c, also_a);
    assert_eq!(a.unwrap_err().code(), Code::TimedOut);
    assert_eq!(also_a.unwrap_err().code(), Code::TimedOut);
    assert_eq!(c.unwrap_err().code(), Code::Throttled);
    let noted = view.status().objects[2].failure.clone().unwrap();
    assert_eq!(noted.error.code(), Code::Throttled);
    let requests = fake.requests();
    assert!(requests[0] == "a" && !requests.contains(&"c".to_owned()), "{requests:?}");
    // The bounds are those of the moment.
    assert_eq!(read(&view, "c").await.unwrap(), "c 1");
}

#[tokio::test]
async fn a_closed_view_serves_what_it_has_and_fetches_nothing() {
    let (fake, view) = view(Layout::Atomic);
    read(&view, "a").await.unwrap();
    view.close();
    assert_eq!(read(&view, "a").await.unwrap(), "a 1");
    assert_eq!(read(&view, "b").await.unwrap_err().code(), Code::Draining);
    assert_eq!(view.refresh(soon()).await.failures[0].code(), Code::Draining);
    assert_eq!(fake.requests(), ["a"]);
    view.drained(soon()).await;
}

#[tokio::test]
async fn a_refresh_asks_about_what_is_filled_pinned_versions_too() {
    let exact = ObjectSpec { version: Version::Exact("v1".to_owned()), ..object("b") };
    let objects = vec![object("a"), exact, object("c")];
    let (fake, view) = view_of(Layout::Atomic, objects, Limits::default());
    read(&view, "a").await.unwrap();
    read(&view, "b").await.unwrap();
    fake.requests();
    let done = view.refresh(soon()).await;
    assert_eq!((done.checked, done.changed.len(), view.status().birth), (2, 0, 1));
    assert_eq!(fake.requests(), ["a", "b"], "a pinned version can be refused too");
    fake.set("a", Answer::Value(2));
    fake.set("b", Answer::Value(2));
    assert_eq!(view.refresh(soon()).await.changed, ["a"]);
    let status = view.status();
    let versions: Vec<_> = status.objects.iter().map(|o| o.version.as_deref()).collect();
    assert_eq!((status.birth, versions), (2, vec![Some("v2"), Some("v1"), None]));
    assert_eq!(
        (read(&view, "a").await.unwrap(), read(&view, "b").await.unwrap()),
        ("a 2".into(), "b 1".into())
    );
}

#[tokio::test]
async fn an_atomic_generation_is_whole_or_not_published() {
    let (fake, view) = view(Layout::Atomic);
    for name in ["a", "b", "c"] {
        read(&view, name).await.unwrap();
    }
    fake.set("a", Answer::Value(2));
    for code in [Code::Unavailable, Code::Throttled, Code::TimedOut, Code::BadContent] {
        fake.set("b", Answer::Fails(code));
        let done = view.refresh(soon()).await;
        assert_eq!((done.changed.len(), done.failures[0].code()), (0, code));
        assert_eq!(view.status().birth, 1);
    }
    // An answer of the vault holds nobody back, and goes with the rest.
    fake.set("b", Answer::Fails(Code::NotFound));
    assert_eq!(view.refresh(soon()).await.changed, ["a", "b"]);
    assert!(walk(&view, "b").is_none());
    assert_eq!(view.status().birth, 2);
    assert_eq!(read(&view, "a").await.unwrap(), "a 2");
}

#[tokio::test]
async fn nodes_are_reborn_with_their_generation_or_alone_in_a_flat_tree() {
    for (layout, reborn) in [(Layout::Atomic, true), (Layout::Flat, false)] {
        let (fake, view) = view(layout);
        for name in ["a", "b"] {
            read(&view, name).await.unwrap();
        }
        let before = ["a", "b", "c"].map(|name| walk(&view, name).unwrap());
        fake.set("a", Answer::Value(2));
        view.refresh(soon()).await;
        let after = ["a", "b", "c"].map(|name| walk(&view, name).unwrap());
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1] != after[1], reborn);
        assert_eq!(before[2] != after[2], reborn);
        // Filled before it was seen: nobody was shown a placeholder of it.
        assert!(view.slot(after[0]).unwrap().settled());
        let old = view.read(before[0], |bytes| bytes.len()).unwrap();
        assert_eq!(old, 3);
    }
}

#[tokio::test]
async fn old_generations_are_forgotten_but_open_files_are_not() {
    for layout in [Layout::Atomic, Layout::Flat] {
        let (fake, view) = view(layout);
        read(&view, "a").await.unwrap();
        let (held, bytes) = slot(&view, "a");
        view.hold(held, &bytes);
        view.hold(held, &bytes);
        drop(bytes);
        for version in 2..30 {
            fake.set("a", Answer::Value(version));
            assert_eq!(view.refresh(soon()).await.changed, ["a"]);
        }
        assert_eq!(view.status().retired, 28);
        fake.clock.advance(Duration::from_secs(600));
        view.refresh(soon()).await;
        assert_eq!(view.status().retired, 0);
        let of = |id| view.read(id, |bytes| bytes.expose_str().unwrap().to_owned());
        view.release(held);
        assert_eq!(of(held).unwrap(), "a 1");
        let all = view.status().bytes;
        view.release(held);
        assert_eq!(of(held), Err(NotServed::Stale));
        assert_eq!(view.status().bytes, all - 3);
        assert_eq!(read(&view, "a").await.unwrap(), "a 29");
    }
}

#[tokio::test]
async fn the_budget_counts_what_is_held_and_old_generations_give_way() {
    let limits = Limits { max_bytes: 7, ..Limits::default() };
    let (fake, view) = view_of(Layout::Flat, vec![object("a"), object("b"), object("c")], limits);
    read(&view, "a").await.unwrap();
    read(&view, "b").await.unwrap();
    assert_eq!(read(&view, "c").await.unwrap(), "c 1");
    assert_eq!((view.status().bytes, fake.requests().len()), (6, 3));
    let (fake_b, view_b) = view_of(Layout::Flat, vec![object("a")], limits);
    read(&view_b, "a").await.unwrap();
    for version in 2..6 {
        fake_b.set("a", Answer::Value(version));
        assert_eq!(view_b.refresh(soon()).await.changed, ["a"]);
        assert!(view_b.status().bytes <= 7);
    }
}
