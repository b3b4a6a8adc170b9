//! Accepting connections from a TCP or Unix socket.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream, UnixListener};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use tracing::warn;

use crate::daemon::admin_socket::{AdminSocket, BoundAddress};
use crate::daemon::stats::{AcceptError, StatsBlock};

/// Pause of accepting when the system is out of descriptors or memory.
const RETRY: Duration = Duration::from_millis(100);

/// Minimum time between two log lines about that.
const LOG_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The listening socket of the admin process.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    ready: bool,
    /// End of a pause.
    retry_at: Option<Instant>,
    next_log: Option<Instant>,
}

impl Listener {
    /// Registers a duplicate of the socket with the event loop.
    ///
    /// # Errors
    /// Out of descriptors, or those of epoll_ctl(2).
    pub(super) fn new(
        admin_socket: &AdminSocket,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let socket = admin_socket.socket.try_clone()?;
        let mut socket = match admin_socket.address {
            BoundAddress::Tcp(_) => Socket::Tcp(TcpListener::from_std(socket.into())),
            BoundAddress::Unix(..) => Socket::Unix(UnixListener::from_std(socket.into())),
        };
        match &mut socket {
            Socket::Tcp(socket) => registry.register(socket, token, Interest::READABLE)?,
            Socket::Unix(socket) => registry.register(socket, token, Interest::READABLE)?,
        }
        // Connections may already wait.
        Ok(Self { socket, ready: true, retry_at: None, next_log: None })
    }

    pub(super) fn mark_ready(&mut self) {
        self.ready = true;
    }

    /// Returns `true` if connections may wait and accepting is not paused.
    pub(super) fn is_ready(&self) -> bool {
        self.ready && self.retry_at.is_none()
    }

    /// Returns the end of a pause of accepting.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Accepts a connection, `None` if there is none. One of a Unix socket is returned as a `TcpStream`, too:
    /// it reads, writes, and shuts down in the same way.
    pub(super) fn accept(&mut self, now: Instant, block: StatsBlock<'_>) -> Option<TcpStream> {
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
                Errno::ECONNABORTED => block.count_accept_error(AcceptError::of(errno)),
                _ => {
                    block.count_accept_error(AcceptError::of(errno));
                    self.retry_at = Some(now + RETRY);
                    if self.next_log.is_none_or(|at| at <= now) {
                        self.next_log = Some(now + LOG_EVERY);
                        warn!(%error, "accept paused");
                    }
                }
            }
        }
        None
    }

    /// Closes this descriptor. Other processes hold duplicates, with which the registration would remain, so
    /// it is deregistered first.
    pub(super) fn close(mut self, registry: &Registry) {
        let _ = match &mut self.socket {
            Socket::Tcp(socket) => registry.deregister(socket),
            Socket::Unix(socket) => registry.deregister(socket),
        };
    }
}
