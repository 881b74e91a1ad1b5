//! `/healthz`: the liveness probe asks the gRPC socket itself, as a driver would. `/readyz` asks the
//! same, and says so when the process is about to end.

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::csi;
use crate::error::{Error, Result};

use super::web::{self, Place};

const READY: &str = "/readyz";
/// How much longer than a probe a connection may last.
const GRACE: Duration = Duration::from_secs(5);

/// Where and how the probe is answered.
#[derive(Clone, Debug)]
pub struct Options {
    /// Kubelet asks at the node's address, of either family.
    pub place: Place,
    /// Exact path, `/healthz`.
    pub path: String,
    /// Limit of one probe.
    pub timeout: Duration,
    /// The provider's socket.
    pub socket: PathBuf,
    /// Cancelled when no new mounts are taken any more.
    pub draining: CancellationToken,
}

/// Binds the probe's port and serves it until `stop`. Returns the port.
///
/// # Errors
/// When the port cannot be bound: a silent failure would make kubelet kill a healthy provider.
pub async fn serve(options: Options, stop: CancellationToken) -> Result<u16> {
    let path = options.path.clone();
    if !path.starts_with('/') || path.contains(['{', '}', '*', ':', '?', '#']) {
        return Err(Error::class(format!("--healthz-path {path:?} is not a plain path")));
    }
    let (place, patience) = (options.place, options.timeout + GRACE);
    let mut router = Router::new().route(&path, get(probe));
    if path != READY {
        router = router.route(READY, get(ready));
    }
    let router = router.with_state(options);
    web::serve("healthz", place, router, patience, stop).await
}

async fn probe(State(options): State<Options>) -> (StatusCode, String) {
    match tokio::time::timeout(options.timeout, check(options.socket)).await {
        Ok(Ok(())) => (StatusCode::OK, "ok".to_owned()),
        Ok(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, why),
        Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "no answer from the provider's socket".to_owned())
        }
    }
}

async fn ready(State(options): State<Options>) -> (StatusCode, String) {
    if options.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "terminating".to_owned());
    }
    probe(State(options)).await
}

async fn check(socket: PathBuf) -> std::result::Result<(), String> {
    let channel = csi::client::connect(socket).await.map_err(|error| error.to_string())?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service: String::new() })
        .await
        .map_err(|status| status.message().to_owned())?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        _ => Err("the provider is not serving".to_owned()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// U70, its first half: the second needs a provider.
    #[tokio::test]
    async fn without_a_provider_behind_the_socket_the_answer_is_503() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            place: Place { address: Some("127.0.0.1".parse().unwrap()), port: 0 },
            path: "/healthz".to_owned(),
            timeout: Duration::from_secs(5),
            socket: dir.path().join("azure.sock"),
            draining: CancellationToken::new(),
        };
        let stop = CancellationToken::new();
        let port = serve(options.clone(), stop.clone()).await.unwrap();
        for path in ["/healthz", "/readyz"] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
            assert!(answer.contains("nobody answers on the socket"), "{path}: {answer}");
        }
        let taken = Place { port, ..options.place };
        let error = serve(Options { place: taken, ..options }, stop.clone()).await.unwrap_err();
        assert!(error.message().starts_with("healthz cannot listen on port"), "{error}");
        stop.cancel();
    }
}
