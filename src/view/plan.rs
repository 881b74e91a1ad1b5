//! What a view shows before anything was fetched: names, modes, and which object fills which file.
//!
//! What is in a plan is fixed for the life of the mount, and so is its [`Tree`]: every generation has
//! the same nodes under the same indexes. What changes from birth to birth is the content of the files,
//! and which of them are there: a version history has a place for every version that the class wants,
//! and a generation shows as many as the vault has.
//!
//! A class's plan has all its names from the start. A whole vault's ([`Plan::listing`]) gets more when
//! the vault does: a new name gets a place at the end, and keeps it when it goes. A generation that is
//! older than a name has no slot for it, and so does not show it.

mod children;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use crate::class::{FilePath, ObjectKind, ObjectName, ObjectSpec};
use crate::error::{Code, Error, Result};

use super::growing::Growing;
use super::history;
use crate::render;

pub(super) use children::Children;

/// Index of the root directory in every tree.
pub(super) const ROOT: u32 = 1;
/// Index of `..data`, in the atomic layout.
pub(super) const DATA: u32 = 2;
/// Index of the generation directory, in the atomic layout.
pub(super) const GENERATION: u32 = 3;
/// The link that names the current generation.
pub(super) const DATA_NAME: &str = "..data";
/// Most names of whole vaults that a view ever has, those that are gone included: a place is never used
/// for another name, since somebody may remember its node.
const MAX_PLACES: usize = 100_000;
/// Names that a collection's directory is made for; it may have more.
const COLLECTION: usize = 4096;

/// How generations are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As kubelet's atomic writer: `..data` points at a generation directory, and every first path
    /// element is a link into `..data`. All files change together. For classes.
    Atomic,
    /// Plain files; each name is replaced on its own. For whole vaults.
    Flat,
}

impl Layout {
    /// Of plain files of a class, which belong together. Windows has no links to change them together.
    pub const fn of_class() -> Self {
        if cfg!(windows) { Layout::Flat } else { Layout::Atomic }
    }
}

/// The objects of a view and where their files stand.
#[derive(Debug)]
pub struct Plan {
    pub(super) objects: Growing<PlannedObject>,
    pub(super) histories: Vec<History>,
    pub(super) collections: Vec<Collection>,
    pub(super) tree: Tree,
    /// One name at a time.
    growing: Mutex<()>,
}

/// All objects of a kind in a vault, as one directory.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) kind: ObjectKind,
    /// Its node.
    directory: u32,
    /// Of its files.
    mode: u32,
}

/// An object: the unit of filling. One fetch fills all its files.
#[derive(Debug)]
pub(super) struct PlannedObject {
    /// Of one in a history, the version is that of its slot.
    pub(super) spec: ObjectSpec,
    /// The first object of its history; itself where there is none.
    pub(super) unit: usize,
    /// Nodes of its files.
    pub(super) nodes: Vec<u32>,
    /// How many files it may have; which of them there are, its content decides.
    pub(super) files: usize,
    /// How often one of its files was opened.
    pub(super) opens: AtomicU64,
}

/// A version history: objects that one list of the vault gives their versions.
#[derive(Debug)]
pub(super) struct History {
    /// As the class lists it.
    pub(super) spec: ObjectSpec,
    /// Its objects, the newest version first.
    pub(super) members: Range<usize>,
}

/// The names of a view, as nodes with stable indexes from [`ROOT`].
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) layout: Layout,
    nodes: Growing<Node>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: u32,
    /// Blank for the generation directory, whose name belongs to the generation.
    pub(super) name: Box<str>,
    pub(super) kind: NodeKind,
}

#[derive(Debug)]
pub(super) enum NodeKind {
    Directory(Box<Children>),
    /// File number `file` of an object, as [`render::paths`] counts.
    File {
        object: usize,
        file: usize,
        mode: u32,
    },
    /// The link `..data`.
    Data,
    /// A link that never changes.
    Link(Box<str>),
}

impl Plan {
    /// Lays the objects out.
    ///
    /// # Errors
    /// Names that collide.
    pub fn new(wanted: Vec<ObjectSpec>, layout: Layout) -> Result<Self> {
        Self::rendered(wanted, layout, render::Options::default())
    }

