//! A worker at work: signals, the channel, accepting, connections, and the way to the end.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tracing::{debug, info, warn};

use super::acceptor::Acceptor;
use super::exchange::Balancer;
use super::lifecycle::{Phase, Stop};
use crate::access_log::AccessLog;
use crate::assignment::{Assignment, Exchange};
use crate::connections::Connections;
use crate::connections::record::Recorder;
use crate::event_loop::Handler;
use crate::event_loop::timers::{Clock, Tick};
use crate::logging;
use crate::process::channel::{Message, Received};
use crate::process::signals::SignalStream;
use crate::service::Service;
use crate::stats::{Seat, Stage, Word};

/// Tokens of the worker itself: a generation that no connection ever has.
const OWN: usize = (u32::MAX as usize) << 32;
const SIGNALS: Token = Token(OWN);
const CHANNEL: Token = Token(OWN + 1);
const INBOX: Token = Token(OWN + 2);
const FIRST_LISTENER: usize = OWN + 3;

/// Connections accepted a turn, so that a storm of them does not starve those that are open.
const ACCEPTS_PER_TURN: usize = 64;

/// How often the heartbeat is stamped at least.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long connections may go on when the controller is dead.
const ORPHAN_DEADLINE: Duration = Duration::from_secs(1);

/// Everything a worker has.
#[derive(Debug)]
pub(super) struct Server<'a, S: Service> {
    pub(super) assignment: &'a Assignment<'a>,
    pub(super) registry: Registry,
    signals: SignalStream,
    pub(super) acceptor: Acceptor<'a>,
    pub(super) connections: Connections<'a, S>,
    balancer: Option<Balancer<'a>>,
    pub(super) clock: Clock,
    pub(super) phase: Phase,
    pub(super) accepted: u64,
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
        let mut acceptor = Acceptor::new(FIRST_LISTENER, assignment.seat);
        acceptor.add(assignment.slot, listeners, &registry)?;
        let now = Instant::now();
        // Three beats within the controller's patience, however short that is.
        let worker_timeout = assignment.config.fleet.worker_timeout;
        let heartbeat = worker_timeout.map_or(HEARTBEAT, |limit| HEARTBEAT.min(limit / 3));
        Ok(Self {
            acceptor,
            connections: Connections::new(
                &assignment.config.connection,
                service,
                assignment.seat,
                access_log(assignment),
            ),
            balancer: None,
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

    /// Takes part in passing connections to each other.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn join(&mut self, exchange: Exchange<'a>) -> io::Result<()> {
        let Assignment { slot, seat, .. } = *self.assignment;
        self.balancer = Some(Balancer::new(exchange, slot, seat, &self.registry, INBOX)?);
        Ok(())
    }

    fn on_signals(&mut self, now: Instant) {
        for signal in self.signals.pending() {
            match signal {
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
                Ok(Received::Message(message, sockets)) => self.on_message(message, sockets, now),
                // A message that is not understood, or whose descriptors found no room.
                Err(error) if is_about_message(&error) => warn!("unreadable message: {error}"),
                Ok(Received::Closed) | Err(_) => {
                    let channel = self.assignment.channel.as_raw_fd();
                    let _ = self.registry.deregister(&mut SourceFd(&channel));
                    warn!("the controller is gone");
                    return self.drain(now, now + ORPHAN_DEADLINE);
                }
            }
        }
    }

    fn on_message(&mut self, message: Message, sockets: Vec<OwnedFd>, now: Instant) {
        let millis = Duration::from_millis;
        match message {
            Message::Retire { accept_ms, drain_ms, spread_ms } => {
                self.retire(now, now + millis(drain_ms), millis(spread_ms), millis(accept_ms));
            }
            Message::Sibling { slot } => {
                let outbox = sockets.into_iter().next();
                if let (Some(balancer), Some(outbox)) = (&mut self.balancer, outbox) {
                    balancer.add(slot, outbox);
                }
            }
            Message::AdoptInbox { slot, seat } => {
                let inbox = sockets.into_iter().next();
                if let (Some(balancer), Some(inbox)) = (&mut self.balancer, inbox) {
                    if let Err(error) = balancer.adopt(slot, inbox, seat, &self.registry) {
                        warn!(from_slot = slot, "cannot look after an inbox: {error}");
                    }
                }
            }
            Message::Adopt { slot, for_ms } => {
                if let Err(error) = self.acceptor.add(slot, sockets, &self.registry) {
                    warn!(from_slot = slot, "cannot look after a queue: {error}");
                }
                // One that drains serves what waits there, and does not stay for it.
                let most = matches!(self.phase, Phase::Draining(_)).then_some(0);
                if let Some(time) = most.or(for_ms) {
                    self.acceptor.close_at(slot, now + millis(time));
                }
                info!(from_slot = slot, "looking after a queue");
            }
            // Its own queue can be released only by retiring.
            Message::Release { slot } if slot != self.assignment.slot => {
                self.acceptor.release(slot, &self.registry);
                self.balancer.iter_mut().for_each(|it| it.release(slot, &self.registry));
            }
            other => warn!("unexpected message {other:?}"),
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
            let kept = match &self.balancer {
                Some(balancer) => balancer.pass(stream),
                None => Some(stream),
            };
            let Some(stream) = kept else { continue };
            self.admit(stream, now, tick);
            if self.balancer.is_some() {
                self.assignment.seat.take();
            }
            let limit = self.assignment.config.connection.max_connections;
            if limit.is_some_and(|limit| self.accepted >= limit.get()) {
                return self.recycle(now);
            }
        }
    }

    pub(super) fn admit(&mut self, stream: TcpStream, now: Instant, tick: Tick) {
        self.accepted += 1;
        let seat = self.assignment.seat;
        seat.set(Word::Accepted, self.accepted);
        // At once, for siblings that compare.
        seat.set(Word::Connections, self.connections.len() as u64 + 1);
        if let Err(error) = self.connections.insert(&self.registry, stream, tick) {
            warn!("cannot watch a new connection, closing it: {error}");
            let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            self.acceptor.exhausted(errno, now);
        }
    }

    /// Takes what siblings have passed on; it waits, like the queue, while descriptors are short.
    pub(super) fn take_passed(&mut self, now: Instant, tick: Tick) {
        for _ in 0..ACCEPTS_PER_TURN {
            if self.acceptor.retry_at().is_some() {
                return;
            }
            match self.balancer.as_mut().map(Balancer::take).transpose() {
                Ok(Some(Some((stream, seat)))) => {
                    self.admit(stream, now, tick);
                    seat.iter().for_each(Seat::take);
                }
                Ok(_) => return,
                Err(errno) => return self.acceptor.exhausted(errno, now),
            }
        }
    }

    /// Passes nothing on and takes nothing any more.
    pub(super) fn leave_exchange(&mut self) {
        if let Some(balancer) = self.balancer.take() {
            balancer.leave(&self.registry);
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

    pub(super) fn tell(&self, message: &Message) {
        // A controller that is gone needs no telling, and one that is stopping will not listen.
        let _ = self.assignment.channel.send(message, &[]);
    }

    fn publish(&self, now: Instant) {
        let seat = self.assignment.seat;
        seat.set(Word::Heartbeat, self.clock.uptime(now).as_millis() as u64);
        seat.set(Word::Connections, self.connections.len() as u64);
        seat.set(Word::Paused, self.acceptor.paused());
        seat.set(Word::Stage, self.stage() as u64);
    }

    fn stage(&self) -> Stage {
        match self.phase {
            Phase::Serving => Stage::Serving,
            Phase::Recycling(_) | Phase::Retiring(_) => Stage::Retiring,
            Phase::Draining(_) => Stage::Draining,
        }
    }
}

impl<S: Service> Handler for Server<'_, S> {
    type Stop = Stop;

    fn ready(&mut self, event: &Event) {
        match event.token() {
            SIGNALS => self.signals_ready = true,
            CHANNEL => self.channel_ready = true,
            INBOX => self.balancer.iter_mut().for_each(Balancer::mark),
            token if token.0 >= FIRST_LISTENER => self.acceptor.mark(token),
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
        self.close_overdue(now);
        self.accept(now, tick);
        self.take_passed(now, tick);
        let open = self.connections.len();
        self.connections.work(tick);
        if self.connections.len() < open {
            self.connections_ended();
        }
        self.publish(now);
        let stop = self.stop(now);
        if self.housekeeping <= now || stop.is_some() {
            self.housekeeping = now + HEARTBEAT;
            self.connections.tidy();
            self.assignment.seat.add(Word::LogDropped, logging::report_dropped());
        }
        self.assignment.seat.turned(now.elapsed());
        stop.map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }

    fn busy_poll(&self) -> Duration {
        self.assignment.config.fleet.busy_poll.unwrap_or_default()
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let passed = self.acceptor.retry_at().is_none()
            && self.balancer.as_ref().is_some_and(Balancer::has_work);
        if passed || self.connections.has_work() || self.acceptor.has_work() {
            return Some(now);
        }
        let timer = self.connections.next_timer().map(|tick| self.clock.instant(tick));
        [timer, self.until(), self.acceptor.deadline()]
            .into_iter()
            .flatten()
            .chain([now + self.heartbeat])
            .min()
    }
}

fn access_log<'a>(assignment: &Assignment<'a>) -> Option<Box<dyn Recorder + 'a>> {
    let log = AccessLog::open(&assignment.config.log, assignment.slot, assignment.seat)?;
    Some(Box::new(log))
}

/// Whether a failed receive has used up its message: the next one may be fine.
fn is_about_message(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOBUFS | Errno::EPROTO))
}
