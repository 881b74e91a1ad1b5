//! The real gRPC server and client over real Unix sockets, carried both ways.

use std::sync::Weak;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::*;
use crate::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use crate::csi::proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use crate::csi::proto::{File, MountRequest, MountResponse, VersionRequest, VersionResponse};

const CARRIERS: [Carrier; 2] = [Carrier::Reactor, Carrier::Threads];
/// The driver's limit of a message.
const LARGEST: usize = 4 * 1024 * 1024;
/// Only against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers a Mount with as many bytes as its `permission` says. One with the target `wait` is answered when
/// the client has gone, as the drop of the handler tells.
#[derive(Clone, Default)]
struct Echo {
    waiting: Arc<AtomicUsize>,
}

struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl CsiDriverProvider for Echo {
    async fn version(
        &self,
        request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        let version = request.into_inner().version;
        Ok(Response::new(VersionResponse { version, ..VersionResponse::default() }))
    }

    async fn mount(
        &self,
        request: Request<MountRequest>,
    ) -> Result<Response<MountResponse>, Status> {
        let request = request.into_inner();
        if request.target_path == "wait" {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _waiting = Waiting(self.waiting.clone());
            std::future::pending::<()>().await;
        }
        let size = request.permission.parse().map_err(|_| Status::invalid_argument("size"))?;
        let contents = (0..size).map(|at: usize| (at % 251) as u8).collect();
        let file = File { path: "f".to_owned(), mode: 0o600, contents };
        Ok(Response::new(MountResponse { files: vec![file], ..MountResponse::default() }))
    }
}

struct World {
    path: PathBuf,
    echo: Echo,
    carrier: Carrier,
    thread: Weak<Thread>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    _directory: tempfile::TempDir,
}

impl World {
    fn start(carrier: Carrier) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("azure.sock");
        let incoming = Incoming::listen(bound(&path).unwrap(), &path, carrier).unwrap();
        let thread = Arc::downgrade(&incoming.thread);
        let (echo, stop) = (Echo::default(), CancellationToken::new());
        let server = Server::builder()
            .add_service(CsiDriverProviderServer::new(echo.clone()))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let server = tokio::spawn(server);
        Self { path, echo, carrier, thread, stop, server, _directory: directory }
    }

    async fn client(&self) -> CsiDriverProviderClient<Channel> {
        self.try_client().await.unwrap()
    }

    async fn try_client(
        &self,
    ) -> Result<CsiDriverProviderClient<Channel>, tonic::transport::Error> {
        let (path, carrier) = (self.path.clone(), self.carrier);
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let path = path.clone();
                async move { connect(path, carrier).await.map(TokioIo::new) }
            }))
            .await?;
        Ok(CsiDriverProviderClient::new(channel).max_decoding_message_size(2 * LARGEST))
    }

    /// Stops the server, and waits for the accepting thread's end.
    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.server).await.unwrap().unwrap().unwrap();
        until("the accepting thread ends", || self.thread.upgrade().is_none()).await;
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn mount(target: &str, size: usize) -> MountRequest {
    MountRequest {
        target_path: target.to_owned(),
        permission: size.to_string(),
        ..MountRequest::default()
    }
}

async fn check(mut client: CsiDriverProviderClient<Channel>, size: usize) {
    let answer = client.mount(mount("t", size)).await.unwrap().into_inner();
    let contents = &answer.files[0].contents;
    assert_eq!(contents.len(), size);
    assert!(contents.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
}

#[cfg(unix)]
/// As many threads of this process have this name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let named = |task: std::io::Result<std::fs::DirEntry>| {
        let comm =
            task.ok().and_then(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        comm.is_some_and(|comm| comm.trim_end() == name)
    };
    tasks.filter_map(|task| named(task).then_some(())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_and_twenty_at_once_with_the_largest_answers() {
    for carrier in CARRIERS {
        let world = World::start(carrier);
        let mut client = world.client().await;
        for number in 0..200 {
            let version = number.to_string();
            let request = VersionRequest { version: version.clone() };
            let answer = client.version(request).await.unwrap().into_inner();
            assert_eq!(answer.version, version);
        }
        // On one connection, and each on its own.
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..20 {
            let client = if number % 2 == 0 { client.clone() } else { world.client().await };
            calls.spawn(check(client, LARGEST));
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
        drop(client);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_leave_nothing_behind() {
    for carrier in CARRIERS {
        let world = World::start(carrier);
        for _ in 0..3 {
            let mut tasks = Vec::new();
            for _ in 0..10 {
                let mut client = world.client().await;
                tasks.push(tokio::spawn(async move { client.mount(mount("wait", 0)).await }));
            }
            until("the calls run", || world.echo.waiting.load(Ordering::SeqCst) == 10).await;
            for task in tasks {
                task.abort();
            }
            until("the calls end", || world.echo.waiting.load(Ordering::SeqCst) == 0).await;
        }
        // More than may be connected at a time: the places are free again.
        for _ in 0..MAX_CONNECTIONS + 5 {
            if let Ok(mut client) = world.try_client().await {
                tokio::spawn(async move { client.mount(mount("t", LARGEST)).await }).abort();
            }
        }
        until_served(&world).await;
        world.end().await;
    }
}

/// A place may not be free yet: then the connection is closed at once.
async fn until_served(world: &World) {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(mut client) = world.try_client().await
            && client.version(VersionRequest::default()).await.is_ok()
        {
            return;
        }
        assert!(Instant::now() < end, "nobody is served any more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Each direction of a connection ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_sending_leaves_the_other_direction_open() {
    for ours in CARRIERS {
        for theirs in CARRIERS {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let mut incoming = Incoming::listen(bound(&path).unwrap(), &path, ours).unwrap();
            let mut client = connect(path.clone(), theirs).await.unwrap();
            let mut server = incoming.next().await.unwrap().unwrap();
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut text = String::new();
            server.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "question");
            // More than pipes and sockets hold, and the writer leaves before it is read.
            let long = vec![7; LARGEST];
            let writer = tokio::spawn(async move {
                server.write_all(&long).await.unwrap();
                server.shutdown().await.unwrap();
            });
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer.len(), LARGEST);
            writer.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_closed_at_once() {
    for carrier in CARRIERS {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mut incoming = Incoming::listen(bound(&path).unwrap(), &path, carrier).unwrap();
        let mut served = Vec::new();
        let mut clients = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            clients.push(connect(path.clone(), carrier).await.unwrap());
            served.push(incoming.next().await.unwrap().unwrap());
        }
        let mut refused = connect(path.clone(), carrier).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, refused.read(&mut [0])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        // One that ends makes room for another.
        drop((served.pop(), clients.pop()));
        let end = Instant::now() + PATIENCE;
        loop {
            let mut client = connect(path.clone(), carrier).await.unwrap();
            let next = incoming.next();
            if let Ok(next) = tokio::time::timeout(Duration::from_secs(1), next).await {
                let mut next = next.unwrap().unwrap();
                client.write_all(b"x").await.unwrap();
                assert_eq!(next.read_u8().await.unwrap(), b'x');
                break;
            }
            assert!(Instant::now() < end, "no place is free again");
        }
    }
    // Those of the other tests end as well.
    #[cfg(unix)]
    until("all threads end", || threads("socket-send") + threads("socket-receive") == 0).await;
}
