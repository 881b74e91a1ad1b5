//! What a new generation changes in the directories, name by name; and when readers' look-ups follow.
//!
//! A delivery that moves each name by an operation of its own (so that watchers see it) needs the names to
//! lead where they did until it has done so: it stages ([`View::subscribe_staged`]) and then says
//! [`View::move_names`].

use super::generation::Generation;
use super::nodes::DIRECTORY_MODE;
use super::plan::{DATA, DATA_NAME, GENERATION, Layout, NodeKind};
use super::publish::Published;
use super::{Attr, Kind, NodeId, PLACEHOLDER, View};

/// A name that leads somewhere else from a generation on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its directory.
    pub directory: NodeId,
    /// The directory's path below the mount; empty for the root.
    pub folder: String,
    /// The name.
    pub name: String,
    /// What it led to, if it was there.
    pub before: Option<NodeId>,
    /// What it leads to, if it is there.
    pub now: Option<NodeId>,
}

impl View {
    /// The generation is shown: names lead to it. It may be called late, or twice.
    pub fn move_names(&self, birth: u32) {
        self.generations_mut(|generations| generations.show(birth));
    }

    /// The generation that names lead to.
    pub fn shown_birth(&self) -> u32 {
        self.generations().shown().birth
    }

    /// Attributes of a node of the plan, whether or not it can be read: its name may still have to go.
    pub fn outline(&self, id: NodeId) -> Option<Attr> {
        if let Ok(attr) = self.attr(id) {
            return Some(attr);
        }
        let (kind, mode) = match self.plan.tree.node(id.index)?.kind {
            NodeKind::File { mode, .. } => (Kind::File, mode),
            NodeKind::Directory(_) => (Kind::Directory, DIRECTORY_MODE),
            NodeKind::Link(_) | NodeKind::Data => (Kind::Link, 0o777),
        };
        Some(Attr { id, kind, size: PLACEHOLDER, mode, modified: self.born })
    }

    /// Whether no name leads to the node, and none will, as far as the view knows: only old directories
    /// and open handles have it, as with a file that was removed. What is current and not shown yet may be
    /// reached already, and what is shown is live until it is not.
    pub fn is_replaced(&self, id: NodeId) -> bool {
        let generations = self.generations();
        let kind = self.plan.tree.node(id.index).map(|node| &node.kind);
        let lacks = |generation: &Generation| match kind {
            Some(NodeKind::File { object, .. }) => {
                generation.slots.get(*object).is_none_or(|slot| slot.birth != id.birth)
            }
            Some(NodeKind::Data) => generation.birth != id.birth,
            _ => false,
        };
        lacks(generations.shown()) && lacks(&generations.current)
    }

    /// The names that lead elsewhere: in the order in which watchers are to see it.
    pub(super) fn moves(&self, published: &Published) -> Vec<Move> {
        let Published { changed, before, now, .. } = published;
        let tree = &self.plan.tree;
        if before.birth == now.birth {
            return Vec::new();
        }
        let data = |generation: &Generation| NodeId { birth: generation.birth, index: DATA };
        let root = |name: &str, before, now| Move {
            directory: NodeId::ROOT,
            folder: String::new(),
            name: name.to_owned(),
            before,
            now,
        };
        let mut moves = Vec::new();
        if tree.layout == Layout::Atomic {
            moves.push(root(DATA_NAME, Some(data(before)), Some(data(now))));
        }
        for (index, moved) in changed {
            let Some(node) = tree.node(*index) else { continue };
            let there = self.is_shown(now, node);
            let was_there = there != *moved;
            match tree.layout {
                Layout::Atomic if *moved && node.parent == GENERATION => {
                    let link = tree.link(&node.name).map(|index| NodeId { birth: 0, index });
                    moves.push(root(
                        &node.name,
                        link.filter(|_| was_there),
                        link.filter(|_| there),
                    ));
                }
                Layout::Atomic => {}
                Layout::Flat => moves.push(Move {
                    directory: NodeId { birth: 0, index: node.parent },
                    folder: tree.path(node.parent),
                    name: node.name.to_string(),
                    before: self.file_id(before, *index).filter(|_| was_there),
                    now: self.file_id(now, *index).filter(|_| there),
                }),
            }
        }
        moves
    }

    /// Every file of a generation's directory, as what goes from it.
    pub(super) fn leavings(&self, generation: &Generation) -> Vec<Move> {
        let tree = &self.plan.tree;
        if tree.layout != Layout::Atomic {
            return Vec::new();
        }
        let files = tree.all().filter(|(_, node)| {
            matches!(node.kind, NodeKind::File { .. }) && self.is_shown(generation, node)
        });
        files
            .map(|(index, node)| Move {
                directory: NodeId { birth: generation.birth, index: node.parent },
                folder: match tree.path(node.parent) {
                    path if path.is_empty() => generation.directory.clone(),
                    path => format!("{}/{path}", generation.directory),
                },
                name: node.name.to_string(),
                before: self.file_id(generation, index),
                now: None,
            })
            .collect()
    }

    fn file_id(&self, generation: &Generation, index: u32) -> Option<NodeId> {
        let NodeKind::File { object, .. } = self.plan.tree.node(index)?.kind else { return None };
        Some(NodeId { birth: generation.slots.get(object)?.birth, index })
    }
}
