//! Names, attributes and bytes of a view, from memory: what a delivery asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::View;
use super::generation::{Generation, Generations};
use super::plan::{Children, DATA, DATA_NAME, GENERATION, Layout, Node, NodeKind, ROOT};
use super::slot::Slot;
use crate::error::Code;
use crate::secret::Secret;

/// Size of a file whose content nobody asked for yet: not zero, or tar, find and `test -s` would take
/// it for empty.
pub const PLACEHOLDER: u64 = 4096;
/// Directories are open to all: names are no secrets to those who may reach the mount.
pub(super) const DIRECTORY_MODE: u32 = 0o755;

/// A node: an index of the plan in one birth. Birth 0 has the nodes that never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// Number of the generation that brought it.
    pub birth: u32,
    /// Index in the plan, from 1.
    pub index: u32,
}

impl NodeId {
    /// The root directory.
    pub const ROOT: NodeId = NodeId { birth: 0, index: ROOT };
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

/// Attributes of a node.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// Which node.
    pub id: NodeId,
    /// What it is.
    pub kind: Kind,
    /// Bytes; a placeholder for a file that is not filled yet.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Creation of the version, or of the node.
    pub modified: SystemTime,
}

/// How much there is in a view.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// Names.
    pub names: usize,
    /// Bytes of values that are held.
    pub bytes: usize,
    /// Most bytes that may be held.
    pub limit: usize,
}

/// Why a node cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServed {
    /// It belongs to a generation that is gone.
    Stale,
    /// The vault does not give its object any more; or has not said for too long that it does.
    Refused(Code),
    /// It is a directory.
    Directory,
    /// It is not a directory, file or link, whichever was asked for.
    OtherKind,
}

impl View {
    /// The node of this name in a directory; `None` when there is none.
    ///
    /// # Errors
    /// The directory is gone or no directory.
    pub fn lookup(&self, directory: NodeId, name: &str) -> Result<Option<Attr>, NotServed> {
        let generations = self.generations();
        let (_, generation) = self.directory(&generations, directory)?;
        let tree = &self.plan.tree;
        if tree.layout == Layout::Atomic && directory.index == ROOT && name.starts_with("..") {
            if name == DATA_NAME {
                return Ok(self.child(&generations, generation, DATA));
            }
            let named = generations.all().find(|generation| generation.directory == name);
            return Ok(
                named.and_then(|generation| self.child(&generations, generation, GENERATION))
            );
        }
        let index = tree.child(directory.index, name);
        Ok(index.and_then(|index| self.child(&generations, generation, index)))
    }

    /// Attributes of a node.
    ///
    /// # Errors
    /// The node is gone.
    pub fn attr(&self, id: NodeId) -> Result<Attr, NotServed> {
        self.attr_in(&self.generations(), id)
    }

    /// Calls `each` with the position, name and attributes of every entry of a directory from position
    /// `from`, until it returns `false`. Positions are stable while the mount lives: an entry that is
    /// not shown now leaves a gap, and new ones come last.
    ///
    /// # Errors
    /// The directory is gone or no directory.
    pub fn list(
        &self,
        directory: NodeId,
        from: usize,
        mut each: impl FnMut(usize, &str, Attr) -> bool,
    ) -> Result<(), NotServed> {
        let generations = self.generations();
        let (children, generation) = self.directory(&generations, directory)?;
        for (position, index) in (from..).map_while(|at| Some((at, children.at(at)?))) {
            let Some(node) = self.plan.tree.node(index) else { continue };
            let Some(attr) = self.child(&generations, generation, index) else { continue };
            let name = match &*node.name {
                "" => &generation.directory,
                name => name,
            };
            if !each(position, name, attr) {
                break;
            }
        }
        Ok(())
    }

    /// The directory above; the root's is itself.
    ///
    /// # Errors
    /// The node is gone.
    pub fn parent(&self, id: NodeId) -> Result<Attr, NotServed> {
        let generations = self.generations();
        let node = self.plan.tree.node(id.index).ok_or(NotServed::Stale)?;
        let parent = self.plan.tree.node(node.parent).ok_or(NotServed::Stale)?;
        let permanent = self.plan.tree.permanent(node.parent, parent);
        let birth = if permanent { 0 } else { id.birth };
        self.attr_in(&generations, NodeId { birth, index: node.parent })
    }

