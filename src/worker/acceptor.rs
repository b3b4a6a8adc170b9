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
    /// Whose queue it is.
    slot: u32,
    token: Token,
    socket: TcpListener,
    ready: bool,
    /// When to empty and close it, if its slot is given up.
    until: Option<Instant>,
}

/// The queues that a worker accepts from: its own slot's, and those of siblings in trouble.
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

    /// Accepts from the listeners of `slot` from now on.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn add(
        &mut self,
        slot: u32,
        sockets: Vec<OwnedFd>,
        registry: &Registry,
    ) -> io::Result<()> {
        for socket in sockets {
            let token = Token(self.next_token);
            let mut socket = TcpListener::from_std(socket.into());
            registry.register(&mut socket, token, Interest::READABLE)?;
            self.next_token += 1;
            // A queue that was inherited may hold connections already.
            self.listeners.push(Listener { slot, token, socket, ready: true, until: None });
        }
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

    /// When to look again though nothing happens: the system had run out of something, or a slot's
    /// time is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let closing = self.listeners.iter().filter_map(|listener| listener.until);
        closing.chain(self.retry_at()).min()
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
        self.resume_after_exhaustion(now);
        while self.pause.is_none() {
            // In turn, so that a busy address does not starve another one.
            let count = self.listeners.len();
            let index = (0..count)
                .map(|step| (self.turn + step) % count)
                .find(|&index| self.listeners[index].ready)?;
            self.turn = index + 1;
            let listener = &mut self.listeners[index];
            let error = match listener.socket.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) => error,
            };
            match Verdict::on(&error) {
                Verdict::Empty => listener.ready = false,
                Verdict::Next => self.seat.not_accepted(AcceptError::Aborted),
                Verdict::Exhausted(errno) => self.exhausted(errno, now),
            }
        }
        None
    }

    /// Lets the listeners of `slot` be emptied and closed at `until`.
    pub(super) fn close_at(&mut self, slot: u32, until: Instant) {
        for listener in self.listeners.iter_mut().filter(|listener| listener.slot == slot) {
            listener.until = Some(until);
        }
    }

    /// The next slot whose time is over.
    pub(super) fn overdue(&self, now: Instant) -> Option<u32> {
        let over = |listener: &&Listener| listener.until.is_some_and(|until| until <= now);
        self.listeners.iter().find(over).map(|listener| listener.slot)
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
        self.seat.not_accepted(kind(errno));
        self.pause(Pause::Exhausted(errno, now + RETRY), now);
    }

    /// Lifts any pause: what is queued is accepted as far as the system allows.
    pub(super) fn resume(&mut self) {
        if self.pause.take().is_some() && std::mem::take(&mut self.pause_logged) {
            info!("accepting resumed");
        }
    }

    /// Deregisters and closes the listeners of `slot`. Deregistered first: others hold duplicates,
    /// and a registration lives as long as any of them.
    pub(super) fn close(&mut self, slot: u32, registry: &Registry) {
        for listener in self.listeners.iter_mut().filter(|listener| listener.slot == slot) {
            let _ = registry.deregister(&mut listener.socket);
        }
        self.listeners.retain(|listener| listener.slot != slot);
        if self.listeners.is_empty() {
            self.pause = None;
        }
    }

    /// Notes that connections may wait at every listener: for a last look before closing.
    pub(super) fn mark_all(&mut self) {
        self.listeners.iter_mut().for_each(|listener| listener.ready = true);
    }

    /// Accepts no more from `slot`, unless its queue is to be emptied first.
    pub(super) fn release(&mut self, slot: u32, registry: &Registry) {
        if self.listeners.iter().any(|listener| listener.slot == slot && listener.until.is_none()) {
            self.close(slot, registry);
        }
    }

    /// The same for all slots.
    pub(super) fn release_all(&mut self, registry: &Registry) {
        let open = |listener: &&Listener| listener.until.is_none();
        while let Some(slot) = self.listeners.iter().find(open).map(|listener| listener.slot) {
            self.close(slot, registry);
        }
    }

    /// Closes all.
    pub(super) fn close_all(&mut self, registry: &Registry) {
        while let Some(slot) = self.listeners.first().map(|listener| listener.slot) {
            self.close(slot, registry);
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

/// How a failure is counted.
fn kind(errno: Errno) -> AcceptError {
    match errno {
        Errno::EMFILE => AcceptError::Emfile,
        Errno::ENFILE => AcceptError::Enfile,
        Errno::ENOBUFS => AcceptError::Enobufs,
        Errno::ENOMEM => AcceptError::Enomem,
        Errno::EPERM => AcceptError::Eperm,
        _ => AcceptError::Other,
    }
}

/// What an error of accept(2) means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The queue is empty, or there is none (`EINVAL`: the socket does not listen, not yet or no
    /// more). An event will tell when that changes.
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
            Errno::EAGAIN | Errno::EINVAL => Self::Empty,
            Errno::EINTR
            | Errno::ECONNABORTED
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENONET
            | Errno::ETIMEDOUT => Self::Next,
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
        for errno in [Errno::ECONNABORTED, Errno::EINTR, Errno::EPROTO, Errno::EHOSTUNREACH] {
            assert_eq!(verdict(errno), Verdict::Next);
        }
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EBADF] {
            assert_eq!(verdict(errno), Verdict::Exhausted(errno), "never spin");
        }
    }
}
