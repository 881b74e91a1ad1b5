//! The thread that writes to our own mount.
//!
//! It waits for answers of this very process, in the kernel, where nothing can interrupt it once a
//! session thread has taken the request. If the process is killed then, the answer never comes, and the
//! connection would not end either while a thread keeps the process's open files, the FUSE device among
//! them. So this thread has a table of open files of its own, with nothing in it but what it opened.
//!
//! Whoever holds a directory (a lister whose buffer is slow memory, say) keeps it waiting for as long. So
//! nobody waits for it longer than agreed; it is not used until it comes back.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Instant;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxFlags, mknodat, openat, renameat, statat, statx,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::gate::Operation;

/// A name that is in no directory of ours.
const NOTHING: &str = "..akvfs_nothing";

type Job = Box<dyn FnOnce(&mut Option<Tree>) + Send>;

/// Why an operation was not made.
#[derive(Debug)]
pub(super) enum Failed {
    /// The kernel says so.
    Refused(io::Error),
    /// It is still being made.
    Late,
    /// It was not tried.
    Because(&'static str),
}

impl Failed {
    pub(super) fn because(why: &'static str) -> Self {
        Self::Because(why)
    }

    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Late)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "the kernel refuses it ({error})"),
            Self::Late => f.write_str("somebody holds a directory of the tree"),
            Self::Because(why) => f.write_str(why),
        }
    }
}

/// The thread, from outside. It ends when this is dropped.
pub(super) struct Hand {
    jobs: SyncSender<Job>,
    /// It may have the tree open.
    used: bool,
    /// The job that it was not waited for.
    late: Option<Receiver<io::Result<()>>>,
}

impl Hand {
    pub(super) fn new() -> io::Result<Self> {
        // One job, and letting go after it.
        let (jobs, queue) = mpsc::sync_channel::<Job>(2);
        let (ready, started) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("akvfs-announce".to_owned()).spawn(move || {
            let alone = own_files();
            let go_on = alone.is_ok();
            let _ = ready.send(alone);
            let mut tree = None;
            while let Some(job) = queue.recv().ok().filter(|_| go_on) {
                job(&mut tree);
            }
        })?;
        started.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(Self { jobs, used: false, late: None })
    }

    /// Has something done, and waits for it until `limit`.
    pub(super) fn run(
        &mut self,
        limit: Instant,
        work: impl FnOnce(&mut Option<Tree>) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Failed> {
        if self.is_busy() {
            return Err(Failed::Late);
        }
        let (done, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |tree| drop(done.send(work(tree))));
        if self.jobs.try_send(job).is_err() {
            return Err(Failed::Late);
        }
        self.used = true;
        match answer.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(result) => result.map_err(Failed::Refused),
            Err(RecvTimeoutError::Timeout) => {
                self.late = Some(answer);
                Err(Failed::Late)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Failed::because("its thread is gone")),
        }
    }

    /// Closes the tree: whoever unmounts must find nobody in it. Not waited for: at once, or right after
    /// the job that is late.
    pub(super) fn let_go(&mut self) {
        // Once: what waits must leave room for the next job.
        if self.used && self.jobs.try_send(Box::new(|tree| *tree = None)).is_ok() {
            self.used = false;
        }
    }

    fn is_busy(&mut self) -> bool {
        let answered = |late: &Receiver<_>| !matches!(late.try_recv(), Err(TryRecvError::Empty));
        self.late.take_if(|late| answered(late));
        self.late.is_some()
    }
}

