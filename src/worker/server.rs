//! A worker at work: signals, the channel, accepting, connections, and the way to the end.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tracing::{debug, info, warn};

use super::acceptor::Acceptor;
use super::connections::Connections;
use crate::assignment::Assignment;
use crate::event_loop::Handler;
use crate::event_loop::timers::{Clock, Tick};
use crate::logging;
use crate::process::channel::{Message, Received};
use crate::process::signals::SignalStream;
use crate::service::Service;
use crate::stats::Word;

/// Tokens of the worker itself: a generation that no connection ever has.
const OWN: usize = (u32::MAX as usize) << 32;
const SIGNALS: Token = Token(OWN);
const CHANNEL: Token = Token(OWN + 1);
const FIRST_LISTENER: usize = OWN + 2;

/// Connections accepted a turn, so that a storm of them does not starve those that are open.
const ACCEPTS_PER_TURN: usize = 64;

/// How often the heartbeat is stamped at least.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long connections may go on when the controller is dead.
const ORPHAN_DEADLINE: Duration = Duration::from_secs(1);

/// Why a worker stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// All connections have ended.
    Drained,
    /// Time was up; so many connections were reset.
    DeadlineReached {
        /// How many.
        reset: usize,
    },
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepts and serves.
    Serving,
    /// Accepts no more; its connections live on undisturbed until then.
    Retiring(Instant),
    /// Accepts no more and ends its connections as soon as they are quiet, the rest then.
    Draining(Instant),
}

/// Everything a worker has.
#[derive(Debug)]
pub(super) struct Server<'a, S: Service> {
    assignment: &'a Assignment<'a>,
    registry: Registry,
    signals: SignalStream,
    acceptor: Acceptor,
    connections: Connections<S>,
    clock: Clock,
    phase: Phase,
    accepted: u64,
    heartbeat: Duration,
    housekeeping: Instant,
    signals_ready: bool,
    channel_ready: bool,
}

