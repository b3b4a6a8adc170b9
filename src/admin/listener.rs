//! Accepting, from a TCP or a Unix socket alike.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream, UnixListener};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use tracing::warn;

use crate::process::front::{Front, Place};
use crate::stats::{AcceptError, Seat};

/// How long to wait for descriptors or memory before another try.
const RETRY: Duration = Duration::from_millis(100);

/// At most one line about that in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The socket, by what accept(2) returns.
#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The queue of connections.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    ready: bool,
    /// The system has run out of something; try again then.
    retry_at: Option<Instant>,
    next_log: Option<Instant>,
}

impl Listener {
    /// Accepts from a duplicate of `front`'s socket.
    ///
    /// # Errors
    /// No descriptors left, or those of epoll_ctl(2).
    pub(super) fn new(front: &Front, registry: &Registry, token: Token) -> io::Result<Self> {
        let socket = front.socket.try_clone()?;
        let mut socket = match front.place {
            Place::Tcp(_) => Socket::Tcp(TcpListener::from_std(socket.into())),
            Place::Unix(..) => Socket::Unix(UnixListener::from_std(socket.into())),
        };
        match &mut socket {
            Socket::Tcp(socket) => registry.register(socket, token, Interest::READABLE)?,
            Socket::Unix(socket) => registry.register(socket, token, Interest::READABLE)?,
        }
        // Connections may wait already.
        Ok(Self { socket, ready: true, retry_at: None, next_log: None })
    }

    /// Notes that connections wait.
    pub(super) fn mark(&mut self) {
        self.ready = true;
    }

    /// Whether connections may wait.
    pub(super) fn is_ready(&self) -> bool {
        self.ready && self.retry_at.is_none()
    }

    /// When to try again after the system had run out of something.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The next connection. Whatever it is that comes out, it reads, writes and shuts down as a TCP
    /// connection does.
    pub(super) fn accept(&mut self, now: Instant, seat: Seat<'_>) -> Option<TcpStream> {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        while self.is_ready() {
            let accepted = match &self.socket {
                Socket::Tcp(socket) => socket.accept().map(|(stream, _)| stream),
                Socket::Unix(socket) => socket
                    .accept()
                    .map(|(stream, _)| TcpStream::from_std(OwnedFd::from(stream).into())),
            };
            let error = match accepted {
                Ok(stream) => return Some(stream),
                Err(error) => error,
            };
            let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            match errno {
                Errno::EAGAIN => self.ready = false,
                Errno::EINTR => {}
                Errno::ECONNABORTED => seat.not_accepted(AcceptError::of(errno)),
                _ => {
                    seat.not_accepted(AcceptError::of(errno));
                    self.retry_at = Some(now + RETRY);
                    if self.next_log.is_none_or(|at| at <= now) {
                        self.next_log = Some(now + LOG_EVERY);
                        warn!("cannot accept for now: {error}");
                    }
                }
            }
        }
        None
    }

    /// Leaves the queue to others. Deregistered: they hold duplicates, and a registration lives as
    /// long as any of them.
    pub(super) fn close(mut self, registry: &Registry) {
        let _ = match &mut self.socket {
            Socket::Tcp(socket) => registry.deregister(socket),
            Socket::Unix(socket) => registry.deregister(socket),
        };
    }
}
