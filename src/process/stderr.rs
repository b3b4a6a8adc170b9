//! Standard error that never blocks: a line is written whole at once, or dropped and counted.
//!
//! Whoever reads our log may stop reading (a stuck collector, Ctrl-S on a terminal). Setting
//! `O_NONBLOCK` on descriptor 2 itself would change it for everybody who shares it, so pipes and
//! terminals are opened a second time, and sockets are written with `MSG_DONTWAIT`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{MsgFlags, send};

/// The longest line, in bytes: what pipe(7) writes whole or not at all (`PIPE_BUF`).
pub const LONGEST_LINE: usize = 4096;

/// Where the log goes.
#[derive(Debug)]
pub struct LogPipe {
    way: Way,
    dropped: AtomicU64,
    /// Whether the last line was written only in part: a terminal may do that.
    torn: AtomicBool,
}

#[derive(Debug)]
enum Way {
    /// A description of our own, non-blocking.
    Reopened(File),
    Socket,
    /// A regular file, or something that could not be opened again: asked with poll(2) first.
    Polled,
}

impl LogPipe {
    /// Looks at what standard error is.
    pub fn open() -> Self {
        Self { way: Way::find(), dropped: AtomicU64::new(0), torn: AtomicBool::new(false) }
    }

    /// Writes one line, at most [`LONGEST_LINE`] bytes of it, or drops and counts it. Never blocks.
    pub fn write_line(&self, line: &[u8]) {
        let mut line = line;
        let mut cut;
        if line.len() > LONGEST_LINE {
            cut = line[..LONGEST_LINE].to_vec();
            cut[LONGEST_LINE - 1] = b'\n';
            line = &cut;
        }
        let _output = AllowOutput::new();
        if self.torn.load(Ordering::Relaxed) && self.way.write(b"\n").is_ok() {
            self.torn.store(false, Ordering::Relaxed);
        }
        match self.way.write(line) {
            Ok(count) if count == line.len() => {}
            Ok(_) => self.torn.store(true, Ordering::Relaxed),
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many lines were dropped since the last call, provided that there is room to say so now.
    pub fn take_dropped(&self) -> u64 {
        match self.dropped.load(Ordering::Relaxed) {
            0 => 0,
            _ if !self.way.has_room() => 0,
            _ => self.dropped.swap(0, Ordering::Relaxed),
        }
    }
}

/// While it lives, writing to a terminal from the background is not answered by SIGTTOU: caught, as
/// the controller does, that signal would restart the write for ever (termios(3), `TOSTOP`).
struct AllowOutput(Option<SigSet>);

impl AllowOutput {
    fn new() -> Self {
        let mut output = SigSet::empty();
        output.add(Signal::SIGTTOU);
        Self(output.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for AllowOutput {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = before.thread_set_mask();
        }
    }
}

impl Way {
    fn find() -> Self {
        let Ok(kind) = std::fs::metadata("/proc/self/fd/2").map(|metadata| metadata.file_type())
        else {
            return Self::Polled;
        };
        if kind.is_socket() {
            return Self::Socket;
        }
        if kind.is_file() {
            return Self::Polled;
        }
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open("/proc/self/fd/2")
            .map_or(Self::Polled, Self::Reopened)
    }

    /// One attempt; returns how much went through.
    fn write(&self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Reopened(file) => {
                let mut file = file;
                file.write(line)
            }
            Self::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(io::stderr().as_raw_fd(), line, flags).map_err(io::Error::from)
            }
            Self::Polled if self.has_room() => io::stderr().lock().write(line),
            Self::Polled => Err(Errno::EAGAIN.into()),
        }
    }

    fn has_room(&self) -> bool {
        let stderr = io::stderr();
        let mut wanted = [PollFd::new(std::os::fd::AsFd::as_fd(&stderr), PollFlags::POLLOUT)];
        let ready = poll(&mut wanted, PollTimeout::ZERO);
        ready.is_ok_and(|count| count > 0)
            && wanted[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
    }
}
