//! What is logged and measured of each call, the same for all of them.

use std::time::Instant;

use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use crate::error::{Error, Result, printable};
use crate::telemetry::metrics;

use super::deadline;

/// Longest status message: it travels in an HTTP/2 header.
const MAX_STATUS: usize = 4096;

/// A refusal and its stable name: the text may hold anything, and labels are to be few.
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) name: &'static str,
}

impl From<&Error> for Refusal {
    /// The one way from an error to a gRPC status.
    fn from(error: &Error) -> Self {
        let status = Status::new(error.code().grpc(), printable(&error.to_string(), MAX_STATUS));
        Self { status, name: error.code().as_str() }
    }
}

/// Answers a call of `method` (its full name) with the outcome of `work`.
pub(super) async fn observed<T>(
    method: &'static str,
    metadata: &MetadataMap,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<Response<T>, Status> {
    let begun = Instant::now();
    // Fields are made only where they are logged.
    let deadline = || deadline::given(metadata).map(|given| format!("{given:?}"));
    tracing::trace!(method, deadline = deadline(), "request");
    let outcome = work.await;
    let took = begun.elapsed();
    let (code, name, message) = match &outcome {
        Ok(_) => (tonic::Code::Ok, "", ""),
        Err(refusal) => (refusal.status.code(), refusal.name, refusal.status.message()),
    };
    metrics::grpc_request(method, code, name, took);
    let code = metrics::grpc_code(code);
    let duration = || format!("{took:?}");
    tracing::trace!(
        method,
        deadline = deadline(),
        duration = duration(),
        code,
        message,
        "response"
    );
    outcome.map(Response::new).map_err(|refusal| refusal.status)
}