    /// The same for objects that are rendered with these options: with separate files, a secret has
    /// places for those too.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn rendered(
        wanted: Vec<ObjectSpec>,
        layout: Layout,
        options: render::Options,
    ) -> Result<Self> {
        let mut objects = Vec::with_capacity(wanted.len());
        let mut histories = Vec::new();
        for spec in wanted {
            if spec.history <= 1 {
                objects.push(spec);
                continue;
            }
            let first = objects.len();
            let members = 0..spec.history;
            objects.extend(members.map(|at| history::member(&spec, at, spec.version.clone())));
            histories.push(History { members: first..objects.len(), spec });
        }
        let mut shape = Shape::default();
        let paths: Vec<_> = objects.iter().map(|object| render::paths(object, options)).collect();
        // What is certain comes first. A file that may be needs a place only where none is taken:
        // should it turn out to be there, filling says what is in its way.
        for certain in [true, false] {
            for (number, (object, paths)) in objects.iter().zip(&paths).enumerate() {
                for (file, path) in paths.iter().enumerate() {
                    if (*path == object.path) != certain {
                        continue;
                    }
                    let leaf = Leaf { object: number, file, mode: object.mode };
                    match shape.insert(path.as_str(), leaf) {
                        Err(error) if certain => {
                            return Err(error.context(format!("objects[{}]", object.index)));
                        }
                        _ => {}
                    }
                }
            }
        }
        let tree = Tree::new(shape, layout);
        let mut planned: Vec<PlannedObject> = Vec::with_capacity(objects.len());
        for (number, (spec, paths)) in objects.into_iter().zip(paths).enumerate() {
            // Positions count from the first.
            let unit = number - spec.position.map_or(0, |position| position as usize);
            planned.push(PlannedObject {
                spec,
                unit,
                nodes: Vec::new(),
                files: paths.len(),
                opens: AtomicU64::new(0),
            });
        }
        for (index, node) in tree.all() {
            if let NodeKind::File { object, .. } = node.kind
                && let Some(owner) = planned.get_mut(object)
            {
                owner.nodes.push(index);
            }
        }
        let objects = planned.into_iter().collect();
        Ok(Self { objects, histories, collections: Vec::new(), tree, growing: Mutex::default() })
    }

    /// Whole collections of a vault, each as the directory of its name. They are empty until the vault
    /// was asked for its names.
    pub fn listing(kinds: &[ObjectKind], mode: u32, layout: Layout) -> Self {
        let mut shape = Shape::default();
        for kind in kinds {
            shape.0.insert(kind.collection().to_owned(), Entry::Collection);
        }
        let tree = Tree::new(shape, layout);
        let parent = if layout == Layout::Atomic { GENERATION } else { ROOT };
        let collections = kinds.iter().filter_map(|kind| {
            let directory = tree.child(parent, kind.collection())?;
            Some(Collection { kind: *kind, directory, mode })
        });
        let collections = collections.collect();
        let (objects, growing) = (Growing::new(), Mutex::default());
        Self { objects, histories: Vec::new(), collections, tree, growing }
    }

    /// The object of this name in a collection; a name that is new gets a place.
    ///
    /// # Errors
    /// It cannot be the name of a file, or there were too many.
    pub(super) fn place(&self, collection: &Collection, name: &ObjectName) -> Result<usize> {
        let Collection { kind, directory, mode } = *collection;
        let _one = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.tree.child(directory, name.as_str()).and_then(|node| self.tree.node(node));
        if let Some(Node { kind: NodeKind::File { object, .. }, .. }) = known {
            return Ok(*object);
        }
        let path = FilePath::parse(&format!("{}/{name}", kind.collection()))?;
        let object = self.objects.len();
        if object >= MAX_PLACES {
            let what = format!("the mount has seen {MAX_PLACES} names, and has room for no more");
            return Err(Error::new(Code::TooLarge, what).fix("mount again"));
        }
        let file = NodeKind::File { object, file: 0, mode };
        let node = Node { parent: directory, name: name.as_str().into(), kind: file };
        let nodes = vec![self.tree.add(node)];
        let spec = ObjectSpec::newest(object, kind, name.clone(), path, mode);
        let opens = AtomicU64::new(0);
        self.objects.push(PlannedObject { spec, unit: object, nodes, files: 1, opens });
        Ok(object)
    }

    /// The objects that ever had a place in a collection.
    pub(super) fn objects_of(&self, collection: &Collection) -> impl Iterator<Item = usize> {
        let directory = self.tree.node(collection.directory);
        let children = match directory.map(|node| &node.kind) {
            Some(NodeKind::Directory(children)) => Some(&**children),
            _ => None,
        };
        let nodes = children.into_iter().flat_map(Children::iter);
        nodes.filter_map(|node| match self.tree.node(node)?.kind {
            NodeKind::File { object, .. } => Some(object),
            _ => None,
        })
    }

    /// The history that begins with this object.
    pub(super) fn history(&self, unit: usize) -> Option<&History> {
        self.histories.iter().find(|history| history.members.start == unit)
    }

    /// Every object of a unit.
    pub(super) fn members(&self, unit: usize) -> Range<usize> {
        self.history(unit).map_or(unit..unit + 1, |history| history.members.clone())
    }

    /// Number of objects, every wanted version of a history counted.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether nothing is shown.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tree {
    fn new(shape: Shape, layout: Layout) -> Self {
        let directory = |name: &str, names: usize| Node {
            parent: ROOT,
            name: name.into(),
            kind: NodeKind::Directory(Children::about(names)),
        };
        let tree = Self { layout, nodes: Growing::new() };
        let names = shape.0.len();
        tree.push(directory("", names));
        if layout == Layout::Flat {
            tree.grow(ROOT, shape);
            return tree;
        }
        tree.add(Node { parent: ROOT, name: DATA_NAME.into(), kind: NodeKind::Data });
        let generation = tree.add(directory("", names));
        for name in shape.0.keys() {
            let kind = NodeKind::Link(format!("{DATA_NAME}/{name}").into());
            tree.add(Node { parent: ROOT, name: name.as_str().into(), kind });
        }
        tree.grow(generation, shape);
        tree
    }

    fn grow(&self, parent: u32, shape: Shape) {
        for (name, entry) in shape.0 {
            let (kind, below) = match entry {
                Entry::File(leaf) => {
                    let Leaf { object, file, mode } = leaf;
                    (NodeKind::File { object, file, mode }, None)
                }
                Entry::Directory(below) => {
                    (NodeKind::Directory(Children::about(below.0.len())), Some(below))
                }
                Entry::Collection => (NodeKind::Directory(Children::about(COLLECTION)), None),
            };
            let index = self.add(Node { parent, name: name.into(), kind });
            if let Some(below) = below {
                self.grow(index, below);
            }
        }
    }

    /// A node, as the last of its parent.
    fn add(&self, node: Node) -> u32 {
        let (parent, name) = (node.parent, node.name.clone());
        let index = self.push(node);
        if let Some(Node { kind: NodeKind::Directory(children), .. }) = self.node(parent) {
            children.add(&name, index);
        }
        index
    }

    fn push(&self, node: Node) -> u32 {
        // Names per mount are bounded far below this.
        u32::try_from(self.nodes.push(node) + 1).unwrap_or(u32::MAX)
    }

    pub(super) fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index.checked_sub(1)? as usize)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Node)> {
        (1..).zip(self.nodes.iter())
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The child of this name.
    pub(super) fn child(&self, directory: u32, name: &str) -> Option<u32> {
        let NodeKind::Directory(children) = &self.node(directory)?.kind else { return None };
        children.find(name, |index| self.node(index).is_some_and(|node| *node.name == *name))
    }

    /// The link of this name at the top of an atomic tree.
    pub(super) fn link(&self, name: &str) -> Option<u32> {
        self.child(ROOT, name)
    }

    /// The node below the generation that a link of this name at the top leads to.
    pub(super) fn behind(&self, link: &Node) -> Option<&Node> {
        self.node(self.child(GENERATION, &link.name)?)
    }

    /// Whether a node belongs to no birth: it is the same in every generation.
    pub(super) fn permanent(&self, index: u32, node: &Node) -> bool {
        match node.kind {
            NodeKind::Link(_) => true,
            NodeKind::Directory(_) => self.layout == Layout::Flat || index == ROOT,
            NodeKind::File { .. } | NodeKind::Data => false,
        }
    }

    /// Which file of its object a node is.
    pub(super) fn file(&self, index: u32) -> Option<usize> {
        match self.node(index)?.kind {
            NodeKind::File { file, .. } => Some(file),
            _ => None,
        }
    }

    pub(super) fn path(&self, index: u32) -> String {
        let mut parts = Vec::new();
        let mut at = index;
        while let Some(node) = self.node(at) {
            if at == ROOT || at == GENERATION && self.layout == Layout::Atomic {
                break;
            }
            parts.push(&*node.name);
            at = node.parent;
        }
        parts.reverse();
        parts.join("/")
    }
}

/// Paths folded into directories.
#[derive(Default)]
struct Shape(BTreeMap<String, Entry>);

enum Entry {
    File(Leaf),
    /// Whatever the vault has.
    Collection,
    Directory(Shape),
}

struct Leaf {
    object: usize,
    file: usize,
    mode: u32,
}

impl Shape {
    fn insert(&mut self, path: &str, leaf: Leaf) -> Result<()> {
        let collides = |what: &str| {
            Error::class(format!("{what} stands where another object needs a file or directory"))
                .fix("set objectAlias so that the paths differ")
        };
        let Some((first, rest)) = path.split_once('/') else {
            if self.0.contains_key(path) {
                return Err(collides(path));
            }
            self.0.insert(path.to_owned(), Entry::File(leaf));
            return Ok(());
        };
        match self.0.entry(first.to_owned()).or_insert_with(|| Entry::Directory(Shape::default())) {
            Entry::Directory(below) => below.insert(rest, leaf),
            Entry::File(_) | Entry::Collection => Err(collides(first)),
        }
    }
}
