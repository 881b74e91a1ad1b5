//! The writer of Unix systems: a directory held by its descriptor, a ledger of what is ours, and one
//! module for each layout. A write that fails is undone by the same code that a later start uses after
//! a crash.

mod atomic;
mod beneath;
mod flat;
mod ledger;
mod place;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::atomic::Atomic;
use self::flat::Flat;
use self::ledger::{Ledger, Own};
use self::place::Directory;
use super::{File, Layout, Options, Place, Written, set};
use crate::error::Result;

/// Keeps a directory equal to a set of files. While it lives no other writer gets the directory.
///
/// After an error of [`Writer::write`] the writer may be used again, unless the directory was replaced
/// or emptied: then a new one must be opened.
#[derive(Debug)]
pub struct Writer {
    directory: Directory,
    own: Own,
    ledger: Ledger,
    options: Options,
    /// Whether a write has begun that has not ended: its failure has to be undone before anything else.
    unsettled: bool,
    /// What failed writes have done, and nobody was told.
    untold: Written,
    warning: Option<String>,
}

impl Writer {
    /// Opens the directory, and removes what a writer that was killed has left there.
    ///
    /// # Errors
    /// [`crate::Code::PlaceRefused`] when the directory is not what the options say, is not safe to hold
    /// secrets, or was written with the other layout; [`crate::Code::Local`] when another writer has it,
    /// or the system refuses something.
    pub fn open(directory: &Path, options: Options) -> Result<Self> {
        let directory = Directory::open(directory, options.place)?;
        let own = Own::open(&directory)?;
        let ledger = own.load(&directory, options.layout)?;
        let warning = (!directory.is_memory()).then(|| {
            format!(
                "{} is not in memory (tmpfs): values will be on a disk, and may be recovered from \
                 it after their files are gone",
                directory.shown()
            )
        });
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        let untold = Written::default();
        let mut writer = Self { directory, own, ledger, options, unsettled: true, untold, warning };
        writer.settle()?;
        Ok(writer)
    }

    /// Looks whether the directory may be written, and whether it was written by us before. Nothing is made,
    /// and nothing is held open afterwards.
    ///
    /// # Errors
    /// As [`Writer::open`].
    pub fn examine(directory: &Path, place: Place) -> Result<bool> {
        ledger::is_in(&Directory::open(directory, place)?)
    }

    /// Whether another atomic writer, such as the CSI driver, has the directory: ours would not take it.
    pub fn is_anothers(directory: &Path) -> bool {
        ledger::is_anothers(directory)
    }

    /// What the user should know about the directory: it has been logged once.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Makes the directory hold exactly these files, besides what is not ours. With the atomic layout
    /// they change together, with the flat one each on its own. Nothing is written when nothing differs.
    ///
    /// # Errors
    /// As [`Writer::open`]. Something foreign in the way is found before anything is written. After any
    /// other error the atomic layout shows the old files or the new ones; the flat one may show both. What
    /// was changed all the same is told by the next write that succeeds, or by [`Writer::take_untold`].
    pub fn write(&mut self, files: &[File<'_>]) -> Result<Written> {
        let set = set::checked(files)?;
        self.directory.still_named()?;
        self.own.still_there(&self.directory)?;
        self.settle()?;
        let mut written = Written::default();
        let done = match self.options.layout {
            Layout::Atomic => self.atomic().write(&set, &mut written),
            Layout::Flat => self.flat().write(&set, &mut written),
        };
        let done = match done {
            Ok(()) => {
                self.unsettled = false;
                self.directory.still_named()
            }
            Err(error) => {
                // The first error tells more; what cannot be undone now is undone by the next write.
                let _ = self.settle();
                Err(error)
            }
        };
        written.also(std::mem::take(&mut self.untold));
        match done {
            Ok(()) => Ok(written),
            Err(error) => {
                self.untold = written;
                Err(error)
            }
        }
    }

    /// What failed writes have done, and the next one would tell: for whoever gives this writer up.
    pub fn take_untold(&mut self) -> Written {
        std::mem::take(&mut self.untold)
    }

    /// Ends or undoes what a write has begun.
    fn settle(&mut self) -> Result<()> {
        if self.unsettled {
            match self.options.layout {
                Layout::Atomic => self.atomic().settle()?,
                Layout::Flat => self.flat().settle()?,
            }
            self.own.clean(&self.directory)?;
            self.unsettled = false;
        }
        Ok(())
    }

    fn atomic(&mut self) -> Atomic<'_> {
        Atomic {
            directory: &self.directory,
            own: &self.own,
            ledger: &mut self.ledger,
            owner: self.options.owner,
            begun: &mut self.unsettled,
        }
    }

    fn flat(&mut self) -> Flat<'_> {
        Flat {
            directory: &self.directory,
            own: &self.own,
            ledger: &mut self.ledger,
            owner: self.options.owner,
            begun: &mut self.unsettled,
        }
    }
}
