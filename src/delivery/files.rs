//! Plain files: a directory that holds exactly what a caller says, for machines without FUSE.
//!
//! A caller opens a [`Writer`] on a directory and gives it the whole set of files, again and again.
//! Each time the writer makes the directory equal to the set, and says what it had to do; when nothing
//! differs, in bytes, mode or owner, nothing is written. Everything is blocking work, for a thread of
//! its own.
//!
//! With [`Layout::Atomic`] all files change together, by the one rename that watchers of kubelet's
//! volumes know. With [`Layout::Flat`] each file is replaced on its own. Either way a file has its final
//! mode and owner before its first byte, and who has an old file open keeps the old bytes. Files that
//! go are removed, not overwritten: in memory (tmpfs) that is enough, on a disk nothing would be.
//!
//! A ledger names what is ours, and only that is ever replaced or removed. A file that stands where one
//! of ours stood counts as ours; anything else in the way is refused by name, before anything is written.

pub(crate) mod ledger;
#[cfg(unix)]
mod set;
#[cfg(unix)]
mod unix;
#[cfg(any(windows, test))]
mod windows;

#[cfg(unix)]
pub use unix::Writer;
#[cfg(windows)]
pub use windows::Writer;

pub use crate::view::Layout;

/// One file as it is to be.
#[derive(Clone, Copy)]
pub struct File<'a> {
    /// The path as in the class: `/` between components, on Windows `\` too.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// The bytes.
    pub contents: &'a [u8],
}

/// Without the bytes.
impl std::fmt::Debug for File<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:o}, {} bytes)", self.path, self.mode, self.contents.len())
    }
}

/// What kind of directory is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A user's directory, made when it is absent.
    Directory,
    /// What the CSI driver mounted for a pod: an empty tmpfs, or one that holds what we wrote earlier.
    CsiTarget,
}

/// Whom files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
}

/// How a directory is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How the files are shown. On Windows only the flat layout exists.
    pub layout: Layout,
    /// What the directory must be.
    pub place: Place,
    /// Whom the files are given to; the writing process's own otherwise. Directories stay its own.
    pub owner: Option<Owner>,
}

/// What a write had to do: paths as they were given. All empty when nothing had to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Files that were not there.
    pub added: Vec<String>,
    /// Files with other contents, mode or owner than before.
    pub changed: Vec<String>,
    /// Files that are gone.
    pub removed: Vec<String>,
}

impl Written {
    /// Whether nothing had to be done.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// Tells also what an earlier write did that failed before it could tell. A file that both name is told
    /// as the later one has it, unless it was not there before both.
    pub(crate) fn also(&mut self, earlier: Self) {
        for path in earlier.added {
            self.changed.retain(|changed| *changed != path);
            if !self.added.contains(&path) && !self.removed.contains(&path) {
                self.added.push(path);
            }
        }
        for path in earlier.changed {
            if ![&self.added, &self.changed, &self.removed].iter().any(|all| all.contains(&path)) {
                self.changed.push(path);
            }
        }
        for path in earlier.removed {
            if ![&self.added, &self.changed, &self.removed].iter().any(|all| all.contains(&path)) {
                self.removed.push(path);
            }
        }
        self.removed.sort();
    }
}
