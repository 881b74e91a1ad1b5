//! Extended attributes: what is known of a file's object, by the names of `akvfs status --json`.
//!
//! Only with the option: who has no attributes says so once, and is never asked again; who has some is
//! asked with each `ls -l`.

use fuser::{Errno, ReplyXattr};

use crate::clock::rfc3339;
use crate::view::About;

/// Of the names that are answered at all.
const USER: &str = "user.";
const PREFIX: &str = "user.akvfs.";

/// Attributes that the file has, without their prefix.
fn all(about: &About) -> impl Iterator<Item = (&'static str, String)> {
    let time = |at: Option<_>| at.and_then(rfc3339);
    let all = [
        ("type", Some(about.kind.as_str().to_owned())),
        ("name", Some(about.name.clone())),
        ("version", about.version.clone()),
        ("created", time(about.created)),
        ("expires", time(about.expires)),
        ("not_before", time(about.not_before)),
        ("checked", time(about.checked)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?)))
}

/// Whether an attribute of this name can be there at all.
pub(super) fn possible(name: &str) -> bool {
    name.starts_with(USER)
}

/// One attribute; `None` when the file has none of this name.
pub(super) fn value(about: &About, name: &str) -> Option<Vec<u8>> {
    let name = name.strip_prefix(PREFIX)?;
    all(about).find(|(own, _)| *own == name).map(|(_, value)| value.into_bytes())
}

/// The names of all of them, as listxattr(2) wants them.
pub(super) fn names(about: &About) -> Vec<u8> {
    all(about).flat_map(|(name, _)| format!("{PREFIX}{name}\0").into_bytes()).collect()
}

/// Answers with as many bytes as fit, or their number for who asks for that.
pub(super) fn answer(reply: ReplyXattr, bytes: &[u8], size: u32) {
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::class::ObjectKind;

    #[test]
    fn what_is_not_known_has_no_attribute() {
        let about = About {
            kind: ObjectKind::Secret,
            name: "one".to_owned(),
            version: None,
            created: None,
            expires: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(60)),
            not_before: None,
            checked: None,
        };
        assert_eq!(names(&about), b"user.akvfs.type\0user.akvfs.name\0user.akvfs.expires\0");
        assert_eq!(value(&about, "user.akvfs.expires").unwrap(), b"1970-01-01T00:01:00Z");
        for none in ["user.akvfs.version", "user.akvfs.", "user.type", "trusted.akvfs.type"] {
            assert_eq!(value(&about, none), None, "{none}");
        }
    }
}
