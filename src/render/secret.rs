//! Secrets: plain ones, and those that back a certificate.

use zeroize::Zeroizing;

use super::{Options, bad, chain, encoding, pem, pkcs12, separate};
use crate::class::{Encoding, Format, ObjectSpec};
use crate::error::{Result, printable};
use crate::secret::Secret;

const PEM_TYPE: &str = "application/x-pem-file";
const PFX_TYPE: &str = "application/x-pkcs12";
/// Longest quoted part of an unknown content type, in bytes.
const MAX_QUOTED: usize = 64;

/// What is added to the name of a certificate's secret for its certificates and for its key.
pub(super) const CERTIFICATES: &str = ".crt";
pub(super) const KEY: &str = ".key";

/// Renders a secret into files by what is added to its name; the last is the secret's own.
/// `content_type` is that of a secret which backs a certificate; a plain secret's is not looked at, and
/// a certificate's secret without one counts as plain.
pub(super) fn render(
    object: &ObjectSpec,
    value: &Secret,
    content_type: Option<&str>,
    options: Options,
) -> Result<Vec<(&'static str, Secret)>> {
    let converted = content_type == Some(PFX_TYPE) && object.format == Format::Pem;
    let text = match content_type {
        Some(PFX_TYPE) if converted => pfx_to_pem(object, value, options)?,
        None | Some("" | PEM_TYPE | PFX_TYPE) => value.clone(),
        Some(other) => {
            return Err(bad(format!(
                "failed to get certificate. unknown content type '{}'",
                printable(other, MAX_QUOTED)
            ))
            .fix(format!("a certificate's secret has the content type {PEM_TYPE} or {PFX_TYPE}")));
        }
    };
    let parts = match content_type {
        Some(PEM_TYPE | PFX_TYPE) if options.separate_files => separate::split(&text),
        _ => separate::Parts::default(),
    };
    let files = [(CERTIFICATES, parts.certificates), (KEY, parts.rest), ("", Some(text))];
    let files = files.into_iter().filter_map(|(suffix, text)| Some((suffix, text?)));
    // Upstream decodes PEM text too, which can only fail.
    let decoded = files.map(|(suffix, text)| {
        let contents = encoding::decode(object.encoding, text);
        contents.map(|contents| (suffix, contents)).map_err(|error| match object.encoding {
            Encoding::Base64 if converted => {
                error.fix("for the binary PFX set objectFormat: pfx too")
            }
            _ if converted => error.fix("leave objectEncoding out: the file is PEM text"),
            _ => error,
        })
    });
    decoded.collect()
}

/// Whether a certificate's secret of this content type is converted from PFX to PEM.
pub(super) fn converts_pfx(object: &ObjectSpec, content_type: &str) -> bool {
    content_type == PFX_TYPE && object.format == Format::Pem
}

/// Private keys in the order of the PFX, then its certificates.
fn pfx_to_pem(object: &ObjectSpec, value: &Secret, options: Options) -> Result<Secret> {
    let contents = pkcs12::open(&encoding::base64(value.expose())?)?;
    let chain = if options.construct_pem_chain {
        let chain = chain::order(&contents.certificates)?;
        if chain.is_none() {
            tracing::warn!(
                object = %format_args!("{}/{}", object.kind.as_str(), object.name),
                "certificate chain is not complete due to missing intermediate/root certificates \
                 or key identifiers; the certificates keep the order they have in the vault"
            );
        }
        chain
    } else {
        None
    };
    let chain = chain.unwrap_or_else(|| (0..contents.certificates.len()).collect());
    let keys = contents.keys.iter().map(|key: &Zeroizing<_>| (pem::PRIVATE_KEY, key.as_slice()));
    let certificates = chain
        .iter()
        .filter_map(|index| contents.certificates.get(*index))
        .map(|der| (pem::CERTIFICATE, der.as_slice()));
    pem::encode(&keys.chain(certificates).collect::<Vec<_>>())
}
