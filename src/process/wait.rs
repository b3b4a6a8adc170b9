//! Reaping: how a process ended.

use std::fmt;
use std::io;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this status, 0 to 255.
    Code(i32),
    /// The signal of this number killed it; it may be a real-time signal, which has no name.
    Signal(i32),
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
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// Collects one process that has ended; `None` when no more have.
///
/// SIGCHLDs merge, so call it until it returns `None`. As PID 1 it also returns strangers that were
/// handed over to us.
pub fn reap() -> Option<(Pid, Ending)> {
    loop {
        let mut status = 0;
        // Not nix's: it has no word for real-time signals and would lose the pid.
        // SAFETY: waitpid(2) writes to `status` and nowhere else.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        if pid <= 0 {
            return None;
        }
        let pid = Pid::from_raw(pid);
        if libc::WIFEXITED(status) {
            return Some((pid, Ending::Code(libc::WEXITSTATUS(status))));
        }
        if libc::WIFSIGNALED(status) {
            return Some((pid, Ending::Signal(libc::WTERMSIG(status))));
        }
        // Stopped or continued is no ending, and is not asked for.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_read_like_a_sentence() {
        assert_eq!(Ending::Code(3).to_string(), "exit code 3");
        assert_eq!(Ending::Signal(9).to_string(), "signal SIGKILL");
        assert_eq!(Ending::Signal(34).to_string(), "signal 34");
        assert_eq!(Ending::Code(3).code(), Some(3));
        assert_eq!(Ending::Signal(9).code(), None);
    }
}
