//! Whose signature makes a server's certificate good: the system's roots, unless the environment names
//! others.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` stand in place of the system's roots. On Unix the system's verifier
//! reads them itself; the one of Windows does not, so there they are read here, and rustls checks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{Code, Error, Hop, Result};
use crate::secret::file;

use super::clients::unusable;

const FILE: &str = "SSL_CERT_FILE";
const DIRECTORY: &str = "SSL_CERT_DIR";
/// Of one file. The usual bundle has 250 KiB.
const MAX_FILE: usize = 16 * 1024 * 1024;
/// Of one directory.
const MAX_FILES: usize = 4096;

/// What checks certificates. `extra` (PEM) counts beside the roots.
pub(super) fn verifier(
    extra: Option<&str>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    let extra = match extra {
        None => None,
        Some(pem) => Some(
            CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(|_| Error::new(Code::Local, "the extra root certificate is not PEM"))?,
        ),
    };
    let named = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (file, directory) = (named(FILE), named(DIRECTORY));
    if cfg!(windows) && (file.is_some() || directory.is_some()) {
        let roots = named_roots(file.as_deref(), directory.as_deref())?;
        return only(roots, extra, provider);
    }
    let provider = provider.clone();
    let system = match extra {
        None => rustls_platform_verifier::Verifier::new(provider),
        Some(root) => rustls_platform_verifier::Verifier::new_with_extra_roots([root], provider),
    };
    Ok(Arc::new(system.map_err(|error| unusable(&error))?))
}

/// These roots and no others.
fn only(
    mut roots: RootCertStore,
    extra: Option<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    roots.add_parsable_certificates(extra);
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    );
    Ok(verifier.build().map_err(|error| unusable(&error))?)
}

/// The certificates of a file and of all files of a directory. What is not a certificate is passed over,
/// and so is what cannot be read, as on Unix, while there is another root.
fn named_roots(file: Option<&Path>, directory: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let mut problem = named(&format!("{FILE} or {DIRECTORY}"), "there is no certificate in it");
    if let Some(path) = file
        && let Err(error) = read(path, &mut roots)
    {
        problem = named(FILE, error.message());
        tracing::warn!(err = problem.message(), "roots cannot be read");
    }
    match directory.map(|path| (path, std::fs::read_dir(path))) {
        None => {}
        Some((_, Ok(entries))) => {
            for entry in entries.take(MAX_FILES).flatten() {
                // A link that leads nowhere, or a directory.
                let _ = read(&entry.path(), &mut roots);
            }
        }
        Some((path, Err(error))) => {
            let why = format!("cannot read {}: {}", path.display(), error.kind());
            problem = named(DIRECTORY, &why);
            tracing::warn!(err = problem.message(), "roots cannot be read");
        }
    }
    if roots.is_empty() { Err(problem) } else { Ok(roots) }
}

fn read(path: &Path, roots: &mut RootCertStore) -> Result<()> {
    let text = file::read_shared(path, MAX_FILE)?;
    let certificates = CertificateDer::pem_slice_iter(&text).filter_map(|found| found.ok());
    roots.add_parsable_certificates(certificates);
    Ok(())
}

fn named(name: &str, why: &str) -> Error {
    Error::new(Code::Local, format!("{name}: {why}"))
        .at(Hop::Tls)
        .fix("point SSL_CERT_FILE at a PEM file of root certificates, or unset it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> (String, CertificateDer<'static>) {
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        (made.pem(), made.der().clone())
    }

    #[test]
    fn roots_come_from_a_file_and_from_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle");
        let ((a, _), (b, _), (c, _)) = (root("a"), root("b"), root("c"));
        std::fs::write(&bundle, format!("# a comment\n{a}{b}")).unwrap();
        assert_eq!(named_roots(Some(&bundle), None).unwrap().len(), 2);
        let others = directory.path().join("others");
        std::fs::create_dir_all(others.join("folder")).unwrap();
        std::fs::write(others.join("c.pem"), c).unwrap();
        std::fs::write(others.join("README"), "no certificate").unwrap();
        assert_eq!(named_roots(None, Some(&others)).unwrap().len(), 1);
        assert_eq!(named_roots(Some(&bundle), Some(&others)).unwrap().len(), 3);
    }

    #[test]
    fn roots_that_are_named_and_not_there_are_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = named_roots(Some(&missing), None).unwrap_err();
        assert!(error.message().starts_with("SSL_CERT_FILE: cannot read"), "{error}");
        let error = named_roots(None, Some(&missing)).unwrap_err();
        assert!(error.message().starts_with("SSL_CERT_DIR: cannot read"), "{error}");
        let good = directory.path().join("good");
        std::fs::write(&good, root("a").0).unwrap();
        assert_eq!(named_roots(Some(&good), Some(&missing)).unwrap().len(), 1);
        std::fs::remove_file(&good).unwrap();
        let error = named_roots(None, Some(directory.path())).unwrap_err();
        assert!(error.message().ends_with("there is no certificate in it"), "{error}");
    }

    /// A chain is good for who has its root, and for nobody else.
    #[test]
    fn only_the_named_roots_count() {
        use rustls::pki_types::{ServerName, UnixTime};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ours = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::from_params(&params, &key);
        let server = rcgen::CertificateParams::new(["kv.test".to_owned()]).unwrap();
        let server = server.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();
        let good_with = |file_has: &CertificateDer<'static>, extra: Option<&CertificateDer<'_>>| {
            let mut roots = RootCertStore::empty();
            roots.add(file_has.clone()).unwrap();
            let extra = extra.map(|root| root.clone().into_owned());
            let verifier = only(roots, extra, &provider).unwrap();
            let name = ServerName::try_from("kv.test").unwrap();
            verifier.verify_server_cert(server.der(), &[], &name, &[], UnixTime::now()).is_ok()
        };
        let (_, other) = root("other");
        assert!(good_with(ours.der(), None));
        assert!(!good_with(&other, None));
        assert!(good_with(&other, Some(ours.der())));
    }
}
