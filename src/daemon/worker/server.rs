//! The event loop of a worker: signals, messages, accepting, connections, housekeeping.

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
use super::handoff::{Balancer, HandedOff};
use super::phase::{Phase, Stop};
use super::tables::Tables;
use crate::daemon::assignment::{Assignment, HandoffQueues};
use crate::daemon::ids::{QueueId, SlotId};
use crate::daemon::protocol::{FromWorker, ToWorker};
use crate::daemon::stats::{Field, StatsBlock};
use crate::event_loop::Handler;
use crate::event_loop::timers::{Clock, Tick};
use crate::logging;
use crate::sys::channel::{Channel, Received};
use crate::sys::signals::SignalStream;
use crate::sys::sockets::address_of;

/// Tokens that are not a connection's: their generation is reserved.
const OWN: usize = (u32::MAX as usize) << 32;
const SIGNALS: Token = Token(OWN);
const CHANNEL: Token = Token(OWN + 1);
const HANDOFF: Token = Token(OWN + 2);
const FIRST_LISTENER: usize = OWN + 3;

/// Connections accepted in a loop iteration, so that a burst does not starve open connections.
const ACCEPTS_PER_ITERATION: usize = 64;

/// Longest time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Time that connections have after the controller has died.
const ORPHAN_DEADLINE: Duration = Duration::from_secs(1);

/// State of a worker.
#[derive(Debug)]
pub(super) struct Server<'a> {
    pub(super) assignment: &'a Assignment<'a>,
    pub(super) registry: Registry,
    signals: SignalStream,
    pub(super) acceptor: Acceptor<'a>,
    pub(super) connections: Tables<'a>,
    pub(super) balancer: Balancer<'a>,
    pub(super) clock: Clock,
    pub(super) phase: Phase,
    pub(super) accepted: u64,
    heartbeat: Duration,
    housekeeping: Instant,
    signals_ready: bool,
    channel_ready: bool,
}

