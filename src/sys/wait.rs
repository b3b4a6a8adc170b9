//! Reaping of child processes.

use std::fmt;
use std::io;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// The exit status of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// The process exited with this status, 0 to 255.
    Code(i32),
    /// The signal with this number killed the process. A real-time signal has no name.
    Signal(i32),
}

impl ExitStatus {
    /// Returns the status of a process that exited, `None` if a signal killed it.
    pub(crate) fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) => None,
        }
    }
}

impl fmt::Display for ExitStatus {
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

/// Reaps one child process that has ended, `None` if there is none.
///
/// Several SIGCHLD may merge, so it must be called until it returns `None`. As PID 1 it also returns
/// orphaned processes that were reparented to this one.
pub(crate) fn reap() -> Option<(Pid, ExitStatus)> {
    loop {
        let mut status = 0;
        // Not with nix, which returns an error instead of the pid if a real-time signal killed the process.
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
            return Some((pid, ExitStatus::Code(libc::WEXITSTATUS(status))));
        }
        if libc::WIFSIGNALED(status) {
            return Some((pid, ExitStatus::Signal(libc::WTERMSIG(status))));
        }
        // Stopped and continued processes are not requested.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_have_a_text() {
        assert_eq!(ExitStatus::Code(3).to_string(), "exit code 3");
        assert_eq!(ExitStatus::Signal(9).to_string(), "signal SIGKILL");
        assert_eq!(ExitStatus::Signal(34).to_string(), "signal 34");
        assert_eq!(ExitStatus::Code(3).code(), Some(3));
        assert_eq!(ExitStatus::Signal(9).code(), None);
    }
}
