//! Reaping: how a process ended.

use std::fmt;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this status, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(Signal),
}

impl Ending {
    /// The exit status, unless a signal ended the process.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) => None,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Collects one process that has ended; `None` when no more have.
///
/// SIGCHLDs merge, so call it until it returns `None`. As PID 1 it also returns strangers that were
/// handed over to us.
pub fn reap() -> Option<(Pid, Ending)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => return Some((pid, Ending::Code(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => return Some((pid, Ending::Signal(signal))),
            // Stopped or continued: not an ending. WNOHANG alone does not report these.
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_read_like_a_sentence() {
        assert_eq!(Ending::Code(3).to_string(), "exit code 3");
        assert_eq!(Ending::Signal(Signal::SIGKILL).to_string(), "signal SIGKILL");
        assert_eq!(Ending::Code(3).code(), Some(3));
        assert_eq!(Ending::Signal(Signal::SIGKILL).code(), None);
    }
}
