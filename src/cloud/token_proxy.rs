//! The token proxy of AKS identity binding: where it is and whom to trust.

use std::path::PathBuf;

use reqwest::Url;

use crate::error::{Error, Result};

/// The API server inside a cluster; its port is in [`PORT_VARIABLE`].
const API_SERVER: &str = "kubernetes.default.svc.cluster.local";
const PORT_VARIABLE: &str = "KUBERNETES_SERVICE_PORT";
/// The cluster's CA, as every pod has it.
const CA_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Where token requests of identity binding go instead of to Entra.
#[derive(Clone, Debug)]
pub struct TokenProxy {
    /// `https://host[:port][/path]`
    pub url: Url,
    /// TLS server name; blank: found out from the certificate of `api_server`.
    pub sni: String,
    /// The API server, whose certificate names the cluster.
    pub api_server: Url,
    /// The only roots (PEM), re-read when they change; without such a file the system's count.
    pub ca_file: PathBuf,
}

impl TokenProxy {
    /// From `--token-proxy-url` and `--sni-name`, either of which may be blank.
    ///
    /// # Errors
    /// ClassInvalid when one of them cannot be used.
    pub fn new(url: &str, sni: &str) -> Result<Self> {
        let port = std::env::var(PORT_VARIABLE).ok().and_then(|port| port.parse::<u16>().ok());
        let api_server = https(&format!("https://{API_SERVER}:{}", port.unwrap_or(443)))
            .ok_or_else(|| Error::class("the API server has no usable URL"))?;
        let url = match url.trim() {
            "" => format!("https://{API_SERVER}"),
            url => url.to_owned(),
        };
        let url = https(&url).ok_or_else(|| {
            Error::class("--token-proxy-url is not https://HOST[:PORT][/PATH]")
                .fix("no user name, query or fragment")
        })?;
        let sni = sni.trim().to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !sni.is_empty() && (sni.len() > 253 || !sni.split('.').all(label)) {
            return Err(Error::class("--sni-name is not a DNS name"));
        }
        Ok(Self { url, sni, api_server, ca_file: CA_FILE.into() })
    }
}

/// A URL with nothing but scheme, host, port and path.
fn https(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let bare = url.scheme() == "https"
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    bare.then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_checked_and_blank_ones_have_defaults() {
        let proxy = TokenProxy::new("", "").unwrap();
        assert_eq!(proxy.url.as_str(), "https://kubernetes.default.svc.cluster.local/");
        let proxy = TokenProxy::new("https://10.0.0.1:8443/a/b", "X.ests.aks").unwrap();
        assert_eq!((proxy.url.path(), proxy.sni.as_str()), ("/a/b", "x.ests.aks"));
        for bad in [
            "http://proxy",
            "https://user@proxy",
            "https://:secret@proxy",
            "https://proxy?q",
            "https://proxy#f",
            "proxy",
            "https://",
        ] {
            assert!(TokenProxy::new(bad, "").is_err(), "{bad}");
        }
        for bad in ["a b", "a..b", ".a", "https://a", &"a".repeat(64)] {
            assert!(TokenProxy::new("", bad).is_err(), "{bad}");
        }
    }
}
