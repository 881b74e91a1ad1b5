//! The life of a mount: served from its start until somebody unmounts it, we or others.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Options;
use super::announce::gate::Gate;
use super::announce::{Announcer, Place};
use super::audit::{self, Audit, Tally};
use super::failures::Failures;
use super::handler::{Handler, opened};
use super::mountpoint::{self, Found};
use super::notifier::Notices;
use super::opening::{Answers, Openings};
use crate::error::{Code, Error, Result};
use crate::view::View;

/// Two threads answer from memory; more gained nothing in measurements.
const THREADS: usize = 2;
/// After the unmount the session ends with the last open file; it is not waited for longer.
const GOODBYE: Duration = Duration::from_secs(2);

/// A served mount. Dropping it unmounts.
pub struct Mounted {
    view: Arc<View>,
    dir: PathBuf,
    /// As the mount table has it, to tell ours from a stranger's at the same place.
    mount: Found,
    ended: watch::Receiver<Option<Result<()>>>,
    open_timeout: Duration,
    audit: Option<Arc<Tally>>,
    /// Whether it is still to be taken away when this is dropped.
    to_detach: bool,
}

/// Mounts and serves. Blocks shortly.
pub(super) fn start(
    view: Arc<View>,
    dir: &Path,
    options: Options,
    runtime: Handle,
) -> Result<Mounted> {
    let dir = mountpoint::resolve(dir)?;
    mountpoint::clear(&dir)?;
    let failures = Failures::new(runtime.clone());
    let answers = Answers { view: view.clone(), flags: opened(options.cache), failures };
    let audit = options.audit.as_ref();
    let audit =
        audit.map(|audit| audit::start(audit, &dir, answers.clone(), &runtime)).transpose()?;
    let tally = audit.as_ref().map(Audit::tally);
    let place = Place::default();
    let serve =
        |device, acl| serve(&view, &options, &runtime, device, acl, (answers, audit), &place);
    if mountpoint::privileged() {
        let (device, detached) = mountpoint::detached(&options.source)?;
        let ended = serve(device, SessionACL::All)?;
        // Shown last: whoever sees the mount finds it served.
        detached.attach(&dir)?;
        return Mounted::new(view.clone(), dir, ended, &options, tally, &place);
    }
    let device = mountpoint::by_helper(&dir, &options)?;
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    serve(device, acl)
        .and_then(|ended| Mounted::new(view.clone(), dir.clone(), ended, &options, tally, &place))
        .inspect_err(|_| {
            // The helper's mount is there already, and nobody serves it.
            if let Ok(Some(mount)) = mountpoint::found(&dir) {
                let _ = mountpoint::detach(&dir, &mount);
            }
        })
}

/// Shakes hands with the kernel and starts the threads of a session.
fn serve(
    view: &Arc<View>,
    options: &Options,
    runtime: &Handle,
    device: OwnedFd,
    acl: SessionACL,
    (answers, audit): (Answers, Option<Audit>),
    place: &Place,
) -> Result<watch::Receiver<Option<Result<()>>>> {
    let (notices, queue) = Notices::queue();
    let gate = Arc::new(Gate::default());
    let announcer = Announcer::new(view.clone(), gate.clone(), place.clone());
    let handler = Handler {
        view: view.clone(),
        options: options.clone(),
        notices: notices.clone(),
        failures: answers.failures.clone(),
        openings: Openings::new(answers, audit.as_ref().map(Audit::auditor)),
        _audit: audit,
        gate,
        runtime: runtime.clone(),
        shared: acl == SessionACL::All,
    };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(THREADS);
    let failed = |what: &str, error: &std::io::Error| {
        Error::new(Code::FuseUnavailable, format!("{what}: {}", error.kind()))
    };
    let session = Session::from_fd(handler, device, acl, config)
        .map_err(|error| failed("the FUSE handshake failed", &error))?;
    let threads = |error| failed("threads cannot be started", &error);
    queue.serve(session.notifier(), announcer).map_err(threads)?;
    let (sender, ended) = watch::channel(None);
    std::thread::Builder::new()
        .name("akvfs-session".to_owned())
        .spawn(move || sender.send(Some(outcome(session.run()))))
        .map_err(threads)?;
    let announcements = view.subscribe_staged();
    let mut end = ended.clone();
    runtime.spawn(async move {
        tokio::select! {
            () = notices.pass_on(announcements) => {}
            _ = end.wait_for(Option::is_some) => {}
        }
    });
    Ok(ended)
}

