//! Carries operations out, and compares the view with what may be seen of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::sync::atomic::Ordering;

use tokio::task::JoinHandle;

use super::history::History;
use super::vault::{Answered, Outcome, Vault, text};
use super::*;

/// No sum of whole hours.
const MAX_STALE: Duration = Duration::from_secs(24 * 3600 + 1800);
const OPTIONS: render::Options =
    render::Options { construct_pem_chain: true, separate_files: true };
/// Refreshes that wait for each other.
const REFRESHES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Unfilled,
    Version(u32),
    Gone,
}

/// An object of the vault, as the view should have it.
struct Unit {
    name: &'static str,
    certificate: bool,
    pinned: bool,
    /// Every file that it may have.
    paths: Vec<String>,
    shown: Shown,
    stale: bool,
    checked: Option<Instant>,
    /// When it was last taken away.
    refused: Option<usize>,
}

/// A file that somebody has seen.
pub(super) struct Node {
    unit: usize,
    /// What it holds, once that was read.
    pub(super) text: Option<String>,
    /// Must not be read any more.
    pub(super) dead: bool,
    /// May have been taken away by a refresh that another one has followed at once.
    pub(super) perhaps_dead: bool,
    handles: usize,
}

/// One refresh, from its answers.
#[derive(Default)]
pub(super) struct Run {
    pub(super) answers: Vec<(Answered, Overdue)>,
}

/// Whether an object had no positive answer for too long when an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    No,
    /// And nobody has opened what is shown.
    Unopened,
    Opened,
}

/// Names and nodes that the kernel is to forget.
type Told = (Vec<(NodeId, String)>, Vec<NodeId>);

pub(super) struct World {
    layout: Layout,
    looks: Looks,
    room: Room,
    vault: Arc<Vault>,
    pub(super) view: Arc<View>,
    units: Vec<Unit>,
    history: Option<History>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    opening: Vec<(NodeId, JoinHandle<Result<()>>)>,
    filling: Vec<JoinHandle<Result<()>>>,
    left_alone: bool,
    refreshing: Vec<JoinHandle<Refreshed>>,
    /// What the kernel remembers of directories that never change.
    names: HashMap<(NodeId, String), Option<NodeId>>,
    /// And of files.
    pages: HashMap<NodeId, usize>,
    announced: Arc<Mutex<Vec<Told>>>,
    answers: usize,
    runs: BTreeMap<u64, Run>,
    finished: u64,
}

