//! What a Mount means: attributes in, files out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::{Budget, Reserved};
use crate::class::{self, MountMode, MountSpec, ObjectsMemo, Parsed, Pod, Wanted};
use crate::cloud::CloudSource;
use crate::delivery::response::{self, Place, Room, respond};
use crate::error::{Code, Error, Result, printable};
use crate::fetch::{Access, Demand, Fetch};
use crate::policy::PolicyFile;
use crate::secret::Secret;
use crate::vault::{Urgency, VaultRef};

use prost::Message;
use serde::Deserialize;

use super::proto::{File, MountRequest, MountResponse, ObjectVersion};
use super::published::{Publish, Published};
use super::slots::{PER_VAULT, Slots};
use super::write::{self, Writes};

/// The outer wrap of every failure after decoding; users grep for it.
pub(super) const FAILED: &str = "failed to mount objects, error";

/// Longest name of a pod or namespace that is logged; Kubernetes has none longer.
const MAX_NAME: usize = 253;

/// A request of so many bytes is of an ordinary class: what it takes is not counted.
const ORDINARY: usize = 16 * 1024;
/// Bytes in memory for each byte of a request: its objects, each one's place in the response, and the
/// requests to the vault that run. An estimate, for classes of short names.
const WORK: usize = 8;
/// The same of the most objects that a class may have.
const MOST_WORK: usize = 1024 * 1024;

/// A Mount request with its secrets in wiped memory.
pub(super) struct Incoming {
    pub(super) target_path: String,
    attributes: Secret,
    secrets: Secret,
    permission: String,
}

impl From<MountRequest> for Incoming {
    fn from(request: MountRequest) -> Self {
        Self {
            target_path: request.target_path,
            attributes: Secret::from_string(request.attributes),
            secrets: Secret::from_string(request.secrets),
            permission: request.permission,
        }
    }
}

impl Incoming {
    /// Whose Mount this is, `NAMESPACE/NAME`, as far as the attributes can be read.
    pub(super) fn pod(&self) -> String {
        #[derive(Default, Deserialize)]
        struct Pod {
            #[serde(default, rename = "csi.storage.k8s.io/pod.namespace")]
            namespace: String,
            #[serde(default, rename = "csi.storage.k8s.io/pod.name")]
            name: String,
        }
        let pod: Pod = serde_json::from_slice(self.attributes.expose()).unwrap_or_default();
        format!("{}/{}", printable(&pod.namespace, MAX_NAME), printable(&pod.name, MAX_NAME))
    }

    /// Whether another request asks for the very same, with the very same credentials.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.target_path == other.target_path
            && self.permission == other.permission
            && self.attributes == other.attributes
            && self.secrets == other.secrets
    }
}

/// What a Mount is answered with.
#[derive(Clone, Default)]
pub(super) struct Answered {
    pub(super) response: MountResponse,
    /// What the response has room by, to be kept until it was sent.
    pub(super) place: Option<Arc<Place>>,
}

/// How stale values may be while their vault cannot be asked.
struct MaxStale {
    /// For a pod that starts.
    first: Duration,
    /// For a pod that has them.
    shown: Duration,
}

/// Answers Mounts from the vaults.
pub struct Mounter {
    fetch: Fetch,
    clouds: CloudSource,
    options: response::Options,
    policy: Option<Arc<PolicyFile>>,
    slots: Slots,
    /// What large classes take while they are mounted: half of what may be held, so that those of a vault
    /// that hangs do not push out all values.
    large: Arc<Budget>,
    room: Room,
    published: Published,
    parsed: ObjectsMemo,
}

impl Mounter {
    /// A mounter over `fetch`, with the clouds and bounds of the process.
    pub fn new(fetch: Fetch, clouds: CloudSource, options: response::Options) -> Self {
        let published = Published::new(fetch.clock().clone());
        let whole = fetch.budget().clone();
        let large = Budget::share(Some(whole.clone()), whole.limit() / 2);
        Self {
            fetch,
            clouds,
            options,
            policy: None,
            slots: Slots::default(),
            large,
            room: Room::default(),
            published,
            parsed: ObjectsMemo::default(),
        }
    }

