//! Leaving the terminal: `--daemon`.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, read, setsid};

use super::fork::exit_now;

/// The daemon's end of the pipe on which the process that was typed waits for the outcome.
#[derive(Debug)]
pub struct Launch(OwnedFd);

impl Launch {
    /// Tells the waiting process that the daemon serves; it exits with status 0.
    pub fn succeeded(self) {
        let _ = nix::unistd::write(&self.0, &[0]);
    }
}

/// Puts the process into the background: its own session, no terminal, standard input and output on
/// `/dev/null`. The working directory stays, so that relative paths keep their meaning.
///
/// The process that was typed stays until [`Launch::succeeded`], with the terminal still on
/// standard error, and exits with 0 then; when the daemon dies first it exits with 1. So
/// `tcp-echo --daemon && echo up` means what it says.
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
            // End of file without a byte: the daemon ended before it served.
            while read(&outcome, &mut status) == Err(nix::errno::Errno::EINTR) {}
            exit_now(status[0])
        }
        ForkResult::Child => drop(outcome),
    }
    setsid()?;
    // A session leader could acquire a terminal by opening one: be none.
    // SAFETY: as above.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        exit_now(0)
    }
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(Launch(launch))
}

/// Lets go of the terminal on standard error, if it is one; a file or a pipe stays: it is the log.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub fn release_terminal() -> io::Result<()> {
    if io::IsTerminal::is_terminal(&io::stderr()) {
        dup2_stderr(OpenOptions::new().write(true).open("/dev/null")?)?;
    }
    Ok(())
}
