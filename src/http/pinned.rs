//! A host under another TLS name, and what certificate it shows.

use reqwest::{Certificate, Client, RequestBuilder};

use crate::error::{Code, Error, Result};

use super::failure::{printable_cause, transport_error};
use super::resolver::Resolver;
use super::{Exchange, Http};

impl Http {
    /// A client whose every URL leads to `host`, whatever name the URL has: that one is the TLS
    /// server name, in the handshake and for the certificate. `roots` (PEM) are the only ones trusted;
    /// without them the system's are. HTTP/1.1, where a request may name its host apart from the
    /// URL. Never through a proxy: the host is inside the cluster.
    pub(crate) fn pinned(&self, host: &str, roots: Option<&[u8]>) -> Result<Client> {
        let fixed = Resolver::new(self.endpoints().resolve.clone());
        let resolver = Pinned { host: host.trim_matches(['[', ']']).to_owned(), inner: fixed };
        let mut builder = self
            .common()
            .https_only(true)
            .http1_only()
            .no_proxy()
            .tls_info(true)
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            .dns_resolver(resolver);
        if let Some(pem) = roots {
            let roots = Certificate::from_pem_bundle(pem).unwrap_or_default();
            if roots.is_empty() {
                return Err(Error::new(Code::Local, "there is no certificate in it"));
            }
            builder = builder.tls_certs_only(roots);
        }
        builder.build().map_err(|error| {
            Error::new(Code::Local, format!("TLS cannot be set up: {}", printable_cause(&error)))
        })
    }
}

struct Pinned {
    host: String,
    inner: Resolver,
}

impl reqwest::dns::Resolve for Pinned {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        match self.host.parse() {
            Ok(name) => self.inner.resolve(name),
            Err(_) => Box::pin(async { Err("not a host name".into()) }),
        }
    }
}

/// The certificate (DER) that the server of a request shows, whatever it answers.
pub(crate) async fn peer_certificate(
    request: RequestBuilder,
    exchange: Exchange<'_>,
) -> Result<Vec<u8>> {
    let response = match tokio::time::timeout_at(exchange.deadline.into(), request.send()).await {
        Ok(response) => response.map_err(|error| transport_error(&error, exchange))?,
        Err(_) => {
            let text = format!("{}: no answer before the deadline", exchange.what);
            return Err(Error::new(Code::TimedOut, text));
        }
    };
    let info = response.extensions().get::<reqwest::tls::TlsInfo>();
    info.and_then(|info| info.peer_certificate())
        .map(<[u8]>::to_vec)
        .ok_or_else(|| Error::new(Code::BadAnswer, format!("{}: no certificate", exchange.what)))
}
