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
use crate::ids::QueueId;
use crate::logging;
use crate::process::channel::{Channel, Received};
use crate::process::signals::SignalStream;
use crate::protocol::{FromWorker, ToWorker};
use crate::service::Service;
use crate::stats::{Seat, Stage, Word};

/// Tokens of the worker itself: a generation that no connection ever has.
const OWN: usize = (u32::MAX as usize) << 32;
const SIGNALS: Token = Token(OWN);
const CHANNEL: Token = Token(OWN + 1);
const HANDOFF: Token = Token(OWN + 2);
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
    pub(super) balancer: Balancer<'a>,
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
        listeners: Vec<(QueueId, OwnedFd)>,
        mut signals: SignalStream,
        service: S,
    ) -> io::Result<Self> {
        let registry = poll.registry().try_clone()?;
        registry.register(signals.source(), SIGNALS, Interest::READABLE)?;
        let channel = assignment.channel.as_raw_fd();
        registry.register(&mut SourceFd(&channel), CHANNEL, Interest::READABLE)?;
        let mut acceptor = Acceptor::new(FIRST_LISTENER, assignment.seat);
        for (queue, socket) in listeners {
            acceptor.add(queue, socket, &registry)?;
        }
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
            balancer: Balancer::new(assignment.siblings, assignment.slot, assignment.seat, HANDOFF),
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
    pub(super) fn join(&mut self, exchange: Exchange) -> io::Result<()> {
        self.balancer.join(exchange, &self.registry)
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

    fn on_message(&mut self, message: ToWorker, sockets: Vec<OwnedFd>, now: Instant) {
        let millis = Duration::from_millis;
        match message {
            ToWorker::Retire { drain_ms, spread_ms, .. } => {
                self.retire(now, now + millis(drain_ms), millis(spread_ms));
            }
            ToWorker::Sibling { slot } => {
                // One that keeps its connections needs no way to others.
                let outbox = sockets.into_iter().next().filter(|_| self.balancer.hands_off());
                outbox.into_iter().for_each(|outbox| self.balancer.add(slot, outbox));
            }
            ToWorker::Grant { queues, slot } => {
                let (acceptor, registry) = (&mut self.acceptor, &self.registry);
                let add = |queue, socket| acceptor.add(queue, socket, registry);
                let taken = take_over(&queues, sockets, slot, add);
                self.answer_grant(&queues, taken, now);
            }
            ToWorker::GrantHandoff { queue, slot } => {
                let (balancer, registry) = (&mut self.balancer, &self.registry);
                let attend =
                    |queue, socket| balancer.attend(queue, Channel::from(socket), registry);
                let taken = take_over(&[queue], sockets, slot, attend);
                self.answer_grant(&[queue], taken, now);
            }
            ToWorker::Release { queues } => self.release(queues, now),
        }
    }

    /// Says which of the queues that were granted are attended now: the first `taken`.
    fn answer_grant(&mut self, queues: &[QueueId], taken: usize, now: Instant) {
        let (taken, refused) = queues.split_at(taken);
        if !taken.is_empty() {
            self.tell(&FromWorker::Attending { queues: taken.to_vec() });
        }
        if !refused.is_empty() {
            self.tell(&FromWorker::Refused { queues: refused.to_vec() });
        }
        // One that drains serves what waits there, and does not stay for it.
        if matches!(self.phase, Phase::Draining(_)) {
            self.release(taken.to_vec(), now);
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
            if self.balancer.hands_off() {
                let Some(stream) = self.balancer.pass(stream) else { continue };
                self.admit(stream, now, tick);
                self.assignment.seat.take();
            } else {
                self.admit(stream, now, tick);
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
            match self.balancer.take() {
                Ok(Some((stream, seat))) => {
                    self.admit(stream, now, tick);
                    seat.iter().for_each(Seat::take);
                }
                Ok(None) => return,
                Err(errno) => return self.acceptor.exhausted(errno, now),
            }
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

    pub(super) fn tell(&self, message: &FromWorker) {
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
            HANDOFF => self.balancer.mark(),
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
        let passed = self.acceptor.retry_at().is_none() && self.balancer.has_work();
        if passed || self.connections.has_work() || self.acceptor.has_work() {
            return Some(now);
        }
        let timer = self.connections.next_timer().map(|tick| self.clock.instant(tick));
        [timer, self.until(), self.acceptor.retry_at()]
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

/// Takes as many of the queues as have sockets, in this order; returns how many.
fn take_over(
    queues: &[QueueId],
    sockets: Vec<OwnedFd>,
    slot: u32,
    mut add: impl FnMut(QueueId, OwnedFd) -> io::Result<()>,
) -> usize {
    let mut taken = 0;
    for (queue, socket) in queues.iter().zip(sockets) {
        if let Err(error) = add(*queue, socket) {
            warn!(from_slot = slot, "cannot look after a queue: {error}");
            break;
        }
        taken += 1;
    }
    match taken {
        0 => warn!(from_slot = slot, "cannot look after a queue: too many open files"),
        _ => info!(from_slot = slot, "looking after a queue"),
    }
    taken
}

/// Whether a failed receive has used up its message: the next one may be fine.
fn is_about_message(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOBUFS | Errno::EPROTO))
}
