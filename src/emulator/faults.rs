//! What goes wrong on purpose.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::header;
use serde_json::json;

use super::lock;
use super::reply::Reply;

/// Most faults at once.
const MAX_FAULTS: usize = 1000;

/// The four services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Token service.
    Entra,
    /// Instance metadata service.
    Imds,
    /// Pod identity.
    Nmi,
    /// Key Vault.
    Vault,
}

impl Service {
    /// As the admin endpoint and the log spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Service::Entra => "entra",
            Service::Imds => "imds",
            Service::Nmi => "nmi",
            Service::Vault => "vault",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Service::Entra, Service::Imds, Service::Nmi, Service::Vault]
            .into_iter()
            .find(|service| service.as_str() == text)
    }
}

/// Which requests a fault meets.
#[derive(Clone, Debug)]
pub struct Where {
    service: Service,
    vault: Option<String>,
    path: String,
}

impl Where {
    /// Every request to a service.
    pub fn service(service: Service) -> Self {
        Self { service, vault: None, path: String::new() }
    }

    /// Every request to this vault.
    pub fn vault(name: &str) -> Self {
        Self { vault: Some(name.to_ascii_lowercase()), ..Self::service(Service::Vault) }
    }

    /// Only paths that begin like this: `/secrets/db-password/`.
    #[must_use]
    pub fn path(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.path);
        self
    }

    fn meets(&self, service: Service, vault: Option<&str>, path: &str) -> bool {
        self.service == service
            && (self.vault.is_none() || self.vault.as_deref() == vault)
            && path.starts_with(&self.path)
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It is answered rightly, but later. Several delays add up, and go with any other trouble.
    Delay(Duration),
    /// 429, with `Retry-After` in seconds or without.
    Throttle(Option<u64>),
    /// 429 for what comes faster than this; the rest goes on. One second's worth, and at least one
    /// request, may come at once.
    Limit {
        /// Requests a second.
        per_second: u32,
        /// `Retry-After` in seconds, or none.
        retry_after: Option<u64>,
    },
    /// This status, with the service's error shape.
    Status(u16),
    /// 403 by the vault's network rules.
    Firewall,
    /// No answer, until the caller gives up.
    Hang,
    /// The right answer's head and half of its body, then the connection breaks.
    CutBody,
    /// The right answer, its body in eight parts with this pause before each.
    SlowBody(Duration),
    /// 401 with a challenge for this resource, whatever token was sent.
    Challenge(String),
    /// 302 to this URL.
    Redirect(String),
    /// This very answer: HTML pages, wrongly typed JSON.
    Answer {
        /// Status.
        status: u16,
        /// Content type.
        content_type: String,
        /// Body.
        body: String,
    },
}

/// A fault: where, what, how often.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which requests.
    pub at: Where,
    /// What happens.
    pub trouble: Trouble,
    /// How many requests it still meets; `None`: until cleared. Of a limit: how many it refuses.
    pub times: Option<u32>,
}

/// What one request has to go through.
#[derive(Default)]
pub(super) struct Met {
    pub(super) delay: Duration,
    pub(super) trouble: Option<Trouble>,
}

/// What is left of a [`Trouble::Limit`] at a moment.
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(per_second: u32) -> Self {
        Self { left: f64::from(per_second.max(1)), at: Instant::now() }
    }

    /// Whether one more may pass.
    fn take(&mut self, per_second: u32, now: Instant) -> bool {
        let rate = f64::from(per_second);
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        (self.left, self.at) = ((self.left + gained).min(rate.max(1.0)), now);
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// A fault with what it remembers.
struct Active {
    fault: Fault,
    bucket: Option<Bucket>,
}

#[derive(Default)]
pub(super) struct Faults(Mutex<Vec<Active>>);

impl Faults {
    pub(super) fn add(&self, fault: Fault) {
        let mut faults = lock(&self.0);
        let bucket = match fault.trouble {
            Trouble::Limit { per_second, .. } => Some(Bucket::full(per_second)),
            _ => None,
        };
        if faults.len() < MAX_FAULTS {
            faults.push(Active { fault, bucket });
        }
    }

    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// All delays that apply and the first other trouble, each used once.
    pub(super) fn meet(&self, service: Service, vault: Option<&str>, path: &str) -> Met {
        let mut met = Met::default();
        let mut faults = lock(&self.0);
        let now = Instant::now();
        for Active { fault, bucket } in faults.iter_mut() {
            if !fault.at.meets(service, vault, path) {
                continue;
            }
            match &fault.trouble {
                Trouble::Delay(delay) => met.delay += *delay,
                _ if met.trouble.is_some() => continue,
                Trouble::Limit { per_second, retry_after } => {
                    if bucket.as_mut().is_some_and(|bucket| bucket.take(*per_second, now)) {
                        continue;
                    }
                    met.trouble = Some(Trouble::Throttle(*retry_after));
                }
                trouble => met.trouble = Some(trouble.clone()),
            }
            fault.times = fault.times.map(|times| times.saturating_sub(1));
        }
        faults.retain(|active| active.fault.times != Some(0));
        met
    }
}

impl Trouble {
    /// The answer that replaces the right one, if there is one.
    pub(super) fn reply(&self, service: Service, authorization: &str) -> Option<Reply> {
        let reply = match self {
            Trouble::Delay(_) | Trouble::Hang | Trouble::CutBody | Trouble::SlowBody(_) => {
                return None;
            }
            // A limit that is reached is met as this.
            Trouble::Throttle(retry_after) | Trouble::Limit { retry_after, .. } => {
                let reply = failure(service, 429, "Throttled", None);
                match retry_after {
                    Some(seconds) => reply.with(header::RETRY_AFTER, &seconds.to_string()),
                    None => reply,
                }
            }
            Trouble::Status(status) => {
                let code = match status {
                    401 => "Unauthorized",
                    403 => "Forbidden",
                    503 => "ServiceUnavailable",
                    _ => "InternalServerError",
                };
                failure(service, *status, code, None)
            }
            Trouble::Firewall => failure(service, 403, "Forbidden", Some("ForbiddenByFirewall")),
            Trouble::Challenge(resource) => {
                super::vault::challenge(authorization, resource, "AKV10022: Invalid audience.")
            }
            Trouble::Redirect(to) => {
                Reply::text(302, "text/html", "moved").with(header::LOCATION, to)
            }
            Trouble::Answer { status, content_type, body } => {
                Reply::text(*status, content_type, body.clone())
            }
        };
        Some(reply)
    }
}

/// An error in the service's own shape.
fn failure(service: Service, status: u16, code: &str, inner: Option<&str>) -> Reply {
    match service {
        Service::Vault => {
            let message = match (status, inner) {
                (429, _) => {
                    "Request was not processed because too many requests were received. Reason: \
                     VaultRequestTypeLimitReached"
                }
                (403, Some(_)) => {
                    "Client address is not authorized and caller is not a trusted service."
                }
                _ => "Internal server error.",
            };
            Reply::error(status, code, message, inner)
        }
        Service::Entra => super::entra::refusal(status, "temporarily_unavailable", 90033, "busy"),
        Service::Imds | Service::Nmi => Reply::json(
            status,
            &json!({ "error": "server_error", "error_description": "try again later" }),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lets_its_rate_pass_and_refuses_what_is_faster() {
        let mut bucket = Bucket::full(50);
        let start = bucket.at;
        let mut passed = |at: u64| {
            let now = start + Duration::from_millis(at);
            (0..100).filter(|_| bucket.take(50, now)).count()
        };
        assert_eq!([passed(0), passed(0), passed(100), passed(60_000)], [50, 0, 5, 50]);
    }
}
