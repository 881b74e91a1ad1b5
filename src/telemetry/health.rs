//! `/healthz`: the liveness probe asks the gRPC socket itself, as a driver would.

mod door;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::csi;
use crate::error::{Code, Error, Result};

use door::Door;

/// Connections at the same time; the port is open to the whole network.
const MAX_VISITS: usize = 128;
/// How much longer than a probe a connection may last.
const GRACE: Duration = Duration::from_secs(5);

/// Where and how the probe is answered.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port on every interface: kubelet asks at the node's address, of either family. 0: any.
    pub port: u16,
    /// Exact path, `/healthz`.
    pub path: String,
    /// Limit of one probe.
    pub timeout: Duration,
    /// The provider's socket.
    pub socket: PathBuf,
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
    let (port, listeners) = listen(options.port).await.map_err(|error| {
        Error::new(Code::Local, format!("healthz cannot listen on port {}: {error}", options.port))
            .fix("another process has the port: set --healthz-port")
    })?;
    let (places, patience) = (Arc::new(Semaphore::new(MAX_VISITS)), options.timeout + GRACE);
    let router = Router::new().route(&path, get(probe)).with_state(options);
    for listener in listeners {
        let door = Door { listener, places: places.clone(), patience };
        let served = axum::serve(door, router.clone())
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "healthz stopped");
            }
        });
    }
    Ok(port)
}

/// One listener for both families where the system shares the port between them, else two; one of
/// IPv4 where there is no IPv6.
async fn listen(port: u16) -> std::io::Result<(u16, Vec<TcpListener>)> {
    let mut listeners = Vec::new();
    let mut port = port;
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => {
            port = listener.local_addr()?.port();
            listeners.push(listener);
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
        Err(_) => {}
    }
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
        Ok(listener) => {
            port = listener.local_addr()?.port();
            listeners.push(listener);
        }
        // The first one has it already.
        Err(error) if error.kind() == ErrorKind::AddrInUse && !listeners.is_empty() => {}
        Err(error) => return Err(error),
    }
    Ok((port, listeners))
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
