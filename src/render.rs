//! An object version in, named bytes out: what stands in each file. Pure, but for one warning.
//!
//! | object | file |
//! |---|---|
//! | secret, or a certificate's secret of unknown form | the value, decoded as `objectEncoding` says |
//! | PEM certificate's secret | the value unchanged |
//! | PFX certificate's secret, `objectFormat: pfx` | the value unchanged: base64 text, or binary with `objectEncoding: base64` |
//! | PFX certificate's secret otherwise | PEM: private keys, then certificates from leaf to root |
//! | key | the public key in PEM |
//! | cert | the server certificate in PEM |
//!
//! With `--write-cert-and-key-in-separate-files` a certificate's secret gives two more before its own:
//! NAME.crt with its certificates and NAME.key with every other PEM block. A PFX has no such blocks, so
//! it stays one file.
//!
//! Everything here works on what a vault stores, so on what anyone with write access to the vault
//! wrote: no input may panic, hang or be quoted in an error. Every buffer of ours that holds a value
//! or a private key is wiped, the intermediate ones too.

mod certificate;
mod chain;
mod encoding;
mod key;
mod pem;
mod pkcs12;
mod secret;
mod separate;
#[cfg(test)]
mod tests;

use crate::class::{FilePath, ObjectKind, ObjectSpec};
use crate::error::{Code, Error, Result};
use crate::secret::Secret;
use crate::vault::{Body, ObjectVersion};

pub(crate) use pkcs12::open as open_pkcs12;

/// How the process renders certificates.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `--construct-pem-chain`: order the certificates of a PFX leaf to root.
    pub construct_pem_chain: bool,
    /// `--write-cert-and-key-in-separate-files`.
    pub separate_files: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { construct_pem_chain: true, separate_files: false }
    }
}

/// For files that meet one of those that only the content decides on.
pub(crate) const SEPARATE_FIX: &str = "give each object a file of its own by objectAlias; \
    --write-cert-and-key-in-separate-files adds NAME.crt and NAME.key to a certificate's secret";

/// One file of an object.
#[derive(Clone, Debug)]
pub struct FileView {
    /// Where.
    pub path: FilePath,
    /// What.
    pub contents: Secret,
}

/// Renders one object version into its files, in upstream's order.
///
/// A PFX costs CPU time (key derivation): up to about a second for a hostile one.
///
/// # Errors
/// `BadContent`, with [`ObjectSpec::error_prefix`] and never a part of the content.
pub fn render(
    object: &ObjectSpec,
    version: &ObjectVersion,
    options: Options,
) -> Result<Vec<FileView>> {
    let single = |contents: Secret| vec![("", contents)];
    let files = match &version.body {
        Body::Secret { value, content_type, kid } => {
            let certificate = kid.as_deref().is_some_and(|kid| !kid.is_empty());
            let content_type = content_type.as_deref().filter(|_| certificate);
            secret::render(object, value, content_type, options)
        }
        Body::Key(jwk) => key::render(jwk).map(single),
        Body::Certificate { cer } => certificate::render(cer).map(single),
    };
    let files = files.and_then(|files| {
        let file = |(suffix, contents)| Ok(FileView { path: object.path.with(suffix)?, contents });
        files.into_iter().map(file).collect()
    });
    files.map_err(|error: Error| error.context(object.error_prefix()))
}

/// Every file that rendering may give, the object's own last. Which of them there are only the content
/// can tell, where there is more than one.
pub(crate) fn paths(object: &ObjectSpec, options: Options) -> Vec<FilePath> {
    let suffixes: &[&str] = match object.kind {
        ObjectKind::Secret if options.separate_files => &[secret::CERTIFICATES, secret::KEY, ""],
        _ => &[""],
    };
    suffixes.iter().filter_map(|suffix| object.path.with(suffix).ok()).collect()
}

/// Whether rendering has to derive keys, which takes long enough to keep it off the threads that
/// serve requests.
pub(crate) fn is_slow(object: &ObjectSpec, version: &ObjectVersion) -> bool {
    matches!(&version.body, Body::Secret { content_type: Some(text), kid: Some(_), .. }
        if secret::converts_pfx(object, text))
}

/// The error of everything here whose cause is the object's content.
fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadContent, message)
}
