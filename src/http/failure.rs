//! What went wrong on the way to a service, by hop.
//!
//! The texts of the layers below name addresses and certificate faults, never content.

use std::error::Error as StdError;

use crate::error::{Code, Error, Hop, printable};

use super::Exchange;
use super::proxy::{self, Proxy};
use super::resolver::NoSuchName;

/// Sorts a transport failure by hop.
pub(super) fn transport_error(error: &reqwest::Error, exchange: Exchange<'_>) -> Error {
    let cause = printable_cause(error);
    let what = exchange.what;
    if let Some(tunnel) = tunnel_failure(error) {
        return tunnel_error(error, &tunnel, exchange);
    }
    if find::<NoSuchName>(error).is_some() {
        return Error::new(Code::Unavailable, format!("{what}: there is no such name: {cause}"))
            .at(Hop::Dns)
            .fix("check the vault or cloud name for typing errors, and that DNS here knows it")
            .lasting();
    }
    if error.is_dns() {
        return Error::new(
            Code::Unavailable,
            format!("{what}: the name cannot be resolved: {cause}"),
        )
        .at(Hop::Dns)
        .fix("check DNS on this node, and the vault or cloud name");
    }
    if find::<rustls::Error>(error).is_some() {
        return Error::new(Code::Unavailable, format!("{what}: TLS failed: {cause}"))
            .at(Hop::Tls)
            .fix("a proxy that re-signs traffic needs its root in SSL_CERT_FILE; check the clock too");
    }
    if error.is_connect() {
        let through = match proxy_of(error, what) {
            Some(Proxy::Named(proxy)) => format!(" (through the proxy {proxy})"),
            _ => String::new(),
        };
        return Error::new(Code::Unavailable, format!("{what}: cannot connect{through}: {cause}"))
            .at(Hop::Connect)
            .fix("check firewall, private endpoint and proxy settings of this node");
    }
    if error.is_timeout() {
        return Error::new(Code::TimedOut, format!("{what}: no answer in time")).at(exchange.hop);
    }
    Error::new(Code::Unavailable, format!("{what}: the connection broke: {cause}")).at(exchange.hop)
}

/// A proxy that cannot be reached, or does not let us through. Its name is looked up by us, the
/// service's by it.
fn tunnel_error(error: &reqwest::Error, tunnel: &str, exchange: Exchange<'_>) -> Error {
    let proxy = match proxy_of(error, exchange.what) {
        Some(Proxy::Named(proxy)) => proxy,
        Some(Proxy::Garbled) => {
            let text = format!("{}: HTTPS_PROXY is not the URL of a proxy", exchange.what);
            return Error::new(Code::Local, text).at(Hop::Proxy).fix(proxy::FIX);
        }
        None => "of the environment".to_owned(),
    };
    let said = |text: &str| {
        let text = format!("{}: the proxy {proxy} {text}", exchange.what);
        Error::new(Code::Unavailable, text).at(Hop::Proxy)
    };
    match tunnel {
        "proxy authorization required" => {
            said("wants a user name and a password (407)").fix(proxy::FIX).lasting()
        }
        "failed to create underlying connection" => {
            said(&format!("cannot be reached: {}", printable_cause(error))).fix(proxy::FIX)
        }
        "unsuccessful" => said("refuses to connect us to this host, or cannot")
            .fix("let the proxy allow this host, or list it in NO_PROXY"),
        other => {
            said(&format!("broke off: {other}")).fix("check the proxy's health and HTTPS_PROXY")
        }
    }
}

/// What hyper's tunnel says, without its prefix. Its type is not public, its texts are.
fn tunnel_failure(error: &reqwest::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(current) = cause {
        if let Some(text) = current.to_string().strip_prefix("tunnel error: ") {
            return Some(text.to_owned());
        }
        cause = current.source();
    }
    None
}

/// The proxy that a failed request went through. None when the URL's host is not the one that the
/// text names: such requests go to pinned hosts, never through a proxy.
fn proxy_of(error: &reqwest::Error, what: &str) -> Option<Proxy> {
    let url = error.url()?;
    what.contains(url.host_str()?).then(|| Proxy::of(url))?
}

/// The innermost cause, bounded and printable: the only text of a chain that says something new.
pub(super) fn printable_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    printable(&cause.to_string(), 256)
}

/// The first error of type `T` in the chain. An `io::Error` is looked into: its `source` skips what it
/// wraps, and the TLS layers wrap one in another.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = current.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => current.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_found_through_nested_io_errors() {
        let tls = rustls::Error::DecryptError;
        let nested = std::io::Error::other(std::io::Error::other(tls));
        assert!(find::<rustls::Error>(&nested).is_some());
        assert!(find::<rustls::Error>(&std::io::Error::other("x")).is_none());
    }
}