    /// The same, for pods that ask for what the policy allows.
    #[must_use]
    pub fn with_policy(mut self, policy: PolicyFile) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    pub(super) async fn mount(
        &self,
        incoming: Arc<Incoming>,
        deadline: Instant,
    ) -> Result<Answered> {
        let attributes = incoming.attributes.expose_str().unwrap_or_default();
        let secrets = incoming.secrets.expose_str().unwrap_or_default();
        let request = class::request::decode(attributes, secrets, &incoming.permission)?;
        let target = &incoming.target_path;
        let text = attributes.len() + secrets.len();
        self.deliver(request, target, text, deadline).await.map_err(|error| error.context(FAILED))
    }

    /// Waits until there is room for what a class of so many bytes of text takes while it is mounted, its
    /// values aside.
    async fn count(&self, text: usize, deadline: Instant) -> Result<Option<Reserved>> {
        if text <= ORDINARY {
            return Ok(None);
        }
        let bytes = text + text.saturating_mul(WORK).min(MOST_WORK);
        // As many as may work for one vault have half of it together: a vault that hangs leaves the rest.
        let bytes = bytes.min(self.large.limit() / (2 * PER_VAULT));
        let counted = self.large.reserve_by(bytes, deadline).await;
        counted.map(Some).map_err(|_| {
            Error::new(Code::TimedOut, "too many large classes are being mounted")
                .fix("mount large classes of fewer pods at the same time")
        })
    }

