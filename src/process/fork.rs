//! Starting a process that runs a closure.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::signals::SignalMask;

/// Exit status of a process whose body panicked and unwound, where panics do not abort.
const PANICKED: u8 = 101;

/// Starts a new process that runs `body` and exits with the status `body` returns.
///
/// All signals are blocked across the fork: the caller gets its mask back, the new process keeps
/// them blocked until it has handlers of its own and calls [`super::signals::unblock_all`]. A signal
/// sent to the newcomer in between stays pending; none is lost and none kills it.
///
/// # Errors
/// Those of fork(2): `EAGAIN` (process limit) and `ENOMEM`.
pub fn spawn(body: impl FnOnce() -> u8) -> io::Result<Pid> {
    debug_assert_eq!(thread_count().unwrap_or(1), 1, "fork with more than one thread");
    // What is still buffered would be written twice.
    let _ = io::stdout().flush();
    let mask = SignalMask::block_all()?;
    // SAFETY: the process has one thread, always, so no lock is held by a thread that would not
    // exist on the other side.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            mask.restore();
            Ok(child)
        }
        Ok(ForkResult::Child) => {
            // The newcomer must never run on into the frames of the process it was copied from.
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
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Asks to be sent `signal` when `controller`, which forked us, dies, however it dies.
///
/// Returns false when it is dead already: the request came too late (the race of
/// `PR_SET_PDEATHSIG(2const)`).
pub fn die_with(controller: Pid, signal: Signal) -> bool {
    set_pdeathsig(signal).is_ok() && getppid() == controller
}

/// The pid of this process.
pub fn own_pid() -> Pid {
    getpid()
}

fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}
