//! Standard output and standard error, without blocking.
//!
//! Their reader may stop reading (a stuck log collector, Ctrl-S on a terminal). `O_NONBLOCK` would affect
//! all processes that share the open file description, so pipes and terminals are opened a second time,
//! and sockets are written with `MSG_DONTWAIT`.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::write;

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// A standard stream that is written without blocking.
#[derive(Debug)]
pub struct Output {
    stream: Stream,
    method: Method,
}

#[derive(Debug)]
enum Method {
    /// By a second, non-blocking file description.
    Reopened(File),
    Socket,
    /// After poll(2): regular files, and files that cannot be reopened, like a pipe of another user.
    Polled,
}

/// Bytes that a pipe takes without blocking if poll(2) reports room (`PIPE_BUF`).
const PIECE: usize = 4096;

impl Stream {
    fn with<T>(self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match self {
            Self::Out => act(io::stdout().as_fd()),
            Self::Err => act(io::stderr().as_fd()),
        }
    }
}

/// Writes a text to standard output and flushes it, however long that takes. A closed pipe (`| head`) is
/// no error: its reader has what it wants.
///
/// # Errors
/// Those of write(2), such as `ENOSPC`.
pub fn print(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a line to standard error. A failure is ignored, as the exit code tells the result, too.
pub fn print_error(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

impl Output {
    /// Determines how `stream` can be written.
    pub fn open(stream: Stream) -> Self {
        let number = stream.with(|descriptor| descriptor.as_raw_fd());
        Self { stream, method: Method::find(&format!("/proc/self/fd/{number}")) }
    }

    /// Writes once and returns the number of bytes written.
    ///
    /// # Errors
    /// `EAGAIN` if there is no room, otherwise those of write(2), such as `EPIPE` and `ENOSPC`.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let _output = AllowOutput::new();
        match &self.method {
            Method::Reopened(file) => {
                let mut file = file;
                file.write(bytes)
            }
            Method::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                let sent = self.stream.with(|to| send(to.as_raw_fd(), bytes, flags));
                sent.map_err(io::Error::from)
            }
            Method::Polled if self.has_room() => {
                let piece = &bytes[..bytes.len().min(PIECE)];
                self.stream.with(|to| write(to, piece)).map_err(io::Error::from)
            }
            Method::Polled => Err(Errno::EAGAIN.into()),
        }
    }

    /// Returns `true` if the stream is `/dev/null`.
    pub fn is_nowhere(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let path = format!("/proc/self/fd/{}", self.stream.with(|it| it.as_raw_fd()));
        let device = |path: &str| std::fs::metadata(path).map(|it| it.rdev()).ok();
        device(&path).is_some_and(|it| it != 0 && Some(it) == device("/dev/null"))
    }

    /// Returns `true` if the stream can be written now.
    pub fn has_room(&self) -> bool {
        self.stream.with(|descriptor| {
            let mut wanted = [PollFd::new(descriptor, PollFlags::POLLOUT)];
            let ready = poll(&mut wanted, PollTimeout::ZERO);
            ready.is_ok_and(|count| count > 0)
                && wanted[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
        })
    }
}

impl Method {
    fn find(path: &str) -> Self {
        let Ok(kind) = std::fs::metadata(path).map(|metadata| metadata.file_type()) else {
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
            .open(path)
            .map_or(Self::Polled, Self::Reopened)
    }
}

/// Blocks SIGTTOU, which a write to the terminal of another process group raises (termios(3), `TOSTOP`). With
/// a handler for that signal the write would be restarted forever.
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
