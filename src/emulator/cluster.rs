//! A cluster's API server, of which only the certificate counts, and the token proxy behind it.

use std::net::SocketAddr;
use std::path::Path;

use tokio_rustls::TlsAcceptor;

use crate::cloud::TokenProxy;
use crate::error::{Code, Error, Result};

use super::serve::Front;
use super::tls;

const API_SERVER: &str = "kubernetes.default.svc.cluster.local";
/// The control plane's own name carries the cluster's id.
const CONTROL_PLANE: &str = "hcp-kubernetes.696995ccb303450001b31a18.svc.cluster.local";
/// The token proxy's TLS name that follows from that id.
const TOKEN_PROXY: &str = "aeaf29ip1hi5q38ebc3u4daum81u0unk52t5bg50j25234fmuj78g.ests.aks";

pub(super) struct Cluster {
    at: SocketAddr,
    /// The cluster's CA, as pods find it.
    ca: tempfile::NamedTempFile,
}

impl Cluster {
    pub(super) fn new(at: SocketAddr) -> Result<(TlsAcceptor, Self)> {
        let names = [API_SERVER, CONTROL_PLANE, TOKEN_PROXY].map(str::to_owned);
        let (acceptor, ca_pem) = tls::acceptor(&names, true)?;
        let failed = |error: std::io::Error| {
            Error::new(Code::Local, format!("the emulator's cluster CA: {}", error.kind()))
        };
        let ca = tempfile::NamedTempFile::new().map_err(failed)?;
        std::fs::write(ca.path(), ca_pem).map_err(failed)?;
        Ok((acceptor, Self { at, ca }))
    }

    pub(super) fn token_proxy(&self) -> Result<TokenProxy> {
        let url = format!("https://{API_SERVER}:{}", self.at.port());
        let proxy = TokenProxy::new(&url, "")?;
        Ok(TokenProxy { api_server: proxy.url.clone(), ca_file: self.ca_file().into(), ..proxy })
    }

    pub(super) fn resolve(&self) -> Vec<(String, SocketAddr)> {
        vec![(API_SERVER.to_owned(), self.at)]
    }

    fn ca_file(&self) -> &Path {
        self.ca.path()
    }
}

/// Who answers under a TLS name.
pub(super) fn front(name: Option<&str>) -> Front {
    match name {
        Some(TOKEN_PROXY) => Front::TokenProxy,
        _ => Front::Cluster,
    }
}
