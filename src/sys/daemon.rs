//! Daemonizing: leaving the terminal and the session.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, read, setsid};

use super::fork::exit_now;

/// The daemon's end of the pipe on which the foreground process waits for the result of the start.
#[derive(Debug)]
pub struct Launch(OwnedFd);

impl Launch {
    /// Lets the foreground process exit with status 0.
    pub fn succeeded(self) {
        let _ = nix::unistd::write(&self.0, &[0]);
    }
}

/// Moves the process to the background: a new session without a terminal, with standard input and output on
/// `/dev/null`. The working directory stays, so that relative paths keep their meaning.
///
/// The foreground process waits until [`Launch::succeeded`] and exits with status 0; if the daemon dies
/// before, with 1. Until then standard error may be the terminal.
///
/// # Errors
/// Those of fork(2), pipe(2) and setsid(2).
pub fn daemonize() -> io::Result<Launch> {
    let (outcome, launch) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the process has one thread, always.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(launch);
            let mut status = [1];
            // End of file without a byte: the daemon died before it succeeded.
            while read(&outcome, &mut status) == Err(nix::errno::Errno::EINTR) {}
            exit_now(status[0])
        }
        ForkResult::Child => drop(outcome),
    }
    setsid()?;
    // A session leader would acquire a terminal by opening one.
    // SAFETY: as above.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        exit_now(0)
    }
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(Launch(launch))
}

/// Redirects standard error to `/dev/null` if it is a terminal.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub fn release_terminal() -> io::Result<()> {
    if io::IsTerminal::is_terminal(&io::stderr()) {
        dup2_stderr(OpenOptions::new().write(true).open("/dev/null")?)?;
    }
    Ok(())
}
