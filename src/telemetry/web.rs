//! The plain HTTP ports of the process: for probes and scrapers, open to the network and so bounded.

mod door;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Result};

use door::Door;

/// Connections of one port at the same time.
const MAX_VISITS: usize = 128;

/// Where a port is served.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// One address, or every interface.
    pub address: Option<IpAddr>,
    /// 0: any free port.
    pub port: u16,
}

/// Binds the port and serves it until `stop`; a connection lasts for `patience` at most. Returns the
/// port.
///
/// # Errors
/// When the port cannot be bound: an operator would look for probes and samples in vain.
pub(super) async fn serve(
    what: &'static str,
    place: Place,
    router: Router,
    patience: Duration,
    stop: CancellationToken,
) -> Result<u16> {
    let (port, listeners) = listen(place).await.map_err(|error| {
        Error::new(Code::Local, format!("{what} cannot listen on port {}: {error}", place.port))
            .fix("another process may have the port, or no interface has the address")
    })?;
    let places = Arc::new(Semaphore::new(MAX_VISITS));
    for listener in listeners {
        let door = Door { listener, places: places.clone(), patience };
        let served = axum::serve(door, router.clone())
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(err = %error, "{what} stopped");
            }
        });
    }
    tracing::info!(port, "{what} listens");
    Ok(port)
}

/// On every interface: one listener for both families where the system shares the port between them,
/// else two; one of IPv4 where there is no IPv6.
async fn listen(Place { address, port }: Place) -> std::io::Result<(u16, Vec<TcpListener>)> {
    if let Some(address) = address {
        let listener = TcpListener::bind((address, port)).await?;
        return Ok((listener.local_addr()?.port(), vec![listener]));
    }
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
