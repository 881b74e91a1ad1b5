//! Random histories of a vault whose names come and go, against what should be seen of them.
//!
//! Time passes before each refresh, and during it as much as a second list needs. One thing happens at a
//! time, so what is seen is certain.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::testing::scale;

const HISTORIES: u32 = 300;
const NAMES: usize = 5;

/// Names are numbers.
#[derive(Clone, Debug)]
enum Op {
    Create(usize),
    Delete(usize),
    /// The list forgets it, and the vault does not.
    Unlist(usize),
    Relist(usize),
    /// The list cannot be had; or it goes on, and nobody knows what else it has.
    NoList,
    CutList,
    List,
    Open(usize),
    /// By a node that somebody remembers.
    OpenOld(usize),
    Release(usize),
    LookUp(usize),
    Refresh,
}

fn op() -> impl Strategy<Value = Op> {
    let any = 0..NAMES;
    prop_oneof![
        4 => any.clone().prop_map(Op::Create),
        3 => any.clone().prop_map(Op::Delete),
        2 => any.clone().prop_map(Op::Unlist),
        2 => any.clone().prop_map(Op::Relist),
        1 => Just(Op::NoList),
        1 => Just(Op::CutList),
        3 => Just(Op::List),
        4 => any.clone().prop_map(Op::Open),
        2 => (0..20_usize).prop_map(Op::OpenOld),
        2 => (0..20_usize).prop_map(Op::Release),
        3 => any.prop_map(Op::LookUp),
        8 => Just(Op::Refresh),
    ]
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shown {
    #[default]
    Nothing,
    Empty,
    Version(u32),
    /// The vault said so.
    TakenAway,
}

#[derive(Clone, Debug, Default)]
struct Name {
    /// In the vault.
    version: Option<u32>,
    last: u32,
    unlisted: bool,
    shown: Shown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    Good,
    Cut,
    None,
}

struct World {
    fake: Arc<Fake>,
    view: Arc<View>,
    layout: Layout,
    names: Vec<Name>,
    lists: Lists,
    /// Every node that was seen, of which name, what it held, and how often it is open.
    nodes: BTreeMap<NodeId, (usize, Option<String>, usize)>,
    /// What the kernel remembers.
    known: HashMap<(NodeId, String), Option<NodeId>>,
}

fn name(at: usize) -> String {
    format!("n{at}")
}

fn path(at: usize) -> String {
    format!("secrets/n{at}")
}

impl World {
    async fn does(&mut self, op: &Op) {
        match *op {
            Op::Create(at) if self.names[at].version.is_none() => {
                let name = &mut self.names[at];
                name.last += 1;
                name.version = Some(name.last);
            }
            Op::Delete(at) => self.names[at].version = None,
            Op::Unlist(at) => self.names[at].unlisted = true,
            Op::Relist(at) => self.names[at].unlisted = false,
            Op::NoList => self.lists = Lists::None,
            Op::CutList => self.lists = Lists::Cut,
            Op::List => self.lists = Lists::Good,
            Op::Open(at) => {
                self.tell();
                if let Some(id) = walk(&self.view, &path(at)) {
                    self.open(id).await;
                }
            }
            Op::OpenOld(at) => {
                self.tell();
                let known = self.nodes.keys().nth(at % self.nodes.len().max(1)).copied();
                if let Some(id) = known {
                    self.open(id).await;
                }
            }
            Op::Release(at) => {
                let mut held = self.nodes.iter_mut().filter(|(_, node)| node.2 > 0);
                if let Some((id, node)) = held.nth(at % NAMES) {
                    self.view.release(*id);
                    node.2 -= 1;
                }
            }
            Op::LookUp(at) => {
                let mut directory = NodeId::ROOT;
                for part in ["secrets".to_owned(), name(at)] {
                    let found = self.view.lookup(directory, &part).unwrap().map(|attr| attr.id);
                    self.known.insert((directory, part), found);
                    match found {
                        Some(id) if id.birth == 0 && self.layout == Layout::Flat => directory = id,
                        _ => break,
                    }
                }
            }
            Op::Refresh => self.refresh().await,
            Op::Create(_) => {}
        }
        self.compare();
    }

    /// The vault has what the model says.
    fn tell(&self) {
        let mut listed = Vec::new();
        for (at, one) in self.names.iter().enumerate() {
            let answer = one.version.map_or(Answer::Fails(Code::NotFound), Answer::Value);
            self.fake.set(&name(at), answer);
            if one.version.is_some() && !one.unlisted {
                listed.push(name(at));
            }
        }
        let listed: Vec<_> = listed.iter().map(String::as_str).collect();
        self.fake.lists(match self.lists {
            Lists::Good => names(&listed),
            Lists::Cut => names(&listed).map(|list| Names { more: true, ..list }),
            Lists::None => fails(Code::Unavailable),
        });
    }

    async fn open(&mut self, id: NodeId) {
        let Ok(slot) = self.view.slot(id) else { return };
        let at = self.nodes[&id].0;
        let was_empty = slot.content().is_none();
        match self.view.fill(&slot, soon()).await {
            Ok(()) => {
                self.view.hold(id, &slot);
                self.nodes.get_mut(&id).unwrap().2 += 1;
                let one = &mut self.names[at];
                let current = walk(&self.view, &path(at)) == Some(id);
                match (one.shown, was_empty) {
                    (Shown::Empty, true) if current => one.shown = Shown::Version(one.last),
                    _ => {}
                }
            }
            Err(error) => {
                assert_eq!((error.code(), self.names[at].version), (Code::NotFound, None))
            }
        }
    }

    async fn refresh(&mut self) {
        self.tell();
        let mut announcements = self.view.subscribe();
        let told = tokio::spawn(async move {
            let mut names = Vec::new();
            while let Some(told) = announcements.recv().await {
                names.extend(told.names);
                let _ = told.shown.send(());
            }
            names
        });
        // What nobody can read any more when the refresh begins is not looked at.
        let then = self.fake.clock.now() + Duration::from_secs(61);
        self.view.generations_mut(|generations| generations.forget_old(then));
        let held: Vec<bool> = (0..NAMES).map(|at| self.is_held(at)).collect();
        let before: Vec<_> = self.names.iter().map(|one| one.shown).collect();
        let done = super::refresh(&self.fake, &self.view).await;
        drop(self.view.subscribe());
        let told = told.await.unwrap();
        self.known.retain(|name, _| !told.contains(name));
        for (at, one) in self.names.iter_mut().enumerate() {
            let listed = one.version.is_some() && !one.unlisted;
            let looked_at = match one.shown {
                Shown::Version(_) | Shown::TakenAway => true,
                // For those who hold an old node of it.
                Shown::Nothing => held[at],
                // Its name leads to what the vault has whenever it is opened.
                Shown::Empty => held[at] && one.version.is_none(),
            };
            let answer = one.version.map_or(Shown::TakenAway, Shown::Version);
            one.shown = match (one.shown, self.lists) {
                // What the vault gives by itself is there, whatever is listed.
                (_, _) if looked_at && one.version.is_some() => answer,
                (Shown::Empty, _) if looked_at => answer,
                (Shown::Empty | Shown::TakenAway, Lists::Good) if !listed => Shown::Nothing,
                (Shown::Nothing, Lists::Good | Lists::Cut) if listed => Shown::Empty,
                (_, _) if looked_at => answer,
                (shown, _) => shown,
            };
            let visible = |shown| matches!(shown, Shown::Empty | Shown::Version(_));
            let known = &self.view.status().objects;
            if one.shown == Shown::TakenAway && known.iter().all(|known| known.name != name(at)) {
                // Two lists have said so by now, too.
                one.shown = Shown::Nothing;
            }
            let (was, is) = (before[at], one.shown);
            let changed =
                if visible(was) && visible(is) { was != is } else { visible(was) != visible(is) };
            assert_eq!(done.changed.contains(&path(at)), changed, "n{at}: {was:?}, {is:?}");
        }
    }

    /// Whether a value of it can be read, by whatever node.
    fn is_held(&self, at: usize) -> bool {
        let objects = self.view.plan.objects.iter();
        let mut unit = objects.enumerate().filter(|(_, one)| one.spec.name.as_str() == name(at));
        unit.next().is_some_and(|(unit, _)| !self.view.ledger.held(unit, |_| true).is_empty())
    }

    fn compare(&mut self) {
        let mut positions = Vec::new();
        let directory = walk(&self.view, "secrets").unwrap();
        let each = |at, name: &str, attr: crate::view::Attr| {
            positions.push((at, name.to_owned(), attr.id));
            true
        };
        self.view.list(directory, 0, each).unwrap();
        assert!(positions.is_sorted_by_key(|(at, _, _)| *at));
        for (at, one) in self.names.iter().enumerate() {
            let id = walk(&self.view, &path(at));
            let listed = positions.iter().find(|(_, listed, _)| *listed == name(at));
            assert_eq!(id, listed.map(|(_, _, id)| *id));
            let visible = matches!(one.shown, Shown::Empty | Shown::Version(_));
            assert_eq!(id.is_some(), visible, "{} is {:?}", name(at), one.shown);
            let Some(id) = id else { continue };
            self.nodes.entry(id).or_insert((at, None, 0));
            let bytes = self.view.read(id, |bytes| bytes.expose_str().unwrap().to_owned());
            match one.shown {
                Shown::Version(version) => assert_eq!(bytes, Ok(format!("n{at} {version}"))),
                _ => assert_eq!(bytes, Err(NotServed::Stale)),
            }
        }
        for ((directory, name), id) in &self.known {
            let now = self.view.lookup(*directory, name).unwrap().map(|attr| attr.id);
            assert_eq!(now, *id, "{name} leads elsewhere, and nobody was told");
        }
        let indexes: HashMap<u32, usize> =
            self.nodes.iter().map(|(id, node)| (id.index, node.0)).collect();
        for (id, (at, text, handles)) in &mut self.nodes {
            assert_eq!(indexes[&id.index], *at, "a place has one name");
            match self.view.read(*id, |bytes| bytes.expose_str().unwrap().to_owned()) {
                Ok(now) => assert_eq!(*text.get_or_insert(now.clone()), now),
                Err(NotServed::Refused(_)) => {}
                Err(_) => assert!(*handles == 0, "{id:?} is open"),
            }
        }
    }
}

#[test]
fn names_are_seen_as_the_vault_and_its_lists_say() {
    let layout = prop_oneof![Just(Layout::Atomic), Just(Layout::Flat)];
    let histories = (layout, prop::collection::vec(op(), 1..60));
    let config =
        Config { cases: HISTORIES * scale(), failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&histories, |(layout, ops)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (fake, view) = of_vault(layout, &[]).await;
            let names = vec![Name::default(); NAMES];
            let (nodes, known) = (BTreeMap::new(), HashMap::new());
            let mut world = World { fake, view, layout, names, lists: Lists::Good, nodes, known };
            for op in &ops {
                world.does(op).await;
            }
            // And in the end all is as it is in the vault, however it came there.
            world.names.iter_mut().for_each(|one| one.unlisted = false);
            for op in [Op::List, Op::Refresh, Op::Refresh, Op::Refresh] {
                world.does(&op).await;
            }
            for one in &world.names {
                let there = matches!(one.shown, Shown::Empty | Shown::Version(_));
                assert_eq!(there, one.version.is_some());
            }
        });
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}
