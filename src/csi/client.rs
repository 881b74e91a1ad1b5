//! A client connection to a provider's socket, for the liveness probe, the demo and tests.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;

use crate::error::{Code, Error, Result};

/// Connects to the socket.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(socket: PathBuf) -> Result<tonic::transport::Channel> {
    let path = socket.clone();
    // The URI is never resolved: the connector below decides where to go.
    tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { imp::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|_| {
            Error::new(Code::Local, format!("nobody answers on the socket {}", socket.display()))
        })
}

#[cfg(unix)]
mod imp {
    use std::path::PathBuf;

    pub(super) async fn connect(path: PathBuf) -> std::io::Result<tokio::net::UnixStream> {
        tokio::net::UnixStream::connect(path).await
    }
}

#[cfg(windows)]
mod imp {
    use std::path::PathBuf;

    use crate::csi::listen::{accept, carrier};

    pub(super) async fn connect(path: PathBuf) -> std::io::Result<accept::Connection> {
        accept::connect(path, carrier()).await
    }
}
