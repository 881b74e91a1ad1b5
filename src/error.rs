//! One error type for the core: what went wrong, at which hop, and what each edge makes of it.
//!
//! An [`Error`] carries a stable [`Code`], the failed [`Hop`] where there is one, a message, and a
//! likely fix. The edges never invent a mapping of their own: the gRPC status and the errno come
//! from the one table in this file. Messages are safe to print: they hold names, positions and what
//! the service said (bounded and stripped), never values, tokens or the text a parser quoted.

use std::fmt;
use std::time::Duration;

/// Result of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Stable error codes: metric labels, log fields and tests rely on their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The class, the attributes, the secrets or the command's input are wrong.
    ClassInvalid,
    /// The vault says that the object (or this version of it) does not exist.
    NotFound,
    /// The object exists but is disabled, or outside the dates its policy allows.
    Disabled,
    /// Entra, IMDS or the vault did not accept the credential (401 or an OAuth refusal).
    Unauthenticated,
    /// The vault knows the caller and refuses (403).
    Forbidden,
    /// The operator's policy does not allow what the class asks for.
    PolicyDenied,
    /// The identity cannot work here: no IMDS, no such identity on this machine, missing token.
    IdentityUnavailable,
    /// FUSE is not possible here.
    FuseUnavailable,
    /// The directory that files should go to is not safe, not ours, or has something in the way.
    PlaceRefused,
    /// A service asked to slow down (429).
    Throttled,
    /// A service could not be reached, or answered 5xx.
    Unavailable,
    /// The time given for the operation ran out.
    TimedOut,
    /// A service answered something that is not its protocol.
    BadAnswer,
    /// The object's content cannot be turned into the file that was asked for.
    BadContent,
    /// A bound was reached: sizes, counts.
    TooLarge,
    /// The process is shutting down.
    Draining,
    /// A local file or system call failed.
    Local,
    /// A bug in akvfs.
    Internal,
}

/// Errno values of Linux, spelled here so that the table exists on every platform.
pub mod errno {
    /// No such file or directory.
    pub const ENOENT: i32 = 2;
    /// Input/output error.
    pub const EIO: i32 = 5;
    /// Permission denied.
    pub const EACCES: i32 = 13;
    /// Invalid argument.
    pub const EINVAL: i32 = 22;
    /// Too many open files in the system: here, no budget left for another value.
    pub const ENFILE: i32 = 23;
}

impl Code {
    /// Every code, for tests and metric registration.
    pub const ALL: [Code; 18] = [
        Code::ClassInvalid,
        Code::NotFound,
        Code::Disabled,
        Code::Unauthenticated,
        Code::Forbidden,
        Code::PolicyDenied,
        Code::IdentityUnavailable,
        Code::FuseUnavailable,
        Code::PlaceRefused,
        Code::Throttled,
        Code::Unavailable,
        Code::TimedOut,
        Code::BadAnswer,
        Code::BadContent,
        Code::TooLarge,
        Code::Draining,
        Code::Local,
        Code::Internal,
    ];

    /// The one mapping table: stable name, gRPC status code, errno.
    ///
    /// kubelet treats Unavailable, ResourceExhausted, Aborted, Cancelled and DeadlineExceeded as
    /// "not final" and the driver may then start a pod on an empty volume, so none of them is ever
    /// used: throttling and outages are Internal.
    const fn row(self) -> (&'static str, tonic::Code, i32) {
        use tonic::Code as Grpc;
        match self {
            Code::ClassInvalid => ("class_invalid", Grpc::InvalidArgument, errno::EINVAL),
            Code::NotFound => ("not_found", Grpc::NotFound, errno::ENOENT),
            Code::Disabled => ("disabled", Grpc::PermissionDenied, errno::EACCES),
            Code::Unauthenticated => ("unauthenticated", Grpc::PermissionDenied, errno::EACCES),
            Code::Forbidden => ("forbidden", Grpc::PermissionDenied, errno::EACCES),
            Code::PolicyDenied => ("policy_denied", Grpc::PermissionDenied, errno::EACCES),
            Code::IdentityUnavailable => {
                ("identity_unavailable", Grpc::FailedPrecondition, errno::EACCES)
            }
            Code::FuseUnavailable => ("fuse_unavailable", Grpc::FailedPrecondition, errno::EIO),
            Code::PlaceRefused => ("place_refused", Grpc::FailedPrecondition, errno::EACCES),
            Code::Throttled => ("throttled", Grpc::Internal, errno::EIO),
            Code::Unavailable => ("unavailable", Grpc::Internal, errno::EIO),
            Code::TimedOut => ("timed_out", Grpc::Internal, errno::EIO),
            Code::BadAnswer => ("bad_answer", Grpc::Internal, errno::EIO),
            Code::BadContent => ("bad_content", Grpc::Internal, errno::EIO),
            Code::TooLarge => ("too_large", Grpc::Internal, errno::ENFILE),
            Code::Draining => ("draining", Grpc::Internal, errno::EIO),
            Code::Local => ("local", Grpc::Internal, errno::EIO),
            Code::Internal => ("internal", Grpc::Internal, errno::EIO),
        }
    }

