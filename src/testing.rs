//! What tests of several modules share.

use crate::class::ObjectKind;
use crate::secret::Secret;
use crate::vault::{Body, ObjectVersion};

/// How many times as often as in CI slow tests repeat: `AKVFS_TEST_SCALE`, 1 when it is not set.
pub(crate) fn scale() -> u32 {
    std::env::var("AKVFS_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap())
}

/// A version of a secret that says nothing else.
pub(crate) fn secret(name: &str, version: &str, value: Secret) -> ObjectVersion {
    ObjectVersion {
        kind: ObjectKind::Secret,
        name: name.to_owned(),
        version: version.to_owned(),
        created: None,
        expires: None,
        not_before: None,
        body: Body::Secret { value, content_type: None, kid: None },
    }
}
