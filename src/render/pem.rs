//! PEM out: 64 columns, LF, a final newline, no headers.

use pem_rfc7468::LineEnding;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::secret::Secret;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";
pub(super) const PUBLIC_KEY: &str = "PUBLIC KEY";

/// One block after the other. The buffer has its final size from the start: a growing one would
/// leave copies of private keys behind.
pub(super) fn encode(blocks: &[(&str, &[u8])]) -> Result<Secret> {
    let mut length = 0;
    for (label, der) in blocks {
        length += pem_rfc7468::encoded_len(label, LineEnding::LF, der).map_err(|_| failed())?;
    }
    let mut text = Zeroizing::new(vec![0; length]);
    let mut rest = text.as_mut_slice();
    for (label, der) in blocks {
        let written =
            pem_rfc7468::encode(label, LineEnding::LF, der, rest).map_err(|_| failed())?.len();
        rest = rest.get_mut(written..).ok_or_else(failed)?;
    }
    Ok(Secret::new(std::mem::take(&mut *text)))
}

/// Only a length overflow leads here.
fn failed() -> Error {
    Error::new(Code::Internal, "the PEM text cannot be built")
}
