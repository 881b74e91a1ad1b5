//! The CSI driver and kubelet: Mounts over the provider's socket, tried again as kubelet does.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use akvfs::csi::client;
use akvfs::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use futures_util::{StreamExt, stream};
use tonic::transport::Channel;

use super::Outcome;
use super::azure::Pod;

/// What kubelet gives one attempt.
pub const ATTEMPT: Duration = Duration::from_secs(120);
/// The first pause of kubelet's; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// Connections to a provider. The CSI driver has one; more keep this process from being the bottleneck.
pub struct Driver(Vec<CsiDriverProviderClient<Channel>>);

/// What became of a pod.
pub struct Delivery {
    pub first_try: bool,
    /// How long the first attempt took, whatever came of it.
    pub first_answer: Duration,
    /// When it had its files, since the begin of all; `None`: not within the row's time.
    pub ready: Option<Duration>,
    /// Why the first attempt failed.
    pub failure: Option<String>,
}

impl Driver {
    pub async fn connect(socket: PathBuf, connections: usize) -> Outcome<Self> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(CsiDriverProviderClient::new(client::connect(socket.clone()).await?));
        }
        Ok(Self(clients))
    }

    /// One attempt; an answer with other files than asked for is a failure too.
    pub async fn mount(&self, pod: &Pod) -> Result<(), String> {
        self.mount_over(0, pod).await
    }

    /// The same over another connection.
    pub async fn mount_over(&self, connection: usize, pod: &Pod) -> Result<(), String> {
        let mut client = self.0[connection % self.0.len()].clone();
        let mut request = tonic::Request::new(pod.request.clone());
        request.set_timeout(ATTEMPT);
        // The provider's answer is bounded, a provider's that hangs is not.
        let answer = tokio::time::timeout(ATTEMPT, client.mount(request)).await;
        match answer {
            Err(_) => Err("no answer in kubelet's time".to_owned()),
            Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
            Ok(Ok(response)) if response.get_ref().files.len() == pod.objects => Ok(()),
            Ok(Ok(_)) => Err("an answer with other files than asked for".to_owned()),
        }
    }

    /// Every pod at once, each once; the first failure fails all.
    pub async fn mount_all(&self, pods: &[Pod]) -> Outcome<()> {
        let mounts = stream::iter(pods).map(|pod| self.mount(pod)).buffer_unordered(pods.len());
        let outcomes: Vec<Result<(), String>> = mounts.collect().await;
        outcomes.into_iter().collect::<Result<(), String>>().map_err(Into::into)
    }

    /// Every pod at once, each until it has its files, as kubelet does, or `patience` is over.
    pub async fn deliver_all(&self, pods: &[Pod], patience: Duration) -> Vec<Delivery> {
        let begin = Instant::now();
        let deliveries = stream::iter(pods).map(|pod| self.deliver(pod, begin, patience));
        deliveries.buffer_unordered(pods.len()).collect().await
    }

    async fn deliver(&self, pod: &Pod, begin: Instant, patience: Duration) -> Delivery {
        let over = begin + patience;
        let attempt = async || {
            let attempt = tokio::time::timeout_at(over.into(), self.mount(pod)).await;
            attempt.unwrap_or_else(|_| Err("no answer in this row's time".to_owned()))
        };
        let first = attempt().await;
        let mut delivery = Delivery {
            first_try: first.is_ok(),
            first_answer: begin.elapsed(),
            ready: first.is_ok().then(|| begin.elapsed()),
            failure: first.err(),
        };
        let mut pause = PAUSE;
        while delivery.ready.is_none() && Instant::now() + pause < over {
            tokio::time::sleep(pause).await;
            pause *= 2;
            if attempt().await.is_ok() {
                delivery.ready = Some(begin.elapsed());
            }
        }
        delivery
    }

    /// So many Mounts, so many at once; `pod` makes the one of a number. The failures are counted.
    pub async fn mount_many<P: Future<Output = Outcome<()>>>(
        count: usize,
        at_once: usize,
        mount: impl Fn(usize) -> P,
    ) -> usize {
        let mounts = stream::iter(0..count).map(mount).buffer_unordered(at_once);
        mounts.filter(|outcome| std::future::ready(outcome.is_err())).count().await
    }
}
