//! Certificates: the `cer` bytes as one PEM block. They are not parsed: what the vault calls the
//! certificate is the certificate.

use super::{bad, pem};
use crate::error::Result;
use crate::secret::Secret;

pub(super) fn render(cer: &[u8]) -> Result<Secret> {
    if cer.is_empty() {
        return Err(bad("certificate value is nil").fix(
            "the certificate may still be pending, disabled or failed; look at it in the vault",
        ));
    }
    pem::encode(&[(pem::CERTIFICATE, cer)])
}