/// Gives this thread its own, empty table of open files, but for the standard three.
fn own_files() -> io::Result<()> {
    // SAFETY: what is closed is closed in a copy that only this thread has, and it uses nothing of it.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Our tree, writable; of the hand alone.
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory that was used last.
    folder: Option<(String, OwnedFd)>,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, folder: None }
    }

    /// Looks a name up that is not there.
    pub(super) fn look_up(&self, name: &str) {
        let _ = statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW);
    }

    /// Has the directory of this path for itself for a moment, as who changes a name there; and changes none.
    pub(super) fn enter(&mut self, folder: &str) -> io::Result<()> {
        match unlinkat(self.directory(folder)?, NOTHING, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }

    /// Makes the operation in the directory of this path.
    pub(super) fn perform(&mut self, folder: &str, operation: &Operation) -> io::Result<()> {
        let directory = self.directory(folder)?;
        match operation {
            Operation::Link { name, target, .. } => symlinkat(target, directory, name),
            Operation::File { name, .. } => {
                // The mode is ours to tell, when the kernel asks.
                mknodat(directory, name, FileType::RegularFile, Mode::RUSR, 0)
            }
            Operation::Rename { from, to, .. } => renameat(directory, from, directory, to),
            Operation::Unlink { name, .. } => unlinkat(directory, name, AtFlags::empty()),
        }
        .map_err(io::Error::from)
    }

    fn directory(&mut self, path: &str) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.folder.as_ref().is_none_or(|(last, _)| last != path) {
            self.folder = Some((path.to_owned(), self.below(path)?));
        }
        match &self.folder {
            Some((_, folder)) => Ok(folder.as_fd()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A directory of ours. (openat2 could do this in one step, and systemd's RestrictSUIDSGID= takes it
    /// away.)
    fn below(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let ours = device(self.root.as_fd())?;
        let mut folder = self.root.try_clone()?;
        for name in path.split('/') {
            folder = openat(&folder, name, flags, Mode::empty())?;
            // Somebody may have mounted something on it.
            if device(folder.as_fd())? != ours {
                return Err(io::Error::other("another filesystem is mounted on a directory of it"));
            }
        }
        Ok(folder)
    }
}

/// The filesystem that it is on, as the kernel knows without asking it.
fn device(at: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let known = statx(at, "", flags, StatxFlags::empty())?;
    Ok((known.stx_dev_major, known.stx_dev_minor))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_mounted_on_a_directory_is_not_entered() {
        let tree = |path: &std::path::Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Tree::new(rustix::fs::open(path, flags, Mode::empty()).unwrap())
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        assert!(tree(dir.path()).directory("a/b").is_ok());
        assert!(tree(dir.path()).directory("link/b").is_err());
        assert!(tree(dir.path()).directory("a/c").is_err());
        let error = tree(std::path::Path::new("/")).directory("proc").unwrap_err();
        assert!(error.to_string().contains("another filesystem"), "{error}");
    }

    #[test]
    fn a_job_that_hangs_is_waited_for_as_long_as_agreed_and_the_next_one_not_at_all() {
        let mut hand = Hand::new().unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        let far = || Instant::now() + Duration::from_secs(60);
        let (go_on, wait) = mpsc::channel::<()>();
        let hangs = move |_: &mut Option<Tree>| wait.recv().map_err(io::Error::other);
        assert!(hand.run(soon(), hangs).unwrap_err().is_late());
        for _ in 0..10 {
            hand.let_go();
            assert!(hand.run(far(), |_| Ok(())).unwrap_err().is_late());
        }
        go_on.send(()).unwrap();
        let end = far();
        while hand.run(far(), |_| Ok(())).is_err() {
            assert!(Instant::now() < end, "it never came back");
            std::thread::yield_now();
        }
        // Letting go again and again takes no job's place.
        for _ in 0..100 {
            (0..3).for_each(|_| hand.let_go());
            hand.run(far(), |_| Ok(())).unwrap();
        }
        let refused = hand.run(far(), |_| Err(io::ErrorKind::PermissionDenied.into()));
        assert!(matches!(refused, Err(Failed::Refused(_))));
        // A panic ends the thread, not the process; whoever asks is told.
        assert!(hand.run(far(), |_| panic!("as the test says")).is_err());
        assert!(hand.run(far(), |_| Ok(())).is_err());
    }

    #[test]
    fn the_thread_keeps_none_of_the_process_s_files_open() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut hand = Hand::new().unwrap();
        drop(writer);
        // The end of the file: no copy of the other end is open.
        let mut reader = reader;
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
        hand.run(Instant::now() + Duration::from_secs(60), |_| Ok(())).unwrap();
    }
}