    /// The stable name, as in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The gRPC status code.
    pub const fn grpc(self) -> tonic::Code {
        self.row().1
    }

    /// The errno a file operation gets.
    pub const fn errno(self) -> i32 {
        self.row().2
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The part of the path to a value that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// Name resolution.
    Dns,
    /// TCP connection.
    Connect,
    /// TLS handshake or certificate check.
    Tls,
    /// The token service.
    Entra,
    /// The instance metadata service (managed identity).
    Imds,
    /// The node's pod identity service (NMI).
    Nmi,
    /// The key vault.
    Vault,
    /// The proxy of the environment.
    Proxy,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hop::Dns => "DNS",
            Hop::Connect => "connect",
            Hop::Tls => "TLS",
            Hop::Entra => "Entra",
            Hop::Imds => "IMDS",
            Hop::Nmi => "NMI",
            Hop::Vault => "vault",
            Hop::Proxy => "proxy",
        })
    }
}

/// An error of the core. Cheap to clone, so one outcome can answer several waiters.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    hop: Option<Hop>,
    message: String,
    fix: Option<String>,
    /// HTTP status of the service's answer, where there was one.
    status: Option<u16>,
    /// The service's own error code (`SecretNotFound`, `invalid_client`), bounded and stripped.
    service_code: Option<String>,
    /// How long the service asked us to wait.
    retry_after: Option<Duration>,
    /// The scope the vault's challenge asks for, after the domain check, when another was used.
    wanted_scope: Option<String>,
    /// Only this caller's deadline kept the request from being tried again.
    hurried: bool,
    /// Asking again is no use, although the service was not reached.
    lasting: bool,
    /// The vault's network rules refuse this machine: that is about the way, not about the caller.
    firewall: bool,
}