impl<'a> Server<'a> {
    /// Creates the state, and registers signals, channel, and listeners with `poll`.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn new(
        poll: &Poll,
        assignment: &'a Assignment<'a>,
        listeners: Vec<(QueueId, OwnedFd)>,
        mut signals: SignalStream,
    ) -> io::Result<Self> {
        let registry = poll.registry().try_clone()?;
        registry.register(signals.source(), SIGNALS, Interest::READABLE)?;
        let channel = assignment.channel.as_raw_fd();
        registry.register(&mut SourceFd(&channel), CHANNEL, Interest::READABLE)?;
        let mut acceptor = Acceptor::new(FIRST_LISTENER, assignment.block);
        let connections = Tables::new(assignment);
        for (queue, socket) in listeners {
            let table = connections.number_for(address_of(&socket)?);
            acceptor.add(queue, socket, table, &registry)?;
        }
        let now = Instant::now();
        // At least three heartbeats within the worker timeout.
        let worker_timeout = assignment.config.fleet.worker_timeout;
        let heartbeat = worker_timeout.map_or(HEARTBEAT, |limit| HEARTBEAT.min(limit / 3));
        Ok(Self {
            acceptor,
            connections,
            balancer: Balancer::new(
                assignment.siblings,
                assignment.slot,
                assignment.block,
                HANDOFF,
            ),
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

    /// Begins to hand connections off, and to receive them.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn join(&mut self, queues: HandoffQueues) -> io::Result<()> {
        self.balancer.join(queues, &self.registry)
    }

    fn on_signals(&mut self, now: Instant) {
        for signal in self.signals.pending() {
            match signal {
                // It may come from the controller and with the whole process group.
                Signal::SIGTERM => {
                    self.drain(now, now + self.assignment.config.fleet.graceful_timeout);
                }
                other => debug!(signal = %other, "signal ignored"),
            }
        }
    }

    fn on_channel(&mut self, now: Instant) {
        loop {
            match self.assignment.channel.receive() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(message, sockets)) => self.on_message(message, sockets, now),
                // The message is unknown, or there was no room for its descriptors.
                Err(error) if is_about_message(&error) => warn!(%error, "message ignored"),
                Ok(Received::Closed) | Err(_) => {
                    let channel = self.assignment.channel.as_raw_fd();
                    let _ = self.registry.deregister(&mut SourceFd(&channel));
                    warn!("controller exited");
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
                // A worker that keeps its connections needs no sender.
                let sender = sockets.into_iter().next().filter(|_| self.balancer.hands_off());
                sender.into_iter().for_each(|sender| self.balancer.set_sender(slot, sender));
            }
            ToWorker::Grant { queues, slot } => {
                let (acceptor, registry) = (&mut self.acceptor, &self.registry);
                let connections = &self.connections;
                let add = |queue, socket| {
                    let table = connections.number_for(address_of(&socket)?);
                    acceptor.add(queue, socket, table, registry)
                };
                let attended = attend_granted(&queues, sockets, slot, add);
                self.answer_grant(&queues, attended, now);
            }
            ToWorker::GrantHandoff { queue, slot } => {
                let (balancer, registry) = (&mut self.balancer, &self.registry);
                let attend =
                    |queue, socket| balancer.attend(queue, Channel::from(socket), registry);
                let attended = attend_granted(&[queue], sockets, slot, attend);
                self.answer_grant(&[queue], attended, now);
            }
            ToWorker::Release { queues } => self.release(&queues, now),
        }
    }

    /// Reports which of the granted queues are attended: the first `count`.
    fn answer_grant(&mut self, queues: &[QueueId], count: usize, now: Instant) {
        let (attended, refused) = queues.split_at(count);
        if !attended.is_empty() {
            self.report(&FromWorker::Attending { queues: attended.to_vec() });
        }
        if !refused.is_empty() {
            self.report(&FromWorker::Refused { queues: refused.to_vec() });
        }
        // A worker that drains serves what waits in the queue, and does not stay for it.
        if matches!(self.phase, Phase::Draining { .. }) {
            self.release(attended, now);
        }
    }

    fn accept(&mut self, now: Instant, tick: Tick) {
        for _ in 0..ACCEPTS_PER_ITERATION {
            if !self.acceptor.has_work() && self.acceptor.retry_at().is_none() {
                return;
            }
            if self.is_full() {
                return self.acceptor.pause_when_full(now);
            }
            let Some((stream, table)) = self.acceptor.accept(now) else { return };
            if self.balancer.hands_off() {
                let Some(stream) = self.balancer.hand_off(stream) else { continue };
                self.admit(stream, table, Some(self.assignment.block), now, tick);
            } else {
                self.admit(stream, table, None, now, tick);
            }
            let limit = self.assignment.config.limits.max_connections;
            if limit.is_some_and(|limit| self.accepted >= limit.get()) {
                return self.recycle(now);
            }
        }
    }

    /// Adds a connection to its table, and commits its handoff if it was reserved with a worker.
    pub(super) fn admit(
        &mut self,
        stream: TcpStream,
        table: usize,
        reserved_with: Option<StatsBlock<'_>>,
        now: Instant,
        tick: Tick,
    ) {
        self.accepted += 1;
        let block = self.assignment.block;
        block.set(Field::Accepted, self.accepted);
        // Side by side and in this order: siblings compare loads at any time (`StatsBlock::load`).
        reserved_with.iter().for_each(StatsBlock::commit_handoff);
        block.set_connections(self.connections.len() as u64 + 1);
        if let Err(error) = self.connections.insert(table, &self.registry, stream, tick) {
            block.set_connections(self.connections.len() as u64);
            warn!(%error, "connection closed: cannot register it");
            let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            self.acceptor.exhausted(errno, now);
        }
    }

    /// Receives connections that siblings have handed off, unless there are no descriptors.
    pub(super) fn receive_handoffs(&mut self, now: Instant, tick: Tick) {
        for _ in 0..ACCEPTS_PER_ITERATION {
            if self.acceptor.retry_at().is_some() {
                return;
            }
            match self.balancer.receive() {
                Ok(Some(HandedOff { stream, reserved_with })) => {
                    // A client that has left already does no harm in any table.
                    let table = stream.local_addr().map_or(0, |it| self.connections.number_for(it));
                    self.admit(stream, table, reserved_with, now, tick);
                }
                Ok(None) => return,
                Err(errno) => return self.acceptor.exhausted(errno, now),
            }
        }
    }

    fn is_full(&self) -> bool {
        let limit = self.assignment.config.limits.max_concurrent_connections;
        limit.is_some_and(|limit| self.connections.len() >= limit.get() as usize)
    }

    /// Resumes accepting after connections have ended. At the limit, a tenth must be free, so that a
    /// worker does not pause and resume all the time.
    fn connections_ended(&mut self) {
        self.acceptor.resume_early();
        let limit = self.assignment.config.limits.max_concurrent_connections;
        let enough = limit.map_or(usize::MAX, |limit| {
            let limit = limit.get() as usize;
            limit - (limit / 10).max(1)
        });
        if self.connections.len() <= enough {
            self.acceptor.resume_when_full();
        }
    }

    /// Sends a message to the controller.
    pub(super) fn report(&self, message: &FromWorker) {
        // It fails only if the controller has died or does not read: both end the worker.
        let _ = self.assignment.channel.send(message, &[]);
    }

    fn publish(&self, now: Instant) {
        let block = self.assignment.block;
        block.set(Field::Heartbeat, self.clock.uptime_ms(now));
        block.set_connections(self.connections.len() as u64);
        block.set(Field::Paused, self.acceptor.paused());
        block.set(Field::Stage, self.phase.stage() as u64);
    }
}

