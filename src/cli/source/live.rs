//! A source as a live view, for the commands that show it as files.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::class::{ObjectKind, Wanted};
use crate::cli::note;
use crate::control::{self, wire::Kind};
use crate::error::{Code, Error, Result};
use crate::fetch;
use crate::view::{Layout, Limits, Plan, View};

use super::{DEFAULT_MODE, Opened};

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
            device: None,
            directory: directory.to_owned(),
            source: self.source.clone(),
            identity: self.identity.clone(),
            view: view.clone(),
            problem: control::Problem::default(),
            restore: control::Restore::default(),
            ending: control::Ending::default(),
            audit: None,
        }
    }

    /// Of a whole vault: what is listed of it.
    pub(crate) fn collections(&self) -> &[ObjectKind] {
        match &self.wanted {
            Wanted::Objects(_) => &[],
            Wanted::Listing(kinds) => kinds,
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

    /// The view as it is mounted, with the names that there are. Values are requested only where a name
    /// depends on them. Names of a whole vault that cannot be had now come later, and that is told on
    /// stderr; so is a collection that this identity may not list, and stays empty.
    ///
    /// # Errors
    /// The vault does not tell the names of a history by `deadline`, or they collide. A whole vault
    /// refuses all its lists, or cannot be one.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has trees"))]
    pub(crate) async fn view(
        &self,
        layout: Layout,
        limits: Limits,
        deadline: Instant,
    ) -> Result<Arc<View>> {
        let view = self.empty_view(layout, limits)?;
        let failed = view.list_names(deadline).await;
        let refused = failed.iter().filter(|(_, error)| fetch::is_refusal(error)).count();
        let all_refused = refused == view.status().collections.len();
        for (kind, error) in failed {
            // An answer that says the same tomorrow.
            let lasts = !is_outage(&error) && !fetch::is_refusal(&error);
            if error.code() == Code::TooLarge {
                note(&format!("note: {error}"));
            } else if lasts || all_refused {
                return Err(error);
            } else if is_outage(&error) {
                note(&format!("note: {}/ is empty until it works: {error}", kind.collection()));
            } else {
                note(&format!("note: {}/ is empty: {error}", kind.collection()));
            }
        }
        resolved(view, deadline).await
    }

    /// The view with all its names, for those who must not take an empty collection for the vault's word.
    ///
    /// # Errors
    /// As of [`Opened::view`], and when a collection is not listed by `deadline`.
    pub(crate) async fn whole_view(
        &self,
        layout: Layout,
        limits: Limits,
        deadline: Instant,
    ) -> Result<Arc<View>> {
        let view = self.empty_view(layout, limits)?;
        match view.list_names(deadline).await.into_iter().next() {
            Some((_, error)) => Err(error),
            None => resolved(view, deadline).await,
        }
    }

    fn empty_view(&self, layout: Layout, limits: Limits) -> Result<Arc<View>> {
        let plan = match &self.wanted {
            Wanted::Objects(objects) => Plan::rendered(objects.clone(), layout, self.render)?,
            Wanted::Listing(_) if self.render.separate_files => {
                return Err(Error::class(
                    "--write-cert-and-key-in-separate-files needs a class: every secret that it \
                     names is fetched to learn its files' names",
                ));
            }
            Wanted::Listing(kinds) => Plan::listing(kinds, DEFAULT_MODE, layout),
        };
        Ok(View::new(plan, self.origin.clone(), self.render, limits))
    }
}

/// With the names that only the vault can tell of a class.
async fn resolved(view: Arc<View>, deadline: Instant) -> Result<Arc<View>> {
    view.resolve(deadline).await.map_err(|error| {
        error.context(
            "at the start the vault must tell the names of an objectVersionHistory, or of \
             certificates and keys in separate files",
        )
    })?;
    Ok(view)
}

/// Whether nobody has answered, so that another try may find somebody.
fn is_outage(error: &Error) -> bool {
    let outage = matches!(error.code(), Code::Unavailable | Code::TimedOut | Code::Throttled);
    outage && !error.is_lasting()
}
