//! Accepting connections from the queues of a worker, with pauses.
//!
//! A pause leaves the listeners open and registered: the kernel keeps the queue and resets nothing.
//! Registration is edge-triggered, so a pause costs no wake-ups.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use tracing::{info, warn};

use crate::daemon::ids::QueueId;
use crate::daemon::stats::{AcceptError, Field, StatsBlock};

/// Time until another try after the system has run out of descriptors or memory.
const RETRY: Duration = Duration::from_millis(100);

/// Least time between two log lines about pauses, so that a full worker does not flood the log.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// The reason why nothing is accepted for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// The limit of open connections is reached.
    Full,
    /// The system has run out of descriptors or memory; the next try is at this time.
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

/// A listening socket, or one that the controller is about to let listen.
#[derive(Debug)]
struct Listener {
    queue: QueueId,
    token: Token,
    socket: TcpListener,
    /// Number of the table for its connections.
    table: usize,
    ready: bool,
}

/// Accept queues that a worker attends: those of its slot, and those that it was granted.
#[derive(Debug)]
pub(super) struct Acceptor<'a> {
    block: StatsBlock<'a>,
    listeners: Vec<Listener>,
    next_token: usize,
    /// Index of the listener that is tried first.
    next: usize,
    pause: Option<Pause>,
    next_log: Option<Instant>,
    pause_logged: bool,
}

impl<'a> Acceptor<'a> {
    /// Creates an acceptor without listeners. Their tokens begin at `first_token`; errors are counted in
    /// `block`.
    pub(super) fn new(first_token: usize, block: StatsBlock<'a>) -> Self {
        let listeners = Vec::new();
        Self {
            block,
            listeners,
            next_token: first_token,
            next: 0,
            pause: None,
            next_log: None,
            pause_logged: false,
        }
    }

    /// Attends an accept queue, whose connections go to this table, unless it is attended already.
    ///
    /// # Errors
    /// Those of epoll_ctl(2); the socket is closed then.
    pub(super) fn add(
        &mut self,
        queue: QueueId,
        socket: OwnedFd,
        table: usize,
        registry: &Registry,
    ) -> io::Result<()> {
        if self.listeners.iter().any(|listener| listener.queue == queue) {
            return Ok(());
        }
        let token = Token(self.next_token);
        let mut socket = TcpListener::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.next_token += 1;
        // Connections may wait in a queue that an earlier worker attended.
        self.listeners.push(Listener { queue, token, socket, table, ready: true });
        Ok(())
    }