#[cfg(test)]
impl Server<'_> {
    /// Notes that a message may wait in the channel.
    pub(super) fn channel_event(&mut self) {
        self.channel_ready = true;
    }
}

impl Handler for Server<'_> {
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
        self.receive_handoffs(now, tick);
        let open = self.connections.len();
        self.connections.work(tick);
        if self.connections.len() < open {
            self.connections_ended();
        }
        self.publish(now);
        let stop = self.stop(now);
        if self.housekeeping <= now || stop.is_some() {
            self.housekeeping = now + HEARTBEAT;
            self.connections.housekeeping();
            self.assignment.block.add(Field::LogDropped, logging::report_dropped());
        }
        self.assignment.block.count_iteration(now.elapsed());
        stop.map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }

    fn busy_poll(&self) -> Duration {
        self.assignment.config.fleet.busy_poll.unwrap_or_default()
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let handoffs = self.acceptor.retry_at().is_none() && self.balancer.has_work();
        if handoffs || self.connections.has_work() || self.acceptor.has_work() {
            return Some(now);
        }
        let timer = self.connections.next_timer().map(|tick| self.clock.instant(tick));
        [timer, self.phase.deadline(), self.acceptor.retry_at()]
            .into_iter()
            .flatten()
            .chain([now + self.heartbeat])
            .min()
    }
}

/// Attends the granted queues that have sockets, in this order, and returns their number.
fn attend_granted(
    queues: &[QueueId],
    sockets: Vec<OwnedFd>,
    slot: SlotId,
    mut add: impl FnMut(QueueId, OwnedFd) -> io::Result<()>,
) -> usize {
    let mut attended = 0;
    for (queue, socket) in queues.iter().zip(sockets) {
        if let Err(error) = add(*queue, socket) {
            warn!(from_slot = slot.0, %error, "accept queue takeover failed");
            break;
        }
        attended += 1;
    }
    if attended == 0 {
        warn!(from_slot = slot.0, error = "too many open files", "accept queue takeover failed");
    } else {
        info!(from_slot = slot.0, "taking over accept queue");
    }
    attended
}

/// Returns `true` if a failed receive has consumed its message, so that the next one may succeed.
fn is_about_message(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOBUFS | Errno::EPROTO))
}
