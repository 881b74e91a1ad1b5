//! The same files as a tree of akvfs, over values from memory; names that begin with `hang` get none.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use akvfs::class::{FilePath, ObjectKind, ObjectName, ObjectSpec};
use akvfs::delivery::fuse::{self, Mounted};
use akvfs::fetch::{Demand, ObjectRef, Origin};
use akvfs::vault::{Body, ListedVersion, Names, ObjectVersion, Urgency};
use akvfs::view::{Layout, Limits, Plan, View};
use akvfs::{Result, Secret, render};
use futures_util::future::BoxFuture;

use super::Outcome;

/// Names that never get a value.
pub const HANGING: usize = 100;

struct Memory(usize);

impl Origin for Memory {
    fn get(
        &self,
        object: ObjectRef,
        _: Demand,
        _: Instant,
    ) -> BoxFuture<'_, Result<Arc<ObjectVersion>>> {
        Box::pin(async move {
            if object.name.as_str().starts_with("hang") {
                std::future::pending::<()>().await;
            }
            Ok(Arc::new(ObjectVersion {
                kind: object.kind,
                name: object.name.to_string(),
                version: "0123456789abcdef0123456789abcdef".to_owned(),
                created: Some(1_700_000_000),
                expires: None,
                not_before: None,
                body: Body::Secret {
                    value: Secret::new(vec![b'x'; self.0]),
                    content_type: None,
                    kid: None,
                },
            }))
        })
    }

    fn list(&self, _: ObjectKind, _: Urgency, _: Instant) -> BoxFuture<'_, Result<Names>> {
        Box::pin(async { Ok(Names::default()) })
    }

    fn versions(
        &self,
        _: ObjectKind,
        _: ObjectName,
        _: Demand,
        _: Instant,
    ) -> BoxFuture<'_, Result<Arc<Vec<ListedVersion>>>> {
        Box::pin(async { Ok(Arc::default()) })
    }
}

/// Serves so many files of this size at a directory, until what is returned is dropped.
pub async fn mount(dir: &Path, files: usize, size: usize) -> Outcome<Mounted> {
    let names = (0..files).map(|number| format!("name-{number:05}"));
    let hanging = (0..HANGING).map(|number| format!("hang-{number:05}"));
    let objects = names.chain(hanging).enumerate().map(|(index, name)| {
        let (path, name) = (FilePath::parse(&name)?, ObjectName::parse(&name)?);
        Ok(ObjectSpec::newest(index, ObjectKind::Secret, name, path, 0o400))
    });
    let plan = Plan::new(objects.collect::<Result<_>>()?, Layout::Flat)?;
    let origin = Arc::new(Memory(size));
    let view = View::new(plan, origin, render::Options::default(), Limits::default());
    Ok(fuse::mount(view, dir, fuse::Options::default()).await?)
}