    /// Returns `true` if no listener is left.
    pub(super) fn is_closed(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Notes that connections wait at the listener with this token.
    pub(super) fn mark(&mut self, token: Token) {
        if let Some(listener) = self.listeners.iter_mut().find(|listener| listener.token == token) {
            listener.ready = true;
        }
    }

    /// Returns `true` if connections may wait and accepting is not paused.
    pub(super) fn has_work(&self) -> bool {
        self.pause.is_none() && self.listeners.iter().any(|listener| listener.ready)
    }

    /// Returns the reason of a pause as [`Field::Paused`] has it.
    pub(super) fn paused(&self) -> u64 {
        match self.pause {
            None => 0,
            Some(Pause::Full) => 1,
            Some(Pause::Exhausted(..)) => 2,
        }
    }

    /// Returns the time of the next try if the system has run out of descriptors or memory.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.pause {
            Some(Pause::Exhausted(_, at)) => Some(at),
            _ => None,
        }
    }

    /// Accepts the next connection, if there is one and accepting is not paused. Returns it with the
    /// number of its table.
    pub(super) fn accept(&mut self, now: Instant) -> Option<(TcpStream, usize)> {
        self.accept_from(|_| true, now)
    }

    /// Accepts the next connection from the queues that `which` selects.
    pub(super) fn accept_from(
        &mut self,
        which: impl Fn(QueueId) -> bool,
        now: Instant,
    ) -> Option<(TcpStream, usize)> {
        self.resume_after_exhaustion(now);
        while self.pause.is_none() {
            // Round robin, so that a busy address does not starve another one.
            let count = self.listeners.len();
            let index = (0..count)
                .map(|step| (self.next + step) % count)
                .find(|&index| self.listeners[index].ready && which(self.listeners[index].queue))?;
            self.next = index + 1;
            let listener = &mut self.listeners[index];
            let error = match listener.socket.accept() {
                Ok((stream, _)) => return Some((stream, listener.table)),
                Err(error) => error,
            };
            match Verdict::on(&error) {
                Verdict::Empty => listener.ready = false,
                Verdict::Again => {}
                Verdict::Next(errno) => self.block.count_accept_error(AcceptError::of(errno)),
                Verdict::Exhausted(errno) => self.exhausted(errno, now),
            }
        }
        None
    }

    /// Pauses at the limit of open connections.
    pub(super) fn pause_when_full(&mut self, now: Instant) {
        if self.pause != Some(Pause::Full) {
            self.pause(Pause::Full, now);
        }
    }

    /// Ends a pause at the limit of open connections.
    pub(super) fn resume_when_full(&mut self) {
        if self.pause == Some(Pause::Full) {
            self.resume();
        }
    }

    /// Ends a pause for lack of descriptors early, because one was freed.
    pub(super) fn resume_early(&mut self) {
        if matches!(self.pause, Some(Pause::Exhausted(..))) {
            self.resume();
        }
    }

    /// Pauses because the system has run out of descriptors or memory.
    pub(super) fn exhausted(&mut self, errno: Errno, now: Instant) {
        self.block.count_accept_error(AcceptError::of(errno));
        self.pause(Pause::Exhausted(errno, now + RETRY), now);
    }

    /// Ends any pause.
    pub(super) fn resume(&mut self) {
        if self.pause.take().is_some() && std::mem::take(&mut self.pause_logged) {
            info!("accept resumed");
        }
    }

    /// Deregisters and closes these queues. The controller holds duplicates, and a registration lives as
    /// long as any of them.
    pub(super) fn close(&mut self, queues: &[QueueId], registry: &Registry) {
        self.listeners.retain_mut(|listener| {
            let stays = !queues.contains(&listener.queue);
            if !stays {
                let _ = registry.deregister(&mut listener.socket);
            }
            stays
        });
        if self.listeners.is_empty() {
            self.pause = None;
        }
    }

    /// Returns the queues that are attended.
    pub(super) fn queues(&self) -> Vec<QueueId> {
        self.listeners.iter().map(|listener| listener.queue).collect()
    }

    /// Notes that connections may wait in these queues, whatever events have reported.
    pub(super) fn mark_queues(&mut self, queues: &[QueueId]) {
        for listener in &mut self.listeners {
            listener.ready |= queues.contains(&listener.queue);
        }
    }

    fn resume_after_exhaustion(&mut self, now: Instant) {
        if self.retry_at().is_some_and(|at| at <= now) {
            self.resume();
        }
    }

    fn pause(&mut self, pause: Pause, now: Instant) {
        self.block.add(Field::Pauses, 1);
        if self.next_log.is_none_or(|at| at <= now) {
            self.next_log = Some(now + LOG_EVERY);
            self.pause_logged = true;
            warn!(reason = %pause, "accept paused");
        }
        self.pause = Some(pause);
    }
}

/// Consequence of an error of accept(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The queue is empty, or the socket does not listen (`EINVAL`). An event reports when that changes.
    Empty,
    /// The call was interrupted; no connection is lost.
    Again,
    /// The connection is lost, the next may be fine. accept(2) passes on network errors of the new
    /// socket.
    Next(Errno),
    /// No descriptors or memory, or an unknown error: wait and try again. The queue is kept.
    Exhausted(Errno),
}

impl Verdict {
    fn on(error: &io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        match errno {
            Errno::EAGAIN | Errno::EINVAL => Self::Empty,
            Errno::EINTR => Self::Again,
            Errno::ECONNABORTED
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENONET
            | Errno::ETIMEDOUT => Self::Next(errno),
            // EPERM and EOPNOTSUPP may come from a firewall rule that leaves the connection in the queue:
            // an immediate retry would fail again and again.
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
    fn errors_of_accept_have_the_consequences_of_the_manual() {
        assert_eq!(verdict(Errno::EAGAIN), Verdict::Empty);
        assert_eq!(verdict(Errno::EINVAL), Verdict::Empty, "not listening yet");
        assert_eq!(verdict(Errno::EINTR), Verdict::Again);
        for errno in [Errno::ECONNABORTED, Errno::EPROTO, Errno::EHOSTUNREACH] {
            assert_eq!(verdict(errno), Verdict::Next(errno));
        }
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EBADF] {
            assert_eq!(verdict(errno), Verdict::Exhausted(errno), "never spin");
        }
    }
}
