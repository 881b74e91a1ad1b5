//! The gRPC shell: `v1alpha1.CSIDriverProvider` on a socket.
//!
//! It translates messages and decides about time; what a Mount means is in [`mount`]. Each Mount runs
//! as its own task for its target, so that a retry joins the running one, a caller that goes away
//! changes nothing, and a panic is an error of one call. tonic drops a handler at the caller's own
//! deadline and answers Cancelled, which kubelet takes for "not final": so every Mount is answered
//! before that, with a code that is final.

pub mod client;
mod deadline;
pub mod listen;
pub mod mount;
mod observe;
mod published;
mod sending;
mod slots;
mod targets;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::error::{Code, Error, printable};
use crate::telemetry::metrics::Ongoing;
use crate::version::VERSION;
use mount::{Answered, Mounter};
use observe::{Refusal, observed};
use proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use proto::{MountRequest, MountResponse, VersionRequest, VersionResponse};
pub(crate) use sending::hold;
use targets::Targets;

/// The messages and services of proto/service.proto.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    tonic::include_proto!("v1alpha1");
}

/// Protocol version we speak.
const PROTOCOL: &str = "v1alpha1";
/// The name the driver and dashboards know.
pub const RUNTIME_NAME: &str = "secrets-store-csi-driver-provider-azure";
const VERSION_METHOD: &str = "/v1alpha1.CSIDriverProvider/Version";
const MOUNT_METHOD: &str = "/v1alpha1.CSIDriverProvider/Mount";
const CHECK_METHOD: &str = "/grpc.health.v1.Health/Check";
const WATCH_METHOD: &str = "/grpc.health.v1.Health/Watch";
/// At the end of a Mount's time, so much is for telling why.
const TO_TELL: Duration = Duration::from_millis(300);
/// Most of a target path that is logged.
const MAX_TARGET: usize = 512;

/// The provider service.
pub struct Provider {
    mounter: Arc<Mounter>,
    targets: Targets,
    /// Those that are being answered: a drain waits for them.
    calls: TaskTracker,
    /// Cancelled when a drain has used up its time: whoever still waits is answered.
    cut: CancellationToken,
}

impl Provider {
    /// A service over `mounter`. It counts its calls in `calls`; `cut` ends waiting at the end of a drain.
    pub fn new(mounter: Arc<Mounter>, calls: TaskTracker, cut: CancellationToken) -> Self {
        Self { mounter, targets: Targets::default(), calls, cut }
    }

    /// The tonic service.
    pub fn into_service(self) -> CsiDriverProviderServer<Self> {
        CsiDriverProviderServer::new(self)
    }
}

#[tonic::async_trait]
impl CsiDriverProvider for Provider {
    async fn version(
        &self,
        request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        let answer = VersionResponse {
            version: PROTOCOL.to_owned(),
            runtime_name: RUNTIME_NAME.to_owned(),
            runtime_version: VERSION.to_owned(),
        };
        observed(VERSION_METHOD, request.metadata(), async { Ok(answer) }).await
    }

    async fn mount(
        &self,
        request: Request<MountRequest>,
    ) -> Result<Response<MountResponse>, Status> {
        let given = deadline::of_call(request.metadata());
        let (metadata, _, request) = request.into_parts();
        let _running = (Ongoing::mount(), self.calls.token());
        let answer = self.answer(request.into(), given);
        let answered = observed(MOUNT_METHOD, &metadata, answer).await?;
        let (metadata, Answered { response, place }, mut extensions) = answered.into_parts();
        if let Some(place) = place {
            extensions.insert(sending::Held(place));
        }
        Ok(Response::from_parts(metadata, response, extensions))
    }
}

impl Provider {
    async fn answer(&self, request: mount::Incoming, given: Duration) -> Result<Answered, Refusal> {
        let deadline = Instant::now() + given;
        let request = Arc::new(request);
        let running = self.targets.start_or_join(&request, {
            let mounter = self.mounter.clone();
            // Whoever knows why nothing came is to be heard before this one says only that.
            let inner = deadline - (given / 20).min(TO_TELL);
            move |request| async move { mounter.mount(request, inner).await }
        });
        let outcome = tokio::select! {
            outcome = tokio::time::timeout_at(deadline.into(), running) => outcome.unwrap_or_else(|_| {
                Err(Error::new(Code::TimedOut, "the objects were not there before the deadline")
                    .context(mount::FAILED))
            }),
            () = self.cut.cancelled() => Err(Error::new(
                Code::Draining,
                "the provider is shutting down; the driver will ask again",
            )
            .context(mount::FAILED)),
        };
        match outcome {
            Ok(answered) => {
                tracing::debug!(
                    pod = request.pod(),
                    files = answered.response.files.len(),
                    "mounted"
                );
                // Copied only where another caller has joined.
                Ok(Arc::unwrap_or_clone(answered))
            }
            Err(error) => {
                let refusal = Refusal::from(&error);
                // The target names the pod's uid and the volume.
                tracing::error!(
                    err = refusal.status.message(),
                    pod = request.pod(),
                    code = refusal.name,
                    target_path = printable(&request.target_path, MAX_TARGET),
                    "failed to process mount request"
                );
                Err(refusal)
            }
        }
    }
}

/// `grpc.health.v1.Health`: SERVING for every service name until the drain begins.
pub struct HealthService {
    draining: CancellationToken,
}

impl HealthService {
    /// `draining` is cancelled when the process begins to stop.
    pub fn new(draining: CancellationToken) -> Self {
        Self { draining }
    }

    /// The tonic service.
    pub fn into_service(self) -> HealthServer<Self> {
        HealthServer::new(self)
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = if self.draining.is_cancelled() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        let answer = HealthCheckResponse { status: status.into() };
        observed(CHECK_METHOD, request.metadata(), async { Ok(answer) }).await
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = Status::unimplemented("watch is not supported");
        let refusal = Refusal { status, name: "unimplemented" };
        observed(WATCH_METHOD, request.metadata(), async { Err(refusal) }).await
    }
}
