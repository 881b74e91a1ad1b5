//! Names to addresses.
//!
//! Nothing is remembered: a vault that moves to another address is found there by the next connection.
//! "There is no such name" and "ask me later" are different answers; the first is only believed when
//! it comes twice.

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::failure::printable_cause;

/// Before the second look, which finds a name that its DNS server was just about to learn.
const PAUSE: Duration = Duration::from_millis(300);
/// A name that was missing twice is looked up once only for so long, so that a mount of many objects
/// does not wait for each of them.
const MISSING: Duration = Duration::from_secs(2);

/// What the C libraries say for a name that does not exist or has no address; the number is not passed
/// on by the standard library. glibc, musl, macOS.
const NO_SUCH_NAME: [&str; 5] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
    "nodename nor servname provided, or not known",
];
/// The same of Windows: WSAHOST_NOT_FOUND and WSANO_DATA.
const NO_SUCH_NAME_WINDOWS: [i32; 2] = [11001, 11004];

/// Fixed addresses for the names the process was built with, loopback for `localhost` and names
/// below it (RFC 6761 6.3), the system's resolver for all others.
#[derive(Clone)]
pub(super) struct Resolver {
    fixed: Arc<Vec<(String, SocketAddr)>>,
    missing: Arc<Mutex<Option<(String, Instant)>>>,
}

/// DNS knows no such name, and said so twice.
#[derive(Debug)]
pub(super) struct NoSuchName(String);

impl fmt::Display for NoSuchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for NoSuchName {}

impl Resolver {
    /// These suffixes, with everything below them, lead to fixed addresses.
    pub(super) fn new(fixed: Vec<(String, SocketAddr)>) -> Self {
        Self { fixed: Arc::new(fixed), missing: Arc::default() }
    }

    fn fixed(&self, host: &str) -> Option<SocketAddr> {
        let below = |suffix: &str| {
            host == suffix || host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
        };
        let found =
            self.fixed.iter().find(|(suffix, _)| below(suffix)).map(|(_, address)| *address);
        found.or_else(|| {
            below("localhost").then(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
        })
    }

    async fn look_up(
        &self,
        host: &str,
    ) -> Result<Vec<SocketAddr>, Box<dyn StdError + Send + Sync>> {
        let once = || async { tokio::net::lookup_host((host, 0)).await.map(Iterator::collect) };
        let missed = match once().await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if !is_missing(&missed) {
            return Err(missed.into());
        }
        if !self.was_missing(host) {
            tokio::time::sleep(PAUSE).await;
            match once().await {
                Ok(found) => return Ok(found),
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.is_missing(host);
        Err(NoSuchName(printable_cause(&missed)).into())
    }

    fn was_missing(&self, host: &str) -> bool {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.as_ref().is_some_and(|(name, at)| name == host && at.elapsed() < MISSING)
    }

    fn is_missing(&self, host: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        *missing = Some((host.to_owned(), Instant::now()));
    }
}

/// Whether the resolver has found out that there is no such name, rather than nothing.
fn is_missing(error: &std::io::Error) -> bool {
    match error.raw_os_error() {
        Some(number) => cfg!(windows) && NO_SUCH_NAME_WINDOWS.contains(&number),
        None => {
            let text = error.to_string();
            NO_SUCH_NAME.iter().any(|known| text.ends_with(known))
        }
    }
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = match resolver.fixed(&host) {
                // Port 0: the URL's port counts.
                Some(address) => vec![SocketAddr::new(address.ip(), 0)],
                None => resolver.look_up(&host).await?,
            };
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use reqwest::dns::Resolve;

    use super::*;

    #[tokio::test]
    async fn names_below_a_fixed_suffix_resolve_to_its_address_and_others_do_not() {
        let fixed: SocketAddr = "127.0.0.9:443".parse().unwrap();
        let resolver = Resolver::new(vec![("akvfs.test".to_owned(), fixed)]);
        for (name, address) in [
            ("kv.vault.akvfs.test", "127.0.0.9"),
            ("AKVFS.test", "127.0.0.9"),
            ("kv.vault.localhost", "127.0.0.1"),
        ] {
            let found: Vec<_> = resolver.resolve(name.parse().unwrap()).await.unwrap().collect();
            assert_eq!(found, [SocketAddr::new(address.parse().unwrap(), 0)], "{name}");
        }
        assert!(resolver.fixed("notakvfs.test").is_none());
    }

    #[test]
    fn no_such_name_and_no_answer_are_told_apart() {
        let error = |text: &str| {
            std::io::Error::other(format!("failed to lookup address information: {text}"))
        };
        for text in NO_SUCH_NAME {
            assert!(is_missing(&error(text)), "{text}");
        }
        for text in ["Temporary failure in name resolution", "Try again", "Unrecoverable error", ""]
        {
            assert!(!is_missing(&error(text)), "{text}");
        }
        assert!(!is_missing(&std::io::Error::from_raw_os_error(5)));
    }
}