    /// Where a link points.
    ///
    /// # Errors
    /// The node is gone or no link.
    pub fn target(&self, id: NodeId) -> Result<String, NotServed> {
        match &self.plan.tree.node(id.index).ok_or(NotServed::Stale)?.kind {
            NodeKind::Link(target) => Ok(target.to_string()),
            NodeKind::Data => self
                .generations()
                .of_birth(id.birth)
                .map(|generation| generation.directory.clone())
                .ok_or(NotServed::Stale),
            _ => Err(NotServed::OtherKind),
        }
    }

    /// The slot that a file's bytes come from.
    ///
    /// # Errors
    /// The node is gone or no file.
    pub fn slot(&self, id: NodeId) -> Result<Arc<Slot>, NotServed> {
        match self.plan.tree.node(id.index).ok_or(NotServed::Stale)?.kind {
            NodeKind::File { object, .. } => {
                let slot = self.slot_in(&self.generations(), id, object)?;
                match slot.refused() {
                    Some(code) => Err(NotServed::Refused(code)),
                    None => Ok(slot),
                }
            }
            NodeKind::Directory(_) => Err(NotServed::Directory),
            _ => Err(NotServed::OtherKind),
        }
    }

    /// All files that are filled together with this one, itself included.
    pub fn siblings(&self, id: NodeId) -> Vec<NodeId> {
        match self.plan.tree.node(id.index).map(|node| &node.kind) {
            Some(NodeKind::File { object, .. }) => {
                let nodes =
                    self.plan.objects.get(*object).map_or(&[][..], |planned| &planned.nodes);
                nodes.iter().map(|index| NodeId { birth: id.birth, index: *index }).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Keeps the file's bytes until [`View::release`], whatever happens to its generation and however
    /// full the tree is; unless the vault refuses its object. Whether they are there: else they have to be
    /// fetched first.
    pub fn hold(&self, id: NodeId, slot: &Arc<Slot>) -> bool {
        let tick = self.opens.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.open_files();
        open.entry(id).or_insert_with(|| (0, slot.clone())).0 += 1;
        drop(open);
        if let Some(content) = slot.content() {
            content.opened_at(tick);
        }
        let ready = slot.is_ready();
        if ready {
            self.count_open(slot);
        }
        ready
    }

    /// Every open that succeeds is counted.
    pub(super) fn count_open(&self, slot: &Slot) {
        if let Some(planned) = self.plan.objects.get(slot.object) {
            planned.opens.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends one [`View::hold`].
    pub fn release(&self, id: NodeId) {
        let mut open = self.open_files();
        if let Some((handles, _)) = open.get_mut(&id) {
            *handles -= 1;
            if *handles == 0 {
                open.remove(&id);
                self.closes.notify_waiters();
            }
        }
    }

    /// Hands the bytes of a filled file to `read`.
    ///
    /// # Errors
    /// The node is gone, no file, or not filled.
    pub fn read<T>(&self, id: NodeId, read: impl FnOnce(&Secret) -> T) -> Result<T, NotServed> {
        let slot = self.slot(id)?;
        let Some(Node { kind: NodeKind::File { file, .. }, .. }) = self.plan.tree.node(id.index)
        else {
            return Err(NotServed::OtherKind);
        };
        let files = slot.content().ok_or(NotServed::Stale)?.files()?;
        files.file(*file).map(|bytes| read(bytes)).ok_or(NotServed::Stale)
    }

    /// The path of a file below the mount, for messages.
    pub fn path(&self, id: NodeId) -> String {
        self.plan.tree.path(id.index)
    }

    /// What statfs tells.
    pub fn totals(&self) -> Totals {
        Totals {
            names: self.plan.tree.len(),
            bytes: self.budget.used(),
            limit: self.limits.max_bytes,
        }
    }

    /// Children of a live directory, and the generation that they belong to.
    fn directory<'a>(
        &'a self,
        generations: &'a Generations,
        id: NodeId,
    ) -> Result<(&'a Children, &'a Arc<Generation>), NotServed> {
        let node = self.plan.tree.node(id.index).ok_or(NotServed::Stale)?;
        let NodeKind::Directory(children) = &node.kind else { return Err(NotServed::OtherKind) };
        let generation = if self.plan.tree.permanent(id.index, node) {
            Some(generations.shown()).filter(|_| id.birth == 0)
        } else {
            generations.of_birth(id.birth)
        };
        Ok((children, generation.ok_or(NotServed::Stale)?))
    }

    /// The node of a plan's index as this generation has it.
    fn child(
        &self,
        generations: &Generations,
        generation: &Generation,
        index: u32,
    ) -> Option<Attr> {
        let node = self.plan.tree.node(index)?;
        let birth = match node.kind {
            NodeKind::File { object, file, .. } => {
                generation.slots.get(object).filter(|slot| slot.shows(file))?.birth
            }
            // No link without its file.
            NodeKind::Link(_) if !self.is_shown(generation, self.plan.tree.behind(node)?) => {
                return None;
            }
            _ if self.plan.tree.permanent(index, node) => 0,
            _ => generation.birth,
        };
        self.attr_in(generations, NodeId { birth, index }).ok()
    }

    /// Every node of these objects whose bytes the vault has taken back, in all births.
    pub(super) fn withdrawn_nodes(&self, objects: &BTreeSet<usize>) -> Vec<NodeId> {
        let mut slots: BTreeMap<(u32, usize), bool> = BTreeMap::new();
        let withdrawn = |slot: &Slot| slot.content().is_some_and(|content| content.is_withdrawn());
        for generation in self.generations().all() {
            for slot in objects.iter().filter_map(|object| generation.slots.get(*object)) {
                slots.insert((slot.birth, slot.object), withdrawn(slot));
            }
        }
        for (_, slot) in self.open_files().values() {
            if objects.contains(&slot.object) {
                slots.insert((slot.birth, slot.object), withdrawn(slot));
            }
        }
        let slots = slots.into_iter().filter(|(_, withdrawn)| *withdrawn);
        slots
            .filter_map(|((birth, object), _)| Some((birth, self.plan.objects.get(object)?)))
            .flat_map(|(birth, planned)| {
                planned.nodes.iter().map(move |index| NodeId { birth, index: *index })
            })
            .collect()
    }

    /// Whether a generation has a file; folders and links are always there.
    pub(super) fn is_shown(&self, generation: &Generation, node: &Node) -> bool {
        match node.kind {
            NodeKind::File { object, file, .. } => {
                generation.slots.get(object).is_some_and(|slot| slot.shows(file))
            }
            _ => true,
        }
    }

    fn slot_in(
        &self,
        generations: &Generations,
        id: NodeId,
        object: usize,
    ) -> Result<Arc<Slot>, NotServed> {
        if let Some(slot) = generations.slot(id.birth, object) {
            return Ok(slot.clone());
        }
        self.open_files().get(&id).map(|(_, slot)| slot.clone()).ok_or(NotServed::Stale)
    }

    fn attr_in(&self, generations: &Generations, id: NodeId) -> Result<Attr, NotServed> {
        let node = self.plan.tree.node(id.index).ok_or(NotServed::Stale)?;
        if let NodeKind::File { object, file, mode } = node.kind {
            let slot = self.slot_in(generations, id, object)?;
            let born = || generations.of_birth(id.birth).map(|generation| generation.born);
            if let Some(code) = slot.refused() {
                return Err(NotServed::Refused(code));
            }
            let (size, modified) = match slot.content() {
                Some(content) => (content.size(file).unwrap_or(0) as u64, content.modified),
                None => (PLACEHOLDER, born().unwrap_or(self.born)),
            };
            return Ok(Attr { id, kind: Kind::File, size, mode, modified });
        }
        let permanent = self.plan.tree.permanent(id.index, node);
        let modified = match generations.of_birth(id.birth) {
            Some(generation) if !permanent => generation.born,
            None if permanent && id.birth == 0 => self.born,
            _ => return Err(NotServed::Stale),
        };
        let (kind, size, mode) = match &node.kind {
            NodeKind::Link(target) => (Kind::Link, target.len(), 0o777),
            NodeKind::Data => {
                let target = generations.of_birth(id.birth).map_or(0, |g| g.directory.len());
                (Kind::Link, target, 0o777)
            }
            _ => (Kind::Directory, 0, DIRECTORY_MODE),
        };
        Ok(Attr { id, kind, size: size as u64, mode, modified })
    }
}
