//! The provider's socket: only the machine's administrators and our own user may talk to it.
//!
//! `unix` and `windows` bind it, each in its system's way. tokio has no Unix sockets on Windows, so
//! there `accept` takes connections on a thread of its own; `bridge` is the way to carry their bytes that
//! asks least of the system. These two know nothing of Windows, and their tests run on Linux.

use std::path::PathBuf;

use crate::error::{Error, Result};

#[cfg(any(windows, test))]
pub mod accept;
#[cfg(any(windows, test))]
mod bridge;
#[cfg(unix)]
#[path = "listen/unix.rs"]
mod imp;
#[cfg(windows)]
#[path = "listen/windows.rs"]
mod imp;

#[cfg(windows)]
pub(crate) use imp::carrier;
pub use imp::{Listener, bind};

/// A parsed `--endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix://PATH`
    Unix(PathBuf),
    /// `tcp://HOST:PORT`; the address as given.
    Tcp(String),
}

impl Endpoint {
    /// Parses as the Go provider does: scheme in any case, non-empty rest.
    ///
    /// # Errors
    /// Another scheme, or nothing behind it.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_for(text, cfg!(windows))
    }

    fn parse_for(text: &str, windows: bool) -> Result<Self> {
        let invalid = || {
            let example = match windows {
                true => r"--endpoint unix://C:\provider\azure.sock",
                false => "--endpoint unix:///var/run/secrets-store-csi-providers/azure.sock",
            };
            Error::class(format!("invalid endpoint: {}", crate::error::printable(text, 128)))
                .fix(example)
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        if rest.is_empty() {
            return Err(invalid());
        }
        if scheme.eq_ignore_ascii_case("unix") {
            Ok(Endpoint::Unix(if windows { on_windows(rest) } else { absolute(rest) }.into()))
        } else if scheme.eq_ignore_ascii_case("tcp") {
            Ok(Endpoint::Tcp(rest.to_owned()))
        } else {
            Err(invalid())
        }
    }
}

/// Upstream's paths are absolute, however many slashes were written.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Windows' own spelling of `C:\\x` (upstream's manifest), `C:/x` and `/C:/x` (as URLs have it).
fn on_windows(path: &str) -> String {
    let drive = |path: &str| {
        let mut start = path.bytes();
        start.next().is_some_and(|b| b.is_ascii_alphabetic()) && start.next() == Some(b':')
    };
    let path = path.strip_prefix('/').filter(|rest| drive(rest)).unwrap_or(path);
    let mut out = String::with_capacity(path.len());
    for c in path.chars().map(|c| if c == '/' { '\\' } else { c }) {
        // Not at the start: there two are a server's name.
        if c != '\\' || out.len() < 2 || !out.ends_with('\\') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_as_upstreams_do() {
        for bad in ["udp:///x", "unix://", "tcp://", "x", ""] {
            for windows in [false, true] {
                assert!(Endpoint::parse_for(bad, windows).is_err(), "{bad}");
            }
        }
        assert_eq!(Endpoint::parse("tcp://:7777").unwrap(), Endpoint::Tcp(":7777".to_owned()));
        for good in [
            "unix:///provider/azure.sock",
            "UNIX:///provider/azure.sock",
            "unix://provider/azure.sock",
        ] {
            assert_eq!(
                Endpoint::parse_for(good, false).unwrap(),
                Endpoint::Unix(PathBuf::from("/provider/azure.sock"))
            );
        }
    }

    #[test]
    fn on_windows_a_path_has_a_drive_and_either_slash() {
        for (text, path) in [
            (r"unix://C:\provider\azure.sock", r"C:\provider\azure.sock"),
            (r"unix://C:\\provider\\azure.sock", r"C:\provider\azure.sock"),
            ("unix://C:/provider/azure.sock", r"C:\provider\azure.sock"),
            ("unix:///C:/provider/azure.sock", r"C:\provider\azure.sock"),
            ("unix:///tmp/azure.sock", r"\tmp\azure.sock"),
        ] {
            assert_eq!(
                Endpoint::parse_for(text, true).unwrap(),
                Endpoint::Unix(PathBuf::from(path)),
                "{text}"
            );
        }
    }
}
