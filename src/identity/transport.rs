//! azure_identity over our own HTTP: no redirects, bounded bodies, errors that know the hop.

use std::time::{Duration, Instant};

use azure_core::http::{AsyncRawResponse, HttpClient, Request, headers::Headers};
use azure_core::{Error as AzureError, error::ErrorKind};
use reqwest::RequestBuilder;
use reqwest::Url;

use crate::cloud::Cloud;
use crate::error::Hop;
use crate::http::{self, Exchange, Http};

use super::binding::TokenRoute;
use super::entra;

/// Largest accepted answer of a token service.
const MAX_BODY: usize = 1024 * 1024;
/// Token endpoint of every AD FS.
const ADFS_PATH: &str = "/adfs/oauth2/token";
/// A token request's own limit; callers usually give less.
const LIMIT: Duration = Duration::from_secs(30);

/// The transport handed to the SDK's credentials.
#[derive(Debug)]
pub(super) struct Transport(pub(super) Route);

/// Where a token request goes; the SDK knows only Entra's own URL.
#[derive(Debug)]
pub(super) enum Route {
    /// To the URL.
    Entra(Http),
    /// To the host of the URL, which is an AD FS: one tenant, and an older protocol's address.
    Adfs(Http),
    /// To the cluster's token proxy.
    Proxy(TokenRoute),
}

impl Route {
    /// To whoever gives this tenant's tokens, and the audience of assertions there: its token endpoint.
    pub(super) fn direct(
        http: &Http,
        cloud: &Cloud,
        tenant: &str,
    ) -> crate::Result<(Self, String)> {
        let host = cloud.authority_host();
        Ok(match cloud.is_adfs(tenant)? {
            true => (Route::Adfs(http.clone()), format!("{host}{ADFS_PATH}")),
            false => (Route::Entra(http.clone()), format!("{host}/{tenant}/oauth2/v2.0/token")),
        })
    }

    fn post(&self, url: &Url) -> crate::Result<(RequestBuilder, String)> {
        let request = match self {
            Route::Entra(http) => http.secure()?.post(url.clone()),
            Route::Adfs(http) => {
                let mut url = url.clone();
                url.set_path(ADFS_PATH);
                http.secure()?.post(url)
            }
            Route::Proxy(proxy) => return Ok(proxy.post(url)),
        };
        let path = if matches!(self, Route::Adfs(_)) { ADFS_PATH } else { url.path() };
        let host = url.host_str().unwrap_or_default();
        Ok((request, format!("https://{host}{path}")))
    }
}

#[async_trait::async_trait]
impl HttpClient for Transport {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        // Our error travels inside the SDK's and is found again by `entra::translate`.
        let wrap = |error: crate::Error| {
            AzureError::with_error(ErrorKind::Io, error, "token request failed")
        };
        let (mut outgoing, to) = self.0.post(request.url()).map_err(wrap)?;
        // The SDK would name itself; the client names this process.
        let headers = request.headers().iter().filter(|(name, _)| name.as_str() != "user-agent");
        for (name, value) in headers {
            outgoing = outgoing.header(name.as_str(), value.as_str());
        }
        let azure_core::http::Body::Bytes(body) = request.body() else {
            return Err(AzureError::with_message(ErrorKind::Other, "unexpected streaming body"));
        };
        let outgoing = outgoing.body(body.clone());
        let what = format!("token request to {to}");
        let deadline = Instant::now() + LIMIT;
        let exchange = Exchange { hop: Hop::Entra, what: &what, max_body: MAX_BODY, deadline };
        let answer = match &self.0 {
            Route::Entra(http) | Route::Adfs(http) => http.exchange(outgoing, exchange).await,
            Route::Proxy(_) => http::exchange(outgoing, exchange).await,
        };
        let answer = answer.and_then(entra::checked).map_err(wrap)?;
        let mut headers = Headers::new();
        for name in ["content-type", "retry-after", "x-ms-request-id"] {
            if let Some(value) = answer.headers.get(name).and_then(|value| value.to_str().ok()) {
                headers.insert(name, value.to_owned());
            }
        }
        Ok(AsyncRawResponse::from_bytes(
            answer.status.into(),
            headers,
            answer.body.expose().to_vec(),
        ))
    }
}