    async fn deliver(
        &self,
        request: class::Request,
        target: &str,
        text: usize,
        deadline: Instant,
    ) -> Result<Answered> {
        let mut spec =
            match class::parameters::resolve_with(request, &self.clouds, Some(&self.parsed))? {
                Parsed::Nothing { notices } => {
                    notices.iter().for_each(|notice| tracing::warn!(notice, "class"));
                    return Ok(Answered::default());
                }
                Parsed::Mount(spec) => spec,
            };
        let shown = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name);
        let name = spec.pod.as_ref().map_or_else(String::new, shown);
        spec.notices.iter().for_each(|notice| tracing::warn!(pod = name, notice, "class"));
        let asked = spec.mount_mode.is_some();
        let mode = *spec.mount_mode.get_or_insert(self.options.mode);
        let (options, max_stale) = self.permitted(&spec, deadline).await?;
        let pod = spec.pod;
        let namespace = pod.as_ref().map_or_else(String::new, |pod| pod.namespace.clone());
        let Wanted::Objects(objects) = spec.wanted else {
            return Err(Error::new(Code::Internal, "a Mount cannot ask for a listing"));
        };
        tracing::debug!(pod = name, vault = %spec.vault, objects = objects.len(), "mounting");
        let vault = VaultRef { cloud: spec.cloud, name: spec.vault };
        let url = vault.url();
        let access = Access::new(self.fetch.clone(), spec.identity, vault).in_group(&namespace);
        let Some(first) = objects.first() else { return Ok(Answered::default()) };
        // Once, before the objects: a refused identity is one token request, not one for each.
        let proof = access.prove(first.kind, deadline).await;
        let proof = proof.map_err(|error| error.context(first.error_prefix()))?;
        // Whoever waits for a token service holds no slot.
        let slot =
            tokio::time::timeout_at(deadline.into(), self.slots.enter(&namespace, &url)).await;
        let _slot = slot.unwrap_or_else(|_| {
            Err(Error::new(
                Code::TimedOut,
                "other mounts of this vault or namespace took all the time",
            )
            .fix("check the vault's health"))
        })?;
        let _counted = self.count(text, deadline).await?;
        // Before objects are asked for: what cannot be written need not be fetched.
        let (mode, written) = match mode {
            MountMode::Files => (mode, None),
            MountMode::Write => match write::examine(target, pod.as_ref(), deadline).await? {
                Writes::Provider(written) => (mode, Some(written)),
                Writes::Driver => {
                    tracing::info!(
                        pod = name,
                        "the driver goes on writing this volume until the pod is replaced"
                    );
                    (MountMode::Files, None)
                }
                // What the operator set for all must not stop volumes that the driver writes already.
                Writes::Unseen(error) if !asked => {
                    tracing::warn!(pod = name, err = %error, "the driver writes this volume instead");
                    (MountMode::Files, None)
                }
                Writes::Unseen(error) => return Err(error),
            },
            MountMode::Fuse => {
                return Err(Error::new(
                    Code::FuseUnavailable,
                    "mountMode: fuse is not possible at a CSI target in this version",
                )
                .fix("use mountMode: files, or write"));
            }
        };
        let bound = options.bound(mode);
        let content = self.published.content(proof.identity(), &url, &objects);
        if written.as_ref().is_some_and(|target| target.is_new) {
            // Whatever we delivered there before, the driver has taken it away again.
            self.published.forget(target);
        }
        let demand = match self.published.begin(target, content) {
            Publish::Again => {
                Demand { urgency: Urgency::Refresh, max_stale: max_stale.shown, since: None }
            }
            Publish::First(since) => {
                Demand { urgency: Urgency::First, max_stale: max_stale.first, since }
            }
        };
        let (access, room) = (access.begun_with(proof), &self.room);
        let render = options.render;
        let delivered = respond(Arc::new(access), objects, render, bound, room, demand, deadline);
        let delivered = delivered.await;
        let (mut delivered, place) =
            delivered.inspect_err(|error| self.published.failed(target, error))?;
        let response = answer(&mut delivered, mode);
        // With its ids and framing: the driver's limit is on the message, and what its client says
        // then is a code that kubelet holds for not final. A policy's ceiling is about files.
        let most =
            if mode == MountMode::Files { options.max_bytes } else { self.options.max_bytes };
        if response.encoded_len() > most {
            return Err(options.bound(MountMode::Files).too_large());
        }
        let place = match written {
            Some(written) => {
                write::write(written, delivered, deadline).await?;
                // What was written is not in the response.
                None
            }
            None => Some(Arc::new(place)),
        };
        self.published.delivered(target, content);
        Ok(Answered { response, place })
    }

    /// The bounds that the operator's policy leaves, or its refusal.
    async fn permitted(
        &self,
        spec: &MountSpec,
        deadline: Instant,
    ) -> Result<(response::Options, MaxStale)> {
        let mut options = self.options;
        let mut longest = self.fetch.ages().max_stale;
        if let Some(policy) = self.policy.clone() {
            // A changed file is read and parsed: not on a thread that serves requests.
            let current = tokio::task::spawn_blocking(move || policy.current());
            let policy = match tokio::time::timeout_at(deadline.into(), current).await {
                Ok(current) => current.map_err(|_| Error::task_failed())?,
                Err(_) => {
                    let what = "the operator's policy file cannot be read in time";
                    return Err(Error::new(Code::TimedOut, what).fix("check the disk it lies on"));
                }
            };
            let granted = policy.check(spec)?;
            let ceiling = granted.max_response_bytes.unwrap_or(usize::MAX);
            options.max_bytes = options.max_bytes.min(ceiling);
            options.max_written_bytes = options.max_written_bytes.min(ceiling);
            longest = longest.min(granted.max_stale.unwrap_or(longest));
        }
        let max_stale = match spec.max_stale {
            // Whoever has nothing yet gets nothing stale, unless the class asks for it.
            None => MaxStale { first: Duration::ZERO, shown: longest },
            Some(wanted) => MaxStale { first: longest.min(wanted), shown: longest.min(wanted) },
        };
        Ok((options, max_stale))
    }
}

/// Files and object versions are parallel: as many, in the same order. Files that are written are not told;
/// the others are taken out of what was delivered, so that they are not there twice for long.
fn answer(delivered: &mut [response::Delivered], mode: MountMode) -> MountResponse {
    let mut response = MountResponse::default();
    for response::Delivered { object, version, files } in delivered {
        let id = ObjectVersion { id: object.id(), version: version.clone() };
        response.object_version.extend(std::iter::repeat_n(id, files.len()));
        if mode == MountMode::Files {
            response.files.extend(std::mem::take(files).into_iter().map(|file| File {
                path: file.path.as_str().to_owned(),
                mode: i32::try_from(object.mode).unwrap_or(0o644),
                contents: file.contents.expose().to_vec(),
            }));
        }
    }
    response
}
