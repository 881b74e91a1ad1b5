//! What may be seen of a version history: always one of the lists that the vault has given, and none
//! from before the last one that was seen.

use super::vault::{Answered, Outcome};
use super::world::{Overdue, Run, World, version_of};
use super::*;

const WANTED: usize = 3;

pub(super) struct History {
    /// Its number in the vault.
    pub(super) object: usize,
    /// Enabled versions, as the vault told them one after the other.
    lists: Vec<Vec<u32>>,
    /// The list that was seen last.
    at: usize,
    gone: bool,
    before: Vec<(usize, Option<u32>)>,
    /// What was there when the last list was asked for.
    when_listed: Vec<(usize, Option<u32>)>,
    /// The last time that everything about it was answered, and that anything was.
    clean: Option<Instant>,
    checked: Option<Instant>,
}

impl History {
    pub(super) fn new(object: usize) -> Self {
        let (clean, checked) = (None, None);
        let (lists, before, when_listed) = (Vec::new(), Vec::new(), Vec::new());
        Self { object, lists, at: 0, gone: false, before, when_listed, clean, checked }
    }

    /// Whether it was certainly overdue when this came. `ended` is the last refresh that had come to its
    /// end by the operation before.
    pub(super) fn hear(&mut self, answer: &Answered, ended: u64, most: Duration) -> Overdue {
        match &answer.outcome {
            Outcome::List(enabled) => {
                self.lists.push(enabled.clone());
                let at_once = answer.asked_step == answer.arrived_step && answer.run == ended + 1;
                self.when_listed = if at_once { self.before.clone() } else { Vec::new() };
                self.checked = self.checked.max(Some(answer.asked));
                self.clean = self.clean.or(Some(answer.asked));
            }
            Outcome::Value(_) => self.checked = self.checked.max(Some(answer.asked)),
            _ => {}
        }
        let since = |checked| answer.arrived.saturating_duration_since(checked);
        match self.checked.is_some_and(|checked| since(checked) >= most) {
            true => Overdue::Opened,
            false => Overdue::No,
        }
    }

    /// What follows from a refresh. Whether something about it certainly cannot be told, and whether
    /// that may be so.
    pub(super) fn apply(&mut self, run: &Run, world: &mut World, last: bool) -> (bool, bool) {
        let own = run.answers.iter().filter(|(answer, _)| answer.object == self.object);
        let (mut must_go, mut may_go, mut unknown, mut perhaps) = (false, false, false, false);
        let mut enabled = None;
        for (answer, overdue) in own {
            match &answer.outcome {
                Outcome::List(list) if list.is_empty() => must_go = true,
                Outcome::List(list) => enabled = Some((list.clone(), answer.asked)),
                Outcome::Value(_) => {}
                Outcome::Refused(code) => {
                    must_go |= answer.list || answer.refresh && *code == Code::Forbidden;
                }
                Outcome::Failed => {
                    unknown |= answer.refresh;
                    perhaps |= !answer.refresh;
                    must_go |= answer.refresh && *overdue != Overdue::No;
                    let since = |then| answer.arrived.saturating_duration_since(then);
                    may_go |=
                        self.clean.is_some_and(|clean| since(clean) >= Duration::from_secs(88_200));
                }
            }
        }
        if let (Some((_, asked)), false, false) = (&enabled, unknown, perhaps) {
            self.clean = self.clean.max(Some(*asked));
        }
        let listed = enabled.is_some();
        let read = run.answers.iter().any(|(one, _)| one.object == self.object && !one.list);
        let was_read = |(_, version): &(usize, Option<u32>)| {
            version
                .is_some_and(|version| enabled.as_ref().is_some_and(|(e, _)| e.contains(&version)))
        };
        let asks = !last || read || !self.when_listed.iter().any(was_read);
        assert!(asks, "what may be listed is shown, and nobody asked whether it may be read");
        let now = seen(world);
        let left = !now.is_empty();
        assert!(!(must_go && left && last), "the vault has refused it, and it is there: {now:?}");
        let went = last && !left && !self.gone && !self.before.is_empty();
        if went {
            // Or all that it had was disabled.
            assert!(must_go || may_go || listed, "it went for nothing");
            self.gone = must_go || may_go;
        }
        if must_go {
            self.gone = true;
        }
        let forgotten = |version: u32| enabled.as_ref().is_some_and(|(e, _)| !e.contains(&version));
        let gone = must_go || went && self.gone;
        for (id, node) in &mut world.nodes {
            let Some(text) = node.text.clone() else { continue };
            if !world.view.path(*id).starts_with("h/") {
                continue;
            }
            let version = version_of("h", false, text.as_bytes());
            node.dead |= gone || forgotten(version);
            // Went, and came back with the next refresh before anybody looked.
            node.perhaps_dead |= may_go && !last;
        }
        if last && left {
            self.gone = false;
        }
        (unknown, perhaps)
    }

    /// Some list explains what is seen.
    pub(super) fn compare(&mut self, world: &World) {
        let seen = seen(world);
        if seen.is_empty() {
            self.before = seen;
            return;
        }
        let explains = |at: &usize| {
            let list = &self.lists[*at];
            let shown = &list[..list.len().min(WANTED)];
            let right = seen.iter().all(|(position, version)| {
                shown.get(*position).is_some_and(|wanted| version.is_none_or(|v| v == *wanted))
            });
            // What is missing was disabled since then.
            right
                && shown.iter().enumerate().all(|(position, version)| {
                    seen.iter().any(|(there, _)| *there == position)
                        || self.lists[*at..].iter().any(|later| !later.contains(version))
                })
        };
        let found = (self.at..self.lists.len()).find(explains);
        let Some(found) = found else {
            panic!("no list is {seen:?}: {:?}", &self.lists[self.at..]);
        };
        self.at = found;
        self.before = seen;
    }

    pub(super) fn is_whole(&self, world: &World, versions: &[u32]) {
        let newest: Vec<u32> = versions.iter().rev().take(WANTED).copied().collect();
        let seen = seen(world);
        assert_eq!(seen.len(), newest.len(), "{seen:?}");
        for (position, version) in seen {
            assert!(version.is_none_or(|version| version == newest[position]));
        }
    }
}

/// Positions that are there, and the versions of those that are filled.
fn seen(world: &World) -> Vec<(usize, Option<u32>)> {
    let Some(folder) = walk(&world.view, "h") else { return Vec::new() };
    let mut seen = Vec::new();
    world
        .view
        .list(folder, 0, |_, name, attr| {
            let bytes = world.view.read(attr.id, |bytes| bytes.expose().to_vec()).ok();
            let version = bytes.map(|bytes| version_of("h", false, &bytes));
            seen.push((name.parse().unwrap(), version));
            true
        })
        .unwrap();
    seen
}
