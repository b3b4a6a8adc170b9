//! Accepting: the slot's listeners, and when not to accept.
//!
//! A pause leaves the listeners open and registered: the kernel's queue is kept, nothing is reset,
//! and because registration is edge-triggered, waiting costs nothing.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use tracing::{info, warn};

/// How long to wait for descriptors or memory before another try.
const RETRY: Duration = Duration::from_millis(100);

/// At most one line about pauses in this time, so that a full worker does not flood the log.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Why nothing is accepted for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// As many connections are open as may be.
    Full,
    /// The system has run out of something; try again at this time.
    Exhausted(Errno, Instant),
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("max-concurrent-connections reached"),
            Self::Exhausted(errno, _) => f.write_str(errno.desc()),
        }
    }
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    ready: bool,
}

/// The listeners of a slot.
#[derive(Debug)]
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    pause: Option<Pause>,
    next_log: Option<Instant>,
    pause_logged: bool,
}

impl Acceptor {
    /// Takes listening, non-blocking sockets and registers them under the tokens `first`, `first` + 1, …
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn new(
        sockets: Vec<OwnedFd>,
        registry: &Registry,
        first: usize,
    ) -> io::Result<Self> {
        let mut listeners = Vec::with_capacity(sockets.len());
        for (index, socket) in sockets.into_iter().enumerate() {
            let mut socket = TcpListener::from_std(socket.into());
            registry.register(&mut socket, Token(first + index), Interest::READABLE)?;
            // A queue that was inherited may hold connections already.
            listeners.push(Listener { socket, ready: true });
        }
        Ok(Self { listeners, pause: None, next_log: None, pause_logged: false })
    }

    /// The listening sockets.
    pub(super) fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.listeners.iter().map(|listener| listener.socket.as_fd()).collect()
    }

    /// Notes that connections wait at the listener with this index.
    pub(super) fn mark(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.ready = true;
        }
    }

    /// Whether connections wait and may be accepted.
    pub(super) fn has_work(&self) -> bool {
        self.pause.is_none() && self.listeners.iter().any(|listener| listener.ready)
    }

    /// When to try again after the system had run out of something.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.pause {
            Some(Pause::Exhausted(_, at)) => Some(at),
            _ => None,
        }
    }

    /// The next connection that waits, if it may be accepted now.
    pub(super) fn accept(&mut self, now: Instant) -> Option<TcpStream> {
        self.resume_after_exhaustion(now);
        while self.pause.is_none() {
            let listener = self.listeners.iter_mut().find(|listener| listener.ready)?;
            let error = match listener.socket.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) => error,
            };
            match Verdict::on(&error) {
                Verdict::Empty => listener.ready = false,
                Verdict::Next => {}
                Verdict::Exhausted(errno) => self.exhausted(errno, now),
            }
        }
        None
    }

    /// Stops accepting until there is room again.
    pub(super) fn pause_when_full(&mut self, now: Instant) {
        if self.pause.is_none() {
            self.pause(Pause::Full, now);
        }
    }

    /// There is room again.
    pub(super) fn resume_when_full(&mut self) {
        if self.pause == Some(Pause::Full) {
            self.resume();
        }
    }

    /// A descriptor has been freed: worth a try before the time.
    pub(super) fn resume_early(&mut self) {
        if matches!(self.pause, Some(Pause::Exhausted(..))) {
            self.resume();
        }
    }

    /// Notes that the system has run out of something, wherever that showed.
    pub(super) fn exhausted(&mut self, errno: Errno, now: Instant) {
        self.pause(Pause::Exhausted(errno, now + RETRY), now);
    }

    /// Lifts any pause: what is queued is accepted as far as the system allows.
    pub(super) fn resume(&mut self) {
        if self.pause.take().is_some() && std::mem::take(&mut self.pause_logged) {
            info!("accepting resumed");
        }
    }

    /// Deregisters and closes the listeners. Deregistered first: the controller holds duplicates, and
    /// a registration lives as long as any of them.
    pub(super) fn close(&mut self, registry: &Registry) {
        for mut listener in self.listeners.drain(..) {
            let _ = registry.deregister(&mut listener.socket);
        }
    }

    fn resume_after_exhaustion(&mut self, now: Instant) {
        if self.retry_at().is_some_and(|at| at <= now) {
            self.resume();
        }
    }

    fn pause(&mut self, pause: Pause, now: Instant) {
        if self.next_log.is_none_or(|at| at <= now) {
            self.next_log = Some(now + LOG_EVERY);
            self.pause_logged = true;
            warn!(reason = %pause, "accepting paused");
        }
        self.pause = Some(pause);
    }
}

/// What an error of accept(2) means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The queue is empty.
    Empty,
    /// This connection is lost, the next may be fine. accept(2) passes on pending network errors of
    /// the new socket and says to treat them like `EAGAIN`.
    Next,
    /// No descriptors or memory, or something unknown: wait and try again. The queue is kept.
    Exhausted(Errno),
}

impl Verdict {
    fn on(error: &io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        match errno {
            Errno::EAGAIN => Self::Empty,
            Errno::EINTR
            | Errno::ECONNABORTED
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENONET
            | Errno::EOPNOTSUPP
            | Errno::ETIMEDOUT
            | Errno::EPERM => Self::Next,
            other => Self::Exhausted(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(errno: Errno) -> Verdict {
        Verdict::on(&io::Error::from(errno))
    }

    #[test]
    fn errors_of_accept_are_sorted_as_the_manual_says() {
        assert_eq!(verdict(Errno::EAGAIN), Verdict::Empty);
        for errno in [Errno::ECONNABORTED, Errno::EINTR, Errno::EPROTO, Errno::EHOSTUNREACH] {
            assert_eq!(verdict(errno), Verdict::Next);
        }
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EINVAL] {
            assert_eq!(verdict(errno), Verdict::Exhausted(errno), "never spin");
        }
    }
}