/// The end of a session as seen from outside. A mount that was taken away, by whatever means, has
/// ended well.
fn outcome(result: std::io::Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => Ok(()),
        Err(error) => {
            Err(Error::new(Code::Internal, format!("the FUSE session failed: {}", error.kind())))
        }
    }
}

impl Mounted {
    fn new(
        view: Arc<View>,
        dir: PathBuf,
        ended: watch::Receiver<Option<Result<()>>>,
        options: &Options,
        audit: Option<Arc<Tally>>,
        place: &Place,
    ) -> Result<Self> {
        let mount = mountpoint::found(&dir)?.filter(|mount| mount.ours).ok_or_else(|| {
            Error::new(Code::Local, format!("the mount at {} is gone already", dir.display()))
        })?;
        // From now on rotations can be announced through it.
        let _ = place.set((dir.clone(), mount.clone()));
        Ok(Self {
            view,
            dir,
            mount,
            ended,
            open_timeout: options.open_timeout,
            audit,
            to_detach: true,
        })
    }

    /// Where the mount is, without symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its device number: no other mount of this machine has it, in whatever mount namespace.
    pub(crate) fn device(&self) -> String {
        self.mount.device()
    }

    /// What became of the records of its opens, where they are audited.
    pub fn audit(&self) -> Option<Arc<Tally>> {
        self.audit.clone()
    }

    /// Waits until the mount has ended, by [`Mounted::unmount`] or from outside.
    ///
    /// # Errors
    /// The session failed; the mount may still be there, dead.
    pub async fn wait(&self) -> Result<()> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            // The thread died without a word.
            Err(_) => Err(Error::new(Code::Internal, "the FUSE session failed")),
        }
    }

    /// Whether [`Mounted::unmount`] could take the mount away now.
    ///
    /// # Errors
    /// It is there, and no path leads to it: another mount stands on it, or hides it.
    pub(crate) async fn may_unmount(&self) -> Result<()> {
        let mount = self.mount.clone();
        let looked = tokio::task::spawn_blocking(move || mountpoint::place(&mount).map(drop)).await;
        looked.unwrap_or_else(|_| Err(Error::task_failed()))
    }

    /// Ends the mount: no new fetches, running ones finish (bounded by the open timeout), and the
    /// mount is taken away if it is still ours. Open files stay readable while this process lives.
    ///
    /// # Errors
    /// The mount cannot be taken away.
    pub async fn unmount(mut self) -> Result<()> {
        self.view.close();
        self.view.drained(Instant::now() + self.open_timeout).await;
        let mount = self.mount.clone();
        // Once: what comes of it is said here.
        self.to_detach = false;
        let detached = tokio::task::spawn_blocking(move || detach_ours(&mount)).await;
        let _ = tokio::time::timeout(GOODBYE, self.wait()).await;
        detached.unwrap_or_else(|_| Err(Error::new(Code::Internal, "unmounting failed")))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.to_detach
            && let Err(error) = detach_ours(&self.mount)
        {
            tracing::warn!("{error}");
        }
    }
}

/// Takes the mount away from where it is now, unless it is gone and perhaps another one stands there.
fn detach_ours(mount: &Found) -> Result<()> {
    match mountpoint::place(mount)? {
        Some(place) => mountpoint::detach(&place, mount),
        None => Ok(()),
    }
}
