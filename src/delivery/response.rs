//! The response delivery: everything is fetched and rendered at once, and the CSI driver writes it.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};

use crate::class::ObjectSpec;
use crate::error::{Code, Error, Result};
use crate::fetch::{Demand, Origin};
use crate::render::{self, FileView};
use crate::view::{expand, obtain, refuse_meetings};

/// Objects of one mount that are fetched at the same time.
const IN_FLIGHT: usize = 32;

/// Bounds and rendering of a response.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How certificates are rendered.
    pub render: render::Options,
    /// Most bytes of one response, ids and framing included; the driver's gRPC client takes 4 MiB.
    pub max_bytes: usize,
}

/// One object version of a response, in the class's order.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// What was asked for.
    pub object: ObjectSpec,
    /// The version id that the vault reported.
    pub version: String,
    /// The object's files.
    pub files: Vec<FileView>,
}

/// Fetches and renders every object, all or nothing.
///
/// # Errors
/// The error of the first failing object in the class's order, with the number of other failures.
pub async fn respond(
    origin: Arc<dyn Origin>,
    objects: Vec<ObjectSpec>,
    options: Options,
    demand: Demand,
    deadline: Instant,
) -> Result<Vec<Delivered>> {
    // What a history means must be known before it can be fetched. One that cannot be listed fails
    // in its place, like an object that cannot be fetched.
    let expanded: Vec<Result<Vec<ObjectSpec>>> = stream::iter(objects)
        .map(|object| {
            let origin = origin.clone();
            async move { expand(origin.as_ref(), &object, demand, deadline).await }
        })
        .buffered(IN_FLIGHT)
        .collect()
        .await;
    let mut objects = Vec::with_capacity(expanded.len());
    for result in expanded {
        match result {
            Ok(singles) => objects.extend(singles.into_iter().map(Ok)),
            Err(error) => objects.push(Err(error)),
        }
    }
    let mut budget = Budget { left: options.max_bytes, limit: options.max_bytes };
    let mut results: Vec<Option<Result<Delivered>>> = Vec::new();
    results.resize_with(objects.len(), || None);
    let mut fetched = stream::iter(objects.into_iter().enumerate())
        .map(|(position, object)| {
            let origin = origin.clone();
            async move {
                let result = match object {
                    Ok(object) => deliver(origin.as_ref(), object, options, demand, deadline).await,
                    Err(error) => Err(error),
                };
                (position, result)
            }
        })
        .buffer_unordered(IN_FLIGHT);
    while let Some((position, result)) = fetched.next().await {
        let result = match result {
            Ok(delivered) => {
                // Counted while fetching: a class that is too large must not be held whole first.
                budget.take(&delivered)?;
                Ok(delivered)
            }
            Err(error) => Err(error),
        };
        if let Some(slot) = results.get_mut(position) {
            *slot = Some(result);
        }
    }
    let failures = results.iter().filter(|result| matches!(result, Some(Err(_)))).count();
    let mut delivered = Vec::with_capacity(results.len());
    for result in results.into_iter().flatten() {
        match result {
            Ok(object) => delivered.push(object),
            Err(error) if failures > 1 => {
                return Err(error.with_others(failures - 1));
            }
            Err(error) => return Err(error),
        }
    }
    if options.render.separate_files {
        refuse_meetings(
            delivered
                .iter()
                .flat_map(|one| one.files.iter().map(move |file| (&one.object, &file.path))),
        )?;
    }
    Ok(delivered)
}

async fn deliver(
    origin: &dyn Origin,
    object: ObjectSpec,
    options: Options,
    demand: Demand,
    deadline: Instant,
) -> Result<Delivered> {
    let obtained = obtain(origin, &object, options.render, demand, deadline).await?;
    let version = obtained.version.version.clone();
    Ok(Delivered { object, version, files: obtained.files })
}

/// The error of a response above `limit` bytes.
pub(crate) fn too_large(limit: usize) -> Error {
    Error::new(
        Code::TooLarge,
        format!("the objects of this class are larger than {limit} bytes together"),
    )
    .fix("split the class, or raise --max-response-bytes and the driver's --max-call-recv-msg-size")
}

struct Budget {
    left: usize,
    limit: usize,
}

impl Budget {
    fn take(&mut self, delivered: &Delivered) -> Result<()> {
        let size: usize =
            delivered.files.iter().map(|file| file.contents.len() + file.path.as_str().len()).sum();
        self.left = self.left.checked_sub(size).ok_or_else(|| too_large(self.limit))?;
        Ok(())
    }
}
