//! Standard output and error that never block.
//!
//! Whoever reads them may stop reading (a stuck collector, Ctrl-S on a terminal). Setting
//! `O_NONBLOCK` on the descriptor itself would change it for everybody who shares it, so pipes and
//! terminals are opened a second time, and sockets are written with `MSG_DONTWAIT`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::write;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One of the two, opened so that it does not block.
#[derive(Debug)]
pub struct Output {
    stream: Stream,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// A description of our own, non-blocking.
    Reopened(File),
    Socket,
    /// A regular file, or something that could not be opened again, like a pipe of another user: asked
    /// with poll(2) first.
    Polled,
}

/// What a pipe that has room at all takes without blocking (`PIPE_BUF`).
const PIECE: usize = 4096;

impl Stream {
    fn with<T>(self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match self {
            Self::Out => act(io::stdout().as_fd()),
            Self::Err => act(io::stderr().as_fd()),
        }
    }
}

/// Says something on standard error, if that can take it: the exit code says it, too.
pub fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a text on standard output, for as long as that takes; returns whether it was printed, and says
/// on standard error why not. A reader that has gone away (`| head`) has what it wants.
pub fn say(text: &str) -> bool {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("tcp-echo: cannot write to standard output: {error}"));
            false
        }
        _ => true,
    }
}

impl Output {
    /// Looks at what the stream is.
    pub fn open(stream: Stream) -> Self {
        let number = stream.with(|descriptor| descriptor.as_raw_fd());
        Self { stream, way: Way::find(&format!("/proc/self/fd/{number}")) }
    }

    /// One attempt; returns how much went through.
    ///
    /// # Errors
    /// `EAGAIN` when there is no room; otherwise those of write(2), `EPIPE` and `ENOSPC` among them.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let _output = AllowOutput::new();
        match &self.way {
            Way::Reopened(file) => {
                let mut file = file;
                file.write(bytes)
            }
            Way::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                let sent = self.stream.with(|to| send(to.as_raw_fd(), bytes, flags));
                sent.map_err(io::Error::from)
            }
            Way::Polled if self.has_room() => {
                let piece = &bytes[..bytes.len().min(PIECE)];
                self.stream.with(|to| write(to, piece)).map_err(io::Error::from)
            }
            Way::Polled => Err(Errno::EAGAIN.into()),
        }
    }

    /// Whether it is `/dev/null`: as the daemon's, or because it was closed at the start.
    pub fn is_nowhere(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let path = format!("/proc/self/fd/{}", self.stream.with(|it| it.as_raw_fd()));
        let device = |path: &str| std::fs::metadata(path).map(|it| it.rdev()).ok();
        device(&path).is_some_and(|it| it != 0 && Some(it) == device("/dev/null"))
    }

    /// Whether it would take something now.
    pub fn has_room(&self) -> bool {
        self.stream.with(|descriptor| {
            let mut wanted = [PollFd::new(descriptor, PollFlags::POLLOUT)];
            let ready = poll(&mut wanted, PollTimeout::ZERO);
            ready.is_ok_and(|count| count > 0)
                && wanted[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
        })
    }
}

impl Way {
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
