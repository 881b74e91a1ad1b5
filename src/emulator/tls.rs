//! The emulator's CA and server certificate, made at start and kept in memory only.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::error::{Code, Error, Result};

/// A TLS front for these names, and the CA certificate in PEM.
pub(super) fn acceptor(names: &[String], http2: bool) -> Result<(TlsAcceptor, String)> {
    let (chain, key, ca_pem) =
        certificate(names).map_err(|_| failed("the certificate cannot be made"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| failed("no TLS version is usable"))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|_| failed("the certificate is not usable"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok((TlsAcceptor::from(Arc::new(config)), ca_pem))
}

type Made = (Vec<rustls::pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>, String);

fn certificate(names: &[String]) -> std::result::Result<Made, rcgen::Error> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "akvfs emulator CA (this run only)");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name.push(DnType::CommonName, "akvfs emulator");
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let chain = vec![leaf.signed_by(&key, &issuer)?.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok((chain, key, ca_pem))
}

fn failed(why: &str) -> Error {
    Error::new(Code::Local, format!("the emulator's TLS cannot be set up: {why}"))
}
