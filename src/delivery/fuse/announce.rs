//! Telling watchers of a rotation, by operations of our own.
//!
//! No notification to the kernel gives an inotify event. What does is what kubelet's writer does too: a
//! symlink and a rename over `..data`, or a new file and a rename over a name; then unlinks of what was
//! replaced. So the names thread has these made through the mount itself (by the [`hand`]), and tells the
//! [`gate`] beforehand of each, so that the handler answers it, from memory, and refuses everything else.
//! Nothing is stored by it: the view has published the generation already, and the inode that the handler
//! answers with is the one that the name has from then on, so the kernel's own names are right at once.
//!
//! Where it cannot be done (the mount is not where it was made, another one hides it, somebody holds the
//! directory, an old kernel) the kernel is told to look the names up again: readers see the new version all the
//! same, watchers see nothing.

pub(super) mod gate;
mod hand;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use self::gate::{Effect, Gate, Operation};
use self::hand::{Failed, Hand, Tree};
use super::mountpoint::Found;
use crate::view::{Announcement, Attr, Kind, Move, NodeId, View};

/// One operation gets this long. It takes microseconds, unless somebody holds the directory.
const STEP: Duration = Duration::from_secs(2);
/// All names of a rotation are moved in this time, or not by us.
const SWAP: Duration = Duration::from_secs(10);
/// Then the files of the old directory go in this time, or stay.
const TIDY: Duration = Duration::from_secs(5);
/// What becomes `..data`, as with kubelet's writer.
const NEW_DATA: &str = "..data_tmp";
/// What becomes a file. No pattern for secrets' names matches it, and no plan has such a name.
const NEW_FILE: &str = "..akvfs_tmp";
/// Begins the name by which our own thread is known.
const PROOF: &str = "..akvfs_";

/// Where the tree was mounted, once it is.
pub(super) type Place = Arc<OnceLock<(PathBuf, Found)>>;

/// What makes the operations, on the names thread.
pub(super) struct Announcer {
    view: Arc<View>,
    gate: Arc<Gate>,
    place: Place,
    hand: Option<Hand>,
    told: bool,
}

impl Announcer {
    pub(super) fn new(view: Arc<View>, gate: Arc<Gate>, place: Place) -> Self {
        Self { view, gate, place, hand: None, told: false }
    }

