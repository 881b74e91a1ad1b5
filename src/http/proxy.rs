//! The proxy variables, as error texts name them: never with the user name and password.
//!
//! hyper reads them ([`Matcher`]); this module tells which proxy that was.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use crate::error::{Code, Error, Hop, Result, printable};

/// The first one set counts.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// What to do about a variable.
pub(super) const FIX: &str = "set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT, user and password %-encoded; \
     hosts that need no proxy belong into NO_PROXY";

/// The proxy on the way to a URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proxy {
    /// `http://HOST:PORT`
    Named(String),
    /// What its variable holds is no URL: most often a password that is not %-encoded, which then
    /// stands where the host should.
    Garbled,
}

impl Proxy {
    /// The proxy that a request to this URL goes through.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let intercept = Matcher::from_env().intercept(&url.as_str().parse().ok()?)?;
        let raw = variable().map(|(_, value)| value).unwrap_or_default();
        let uri = intercept.uri();
        let is_plain = intercept.basic_auth().is_some() || !raw.contains('@');
        match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(authority)) if is_plain => {
                Some(Self::Named(printable(&format!("{scheme}://{authority}"), 256)))
            }
            _ => Some(Self::Garbled),
        }
    }
}

/// Fails when a proxy is wanted that cannot be used at all: hyper would go without.
pub(super) fn check() -> Result<()> {
    let Some((name, value)) = variable() else { return Ok(()) };
    let matcher = Matcher::builder().all(value).build();
    match "https://any.invalid".parse().map(|uri| matcher.intercept(&uri)) {
        Ok(None) => Err(Error::new(Code::Local, format!("{name} is not the URL of a proxy"))
            .at(Hop::Proxy)
            .fix(FIX)),
        _ => Ok(()),
    }
}

fn variable() -> Option<(&'static str, String)> {
    let set = VARIABLES.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?)));
    set.into_iter().find(|(_, value)| !value.is_empty())
}
