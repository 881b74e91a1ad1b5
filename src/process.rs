//! The process itself: what must not happen to memory that holds secrets, and how it is stopped.
//! The one module of the core with a Unix and a Windows half.

use std::ffi::OsStr;
use std::process::Command;

use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Result};

/// No core dumps, and no reading of this process's memory by its own user.
pub(crate) fn harden() {
    imp::harden();
}

/// Keeps the C library from holding much more than is used: a heap of its own for each of many threads,
/// of which a large machine has hundreds, and freed blocks that were large. musl's does neither.
pub(crate) fn bound_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes the allocator's own lock. No other thread runs yet, so none has another heap.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        // It begins with this, and raises it when large blocks are freed unless it was set.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Heaps of glibc's allocator.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: i32 = 2;
/// Blocks of so many bytes are given back at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 128 * 1024;

/// Gives memory that was freed back to the system, where the C library would keep it: glibc's keeps
/// all that lies below something in use, which after a burst is nearly everything. musl's does not.
pub(crate) fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes the allocator's own locks, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the environment may hold for this process and no other.
const CREDENTIALS: [&str; 5] = [
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AKVFS_SECRETS_FILE",
];

/// A command that does not inherit the credentials in the environment.
pub(crate) fn stranger(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in CREDENTIALS {
        command.env_remove(name);
    }
    command
}

/// A child and its own children: a script that starts other programs. All of them are killed when this is
/// dropped before the child was waited for to its end. What a child leaves behind that has ended goes on.
pub(crate) struct Group {
    pub(crate) child: tokio::process::Child,
    members: imp::Members,
}

/// Starts a command as a [`Group`].
///
/// # Errors
/// It cannot be started.
pub(crate) fn spawn_group(command: &mut tokio::process::Command) -> std::io::Result<Group> {
    imp::set_apart(command);
    let child = command.kill_on_drop(true).spawn()?;
    let members = imp::Members::of(&child)?;
    Ok(Group { child, members })
}

impl Drop for Group {
    fn drop(&mut self) {
        // No id: it has ended and was waited for.
        if let Some(id) = self.child.id() {
            self.members.kill(id);
        }
    }
}

/// A token that is cancelled by the first SIGTERM or SIGINT; on Windows by Ctrl-C, Ctrl-Break, the end of
/// the console, of the container or of the machine, and by the service manager.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn stop_token() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    imp::on_stop(token.clone()).map_err(|error| unhandled(&error))?;
    Ok(token)
}

/// Calls `adjust` with true on each SIGUSR1 and with false on each SIGUSR2. Windows has no such signals.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn on_user_signals(adjust: fn(bool)) -> Result<()> {
    imp::on_user_signals(adjust).map_err(|error| unhandled(&error))
}

/// Whether SIGHUP is ignored, as below nohup.
#[cfg(target_os = "linux")]
pub(crate) fn hangup_is_ignored() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks, and an answer fills the whole structure; without one it is all zero.
    let action = unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// The error of a signal whose handler cannot be installed.
pub(crate) fn unhandled(error: &std::io::Error) -> Error {
    Error::new(Code::Local, format!("signals cannot be handled: {}", error.kind()))
}

#[cfg(unix)]
mod imp {
    use tokio::process::{Child, Command};
    use tokio::signal::unix::{SignalKind, signal};
    use tokio_util::sync::CancellationToken;

    pub(super) fn harden() {
        use rustix::process::{Resource, Rlimit, setrlimit};
        // Best effort: a limit that cannot be lowered is no reason not to serve.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        #[cfg(target_os = "linux")]
        let _ =
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    }

    /// With a process group of its own.
    pub(super) fn set_apart(command: &mut Command) {
        command.process_group(0);
    }

    /// Known by the number of its first process.
    pub(super) struct Members;

    impl Members {
        pub(super) fn of(_: &Child) -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(super) fn kill(&self, first: u32) {
            use rustix::process::{Pid, Signal, kill_process_group};
            if let Some(id) = i32::try_from(first).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(id, Signal::KILL);
            }
        }
    }

    pub(super) fn on_stop(token: CancellationToken) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        });
        Ok(())
    }

    pub(super) fn on_user_signals(adjust: fn(bool)) -> std::io::Result<()> {
        let mut first = signal(SignalKind::user_defined1())?;
        let mut second = signal(SignalKind::user_defined2())?;
        tokio::spawn(async move {
            loop {
                let up = tokio::select! {
                    _ = first.recv() => true,
                    _ = second.recv() => false,
                };
                adjust(up);
            }
        });
        Ok(())
    }
}

/// What the service manager cancels: [`stop_token`] follows it.
#[cfg(windows)]
pub(crate) fn stop_of_service() -> CancellationToken {
    static STOP: std::sync::OnceLock<CancellationToken> = std::sync::OnceLock::new();
    STOP.get_or_init(CancellationToken::new).clone()
}

#[cfg(windows)]
mod imp {
    use std::io::{Error, ErrorKind};

    use tokio::process::{Child, Command};
    use tokio::signal::windows;
    use tokio_util::sync::CancellationToken;

    use crate::windows::job::{Job, SUSPENDED};

    pub(super) fn harden() {}

    /// It runs when it has a job.
    pub(super) fn set_apart(command: &mut Command) {
        command.creation_flags(SUSPENDED);
    }

    /// A job's.
    pub(super) struct Members(Job);

    impl Members {
        pub(super) fn of(child: &Child) -> std::io::Result<Self> {
            let both = child.raw_handle().zip(child.id());
            let (process, id) = both.ok_or_else(|| Error::from(ErrorKind::NotFound))?;
            Job::run(process, id).map(Self)
        }

        pub(super) fn kill(&self, _: u32) {
            self.0.end();
        }
    }

    pub(super) fn on_user_signals(_: fn(bool)) -> std::io::Result<()> {
        Ok(())
    }

    pub(super) fn on_stop(token: CancellationToken) -> std::io::Result<()> {
        let mut ctrl_c = windows::ctrl_c()?;
        let mut ctrl_break = windows::ctrl_break()?;
        let mut closed = windows::ctrl_close()?;
        // A container's end is told as the machine's.
        let mut shutdown = windows::ctrl_shutdown()?;
        let service = super::stop_of_service();
        tokio::spawn(async move {
            tokio::select! {
                _ = ctrl_c.recv() => {}
                _ = ctrl_break.recv() => {}
                _ = closed.recv() => {}
                _ = shutdown.recv() => {}
                () = service.cancelled() => {}
            }
            token.cancel();
        });
        Ok(())
    }
}
