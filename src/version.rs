//! What this build is.

/// As `--version` and the Version call report it.
pub(crate) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// When it was built: `AKVFS_BUILD_DATE` of the build's environment.
pub(crate) const BUILD_DATE: &str = match option_env!("AKVFS_BUILD_DATE") {
    Some(date) => date,
    None => "unknown",
};

/// What it was built from: `AKVFS_COMMIT` of the build's environment.
pub(crate) const COMMIT: &str = match option_env!("AKVFS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
