//! `/metrics`: the Go provider's two histograms, and a few numbers of our own.
//!
//! Own code, since it is little: every label has a closed set of values, so the text stays small
//! whatever anybody mounts. Where the Go provider puts whole error texts, there is our stable code.

mod histogram;

use std::collections::{BTreeMap, BTreeSet};
use std::env::consts;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::class::ObjectKind;
use crate::error::{Error, Result};
use crate::version;

use super::web::{self, Place};
use histogram::{Histogram, escaped};

/// What dashboards select by; not the runtime name of the Version call.
const SERVICE_NAME: &str = "csi-secrets-store-provider-azure";
/// Objects that are named where names are wanted; all further ones share the blank name.
const MAX_NAMES: usize = 256;
/// How long a scraper may take.
const PATIENCE: Duration = Duration::from_secs(30);

static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers::new());
static MOUNTS: AtomicU64 = AtomicU64::new(0);
static STALE: AtomicU64 = AtomicU64::new(0);
static WAITING: AtomicU64 = AtomicU64::new(0);
static OUTAGES: AtomicU64 = AtomicU64::new(0);
static THROTTLED: AtomicU64 = AtomicU64::new(0);
static NAMES: AtomicBool = AtomicBool::new(false);

/// What was measured since the start, by label values.
struct Numbers {
    /// Object type, object name, error.
    keyvault: BTreeMap<(&'static str, String, &'static str), Histogram>,
    /// Method, code, message.
    grpc: BTreeMap<(&'static str, &'static str, &'static str), Histogram>,
    /// Mode, result.
    tokens: BTreeMap<(&'static str, &'static str), u64>,
    /// How values came to who asked.
    given: BTreeMap<&'static str, u64>,
    names: BTreeSet<String>,
}

impl Numbers {
    const fn new() -> Self {
        Self {
            keyvault: BTreeMap::new(),
            grpc: BTreeMap::new(),
            tokens: BTreeMap::new(),
            given: BTreeMap::new(),
            names: BTreeSet::new(),
        }
    }

    /// The object's name as a label. A class may name what it likes; only what a vault has is kept.
    fn name(&mut self, name: &str, exists: bool) -> String {
        let known = self.names.contains(name);
        if !known && (!exists || name.is_empty() || self.names.len() >= MAX_NAMES) {
            return String::new();
        }
        if !known {
            self.names.insert(name.to_owned());
        }
        name.to_owned()
    }
}

fn numbers() -> MutexGuard<'static, Numbers> {
    NUMBERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Binds the port and serves `/metrics` until `stop`. Returns the port.
///
/// # Errors
/// When the port cannot be bound.
pub async fn serve(place: Place, object_names: bool, stop: CancellationToken) -> Result<u16> {
    NAMES.store(object_names, Ordering::Relaxed);
    let text =
        || async { ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()) };
    let router = Router::new().route("/metrics", get(text));
    web::serve("metrics", place, router, PATIENCE, stop).await
}

/// One object version or list was asked for, with all its tries.
pub(crate) fn keyvault_request<T>(
    kind: ObjectKind,
    name: &str,
    took: Duration,
    outcome: &Result<T>,
) {
    let mut numbers = numbers();
    let name = match NAMES.load(Ordering::Relaxed) {
        true => numbers.name(name, outcome.is_ok()),
        false => String::new(),
    };
    numbers.keyvault.entry((kind.as_str(), name, code(outcome))).or_default().observe(took);
}

/// A gRPC call was answered. `message` comes from a closed set.
pub(crate) fn grpc_request(
    method: &'static str,
    code: tonic::Code,
    message: &'static str,
    took: Duration,
) {
    numbers().grpc.entry((method, grpc_code(code), message)).or_default().observe(took);
}

/// A token service was asked, with all tries.
pub(crate) fn token_request<T>(mode: &'static str, outcome: &Result<T>) {
    let result = if outcome.is_ok() { "ok" } else { code(outcome) };
    *numbers().tokens.entry((mode, result)).or_default() += 1;
}

/// A value was given, or refused from memory: `held`, `joined`, `asked`, `stale` or `refused`.
pub(crate) fn value_given(how: &'static str) {
    *numbers().given.entry(how).or_default() += 1;
}

/// A vault asked for fewer requests.
pub(crate) fn vault_throttled() {
    THROTTLED.fetch_add(1, Ordering::Relaxed);
}

