//! A forked child that is stopped for good at a chosen system call, before it happens.

use std::io::Error;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was killed where it should be.
    Killed,
    /// It did all it had to, with this many system calls that change the file system.
    Finished(usize),
}

/// A system call that is about to happen: its number and arguments.
pub type Call = (libc::c_long, [u64; 6]);

/// Forks, runs the work in the child, and kills it just before system call number `at` of those that
/// change a file system. The work's false is a failure of the test.
pub fn run_until(at: usize, work: impl FnOnce() -> bool) -> End {
    let mut count = 0;
    let killed = run(work, |call| {
        let stop = changes_something(call) && count == at;
        count += usize::from(changes_something(call));
        stop
    });
    if killed { End::Killed } else { End::Finished(count) }
}

/// Forks, runs the work in the child, and kills it before the first system call that says so. Whether
/// it was killed.
pub fn run(work: impl FnOnce() -> bool, mut stop: impl FnMut(&Call) -> bool) -> bool {
    // SAFETY: the child only runs `work` and leaves by _exit; the C library's allocator survives fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", Error::last_os_error());
    if child == 0 {
        // SAFETY: asks to be traced by the parent, stops for it, and ends without any cleanup.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            libc::_exit(if worked.unwrap_or(false) { 0 } else { 1 });
        }
    }
    let mut status = wait(child);
    assert!(libc::WIFSTOPPED(status), "the child is not traced: {status:x}");
    let flags = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    ask(libc::PTRACE_SETOPTIONS, child, 0, flags as usize);
    loop {
        ask(libc::PTRACE_SYSCALL, child, 0, 0);
        status = wait(child);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0, "the child failed");
            return false;
        }
        assert!(libc::WIFSTOPPED(status), "the child ended: {status:x}");
        assert_eq!(libc::WSTOPSIG(status), libc::SIGTRAP | 0x80, "the child got a signal");
        if call(child).is_some_and(|call| stop(&call)) {
            // SAFETY: our own child, which has not been waited for.
            unsafe { libc::kill(child, libc::SIGKILL) };
            assert!(libc::WIFSIGNALED(wait(child)));
            return true;
        }
    }
}

fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: our own child; the status is ours.
    let found = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
    assert_eq!(found, child, "waitpid: {}", Error::last_os_error());
    status
}

fn ask(request: libc::c_uint, child: i32, address: usize, data: usize) {
    // SAFETY: these requests take numbers, or a buffer of the caller's with its size.
    let done = unsafe { libc::ptrace(request, child, address, data) };
    assert!(done >= 0, "ptrace: {}", Error::last_os_error());
}

/// The system call that the child stands before.
fn call(child: i32) -> Option<Call> {
    // SAFETY: all zeros is a valid value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = std::mem::size_of_val(&info);
    ask(libc::PTRACE_GET_SYSCALL_INFO, child, size, (&raw mut info) as usize);
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: the kernel says that this is the variant.
    let entry = unsafe { info.u.entry };
    Some((entry.nr as libc::c_long, entry.args))
}

fn changes_something((number, arguments): &Call) -> bool {
    match *number {
        libc::SYS_openat => arguments[2] & libc::O_CREAT as u64 != 0,
        libc::SYS_write => arguments[0] > 2,
        libc::SYS_mkdirat
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_unlinkat
        | libc::SYS_symlinkat
        | libc::SYS_fchmod
        | libc::SYS_fchown => true,
        _ => false,
    }
}