impl World {
    pub(super) async fn new(
        layout: Layout,
        objects_are: Objects,
        looks: Looks,
        room: Room,
    ) -> Self {
        let objects: &[(&'static str, bool)] = match objects_are {
            Objects::Plain => &[("a", false), ("b", false), ("c", false), ("p", false)],
            Objects::SeparateFiles => &[("a", false), ("tls", true), ("c", true)],
            Objects::History => &[("a", false), ("c", false), ("h", false)],
        };
        let vault = Vault::new(objects);
        let specs = objects.iter().map(|(name, _)| match *name {
            "c" => ObjectSpec { path: FilePath::parse("d/c").unwrap(), ..object("c") },
            "p" => ObjectSpec { version: Version::Exact("v1".to_owned()), ..object("p") },
            "h" => ObjectSpec { history: 3, ..object("h") },
            name => object(name),
        });
        let specs: Vec<_> = specs.collect();
        let separate = matches!(objects_are, Objects::SeparateFiles);
        let options = if separate { OPTIONS } else { render::Options::default() };
        let single = specs.iter().zip(objects).filter(|(spec, _)| spec.history <= 1);
        let units = single.map(|(spec, (name, certificate))| Unit {
            name,
            certificate: *certificate,
            pinned: spec.version != Version::Latest,
            // Itself first, then .crt and .key.
            paths: render::paths(spec, options)
                .iter()
                .map(|path| path.to_string())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            shown: Shown::Unfilled,
            stale: false,
            checked: None,
            refused: None,
        });
        let units: Vec<_> = units.collect();
        let plan = Plan::rendered(specs, layout, options).unwrap();
        let max_bytes = match (room, objects_are) {
            (Room::Enough, _) => Limits::default().max_bytes,
            // One certificate with its files, or two others.
            (Room::Little, Objects::SeparateFiles) => 300,
            (Room::Little, _) => 24,
        };
        let room_wait = Duration::ZERO;
        // The model applies what follows from a refresh at its end.
        let refusal_wait = 1000 * MAX_STALE;
        let limits = Limits {
            max_stale: MAX_STALE,
            max_bytes,
            room_wait,
            refusal_wait,
            ..Limits::default()
        };
        let limits = match looks {
            Looks::Together => limits,
            // What is not answered at once is not answered in time.
            Looks::OneByOne => Limits { fetches: 2, look_limit: Duration::from_nanos(1), ..limits },
        };
        let view = View::new(plan, vault.clone(), options, limits);
        vault.view.set(Arc::downgrade(&view)).unwrap();
        view.resolve(soon()).await.unwrap();
        let announced: Arc<Mutex<Vec<_>>> = Arc::default();
        let mut announcements = view.subscribe_staged();
        let told = announced.clone();
        tokio::spawn(async move {
            while let Some(one) = announcements.recv().await {
                told.lock().unwrap().push((one.names, one.withdrawn));
                let _ = one.shown.send(());
            }
        });
        let history =
            matches!(objects_are, Objects::History).then(|| History::new(objects.len() - 1));
        let mut world = Self {
            layout,
            looks,
            room,
            vault,
            view,
            units,
            history,
            nodes: BTreeMap::new(),
            opening: Vec::new(),
            filling: Vec::new(),
            left_alone: false,
            refreshing: Vec::new(),
            names: HashMap::new(),
            pages: HashMap::new(),
            announced,
            answers: 0,
            runs: BTreeMap::new(),
            finished: 0,
        };
        world.check().await;
        world
    }

    pub(super) async fn does(&mut self, op: &Op) {
        self.vault.with(|state| state.step += 1);
        match *op {
            Op::Open(at) => {
                let paths = self.paths();
                if let Some(id) = walk(&self.view, &paths[at % paths.len()]) {
                    self.open(id);
                }
            }
            Op::OpenOld(at) => {
                let known = self.nodes.keys().nth(at % self.nodes.len().max(1));
                known.copied().into_iter().for_each(|id| self.open(id));
            }
            Op::OpenLate(at) => {
                let empty = self.nodes.iter().filter(|(_, node)| node.text.is_none());
                let empty: Vec<_> = empty.map(|(id, node)| (*id, node.unit)).collect();
                if let Some((id, unit)) = empty.get(at % empty.len().max(1)) {
                    self.vault.does(&Op::Slow(*unit));
                    self.open(*id);
                    self.check().await;
                    self.vault.does(&Op::Quick(*unit));
                }
            }
            Op::Release(at) => {
                let held: Vec<_> =
                    self.nodes.iter().filter(|(_, n)| n.handles > 0).map(|(id, _)| *id).collect();
                if let Some(id) = held.get(at % held.len().max(1)) {
                    self.view.release(*id);
                    self.nodes.get_mut(id).unwrap().handles -= 1;
                }
            }
            Op::LookUp(at) => self.look_up(at),
            Op::List => self.list(),
            Op::FillAll => {
                let view = self.view.clone();
                self.filling.push(tokio::spawn(async move { view.fill_all(soon()).await }));
            }
            Op::Late if self.looks == Looks::OneByOne => {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            Op::Refresh if self.refreshing.len() < self.refreshes() => {
                let view = self.view.clone();
                self.refreshing.push(tokio::spawn(async move { view.refresh(soon()).await }));
            }
            _ => self.vault.does(op),
        }
        self.check().await;
    }

    fn refreshes(&self) -> usize {
        match self.looks {
            Looks::Together => REFRESHES,
            // The model sees the end of each.
            Looks::OneByOne => 1,
        }
    }

    /// Every file that there may be.
    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<_> = self.units.iter().flat_map(|unit| unit.paths.clone()).collect();
        if self.history.is_some() {
            paths.extend((0..3).map(|at| format!("h/{at}")));
        }
        paths
    }

    fn open(&mut self, id: NodeId) {
        let Ok(slot) = self.view.slot(id) else { return };
        let view = self.view.clone();
        let opening = tokio::spawn(async move { view.open(id, &slot, soon()).await });
        self.opening.push((id, opening));
    }

    /// The kernel remembers names below directories that are never replaced.
    fn look_up(&mut self, at: usize) {
        let paths = self.paths();
        let mut directory = NodeId::ROOT;
        for name in paths[at % paths.len()].split('/') {
            let found = self.view.lookup(directory, name).unwrap();
            self.names.insert((directory, name.to_owned()), found.map(|attr| attr.id));
            match found {
                Some(attr) if attr.kind == Kind::Directory && attr.id.birth == 0 => {
                    directory = attr.id;
                }
                _ => return,
            }
        }
    }

    fn list(&mut self) {
        let mut listed = Vec::new();
        self.view
            .list(NodeId::ROOT, 0, |_, name, attr| {
                listed.push((name.to_owned(), attr.id));
                true
            })
            .unwrap();
        for (name, id) in listed {
            assert_eq!(self.view.lookup(NodeId::ROOT, &name).unwrap().map(|a| a.id), Some(id));
            if name.starts_with("..2") {
                // A generation's, which leads nowhere else later.
                continue;
            }
            self.names.insert((NodeId::ROOT, name), Some(id));
        }
    }

    /// Lets everything go on that can, and compares.
    async fn check(&mut self) {
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        let new = self.vault.with(|state| state.answers[self.answers..].to_vec());
        self.answers += new.len();
        self.hear(&new);
        self.fills(&new);
        let before = self.finished;
        let mut runs = Vec::new();
        while let Some(run) = self.next_run() {
            runs.push(run);
        }
        let count = runs.len();
        for (number, run) in runs.into_iter().enumerate() {
            self.apply(run, number + 1 == count);
        }
        self.announcements();
        self.silence();
        self.finish_tasks(&new).await;
        self.compare();
        self.remember();
        let everything = self.finished > before;
        self.read_nodes(&new, everything);
    }

    fn hear(&mut self, new: &[Answered]) {
        for answer in new {
            let overdue = match self.units.get_mut(answer.object) {
                Some(unit) => {
                    if matches!(answer.outcome, Outcome::Value(_)) {
                        unit.checked = unit.checked.max(Some(answer.asked));
                    }
                    if answer.refresh {
                        unit.stale = answer.outcome == Outcome::Failed;
                    }
                    let since = |checked| answer.arrived.saturating_duration_since(checked);
                    match unit.checked.is_some_and(|checked| since(checked) >= MAX_STALE) {
                        false => Overdue::No,
                        true if unit.shown == Shown::Unfilled => Overdue::Unopened,
                        true => Overdue::Opened,
                    }
                }
                None => self.history.as_mut().unwrap().hear(answer, self.finished, MAX_STALE),
            };
            if answer.refresh {
                let run = self.runs.entry(answer.run).or_default();
                run.answers.push((answer.clone(), overdue));
            } else if self.units.len() <= answer.object {
                // A refresh may have asked, or an open.
                let run = self.runs.entry(answer.arrived_in_run).or_default();
                run.answers.push((answer.clone(), overdue));
            }
        }
    }

    /// What was empty is filled by an answer that has just come.
    fn fills(&mut self, new: &[Answered]) {
        for (number, unit) in self.units.iter_mut().enumerate() {
            if unit.shown != Shown::Unfilled {
                continue;
            }
            let Some(version) = version_shown(&self.view, unit.name) else { continue };
            let given = |answer: &Answered| {
                answer.object == number
                    && !answer.refresh
                    && answer.outcome == Outcome::Value(version)
            };
            let is_refusal = |(answer, _): &(Answered, Overdue)| {
                answer.object == number
                    && answer.refresh
                    && matches!(answer.outcome, Outcome::Refused(_))
            };
            if self.runs.values().any(|run| run.answers.iter().any(is_refusal)) {
                // It went and came back at once, by two refreshes.
                continue;
            }
            assert!(new.iter().any(given), "{} {version} is of no answer", unit.name);
            unit.shown = Shown::Version(version);
        }
    }

    /// The next refresh that has come to its end.
    fn next_run(&mut self) -> Option<Run> {
        let (runs, next) = (&self.view.runs, self.finished + 1);
        let begun = runs.begun.load(Ordering::Acquire);
        let ended =
            begun > next || begun == next && runs.last.try_lock().is_ok_and(|last| last.0 == next);
        ended.then(|| {
            self.finished = next;
            self.runs.remove(&next).unwrap_or_default()
        })
    }

    /// What follows from a refresh; the view shows what follows from the last.
    fn apply(&mut self, run: Run, last: bool) {
        let mut unknown = false;
        let mut values = Vec::new();
        let mut gone = Vec::new();
        let mut lost = Vec::new();
        for (answer, overdue) in &run.answers {
            if answer.object >= self.units.len() {
                continue;
            }
            match &answer.outcome {
                // Whoever opens it gets his own answer.
                Outcome::Value(_) if answer.unopened => {}
                Outcome::Value(version) => values.push((answer.object, *version)),
                Outcome::Refused(_) => gone.push(answer.object),
                Outcome::Failed => {
                    unknown = true;
                    match overdue {
                        Overdue::No => {}
                        Overdue::Unopened => lost.push(answer.object),
                        Overdue::Opened => gone.push(answer.object),
                    }
                }
                Outcome::List(_) => panic!("of no history: {answer:?}"),
            }
        }
        if self.looks == Looks::OneByOne {
            gone.extend(self.passed_over(&run));
        }
        let mut perhaps_unknown = unknown;
        if let Some(mut history) = self.history.take() {
            let (certainly, perhaps) = history.apply(&run, self, last);
            (unknown, perhaps_unknown) =
                (unknown || certainly, perhaps_unknown || certainly || perhaps);
            self.history = Some(history);
        }
        for unit in lost {
            let is_gone = self.lose(unit);
            gone.extend(is_gone.then_some(unit));
        }
        let step = self.vault.with(|state| state.step);
        for unit in gone {
            self.units[unit].shown = Shown::Gone;
            self.units[unit].refused = Some(step);
            let nodes = self.nodes.values_mut().filter(|node| node.unit == unit);
            nodes.filter(|node| node.text.is_some()).for_each(|node| node.dead = true);
        }
        if self.layout == Layout::Atomic && perhaps_unknown {
            // Where it cannot be told from the answers, everything together shows which it was.
            let all_new = |(unit, version): &(usize, u32)| self.shows(*unit, *version);
            if unknown || !values.iter().all(all_new) {
                return;
            }
        }
        for (unit, version) in values {
            let unit = &mut self.units[unit];
            if let Shown::Version(before) = unit.shown {
                assert!(before <= version, "the vault went back");
            }
            unit.shown = Shown::Version(version);
        }
    }

    /// What older births hold of it goes, if that is still too old; whoever opens its name asks by himself.
    /// Whether an answer from long ago has filled it meanwhile, so that it is gone altogether.
    fn lose(&mut self, unit: usize) -> bool {
        let now = self.vault.clock.now();
        let since = |checked| now.saturating_duration_since(checked);
        if self.units[unit].checked.is_none_or(|checked| since(checked) < MAX_STALE) {
            return false;
        }
        if self.units[unit].shown != Shown::Unfilled {
            return true;
        }
        self.units[unit].stale = false;
        self.units[unit].refused = Some(self.vault.with(|state| state.step));
        let nodes = self.nodes.values_mut().filter(|node| node.unit == unit);
        nodes.filter(|node| node.text.is_some()).for_each(|node| node.dead = true);
        false
    }

    /// What a refresh takes away that has not asked about it. It asks about everything, unless something
    /// was not answered; then what is overdue goes, and the rest stays as it is.
    fn passed_over(&mut self, run: &Run) -> Vec<usize> {
        let gave_up = run.answers.iter().any(|(answer, _)| answer.outcome == Outcome::Failed);
        let (now, status) = (self.vault.clock.now(), self.view.status());
        let mut gone = Vec::new();
        for (number, unit) in self.units.iter_mut().enumerate() {
            let asked = run.answers.iter().any(|(answer, _)| answer.object == number);
            if asked {
                continue;
            }
            let since = |checked| now.saturating_duration_since(checked);
            let overdue = unit.checked.is_some_and(|checked| since(checked) >= MAX_STALE);
            let said = status.objects.iter().find(|object| object.name == unit.name).unwrap();
            // Filled only since this refresh began, or by its end; the model does not know which.
            let opened = self.vault.with(|state| {
                let mut answers = state.answers.iter();
                let is_now = |answer: &&Answered| answer.arrived_in_run == self.finished;
                answers.any(|one| is_now(&one) && one.object == number && !one.refresh)
            });
            if unit.shown == Shown::Unfilled {
                // What older births held when it began goes.
                if gave_up && overdue {
                    let nodes = self.nodes.values_mut().filter(|node| node.unit == number);
                    for node in nodes.filter(|node| node.text.is_some()) {
                        node.perhaps_dead |= opened;
                        node.dead |= !opened;
                    }
                    unit.stale &= said.stale.is_some();
                }
                continue;
            }
            assert!(gave_up || opened, "nobody asked about {}", unit.name);
            if unit.shown == Shown::Gone {
                continue;
            }
            let went = said.withdrawn.is_some();
            assert!(opened || went == (gave_up && overdue), "{}: {went}, {overdue}", unit.name);
            if went {
                unit.stale = true;
                gone.push(number);
            }
        }
        gone
    }

    fn shows(&self, unit: usize, version: u32) -> bool {
        let unit = &self.units[unit];
        version_shown(&self.view, unit.name) == Some(version)
    }

    /// The kernel forgets what it is told to, and nothing else may have changed.
    fn announcements(&mut self) {
        let announced = std::mem::take(&mut *self.announced.lock().unwrap());
        for (names, withdrawn) in announced {
            self.names.retain(|name, _| !names.contains(name));
            self.pages.retain(|id, _| !withdrawn.contains(id));
        }
        for ((directory, name), id) in &self.names {
            let now = self.view.lookup(*directory, name).unwrap().map(|attr| attr.id);
            assert_eq!(now, *id, "{name} leads elsewhere, and nobody was told");
        }
        for id in self.pages.keys().filter(|id| self.nodes[*id].dead) {
            // What is forgotten cannot be opened, so its pages are out of reach.
            let forgotten = self.view.slot(*id).err() == Some(NotServed::Stale);
            assert!(forgotten, "pages of what was taken away, and nobody was told");
        }
    }

    async fn finish_tasks(&mut self, new: &[Answered]) {
        let bad = |answer: &Answered| !matches!(answer.outcome, Outcome::Value(_));
        let mut opened = Vec::new();
        for at in (0..self.opening.len()).rev() {
            if self.opening[at].1.is_finished() {
                let (id, opening) = self.opening.swap_remove(at);
                opened.push((id, opening.await.unwrap()));
            }
        }
        // What one holds may be why there was no room for another.
        opened.sort_by_key(|(_, outcome)| outcome.is_err());
        for (id, outcome) in opened {
            let unit = self.unit_of(id);
            match outcome {
                Ok(()) => {
                    let node = self.nodes.entry(id).or_insert(Node::of(unit));
                    node.handles += 1;
                    if !node.dead && self.view.read(id, |_| ()).is_ok() {
                        self.pages.insert(id, unit);
                    }
                }
                Err(error) => {
                    let why = new.iter().any(|answer| answer.object == unit && bad(answer));
                    let full = error.code() == Code::TooLarge && self.is_full_of_open_files();
                    let alone = self.left_alone && error.message().contains("did not answer");
                    assert!(why || full || alone, "an open failed for nothing: {error}");
                }
            }
        }
        for at in (0..self.filling.len()).rev() {
            if self.filling[at].is_finished() {
                let _ = self.filling.swap_remove(at).await.unwrap();
            }
        }
        for at in (0..self.refreshing.len()).rev() {
            if self.refreshing[at].is_finished() {
                self.refreshing.swap_remove(at).await.unwrap();
            }
        }
    }

    fn unit_of(&self, id: NodeId) -> usize {
        let path = self.view.path(id);
        let unit = self.units.iter().position(|unit| unit.paths.contains(&path));
        unit.unwrap_or(self.units.len())
    }

    /// The view is as the model says.
    fn compare(&mut self) {
        let status = self.view.status();
        for unit in &self.units {
            let said = status.objects.iter().find(|object| object.name == unit.name).unwrap();
            assert_eq!(said.withdrawn.is_some(), unit.shown == Shown::Gone, "{}", unit.name);
            assert_eq!(said.stale.is_some(), unit.stale, "{}", unit.name);
            for (file, path) in unit.paths.iter().enumerate() {
                let there = match (unit.shown, file) {
                    (Shown::Gone, _) => false,
                    (_, 0) => true,
                    (Shown::Version(version), 1) => unit.certificate && version > 0,
                    (Shown::Version(version), _) => unit.certificate && version % 3 > 0,
                    (Shown::Unfilled, _) => panic!("nobody knows its files"),
                };
                let id = walk(&self.view, path);
                assert_eq!(id.is_some(), there, "{path}: {:?}", unit.shown);
                let Some(id) = id else { continue };
                let bytes = self.view.read(id, |bytes| bytes.expose().to_vec());
                match unit.shown {
                    Shown::Version(version) if said.let_go => {
                        assert_eq!(self.room, Room::Little, "{path} had room");
                        assert_eq!(said.version, Some(format!("v{version}")));
                        // A name that has not moved yet leads to an older node, whose bytes are its own.
                        let lags = self.view.shown_birth() < status.birth;
                        match &bytes {
                            Ok(bytes) if lags => {
                                let found = version_of(unit.name, unit.certificate, bytes);
                                assert_eq!(found, version, "{path}");
                            }
                            bytes => assert_eq!(*bytes, Err(NotServed::Stale), "{path}"),
                        }
                        let open = self.nodes.get(&id).is_some_and(|node| node.handles > 0);
                        assert!(!open, "{path} is open, and its bytes are gone");
                    }
                    Shown::Version(version) => {
                        let found = version_of(unit.name, unit.certificate, &bytes.unwrap());
                        assert_eq!(found, version, "{path}");
                    }
                    _ => assert_eq!(bytes, Err(NotServed::Stale), "{path}"),
                }
            }
        }
        if let Some(mut history) = self.history.take() {
            history.compare(self);
            self.history = Some(history);
        }
    }

    /// Whoever looks now remembers these nodes.
    fn remember(&mut self) {
        for path in self.paths() {
            if let Some(id) = walk(&self.view, &path) {
                let unit = self.unit_of(id);
                self.nodes.entry(id).or_insert(Node::of(unit));
            }
        }
    }

    /// Nodes keep what they hold; until it is taken away, and then for good.
    fn read_nodes(&mut self, new: &[Answered], everything: bool) {
        let answers = self.vault.with(|state| state.answers.clone());
        self.nodes.retain(|id, node| {
            if node.handles == 0 && !everything {
                return true;
            }
            let read = self.view.read(*id, |bytes| bytes.expose_str().unwrap().to_owned());
            match read {
                Ok(text) => {
                    assert!(!node.dead, "{id:?} was taken away and holds {text}");
                    if let Some(before) = &node.text {
                        assert_eq!(*before, text, "{id:?}");
                        return true;
                    }
                    if let Some(unit) = self.units.get(node.unit)
                        && let Some(refused) = unit.refused
                    {
                        let good = |answer: &&Answered| {
                            answer.object == node.unit
                                && matches!(answer.outcome, Outcome::Value(_))
                                && answer.asked_step >= refused
                        };
                        assert!(answers.iter().any(|a| good(&a)), "{id:?}: {text} came back");
                    }
                    node.text = Some(text);
                    true
                }
                Err(NotServed::Refused(_)) => {
                    let why = node.dead || node.perhaps_dead || node.text.is_none();
                    assert!(why, "{id:?} was not taken away: {new:?}");
                    node.dead = true;
                    true
                }
                Err(why) => {
                    assert_eq!(why, NotServed::Stale);
                    assert!(node.handles == 0, "{id:?} is open");
                    // Empty, forgotten, or let go of: then it is still what it was.
                    let Ok(attr) = self.view.attr(*id) else { return false };
                    if let Some(text) = &node.text {
                        assert_eq!(self.room, Room::Little);
                        assert_eq!(attr.size, text.len() as u64, "{id:?}");
                    }
                    true
                }
            }
        });
        let nodes = &self.nodes;
        self.pages.retain(|id, _| nodes.contains_key(id));
        let Status { bytes, most_bytes, .. } = self.view.status();
        assert!(bytes <= most_bytes, "{bytes} of {most_bytes}");
    }

    /// The vault is left alone only when it owes three objects an answer, and has given none since.
    fn silence(&mut self) {
        let before = self.left_alone;
        self.left_alone = self.view.status().left_alone_until.is_some();
        if self.left_alone {
            let answers = self.vault.with(|state| state.answers.clone());
            let silent = answers.iter().rev().take_while(|a| a.outcome == Outcome::Failed);
            let silent: BTreeSet<_> = silent.map(|answer| answer.object).collect();
            assert!(silent.len() >= 3, "{silent:?}");
        }
        // Whoever came before it was over was told so.
        self.left_alone |= before && !self.opening.is_empty();
    }

    /// Whether there is no room for one more object beside what is open.
    fn is_full_of_open_files(&self) -> bool {
        let open = self.nodes.iter().filter(|(_, node)| node.handles > 0);
        let held: BTreeSet<_> = open.map(|(id, node)| (id.birth, node.unit)).collect();
        self.room == Room::Little && !held.is_empty()
    }

    /// When all is well again, all is there; and when all is let go of, nothing is held.
    pub(super) async fn ends(mut self) {
        self.vault.heal();
        while self.vault.waiting() > 0 {
            self.does(&Op::Deliver(0)).await;
        }
        assert!(self.opening.is_empty() && self.refreshing.is_empty(), "somebody waits for ever");
        self.does(&Op::Refresh).await;
        for (number, unit) in self.units.iter().enumerate() {
            let newest = self.vault.with(|state| state.objects[number].versions.len() as u32);
            let newest = if unit.pinned { 1 } else { newest };
            assert!(
                [Shown::Unfilled, Shown::Version(newest)].contains(&unit.shown),
                "{}: {:?} and not {newest}",
                unit.name,
                unit.shown
            );
        }
        if let Some(history) = &self.history {
            let versions = self.vault.with(|state| {
                state.objects[history.object].versions.iter().map(|one| one.0).collect::<Vec<_>>()
            });
            history.is_whole(&self, &versions);
        }
        for (id, node) in &self.nodes {
            (0..node.handles).for_each(|_| self.view.release(*id));
        }
        assert!(self.view.open_files().is_empty(), "files that nobody holds are kept");
        let (view, budget) = (Arc::downgrade(&self.view), self.view.budget.clone());
        drop(self);
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        assert!(Weak::upgrade(&view).is_none() && budget.used() == 0, "{} are held", budget.used());
    }
}

impl Node {
    fn of(unit: usize) -> Self {
        Self { unit, text: None, dead: false, perhaps_dead: false, handles: 0 }
    }
}

/// The version that is shown of an object without a history.
fn version_shown(view: &View, name: &str) -> Option<u32> {
    let said = view.status().objects.into_iter().find(|object| object.name == name)?;
    Some(said.version?.strip_prefix('v').unwrap().parse().unwrap())
}

/// The version that wrote these bytes, all of them.
pub(super) fn version_of(name: &str, certificate: bool, bytes: &[u8]) -> u32 {
    let whole = std::str::from_utf8(bytes).unwrap();
    if !certificate {
        let version = whole.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(whole, text(name, version));
        return version;
    }
    let numbers = whole.lines().filter(|line| line.len() == 4);
    let versions: Vec<u32> = numbers.map(|number| number.parse().unwrap()).collect();
    assert!(!versions.is_empty() && versions.iter().all(|one| *one == versions[0]), "{whole}");
    versions[0]
}