    /// Moves every name. When this returns they lead to the new generation for whoever looks them up; the
    /// names that are returned have to be forgotten by the kernel.
    pub(super) fn announce(&mut self, announcement: &Announcement) -> Vec<(NodeId, String)> {
        let result = match announcement.moves.is_empty() {
            true => Ok(()),
            false => self.swap(announcement),
        };
        // What holds now holds for everybody, before the gate forgets what it said.
        self.view.move_names(announcement.birth);
        self.gate.close();
        if result.is_ok() {
            self.tidy(&announcement.leavings);
            self.gate.close();
        }
        self.let_go();
        let Err(failed) = result else { return Vec::new() };
        self.complain(&failed);
        let temporary = announcement.moves.iter().filter_map(|one| {
            let name = temporary(one, self.view.outline(one.now?)?.kind);
            Some((one.directory, name.to_owned()))
        });
        let mut names: Vec<_> = announcement.names.iter().cloned().chain(temporary).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Names lead to this generation, and no watcher is told.
    pub(super) fn give_up(&mut self, birth: u32) {
        self.complain(&Failed::because("they came faster than they could be told"));
        self.view.move_names(birth);
    }

    fn hand(&mut self) -> Result<&mut Hand, Failed> {
        let hand = match self.hand.take() {
            Some(hand) => hand,
            None => Hand::new().map_err(Failed::Refused)?,
        };
        Ok(self.hand.insert(hand))
    }

    /// Closes the tree: whoever unmounts must find nobody in it.
    pub(super) fn let_go(&mut self) {
        if let Some(hand) = &mut self.hand {
            hand.let_go();
        }
    }

    /// Whether somebody holds the directory. Then a notification about one of its names would wait for him in
    /// the kernel, where nothing can interrupt it, on a thread that has all files of this process: a process
    /// that is killed meanwhile would keep its connection, and its readers would wait for answers. The hand,
    /// which has no such files, tries it first, once: it comes back when the directory is free.
    ///
    /// Where the hand does not reach the tree, nobody knows, and it is taken for free.
    pub(super) fn is_held(&mut self, directory: NodeId) -> bool {
        let Some((dir, mount)) = self.place.get().cloned() else { return false };
        let folder = self.view.path(directory);
        let Ok(hand) = self.hand() else { return false };
        let tried = hand.run(Instant::now() + STEP, move |tree| {
            let tree = match tree {
                Some(tree) => tree,
                None => tree.insert(Tree::new(super::mountpoint::writable(&dir, &mount)?)),
            };
            tree.enter(&folder)
        });
        let held = tried.is_err_and(|error| error.is_late());
        if held {
            hand.let_go();
        }
        held
    }

    fn swap(&mut self, announcement: &Announcement) -> Result<(), Failed> {
        let limit = Instant::now() + SWAP;
        if self.view.shown_birth() >= announcement.birth {
            return Err(Failed::because("they came faster than they could be told"));
        }
        self.reach(Instant::now() + STEP)?;
        let frozen = announcement.moves.iter().map(|one| {
            let before = one.before.and_then(|id| self.view.outline(id));
            (one.directory, one.name.clone(), before)
        });
        self.gate.freeze(frozen.collect());
        let mut result = Ok(());
        for one in &announcement.moves {
            match self.make(one, limit) {
                // One name that does not move is no reason for the others to stay.
                Err(error) if !error.is_late() => result = Err(error),
                done => done?,
            }
        }
        result
    }

    /// Opens the tree, makes sure that it is ours, and learns what the kernel calls the hand.
    fn reach(&mut self, limit: Instant) -> Result<(), Failed> {
        let (dir, mount) =
            self.place.get().cloned().ok_or(Failed::because("it is not mounted yet"))?;
        let name = secret_name().ok_or(Failed::because("there are no random numbers"))?;
        self.gate.ask_for(name.clone());
        let hand = self.hand()?;
        hand.run(limit, move |tree| {
            let root = super::mountpoint::writable(&dir, &mount)?;
            tree.insert(Tree::new(root)).look_up(&name);
            Ok(())
        })?;
        match self.gate.is_known() {
            true => Ok(()),
            false => Err(Failed::because("the kernel does not tell which thread asks")),
        }
    }

    /// One name, by the operations that watchers expect.
    fn make(&mut self, one: &Move, limit: Instant) -> Result<(), Failed> {
        let outline = |id: Option<NodeId>| id.and_then(|id| self.view.outline(id));
        let Some(now) = outline(one.now) else {
            let gone = (one.name.clone(), Effect::Leads(None));
            return self.perform(one, unlink(one), None, vec![gone], limit);
        };
        let moved = one.before.is_some();
        let first = if moved { temporary(one, now.kind) } else { one.name.as_str() };
        let directory = one.directory;
        let name = first.to_owned();
        let create = match now.kind {
            Kind::Link => {
                let target = self.view.target(now.id);
                let target = target.map_err(|_| Failed::because("it was replaced already"))?;
                Operation::Link { directory, name, target }
            }
            _ => Operation::File { directory, name },
        };
        let leads = Effect::Leads(Some(now));
        let created = vec![(first.to_owned(), leads.clone())];
        self.perform(one, create, Some(now), created, limit)?;
        if !moved {
            return Ok(());
        }
        let rename = Operation::Rename { directory, from: first.to_owned(), to: one.name.clone() };
        let renamed = vec![(first.to_owned(), Effect::Leads(None)), (one.name.clone(), leads)];
        let renamed = self.perform(one, rename, None, renamed, limit);
        if renamed.as_ref().is_err_and(|error| !error.is_late()) {
            // Something is mounted on the name, say.
            let name = first.to_owned();
            let unlink = Operation::Unlink { directory, name: name.clone() };
            self.perform(one, unlink, None, vec![(name, Effect::Leads(None))], limit)?;
        }
        renamed
    }

    /// Takes the files out of the directory that was replaced, for who watches one of them. They stay there
    /// for who looks for them.
    fn tidy(&mut self, leavings: &[Move]) {
        let limit = Instant::now() + TIDY;
        for one in leavings {
            let before = one.before.and_then(|id| self.view.outline(id));
            self.gate.freeze(vec![(one.directory, one.name.clone(), before)]);
            let stays = (one.name.clone(), Effect::Thaws);
            match self.perform(one, unlink(one), None, vec![stays], limit) {
                Err(error) if error.is_late() => return,
                _ => {}
            }
        }
    }

    fn perform(
        &mut self,
        one: &Move,
        operation: Operation,
        answer: Option<Attr>,
        effects: Vec<(String, Effect)>,
        limit: Instant,
    ) -> Result<(), Failed> {
        let Some(hand) = &mut self.hand else { return Err(Failed::because("no thread")) };
        let now = Instant::now();
        if now >= limit {
            return Err(Failed::because("there are too many names"));
        }
        let limit = limit.min(now + STEP);
        self.gate.expect(operation.clone(), answer, effects);
        let folder = one.folder.clone();
        let done = hand.run(limit, move |tree| match tree {
            Some(tree) => tree.perform(&folder, &operation),
            None => Err(std::io::ErrorKind::NotFound.into()),
        });
        let was_asked = !self.gate.withdraw();
        done?;
        match was_asked {
            true => Ok(()),
            false => Err(Failed::because("the kernel knew already")),
        }
    }

    fn complain(&mut self, failed: &Failed) {
        if std::mem::replace(&mut self.told, true) {
            tracing::debug!("a rotation was not announced to watchers: {failed}");
        } else {
            tracing::warn!(
                "a rotation was not announced to watchers: {failed}; readers see the new versions all the \
                 same, programs that wait for inotify events do not; this is said once"
            );
        }
    }
}

fn unlink(one: &Move) -> Operation {
    Operation::Unlink { directory: one.directory, name: one.name.clone() }
}

fn temporary(one: &Move, kind: Kind) -> &'static str {
    match kind {
        Kind::Link if one.directory == NodeId::ROOT => NEW_DATA,
        _ => NEW_FILE,
    }
}

/// A name that nobody else can ask for.
fn secret_name() -> Option<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().fold(PROOF.to_owned(), |name, byte| format!("{name}{byte:02x}")))
}
