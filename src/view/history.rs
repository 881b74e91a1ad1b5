//! `objectVersionHistory`: an entry of a class that means the newest versions of an object.
//!
//! Which versions these are only the vault's list can tell, so a history costs a list (and the
//! permission for it) before anything is fetched. From then on each is an object of its own, fetched
//! by its version id.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Instant;

use crate::class::{ObjectSpec, Version};
use crate::error::{Code, Error, Result};
use crate::fetch::{Demand, Origin};
use crate::vault::ListedVersion;

/// The single versions that an entry of a class means, newest first; one without a history is itself.
///
/// # Errors
/// Of the list by `deadline`, and when there is no such version; with [`ObjectSpec::error_prefix`].
pub async fn expand(
    origin: &dyn Origin,
    object: &ObjectSpec,
    demand: Demand,
    deadline: Instant,
) -> Result<Vec<ObjectSpec>> {
    if object.history <= 1 {
        return Ok(vec![object.clone()]);
    }
    let listed = listed(origin, object, demand, deadline).await?;
    let members =
        (0..).zip(listed.shown).map(|(position, version)| member(object, position, version));
    Ok(members.collect())
}

/// One of a history.
pub(super) fn member(object: &ObjectSpec, position: u32, version: Version) -> ObjectSpec {
    ObjectSpec {
        version,
        history: 1,
        position: Some(position),
        path: object.path.version(position),
        ..object.clone()
    }
}

/// A history as the vault lists it now.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// The versions of the history: at least one, at most as many as wanted.
    pub(super) shown: Vec<Version>,
    /// Every version that may be read, in lower case: ids of a vault have no case.
    enabled: HashSet<String>,
    /// Whether there are others.
    pub(super) some_disabled: bool,
}

impl Listed {
    /// Whether the version may be read.
    pub(super) fn has(&self, version: &str) -> bool {
        self.enabled.contains(&version.to_ascii_lowercase())
    }
}

/// The versions of a history as the vault lists them now.
pub(super) async fn listed(
    origin: &dyn Origin,
    object: &ObjectSpec,
    demand: Demand,
    deadline: Instant,
) -> Result<Listed> {
    let versions = origin.versions(object.kind, object.name.clone(), demand, deadline).await;
    let listed = versions.and_then(|versions| {
        let shown = resolve(&versions, &object.version, object.history)?;
        let some_disabled = versions.iter().any(|version| !version.enabled);
        let enabled = versions.iter().filter(|version| version.enabled);
        let enabled = enabled.map(|version| version.id.to_ascii_lowercase()).collect();
        Ok(Listed { shown, enabled, some_disabled })
    });
    listed.map_err(|error| error.context(object.error_prefix()))
}

