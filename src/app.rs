//! Composition root of the long-running provider: telemetry, servers, drain, in one function.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::MapResponseLayer;

use crate::cloud::{CloudSource, Endpoints, TokenProxy};
use crate::config::ProviderArgs;
use crate::csi::listen::{self, Endpoint};
use crate::csi::mount::Mounter;
use crate::csi::{self, HealthService, Provider};
use crate::delivery::response;
use crate::error::{Code, Error, Result};
use crate::fetch::{self, Ages, Fetch};
use crate::http::{self, Http, UserAgent};
use crate::policy::PolicyFile;
use crate::render;
use crate::telemetry::web::Place;
use crate::telemetry::{health, metrics};
use crate::version::VERSION;

/// Running Mounts get this long to finish after a stop; kubelet gives the pod 30 s by default.
const DRAIN: Duration = Duration::from_secs(25);
/// Calls cancelled before we looked at them. Above this, HTTP/2 closes the driver's one connection,
/// and every other Mount on it fails with a code that kubelet holds for not final. Only root and our
/// own user get here, so it need not be the library's 20.
const MAX_RESETS: usize = 4096;
/// Calls have ended then and their answers are on the way; a connection that stays open is not waited for.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs the provider until `stop` is cancelled and its calls have ended.
///
/// # Errors
/// Wrong flags, or an address that cannot be bound; nothing was served then.
pub async fn provider(args: ProviderArgs, stop: CancellationToken) -> Result<()> {
    for flag in args.without_effect() {
        tracing::warn!(flag, "this flag is accepted and has no effect");
    }
    let socket = match Endpoint::parse(&args.endpoint)? {
        Endpoint::Unix(path) => path,
        Endpoint::Tcp(_) => {
            return Err(Error::class("tcp endpoints are not served")
                .fix("use --endpoint unix://PATH; a TCP port would be open to every process"));
        }
    };
    let token_proxy = Some(TokenProxy::new(&args.token_proxy_url, &args.sni_name)?);
    let endpoints = Endpoints { token_proxy, ..Endpoints::here() };
    let clouds = CloudSource::new(endpoints.clone(), &args.cloud_name, args.cloud_env_dir.clone())?;
    let user_agent = UserAgent::new(&args.custom_user_agent)?;
    let http = http::Options { user_agent, ..http::Options::default() };
    let ages = Ages {
        first: args.mount_max_age,
        refresh: args.refresh_max_age,
        max_stale: args.max_stale,
        ..Ages::default()
    };
    let held = fetch::Options { ages, max_bytes: args.max_held_bytes };
    let fetch = Fetch::with(Http::with(endpoints, http), held)?;
    let options = response::Options {
        render: render::Options {
            construct_pem_chain: args.construct_pem_chain,
            separate_files: args.write_cert_and_key_in_separate_files,
        },
        mode: args.mount_mode,
        max_bytes: args.max_response_bytes,
        max_written_bytes: args.max_written_bytes,
    };
    let mut mounter = Mounter::new(fetch, clouds, options);
    if let Some(path) = args.policy.clone() {
        mounter = mounter.with_policy(PolicyFile::open(path)?);
    }
    let healthz = health::Options {
        place: Place { address: args.healthz_address, port: args.healthz_port },
        path: args.healthz_path,
        timeout: args.healthz_timeout,
        socket: socket.clone(),
        draining: stop.clone(),
    };
    // The ports answer until the last call has ended.
    let ended = CancellationToken::new();
    let _at_the_end = ended.clone().drop_guard();
    // The socket comes last: a start that fails must not have taken it from a provider that serves.
    health::serve(healthz, ended.clone()).await?;
    let scraped = Place { address: args.metrics_address, port: args.prometheus_port };
    metrics::serve(scraped, args.metrics_object_names, ended.clone()).await?;
    let server = serve_csi(mounter, socket, stop)?;
    tracing::info!(
        endpoint = args.endpoint,
        version = VERSION,
        cloud = args.cloud_name,
        construct_pem_chain = args.construct_pem_chain,
        "serving"
    );
    server.ended().await
}

/// A gRPC server on its socket.
pub struct CsiServer {
    task: tokio::task::JoinHandle<std::result::Result<(), tonic::transport::Error>>,
    calls: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
}

/// Binds the socket and serves the provider on it: the same for the daemon, the demo and tests.
///
/// # Errors
/// The socket cannot be bound.
pub fn serve_csi(mounter: Mounter, socket: PathBuf, stop: CancellationToken) -> Result<CsiServer> {
    let listener = listen::bind(&socket)?;
    let (calls, cut) = (TaskTracker::new(), CancellationToken::new());
    let provider = Provider::new(Arc::new(mounter), calls.clone(), cut.clone());
    let health = HealthService::new(stop.clone());
    let server = tonic::transport::Server::builder()
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .layer(MapResponseLayer::new(csi::hold))
        .add_service(provider.into_service())
        .add_service(health.into_service())
        .serve_with_incoming_shutdown(listener, stop.clone().cancelled_owned());
    Ok(CsiServer { task: tokio::spawn(server), calls, stop, cut })
}

impl CsiServer {
    /// Waits for `stop`, then for the running calls, bounded: whoever is left gets an answer.
    pub async fn ended(mut self) -> Result<()> {
        tokio::select! {
            () = self.stop.cancelled() => {}
            result = &mut self.task => return outcome(result),
        }
        tracing::info!("terminating: no new mounts, running ones finish");
        // The socket file stays: a successor may have renamed its own over it already.
        self.calls.close();
        let end = Instant::now() + DRAIN;
        loop {
            tokio::select! {
                result = &mut self.task => return outcome(result),
                _ = tokio::time::timeout_at(end.into(), self.calls.wait()) => {}
            }
            let late = Instant::now() >= end;
            if late {
                self.cut.cancel();
            }
            match tokio::time::timeout(GOODBYE, &mut self.task).await {
                Ok(result) => return outcome(result),
                // A call that came just before the peer knew.
                Err(_) if !late && !self.calls.is_empty() => {}
                Err(_) => {
                    self.task.abort();
                    return Ok(());
                }
            }
        }
    }
}

fn outcome(
    result: std::result::Result<
        std::result::Result<(), tonic::transport::Error>,
        tokio::task::JoinError,
    >,
) -> Result<()> {
    match result {
        Ok(Ok(())) => Ok(()),
        _ => Err(Error::new(Code::Internal, "the gRPC server stopped")),
    }
}
