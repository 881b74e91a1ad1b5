//! Listeners, connections, and the way of a request through log and faults to its service.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{self, Response, header};
use futures_util::{StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addresses::Place;
use super::connections::Connections;
use super::faults::{Met, Service, Trouble};
use super::reply::{Reply, Request, pairs};
use super::state::Shared;
use super::{admin, entra, imds, vault};

const MAX_CONNECTIONS: usize = 4096;
const MAX_BODY: usize = 64 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Wait for a request's head, and so the life of an idle HTTP/1.1 connection.
const IDLE: Duration = Duration::from_secs(120);
const FLUSH: Duration = Duration::from_millis(20);

/// What a listener is for.
#[derive(Clone, Copy)]
pub(super) enum Front {
    Secure,
    Imds,
    Nmi,
    Admin,
    /// The cluster's API server and, under its own TLS name, the token proxy.
    Cluster,
    TokenProxy,
}

pub(super) fn app(state: Arc<Shared>, front: Front) -> Router {
    Router::new().fallback(handle).with_state((state, front))
}

/// Accepts until told to stop; each connection is a task that ends with the same token. `app` gets
/// the TLS server name.
pub(super) fn spawn(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: impl Fn(Option<&str>) -> Router + Clone + Send + Sync + 'static,
    counted: Option<Connections>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let (stop, connections) = (stop.clone(), tasks.clone());
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors: give others time to close some.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Ok(permit) = room.clone().try_acquire_owned() else { continue };
            // Small answers must not wait for the peer's delayed acknowledgement.
            let _ = stream.set_nodelay(true);
            let (tls, app, stop) = (tls.clone(), app.clone(), stop.clone());
            let counted = counted.as_ref().map(Connections::accepted);
            let mut cut = counted.as_ref().map(|connection| connection.cut());
            connections.spawn(async move {
                let _permit = permit;
                let work = async {
                    match tls {
                        None => connection(stream, app(None)).await,
                        Some(tls) => {
                            let handshake = tokio::time::timeout(HANDSHAKE, tls.accept(stream));
                            if let Ok(Ok(stream)) = handshake.await {
                                let session = stream.get_ref().1;
                                if let Some(counted) = &counted {
                                    counted.secured(session);
                                }
                                let app = app(session.server_name());
                                connection(stream, app).await;
                            }
                        }
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = is_cut(&mut cut) => {}
                    () = work => {}
                }
            });
        }
    });
}

/// Waits for the end that a test wants.
async fn is_cut(cut: &mut Option<watch::Receiver<()>>) {
    match cut {
        // The sender lives as long as the emulator.
        Some(cut) => drop(cut.changed().await),
        None => std::future::pending().await,
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, app: Router) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    // Whatever ends a connection, the peer knows it too.
    let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).await;
}

async fn handle(
    State((state, front)): State<(Arc<Shared>, Front)>,
    request: http::Request<Body>,
) -> Response<Body> {
    let Some(request) = read(request).await else {
        return respond(Reply::text(400, "text/plain", "bad request"), None);
    };
    let place = match front {
        Front::Admin => return respond(admin::answer(&state, &request), None),
        Front::Secure => Some(state.addresses.place(&request.host)),
        Front::Imds | Front::Nmi | Front::TokenProxy => None,
        Front::Cluster => return respond(Reply::text(401, "text/plain", "Unauthorized"), None),
    };
    let service = match (front, &place) {
        (Front::Imds, _) => Service::Imds,
        (Front::Nmi, _) => Service::Nmi,
        (Front::TokenProxy, _) => Service::Entra,
        (_, Some(place)) => place.service(),
        (_, None) => Service::Vault,
    };
    let vault = match &place {
        Some(Place::Vault(name)) => Some(name.as_str()),
        _ => None,
    };
    let entry = state.log.begin(service, &request);
    let Met { delay, trouble } = state.faults.meet(service, vault, &request.path);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if matches!(trouble, Some(Trouble::Hang)) {
        std::future::pending::<()>().await;
    }
    let replaced =
        trouble.as_ref().and_then(|trouble| trouble.reply(service, &state.authorization()));
    let reply = replaced.unwrap_or_else(|| match (service, &place) {
        (_, Some(Place::Vault(name))) => vault::answer(&state, name, &request),
        (Service::Entra, _) => entra::answer(&state, &request, matches!(front, Front::TokenProxy)),
        (Service::Imds, _) => imds::answer(&state, &request),
        (Service::Nmi, _) => imds::nmi(&state, &request),
        (Service::Vault, _) => Reply::nowhere(),
    });
    entry.end(reply.status, reply.client.clone());
    let reply = match service {
        Service::Vault | Service::Entra => reply.traced(),
        Service::Imds | Service::Nmi => reply,
    };
    respond(reply, trouble)
}

/// Reads a request whole; nothing when its body is too large or breaks off.
async fn read(request: http::Request<Body>) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY).await.ok()?;
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => parts.headers.get(header::HOST)?.to_str().ok()?.to_owned(),
    };
    Some(Request {
        method: parts.method.as_str().to_owned(),
        host,
        path: parts.uri.path().to_owned(),
        query: pairs(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body: body.to_vec(),
    })
}

/// Sends an answer, cut or slowed when told so.
fn respond(reply: Reply, trouble: Option<Trouble>) -> Response<Body> {
    let length = reply.body.len();
    let body = match trouble {
        Some(Trouble::CutBody) => {
            let mut half = reply.body;
            half.truncate(length / 2);
            let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            let first = stream::iter([Ok(Bytes::from(half))]);
            // The pause lets the first half out before the connection breaks.
            let then = stream::once(async move {
                tokio::time::sleep(FLUSH).await;
                Err(broken)
            });
            Body::from_stream(first.chain(then))
        }
        Some(Trouble::SlowBody(pause)) => {
            let parts: Vec<Bytes> =
                reply.body.chunks(length.div_ceil(8).max(1)).map(Bytes::copy_from_slice).collect();
            Body::from_stream(stream::unfold(parts.into_iter(), move |mut parts| async move {
                let part = parts.next()?;
                tokio::time::sleep(pause).await;
                Some((Ok::<_, std::convert::Infallible>(part), parts))
            }))
        }
        _ => Body::from(reply.body),
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::IM_A_TEAPOT);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, no-store"));
    if let Ok(value) = http::HeaderValue::from_str(&reply.content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    headers.extend(reply.headers.into_iter().map(|(name, value)| (Some(name), value)));
    response
}
