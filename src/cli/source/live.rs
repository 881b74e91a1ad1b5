//! A source as a live view, for the commands that show it as files.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::class::Wanted;
use crate::cli::note;
use crate::control::{self, wire::Kind};
use crate::error::{Error, Result};
use crate::view::{Layout, Limits, Plan, View};

use super::Opened;

/// Answers `akvfs status`, `refresh` and `unmount` for this. Mounts and syncs work without them.
pub(crate) fn serve_status(entry: control::Entry) -> Option<control::Serving> {
    control::serve(vec![entry])
        .inspect_err(|error| note(&format!("note: akvfs status will not show this: {error}")))
        .ok()
}

impl Opened {
    /// What the control socket says of a view of this source.
    pub(crate) fn entry(&self, kind: Kind, directory: &Path, view: &Arc<View>) -> control::Entry {
        control::Entry {
            kind,
            directory: directory.to_owned(),
            source: self.source.clone(),
            identity: self.identity.clone(),
            view: view.clone(),
            problem: control::Problem::default(),
            restore: control::Restore::default(),
            ending: control::Ending::default(),
        }
    }

    /// Whether this is a whole vault: what it holds, not what somebody has asked for by name.
    pub(crate) fn is_listing(&self) -> bool {
        matches!(self.wanted, Wanted::Listing(_))
    }

    /// How a source is shown where nobody says how: the files of a class belong together, those of a
    /// whole vault do not.
    pub(crate) fn natural_layout(&self) -> Layout {
        match self.wanted {
            Wanted::Objects(_) => Layout::of_class(),
            Wanted::Listing(_) => Layout::Flat,
        }
    }

    /// The view, with all its names. Values are requested only where a name depends on them.
    ///
    /// # Errors
    /// The vault does not tell the names by `deadline`, or they collide.
    pub(crate) async fn view(
        &self,
        layout: Option<Layout>,
        limits: Limits,
        deadline: Instant,
    ) -> Result<Arc<View>> {
        let layout = layout.unwrap_or_else(|| self.natural_layout());
        let plan = match &self.wanted {
            Wanted::Objects(objects) => Plan::rendered(objects.clone(), layout, self.render)?,
            Wanted::Listing(_) if self.render.separate_files => {
                return Err(Error::class(
                    "--write-cert-and-key-in-separate-files needs a class: every secret that it \
                     names is fetched to learn its files' names",
                ));
            }
            Wanted::Listing(_) => {
                let objects = self
                    .listing(deadline)
                    .await
                    .map_err(|error| error.context("the names in the vault cannot be listed"))?;
                Plan::new(objects, layout)?
            }
        };
        let view = View::new(plan, self.origin.clone(), self.render, limits);
        view.resolve(deadline).await.map_err(|error| {
            error.context(
                "at the start the vault must tell the names of an objectVersionHistory, or of \
                 certificates and keys in separate files",
            )
        })?;
        Ok(view)
    }
}