/// The `count` newest enabled versions, or those from `start` on. A missing creation time is the
/// epoch; versions of one instant keep the vault's order.
fn resolve(listed: &[ListedVersion], start: &Version, count: u32) -> Result<Vec<Version>> {
    let mut enabled: Vec<_> = listed.iter().filter(|version| version.enabled).collect();
    enabled.sort_by_key(|version| Reverse(version.created.unwrap_or_default()));
    let first = match start {
        Version::Latest => 0,
        Version::Exact(id) => {
            let is_it = |version: &ListedVersion| version.id.eq_ignore_ascii_case(id);
            match enabled.iter().position(|version| is_it(version)) {
                Some(first) => first,
                None if listed.iter().any(is_it) => {
                    return Err(Error::new(Code::Disabled, "this version is disabled")
                        .fix("enable it in the vault, or start at another objectVersion"));
                }
                None => {
                    return Err(Error::new(Code::NotFound, "the object has no such version")
                        .fix("check objectVersion; without it the history starts at the newest"));
                }
            }
        }
    };
    if enabled.is_empty() {
        return Err(match listed.is_empty() {
            true => Error::new(Code::NotFound, "the object has no version")
                .fix("check objectName, objectType and keyvaultName"),
            false => Error::new(Code::Disabled, "no version of the object is enabled")
                .fix("enable one in the vault"),
        });
    }
    let versions = enabled.iter().skip(first).take(count as usize);
    Ok(versions.map(|version| Version::Exact(version.id.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::paths::Rules;
    use crate::class::{Encoding, FilePath, Format, ObjectKind, ObjectName};

    fn listed(id: &str, enabled: bool, created: Option<i64>) -> ListedVersion {
        ListedVersion { id: id.to_owned(), enabled, created }
    }

    /// `a` is the newest.
    fn hours(ids: &str) -> Vec<ListedVersion> {
        let hour = |id: char| 3600 * (100 - i64::from(u32::from(id)));
        ids.chars().map(|id| listed(&id.to_string(), true, Some(hour(id)))).collect()
    }

    fn resolved(versions: &[ListedVersion], start: &str, count: u32) -> Vec<String> {
        let versions = resolve(versions, &Version::parse(start).unwrap(), count).unwrap();
        versions.iter().map(|version| version.as_str().to_owned()).collect()
    }

    fn refused(versions: &[ListedVersion], start: &str) -> Code {
        resolve(versions, &Version::parse(start).unwrap(), 3).unwrap_err().code()
    }

    #[test]
    fn u36_u37_the_newest_come_first_in_whatever_order_the_vault_lists_them() {
        for ids in ["abcde", "edcba", "cabed", "daecb"] {
            assert_eq!(resolved(&hours(ids), "latest", 5), ["a", "b", "c", "d", "e"], "{ids}");
        }
    }

    #[test]
    fn u38_u39_u40_as_many_as_there_are_from_the_start_on() {
        assert_eq!(resolved(&hours("ab"), "", 2), ["a", "b"]);
        assert_eq!(resolved(&hours("ab"), "", 200), ["a", "b"]);
        assert_eq!(resolved(&hours("abcde"), "c", 5), ["c", "d", "e"]);
        assert_eq!(resolved(&hours("abcde"), "C", 1), ["c"], "ids of a vault have no case");
    }

    /// Upstream gives N + 1 of them.
    #[test]
    fn p2_n_are_n_and_disabled_ones_do_not_count() {
        let mut versions: Vec<_> =
            (1..=6).map(|n| listed(&format!("v{n}"), n != 3, Some(n))).collect();
        assert_eq!(resolved(&versions, "", 2), ["v6", "v5"]);
        assert_eq!(resolved(&versions, "", 4), ["v6", "v5", "v4", "v2"]);
        versions.iter_mut().for_each(|version| version.created = None);
        assert_eq!(resolved(&versions, "", 2), ["v1", "v2"], "the vault's order");
        versions.push(listed("dated", true, Some(1)));
        assert_eq!(resolved(&versions, "", 2), ["dated", "v1"], "no date is the epoch");
    }

    #[test]
    fn p3_u57_files_and_ids_count_from_the_start() {
        let object = ObjectSpec {
            index: 0,
            kind: ObjectKind::Secret,
            name: ObjectName::parse("multiple-versions").unwrap(),
            version: Version::parse("v4").unwrap(),
            history: 3,
            position: None,
            path: FilePath::parse_with("folder/al", Rules::Windows).unwrap(),
            format: Format::Pem,
            encoding: Encoding::Utf8,
            mode: 0o644,
        };
        let versions: Vec<_> = (1..=6).map(|n| listed(&format!("v{n}"), n != 3, Some(n))).collect();
        let versions = resolve(&versions, &object.version, object.history).unwrap();
        let members = (0..).zip(versions).map(|(position, id)| member(&object, position, id));
        let shown: Vec<_> =
            members.map(|m| (m.path.to_string(), m.id(), m.version.as_str().to_owned())).collect();
        let expected = [(0, "v4"), (1, "v2"), (2, "v1")].map(|(n, version)| {
            let id = format!("secret/multiple-versions/{n}");
            (format!("folder\\al\\{n}"), id, version.to_owned())
        });
        assert_eq!(shown, expected);
        assert_eq!(object.id(), "secret/multiple-versions");
    }

    /// Upstream mounts nothing, successfully.
    #[test]
    fn p4_a_history_of_nothing_is_an_error() {
        let mut versions = hours("abc");
        assert_eq!(refused(&versions, "zz"), Code::NotFound);
        versions[1].enabled = false;
        assert_eq!(refused(&versions, "b"), Code::Disabled);
        versions.iter_mut().for_each(|version| version.enabled = false);
        assert_eq!(refused(&versions, ""), Code::Disabled);
        assert_eq!(refused(&[], ""), Code::NotFound);
    }
}
