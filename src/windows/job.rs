//! A job: a process with everything that it starts, which can be ended together.
//!
//! A process starts suspended ([`SUSPENDED`]) and runs when it is in the job, so that nothing it starts can
//! be outside. What it leaves behind when it ends by itself goes on, as on Unix.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::ptr;

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, TerminateJobObject,
};
use windows_sys::Win32::System::Threading::{
    CREATE_SUSPENDED, OpenThread, ResumeThread, THREAD_SUSPEND_RESUME,
};

/// The creation flag of a process that a job is to run.
pub(crate) const SUSPENDED: u32 = CREATE_SUSPENDED;

/// As of a program that was killed by Unix's SIGKILL.
const KILLED: u32 = 137;

/// A job of one process and its children.
#[derive(Debug)]
pub(crate) struct Job(OwnedHandle);

impl Job {
    /// Takes a suspended process, and lets it run.
    pub(crate) fn run(process: RawHandle, id: u32) -> io::Result<Self> {
        // SAFETY: no attributes and no name: a new job that nobody else can open.
        let job = owned(unsafe { CreateJobObjectW(ptr::null(), ptr::null()) })?;
        // SAFETY: both handles live.
        if unsafe { AssignProcessToJobObject(job.as_raw_handle(), process) } == 0 {
            return Err(io::Error::last_os_error());
        }
        resume(id)?;
        Ok(Self(job))
    }

    /// Ends all that is in the job.
    pub(crate) fn end(&self) {
        // SAFETY: the handle lives. It fails only for want of rights, and these are those of its maker.
        unsafe { TerminateJobObject(self.0.as_raw_handle(), KILLED) };
    }
}

/// Resumes the one thread of a process that has not run yet. The standard library keeps its handle back.
fn resume(process: u32) -> io::Result<()> {
    // SAFETY: takes no pointer. Of threads there is only a snapshot of all.
    let threads = owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0) })?;
    let mut entry = THREADENTRY32 {
        dwSize: u32::try_from(size_of::<THREADENTRY32>()).unwrap_or_default(),
        ..THREADENTRY32::default()
    };
    let mut resumed = false;
    // SAFETY: the snapshot lives, and the entry tells its size.
    let mut more = unsafe { Thread32First(threads.as_raw_handle(), &raw mut entry) };
    while more != 0 {
        if entry.th32OwnerProcessID == process {
            // SAFETY: takes no pointer. The suspended process cannot have ended its thread.
            let thread =
                owned(unsafe { OpenThread(THREAD_SUSPEND_RESUME, 0, entry.th32ThreadID) })?;
            // SAFETY: the handle lives.
            if unsafe { ResumeThread(thread.as_raw_handle()) } == u32::MAX {
                return Err(io::Error::last_os_error());
            }
            resumed = true;
        }
        // SAFETY: as for the first.
        more = unsafe { Thread32Next(threads.as_raw_handle(), &raw mut entry) };
    }
    if resumed { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// A handle that was just made, unless it is one of the two that mean an error.
fn owned(handle: RawHandle) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, and nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::windows::fs::OpenOptionsExt;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use crate::process::spawn_group;

    /// What a process of these tests is to be.
    const ROLE: &str = "AKVFS_JOB_TEST";
    const FILE: &str = "AKVFS_JOB_FILE";

    /// This program again, as a parent that starts a child and waits for it, or does not wait.
    fn start(role: &str, file: &std::path::Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "windows::job::tests::role", "--test-threads=1"]);
        command.env(ROLE, role).env(FILE, file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Nothing by itself. Started by a test: a child that holds a file for itself alone, or its parent.
    #[tokio::test]
    async fn role() {
        let Some(file) = std::env::var_os(FILE) else { return };
        match std::env::var(ROLE).unwrap().as_str() {
            "child" => {
                let held = OpenOptions::new().create(true).append(true).share_mode(0).open(&file);
                let _held = held.unwrap();
                // Until it is killed, or let go.
                let go = std::path::PathBuf::from(file).with_extension("go");
                eventually("the end of the test", || go.exists()).await;
            }
            "waits" => drop(start("child", file.as_ref()).status().await),
            "leaves" => drop(start("child", file.as_ref()).spawn().unwrap()),
            other => panic!("{other}"),
        }
    }

    async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(120);
        while !holds() {
            assert!(Instant::now() < end, "never happened: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn children_end_with_a_process_that_is_given_up_and_outlive_one_that_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("held");
        let is_held = || file.exists() && OpenOptions::new().read(true).open(&file).is_err();
        let group = spawn_group(&mut start("waits", &file)).unwrap();
        eventually("a child", is_held).await;
        drop(group);
        eventually("the child's end", || !is_held()).await;

        let mut group = spawn_group(&mut start("leaves", &file)).unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(60), group.child.wait()).await;
        assert!(waited.unwrap().unwrap().success());
        eventually("a child", is_held).await;
        drop(group);
        assert!(is_held(), "what a program leaves behind goes on");
        std::fs::write(file.with_extension("go"), "").unwrap();
        eventually("the child's end", || !is_held()).await;
    }
}
