//! One object of a class, fetched and rendered: the unit that every delivery fills.

use std::sync::Arc;
use std::time::Instant;

use crate::class::{self, FilePath, ObjectSpec};
use crate::error::{Error, Result};
use crate::fetch::{Demand, ObjectRef, Origin};
use crate::render::{self, FileView};
use crate::vault::ObjectVersion;

/// An object version and what its files hold.
#[derive(Clone, Debug)]
pub struct Obtained {
    /// As the vault answered.
    pub version: Arc<ObjectVersion>,
    /// In the order of [`render::render`].
    pub files: Vec<FileView>,
}

/// Fetches the object and renders it.
///
/// # Errors
/// Of the origin by `deadline`, and of rendering; all carry [`ObjectSpec::error_prefix`].
pub async fn obtain(
    origin: &dyn Origin,
    object: &ObjectSpec,
    options: render::Options,
    demand: Demand,
    deadline: Instant,
) -> Result<Obtained> {
    let version = fetch(origin, object, demand, deadline).await?;
    let files = rendered(object, &version, options).await?;
    Ok(Obtained { version, files })
}

/// Fetches the object.
pub(crate) async fn fetch(
    origin: &dyn Origin,
    object: &ObjectSpec,
    demand: Demand,
    deadline: Instant,
) -> Result<Arc<ObjectVersion>> {
    let fetched = origin.get(ObjectRef::of(object), demand, deadline).await;
    fetched.map_err(|error| error.context(object.error_prefix()))
}

/// Refuses files that cannot stand beside each other. A class alone cannot tell, since the content of a
/// certificate's secret decides which separate files there are.
pub(crate) fn refuse_meetings<'a>(
    files: impl Iterator<Item = (&'a ObjectSpec, &'a FilePath)>,
) -> Result<()> {
    class::refuse_meetings(files.map(|(object, path)| (path.identity(), object)))
        .map_err(|error| error.fix(render::SEPARATE_FIX))
}

/// Renders. What derives keys from a PFX can take a second when somebody wants it to, so it runs on a
/// thread where nobody else waits.
pub(crate) async fn rendered(
    object: &ObjectSpec,
    version: &Arc<ObjectVersion>,
    options: render::Options,
) -> Result<Vec<FileView>> {
    if !render::is_slow(object, version) {
        return render::render(object, version, options);
    }
    let (object, version) = (object.clone(), version.clone());
    tokio::task::spawn_blocking(move || render::render(&object, &version, options))
        .await
        .unwrap_or_else(|_| Err(Error::task_failed()))
}