/// One more of something that goes on, until dropped.
#[derive(Debug)]
pub(crate) struct Ongoing(&'static AtomicU64);

impl Ongoing {
    fn begin(gauge: &'static AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }

    /// A Mount that is being answered.
    pub(crate) fn mount() -> Self {
        Self::begin(&MOUNTS)
    }

    /// A request that waits for its turn at a vault.
    pub(crate) fn waiting_request() -> Self {
        Self::begin(&WAITING)
    }

    /// A value that is held on to although its vault cannot be asked.
    pub(crate) fn stale_value() -> Self {
        Self::begin(&STALE)
    }

    /// A vault that does not answer, while somebody waits for it.
    pub(crate) fn outage() -> Self {
        Self::begin(&OUTAGES)
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Blank on success.
fn code<T>(outcome: &Result<T>) -> &'static str {
    outcome.as_ref().err().map(Error::code).map_or("", |code| code.as_str())
}

/// As Go spells it.
pub(crate) fn grpc_code(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

fn render() -> String {
    let common =
        format!(r#"os_type="{}",provider="azure",service_name="{}""#, consts::OS, SERVICE_NAME);
    let mut out = String::new();
    head(
        &mut out,
        "keyvault_request",
        "histogram",
        "Distribution of how long it took to get from keyvault",
    );
    let numbers = numbers();
    for ((kind, name, error), histogram) in &numbers.keyvault {
        let labels = format!(
            r#"{common},object_type="{kind}",object_name="{}",error="{error}""#,
            escaped(name)
        );
        histogram.write(&mut out, "keyvault_request", &labels);
    }
    head(
        &mut out,
        "grpc_request",
        "histogram",
        "Distribution of how long it took for the gRPC requests",
    );
    for ((method, code, message), histogram) in &numbers.grpc {
        let labels = format!(
            r#"{common},grpc_method="{method}",grpc_code="{code}",grpc_message="{message}""#
        );
        histogram.write(&mut out, "grpc_request", &labels);
    }
    head(&mut out, "akvfs_token_requests_total", "counter", "Token requests by identity mode");
    for ((mode, result), count) in &numbers.tokens {
        let labels = format!(r#"mode="{mode}",result="{result}""#);
        let _ = writeln!(out, "akvfs_token_requests_total{{{labels}}} {count}");
    }
    let help = "Values given from memory (held), from another caller's request (joined), from an own \
                request (asked), from before an outage (stale); or refused from memory";
    head(&mut out, "akvfs_values_total", "counter", help);
    for (how, count) in &numbers.given {
        let _ = writeln!(out, "akvfs_values_total{{how=\"{how}\"}} {count}");
    }
    drop(numbers);
    for (name, kind, help, number) in [
        ("akvfs_mounts_in_flight", "gauge", "Mounts that are being answered", &MOUNTS),
        (
            "akvfs_vault_requests_waiting",
            "gauge",
            "Requests that wait for their turn at a vault",
            &WAITING,
        ),
        (
            "akvfs_vaults_in_outage",
            "gauge",
            "Vaults that do not answer and are waited for",
            &OUTAGES,
        ),
        (
            "akvfs_values_stale",
            "gauge",
            "Values held from before their vault stopped answering",
            &STALE,
        ),
        ("akvfs_vault_throttled_total", "counter", "Answers 429 of vaults", &THROTTLED),
    ] {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "{name} {}", number.load(Ordering::Relaxed));
    }
    head(&mut out, "akvfs_build_info", "gauge", "What this build is; always 1");
    let labels = [
        ("version", version::VERSION),
        ("commit", version::COMMIT),
        ("build_date", version::BUILD_DATE),
    ]
    .map(|(name, value)| format!(r#"{name}="{}""#, escaped(value)));
    let _ = writeln!(out, "akvfs_build_info{{{}}} 1", labels.join(","));
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_objects_that_exist_and_few() {
        let mut numbers = Numbers::new();
        assert_eq!(numbers.name("typo", false), "");
        assert_eq!(numbers.name("db", true), "db");
        assert_eq!(numbers.name("db", false), "db", "a known object may fail later");
        for number in 0..MAX_NAMES {
            numbers.name(&number.to_string(), true);
        }
        assert_eq!(numbers.name("one-more", true), "");
    }

    #[test]
    fn every_code_of_grpc_has_gos_name() {
        let names: BTreeSet<_> = (0..17).map(|n| grpc_code(tonic::Code::from(n))).collect();
        assert_eq!(names.len(), 17);
    }
}