impl<'a, S: Service> Server<'a, S> {
    /// Registers everything with `poll`. From here on connections wait to be accepted.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn new(
        poll: &Poll,
        assignment: &'a Assignment<'a>,
        listeners: Vec<OwnedFd>,
        mut signals: SignalStream,
        service: S,
    ) -> io::Result<Self> {
        let registry = poll.registry().try_clone()?;
        registry.register(signals.source(), SIGNALS, Interest::READABLE)?;
        let channel = assignment.channel.as_raw_fd();
        registry.register(&mut SourceFd(&channel), CHANNEL, Interest::READABLE)?;
        let now = Instant::now();
        // Three beats within the controller's patience, however short that is.
        let worker_timeout = assignment.config.fleet.worker_timeout;
        let heartbeat = worker_timeout.map_or(HEARTBEAT, |limit| HEARTBEAT.min(limit / 3));
        Ok(Self {
            acceptor: Acceptor::new(listeners, &registry, FIRST_LISTENER)?,
            connections: Connections::new(&assignment.config.connection, service),
            assignment,
            registry,
            signals,
            clock: Clock::start(now),
            phase: Phase::Serving,
            accepted: 0,
            heartbeat,
            housekeeping: now + HEARTBEAT,
            signals_ready: false,
            channel_ready: false,
        })
    }

    /// The listening sockets, to be sent to the slot.
    pub(super) fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.acceptor.listeners()
    }

    /// Logs what it handles and has handled.
    fn report(&self) {
        info!("Worker is currently handling ({}) connections", self.connections.len());
        info!("Worker has handled ({}) connections", self.accepted);
    }

    fn on_signals(&mut self, now: Instant) {
        for signal in self.signals.pending() {
            match signal {
                Signal::SIGUSR1 => self.report(),
                // Told twice, by the controller and with the whole group, it is still one drain.
                Signal::SIGTERM => {
                    self.drain(now, now + self.assignment.config.fleet.graceful_timeout);
                }
                other => debug!("signal {other} has no meaning for a worker"),
            }
        }
    }

    fn on_channel(&mut self, now: Instant) {
        loop {
            match self.assignment.channel.receive() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(message, _)) => warn!("unexpected message {message:?}"),
                Ok(Received::Closed) | Err(_) => {
                    let channel = self.assignment.channel.as_raw_fd();
                    let _ = self.registry.deregister(&mut SourceFd(&channel));
                    warn!("the controller is gone");
                    return self.drain(now, now + ORPHAN_DEADLINE);
                }
            }
        }
    }

    fn accept(&mut self, now: Instant, tick: Tick) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.acceptor.has_work() && self.acceptor.retry_at().is_none() {
                return;
            }
            if self.is_full() {
                return self.acceptor.pause_when_full(now);
            }
            let Some(stream) = self.acceptor.accept(now) else { return };
            self.admit(stream, now, tick);
            let limit = self.assignment.config.connection.max_connections;
            if limit.is_some_and(|limit| self.accepted >= limit.get()) {
                return self.retire(now);
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, now: Instant, tick: Tick) {
        self.accepted += 1;
        self.assignment.seat.set(Word::Accepted, self.accepted);
        if let Err(error) = self.connections.insert(&self.registry, stream, tick) {
            warn!("cannot watch a new connection, closing it: {error}");
            let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            self.acceptor.exhausted(errno, now);
        }
    }

    fn is_full(&self) -> bool {
        let limit = self.assignment.config.connection.max_concurrent_connections;
        limit.is_some_and(|limit| self.connections.len() >= limit.get() as usize)
    }

    /// Connections have ended: there may be room again. A tenth must be free, so that a worker at its
    /// limit does not go back and forth.
    fn connections_ended(&mut self) {
        self.acceptor.resume_early();
        let limit = self.assignment.config.connection.max_concurrent_connections;
        let enough = limit.map_or(usize::MAX, |limit| {
            let limit = limit.get() as usize;
            limit - (limit / 10).max(1)
        });
        if self.connections.len() <= enough {
            self.acceptor.resume_when_full();
        }
    }

    /// Leaves the queue to a successor and serves what it has to the end.
    fn retire(&mut self, now: Instant) {
        info!(accepted = self.accepted, "retiring");
        self.acceptor.close(&self.registry);
        self.phase = Phase::Retiring(now + self.assignment.config.fleet.drain_timeout);
        self.announce_retirement();
    }

    /// Accepts what is queued, then no more, and ends what is open, at the latest at `until`.
    fn drain(&mut self, now: Instant, until: Instant) {
        if let Phase::Draining(earlier) = self.phase {
            self.phase = Phase::Draining(until.min(earlier));
            return;
        }
        info!(connections = self.connections.len(), "draining");
        let tick = self.clock.tick(now);
        // Better one more than allowed than one that is reset unheard.
        self.acceptor.resume();
        for _ in 0..u16::MAX {
            let Some(stream) = self.acceptor.accept(now) else { break };
            self.admit(stream, now, tick);
        }
        self.acceptor.close(&self.registry);
        self.connections.drain();
        if self.phase == Phase::Serving {
            self.announce_retirement();
        }
        self.phase = Phase::Draining(until);
    }

    fn announce_retirement(&self) {
        // A controller that is gone needs no telling, and one that is stopping will not listen.
        let _ = self.assignment.channel.send(&Message::Retiring, &[]);
    }

    fn stop(&mut self, now: Instant) -> Option<Stop> {
        let (Phase::Retiring(until) | Phase::Draining(until)) = self.phase else { return None };
        if self.connections.is_empty() {
            return Some(Stop::Drained);
        }
        (until <= now).then(|| Stop::DeadlineReached { reset: self.connections.reset_all() })
    }

    fn publish(&self) {
        let seat = self.assignment.seat;
        seat.add(Word::Heartbeat, 1);
        seat.set(Word::Connections, self.connections.len() as u64);
    }
}

impl<S: Service> Handler for Server<'_, S> {
    type Stop = Stop;

    fn ready(&mut self, event: &Event) {
        match event.token() {
            SIGNALS => self.signals_ready = true,
            CHANNEL => self.channel_ready = true,
            Token(token) if token >= FIRST_LISTENER => self.acceptor.mark(token - FIRST_LISTENER),
            _ => self.connections.mark(event),
        }
    }

    fn tick(&mut self, now: Instant) -> ControlFlow<Stop> {
        let tick = self.clock.tick(now);
        if std::mem::take(&mut self.signals_ready) {
            self.on_signals(now);
        }
        if std::mem::take(&mut self.channel_ready) {
            self.on_channel(now);
        }
        self.accept(now, tick);
        let open = self.connections.len();
        self.connections.work(tick);
        if self.connections.len() < open {
            self.connections_ended();
        }
        self.publish();
        if self.housekeeping <= now {
            self.housekeeping = now + HEARTBEAT;
            logging::report_dropped();
        }
        self.stop(now).map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.connections.has_work() || self.acceptor.has_work() {
            return Some(now);
        }
        let timer = self.connections.next_timer().map(|tick| self.clock.instant(tick));
        let until = match self.phase {
            Phase::Serving => None,
            Phase::Retiring(until) | Phase::Draining(until) => Some(until),
        };
        [timer, until, self.acceptor.retry_at()]
            .into_iter()
            .flatten()
            .chain([now + self.heartbeat])
            .min()
    }
}
