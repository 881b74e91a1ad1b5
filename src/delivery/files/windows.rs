//! The writer of Windows: the flat layout only, since a switch of links needs a privilege there.
//!
//! `flat` is the writer's whole behaviour over a [`Disk`], and is tested on every system; `disk` is the real
//! one. Windows has no modes: who may read follows from the directory's access list ([`Access`]). A class's
//! mode is not looked at.

#[cfg(windows)]
mod disk;
mod flat;
mod ledger;

use std::io;
use std::time::Duration;

use zeroize::Zeroizing;

/// What the writer asks of a file system. Paths are relative to the directory, with `/`; empty is the
/// directory itself. Nothing follows a reparse point.
trait Disk {
    /// What is there; `None` when nothing is, or a folder above is missing.
    fn look(&self, path: &str) -> io::Result<Option<Found>>;
    /// At most `room` bytes of a file.
    fn read(&self, path: &str, room: usize) -> io::Result<Zeroizing<Vec<u8>>>;
    /// Makes a file that was not there, on the disk when this returns. Its number is returned.
    fn create(&self, path: &str, contents: &[u8]) -> io::Result<u64>;
    /// Moves a file in one step, which is on the disk when this returns.
    fn rename(&self, from: &str, to: &str, replace: bool) -> io::Result<()>;
    fn remove_file(&self, path: &str) -> io::Result<()>;
    fn make_folder(&self, path: &str) -> io::Result<()>;
    /// Only when it is empty.
    fn remove_folder(&self, path: &str) -> io::Result<()>;
    fn names(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Keeps other writers away until this disk is dropped.
    fn lock(&mut self, path: &str) -> io::Result<()>;
    fn pause(&self, time: Duration);
}

/// What stands somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    kind: Kind,
    /// Stays the same when a file is renamed, and differs between files.
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    /// A link, a junction, a socket: something that leads elsewhere.
    Other,
}

#[cfg(windows)]
pub use writer::Writer;

#[cfg(windows)]
mod writer {
    use std::path::Path;

    use super::super::ledger::OWN;
    use super::super::{File, Layout, Options, Place, Written};
    use super::disk::{self, Folder};
    use super::flat::Flat;
    use crate::error::{Error, Result};

    /// Keeps a directory equal to a set of files.
    pub struct Writer {
        flat: Flat<Folder>,
    }

    impl std::fmt::Debug for Writer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Writer")
        }
    }

    impl Writer {
        /// Opens the directory, refuses what may not be written, and removes what a crash has left.
        ///
        /// # Errors
        /// The directory is not what the options say, others may write it, or somebody else writes it.
        pub fn open(directory: &Path, options: Options) -> Result<Self> {
            if options.layout != Layout::Flat {
                return Err(Error::class("Windows has only the flat layout").fix("layout: flat"));
            }
            if options.owner.is_some() {
                return Err(Error::class("files on Windows belong to the account of akvfs").fix(
                    "give the readers access to the directory: icacls DIR /grant NAME:(OI)(CI)R",
                ));
            }
            let folder = disk::open(directory, options.place)?;
            let shown = crate::error::printable(&directory.to_string_lossy(), 512);
            Ok(Self { flat: Flat::open(folder, options.place, shown)? })
        }

        /// Looks whether the directory may be written, and whether it was written by us before. Nothing is
        /// made, and nothing is held open afterwards.
        ///
        /// # Errors
        /// As [`Writer::open`].
        pub fn examine(directory: &Path, place: Place) -> Result<bool> {
            disk::open(directory, place)?;
            Ok(directory.join(OWN).is_dir())
        }

        /// Whether an atomic writer, such as the CSI driver, has the directory: ours would not take it.
        pub fn is_anothers(directory: &Path) -> bool {
            std::fs::symlink_metadata(directory.join("..data")).is_ok()
        }

        /// Something that the user should know about the directory.
        pub fn warning(&self) -> Option<&str> {
            None
        }

        /// Makes the directory hold exactly these files, each replaced in one step.
        ///
        /// # Errors
        /// Something foreign is in the way, or a file is in use. The others are as they should be then.
        pub fn write(&mut self, files: &[File<'_>]) -> Result<Written> {
            self.flat.write(files)
        }

        /// What failed writes have done, and the next one would tell: for whoever gives this writer up.
        pub fn take_untold(&mut self) -> Written {
            self.flat.take_untold()
        }
    }
}