impl Error {
    /// A new error. The message is lower case, without a full stop, and holds no secret.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            hop: None,
            message: message.into(),
            fix: None,
            status: None,
            service_code: None,
            retry_after: None,
            wanted_scope: None,
            hurried: false,
            lasting: false,
            firewall: false,
        }))
    }

    /// Of a task that panicked or was lost.
    pub(crate) fn task_failed() -> Self {
        Self::new(Code::Internal, "a task of akvfs failed")
            .fix("this is a bug; the log names the place")
    }

    /// Shorthand for the commonest code of the pure modules.
    pub fn class(message: impl Into<String>) -> Self {
        Self::new(Code::ClassInvalid, message)
    }

    /// Names the hop.
    #[must_use]
    pub fn at(mut self, hop: Hop) -> Self {
        self.0.hop = Some(hop);
        self
    }

    /// Adds the likely fix, shown after the message.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.0.fix = Some(fix.into());
        self
    }

    /// Records what the service answered.
    #[must_use]
    pub fn answered(mut self, status: u16, service_code: Option<String>) -> Self {
        self.0.status = Some(status);
        self.0.service_code = service_code;
        self
    }

    /// Records how long the service asked us to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Records that the vault's (checked) challenge asks for another scope.
    #[must_use]
    pub(crate) fn wants_scope(mut self, scope: String) -> Self {
        self.0.wanted_scope = Some(scope);
        self
    }

    /// Puts `context: ` before the message, keeping code, hop and fix.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Says how many more failed the same operation; their texts would only repeat this one.
    #[must_use]
    pub(crate) fn with_others(mut self, count: usize) -> Self {
        self.0.message.push_str(&format!(" (and {count} more objects failed)"));
        self
    }

    /// Says after how many tries this is the outcome, and why there was no further one.
    #[must_use]
    pub(crate) fn tried(mut self, tries: u32, why: &str) -> Self {
        let times = if tries == 1 { "try" } else { "tries" };
        match (tries, why) {
            (1, "") => {}
            (_, "") => self.0.message.push_str(&format!(" ({tries} {times})")),
            _ => self.0.message.push_str(&format!(" ({tries} {times}; {why})")),
        }
        self
    }

    /// Records that the vault's network rules refuse this machine.
    #[must_use]
    pub(crate) fn by_firewall(mut self, firewall: bool) -> Self {
        self.0.firewall = firewall;
        self
    }

    /// Records that a caller with more time would have tried again.
    #[must_use]
    pub(crate) fn hurried(mut self) -> Self {
        self.0.hurried = true;
        self
    }

    /// Records that asking again is no use, although the service was not reached.
    #[must_use]
    pub(crate) fn lasting(mut self) -> Self {
        self.0.lasting = true;
        self
    }

    /// Whether asking again is no use, although the service was not reached.
    pub(crate) fn is_lasting(&self) -> bool {
        self.0.lasting
    }

    /// Whether a caller with more time would have tried again.
    #[allow(dead_code)]
    pub(crate) fn is_hurried(&self) -> bool {
        self.0.hurried
    }

    /// Bytes in memory.
    pub(crate) fn size(&self) -> usize {
        let Inner { message, fix, service_code, wanted_scope, .. } = self.0.as_ref();
        let others = [fix, service_code, wanted_scope].into_iter().flatten();
        size_of::<Inner>() + message.capacity() + others.map(String::capacity).sum::<usize>()
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The failed hop, if the error comes from the way to a service.
    pub fn hop(&self) -> Option<Hop> {
        self.0.hop
    }

    /// The message without the fix.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The likely fix.
    pub fn likely_fix(&self) -> Option<&str> {
        self.0.fix.as_deref()
    }

    /// HTTP status of the service's answer.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The service's own error code.
    pub fn service_code(&self) -> Option<&str> {
        self.0.service_code.as_deref()
    }

    /// Whether the vault's network rules refuse this machine, whoever asks.
    pub(crate) fn is_firewall(&self) -> bool {
        self.0.firewall
    }

    /// The scope the vault asks for instead of the one used.
    pub(crate) fn wanted_scope(&self) -> Option<&str> {
        self.0.wanted_scope.as_deref()
    }

    /// How long the service asked us to wait.
    pub fn wait(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(fix) = &self.0.fix {
            write!(f, " (likely fix: {fix})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}", self.0.code)?;
        if let Some(hop) = self.0.hop {
            write!(f, " at {hop}")?;
        }
        write!(f, "] {self}")
    }
}

impl std::error::Error for Error {}

/// Makes text from a service printable: control characters dropped, at most `max` bytes kept.
pub(crate) fn printable(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_maps_to_a_status_that_kubelet_holds_for_not_final() {
        use tonic::Code as Grpc;
        for code in Code::ALL {
            assert!(
                !matches!(
                    code.grpc(),
                    Grpc::Unavailable
                        | Grpc::ResourceExhausted
                        | Grpc::Aborted
                        | Grpc::Cancelled
                        | Grpc::DeadlineExceeded
                        | Grpc::Ok
                        | Grpc::Unknown
                ),
                "{code}"
            );
        }
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn context_and_fix_are_shown_in_order() {
        let error = Error::new(Code::NotFound, "no such secret")
            .fix("check objectName")
            .context("failed to get objectType:secret");
        assert_eq!(
            error.to_string(),
            "failed to get objectType:secret: no such secret (likely fix: check objectName)"
        );
    }

    #[test]
    fn printable_drops_control_characters_and_cuts_at_a_character() {
        assert_eq!(printable("a\r\n\u{1b}[31mb", 99), "a[31mb");
        assert_eq!(printable("\u{e9}\u{e9}", 3), "\u{e9}");
    }
}
