//! Forking a process that runs a closure, and ending it.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::signals::SignalMask;

/// Exit status after a panic of the closure, if panics unwind.
const PANICKED: u8 = 101;

/// Forks a process that runs `body` and exits with the status `body` returns.
///
/// All signals are blocked across the fork, and stay blocked in the new process until it has installed its
/// handlers and calls [`super::signals::unblock_all`]. So a signal sent to it meanwhile stays pending.
///
/// # Errors
/// Those of fork(2): `EAGAIN` (process limit) and `ENOMEM`.
pub(crate) fn spawn(body: impl FnOnce() -> u8) -> io::Result<Pid> {
    debug_assert_eq!(thread_count().unwrap_or(1), 1, "fork with more than one thread");
    // Buffered output would be written twice.
    let _ = io::stdout().flush();
    let mask = SignalMask::block_all()?;
    // SAFETY: the process has one thread, so no lock is held by a thread that does not exist in the new
    // process.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            mask.restore();
            Ok(child)
        }
        Ok(ForkResult::Child) => {
            // The new process must not return to the callers of this function.
            let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED);
            exit_now(status)
        }
        Err(error) => {
            mask.restore();
            Err(error.into())
        }
    }
}

/// Ends this process at once, without atexit handlers and without flushing inherited buffers.
pub(crate) fn exit_now(status: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Requests `signal` for the death of the parent process. Returns `true` unless the parent is dead already
/// or cannot be watched (`PR_SET_PDEATHSIG(2const)`).
pub(crate) fn signal_on_parent_death(parent: Pid, signal: Signal) -> bool {
    set_pdeathsig(signal).is_ok() && getppid() == parent
}

/// Returns the pid of this process.
pub(crate) fn own_pid() -> Pid {
    getpid()
}

fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}
