//! An object version in, named bytes out: what stands in each file. Pure.

use crate::class::{FilePath, ObjectSpec};
use crate::error::Result;
use crate::secret::Secret;
use crate::vault::ObjectVersion;

/// How the process renders certificates.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `--construct-pem-chain`: order the certificates of a PFX leaf to root.
    pub construct_pem_chain: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { construct_pem_chain: true }
    }
}

/// One file of an object.
#[derive(Clone, Debug)]
pub struct FileView {
    /// Where.
    pub path: FilePath,
    /// What.
    pub contents: Secret,
}

/// Renders one object version into its files, in upstream's order. Errors carry
/// [`ObjectSpec::error_prefix`].
pub fn render(
    _object: &ObjectSpec,
    _version: &ObjectVersion,
    _options: Options,
) -> Result<Vec<FileView>> {
    Ok(Vec::new())
}
