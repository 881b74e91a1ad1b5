//! The order of a certificate chain, by key identifiers alone.
//!
//! A certificate's parent is the first other one whose SubjectKeyIdentifier equals its
//! AuthorityKeyIdentifier; the leaf is the first that is nobody's parent. Names, signatures and
//! dates are not looked at: this sorts what the vault stores, it does not judge it.

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier};

use super::bad;
use crate::error::Result;

/// Indices from leaf to root, or `None` when the walk does not cover all certificates.
pub(super) fn order(certificates: &[Vec<u8>]) -> Result<Option<Vec<usize>>> {
    let identifiers: Vec<_> = certificates.iter().map(|der| Identifiers::read(der)).collect();
    let parents: Vec<Option<usize>> = identifiers
        .iter()
        .enumerate()
        .map(|(child, ids)| {
            let issuer = ids.authority.as_ref()?;
            identifiers
                .iter()
                .enumerate()
                .position(|(other, ids)| other != child && ids.subject.as_ref() == Some(issuer))
        })
        .collect();
    let leaf = (0..certificates.len())
        .find(|index| !parents.contains(&Some(*index)))
        .ok_or_else(|| bad("no leaf found").fix("the PFX holds no certificate, or a circle"))?;
    let mut chain = vec![leaf];
    let mut at = leaf;
    while let Some(parent) = parents.get(at).copied().flatten() {
        if chain.len() >= certificates.len() {
            return Err(bad("the certificates of the PFX are linked in a cycle")
                .fix("import the certificate with each one of its chain once"));
        }
        chain.push(parent);
        at = parent;
    }
    Ok((chain.len() == certificates.len()).then_some(chain))
}

/// The two key identifiers; absent ones, empty ones and those of an unreadable certificate link to
/// nothing.
#[derive(Default)]
struct Identifiers {
    subject: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
}

impl Identifiers {
    fn read(der: &[u8]) -> Self {
        let Ok(certificate) = Certificate::from_der(der) else { return Self::default() };
        let certificate = certificate.tbs_certificate();
        let subject = certificate.get_extension::<SubjectKeyIdentifier>().ok().flatten();
        let authority = certificate.get_extension::<AuthorityKeyIdentifier>().ok().flatten();
        let bytes = |id: &[u8]| (!id.is_empty()).then(|| id.to_vec());
        Self {
            subject: subject.and_then(|(_, id)| bytes(id.0.as_bytes())),
            authority: authority
                .and_then(|(_, id)| id.key_identifier)
                .and_then(|id| bytes(id.as_bytes())),
        }
    }
}
