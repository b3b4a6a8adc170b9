//! Accepting: from which queues, and when not to.
//!
//! A pause leaves the listeners open and registered: the kernel's queue is kept, nothing is reset,
//! and because registration is edge-triggered, waiting costs nothing.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use tracing::{info, warn};

use crate::ids::QueueId;
use crate::stats::{AcceptError, Seat, Word};

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

/// A listening socket, or one that the controller will let listen.
#[derive(Debug)]
struct Listener {
    queue: QueueId,
    token: Token,
    socket: TcpListener,
    ready: bool,
}

/// The accept queues that a worker attends: its own slot's, and those that it was granted.
#[derive(Debug)]
pub(super) struct Acceptor<'a> {
    seat: Seat<'a>,
    listeners: Vec<Listener>,
    next_token: usize,
    /// Whose turn it is, by its place in the list.
    turn: usize,
    pause: Option<Pause>,
    next_log: Option<Instant>,
    pause_logged: bool,
}

impl<'a> Acceptor<'a> {
    /// Accepts from nothing yet. Tokens of listeners begin at `first_token`; what goes wrong is counted
    /// at `seat`.
    pub(super) fn new(first_token: usize, seat: Seat<'a>) -> Self {
        let listeners = Vec::new();
        Self {
            seat,
            listeners,
            next_token: first_token,
            turn: 0,
            pause: None,
            next_log: None,
            pause_logged: false,
        }
    }

    /// Accepts from this listening socket from now on. One that is attended already stays as it is.
    ///
    /// # Errors
    /// Those of epoll_ctl(2); the socket is closed then.
    pub(super) fn add(
        &mut self,
        queue: QueueId,
        socket: OwnedFd,
        registry: &Registry,
    ) -> io::Result<()> {
        if self.listeners.iter().any(|listener| listener.queue == queue) {
            return Ok(());
        }
        let token = Token(self.next_token);
        let mut socket = TcpListener::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.next_token += 1;
        // A queue that was inherited may hold connections already.
        self.listeners.push(Listener { queue, token, socket, ready: true });
        Ok(())
    }

    /// Whether any listener is left.
    pub(super) fn is_closed(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Notes that connections wait at the listener with this token.
    pub(super) fn mark(&mut self, token: Token) {
        if let Some(listener) = self.listeners.iter_mut().find(|listener| listener.token == token) {
            listener.ready = true;
        }
    }

    /// Whether connections wait and may be accepted.
    pub(super) fn has_work(&self) -> bool {
        self.pause.is_none() && self.listeners.iter().any(|listener| listener.ready)
    }

    /// Why nothing is accepted, as [`Word::Paused`] has it.
    pub(super) fn paused(&self) -> u64 {
        match self.pause {
            None => 0,
            Some(Pause::Full) => 1,
            Some(Pause::Exhausted(..)) => 2,
        }
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
        self.accept_from(|_| true, now)
    }

    /// The next connection that waits in one of these queues.
    pub(super) fn accept_from(
        &mut self,
        which: impl Fn(QueueId) -> bool,
        now: Instant,
    ) -> Option<TcpStream> {
        self.resume_after_exhaustion(now);
        while self.pause.is_none() {
            // In turn, so that a busy address does not starve another one.
            let count = self.listeners.len();
            let index = (0..count)
                .map(|step| (self.turn + step) % count)
                .find(|&index| self.listeners[index].ready && which(self.listeners[index].queue))?;
            self.turn = index + 1;
            let listener = &mut self.listeners[index];
            let error = match listener.socket.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) => error,
            };
            match Verdict::on(&error) {
                Verdict::Empty => listener.ready = false,
                Verdict::Again => {}
                Verdict::Next(errno) => self.seat.not_accepted(AcceptError::of(errno)),
                Verdict::Exhausted(errno) => self.exhausted(errno, now),
            }
        }
        None
    }

    /// Stops accepting until there is room again.
    pub(super) fn pause_when_full(&mut self, now: Instant) {
        if self.pause != Some(Pause::Full) {
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
        self.seat.not_accepted(AcceptError::of(errno));
        self.pause(Pause::Exhausted(errno, now + RETRY), now);
    }

    /// Lifts any pause: what is queued is accepted as far as the system allows.
    pub(super) fn resume(&mut self) {
        if self.pause.take().is_some() && std::mem::take(&mut self.pause_logged) {
            info!("accepting resumed");
        }
    }

    /// Deregisters and closes these queues. Deregistered first: the controller holds duplicates, and a
    /// registration lives as long as any of them.
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

    /// The queues that are attended.
    pub(super) fn queues(&self) -> Vec<QueueId> {
        self.listeners.iter().map(|listener| listener.queue).collect()
    }

    /// Notes that connections may wait in these queues: for a last look before they are closed.
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
        self.seat.add(Word::Pauses, 1);
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
    /// The queue is empty, or there is none (`EINVAL`: the socket does not listen, not yet or no
    /// more). An event will tell when that changes.
    Empty,
    /// A signal came in between; no connection is concerned.
    Again,
    /// This connection is lost, the next may be fine. accept(2) passes on pending network errors of
    /// the new socket and says to treat them like `EAGAIN`.
    Next(Errno),
    /// No descriptors or memory, or something unknown: wait and try again. The queue is kept.
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
            // EPERM and EOPNOTSUPP may come from a rule that lets the connection stay in the queue:
            // they would come for ever.
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
