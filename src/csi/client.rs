//! A client connection to a provider's socket, for the liveness probe, the demo and tests.

use std::path::PathBuf;

use crate::error::{Code, Error, Result};

/// Connects to the socket.
///
/// # Errors
/// When nobody listens there.
#[cfg(unix)]
pub async fn connect(socket: PathBuf) -> Result<tonic::transport::Channel> {
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixStream;

    let path = socket.clone();
    // The URI is never resolved: the connector below decides where to go.
    tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|_| {
            Error::new(Code::Local, format!("nobody answers on the socket {}", socket.display()))
        })
}

/// Not on this platform yet.
#[cfg(not(unix))]
pub async fn connect(_socket: PathBuf) -> Result<tonic::transport::Channel> {
    Err(Error::new(Code::Local, "Unix sockets are not served on this platform yet"))
}
