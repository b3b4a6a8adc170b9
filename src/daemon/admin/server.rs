//! The event handler of the admin process: signals, channel, accepting, connections.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};
use tracing::debug;

use super::host::Hosts;
use super::http::{Http, Shared};
use super::listener::Listener;
use crate::config::{ConnectionConfig, IdleClose, Splice};
use crate::daemon::admin_socket::BoundAddress;
use crate::daemon::assignment::AdminAssignment;
use crate::daemon::connections::Connections;
use crate::daemon::protocol::ToAdmin;
use crate::daemon::stats::{Field, Stage};
use crate::event_loop::Handler;
use crate::event_loop::timers::{Clock, Tick};
use crate::logging;
use crate::sys::channel::Received;
use crate::sys::signals::SignalStream;

/// Tokens other than those of connections, which never have this generation.
const OWN: usize = (u32::MAX as usize) << 32;
const SIGNALS: Token = Token(OWN);
const CHANNEL: Token = Token(OWN + 1);
const LISTENER: Token = Token(OWN + 2);

/// Maximum number of open connections. A further one evicts the idlest connection, so that idle clients
/// cannot lock others out.
const MAX_CONNECTIONS: usize = 256;

/// Maximum number of connections accepted in an event loop iteration.
const ACCEPTS_PER_ITERATION: usize = 32;

/// Maximum time between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Drain timeout when the daemon stops or the controller dies.
const STOP_TIMEOUT: Duration = Duration::from_millis(200);

/// Returns the settings of connections. A request must be complete five seconds after the last response.
fn connection_config() -> ConnectionConfig {
    ConnectionConfig {
        buffer_size: 16 * 1024,
        splice: Splice::Off,
        idle_timeout: Some(Duration::from_secs(5)),
        write_timeout: Some(Duration::from_secs(5)),
        linger_timeout: Duration::from_secs(1),
        idle_close: IdleClose::Fin,
        idle_message: None,
    }
}

/// The state of the admin process.
#[derive(Debug)]
pub(super) struct Server<'a> {
    assignment: &'a AdminAssignment<'a>,
    registry: Registry,
    signals: SignalStream,
    /// `None` while draining.
    listener: Option<Listener>,
    connections: Connections<'a, Http<'a, Shared<'a>>>,
    clock: Clock,
    /// Drain deadline.
    drain_deadline: Option<Instant>,
    heartbeat: Duration,
    housekeeping: Instant,
    accepted: u64,
    signals_ready: bool,
    channel_ready: bool,
}

impl<'a> Server<'a> {
    /// Registers signals, channel, and listener with `poll`.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn new(
        poll: &Poll,
        assignment: &'a AdminAssignment<'a>,
        mut signals: SignalStream,
    ) -> io::Result<Self> {
        let registry = poll.registry().try_clone()?;
        registry.register(signals.source(), SIGNALS, Interest::READABLE)?;
        let channel = assignment.channel.as_raw_fd();
        registry.register(&mut SourceFd(&channel), CHANNEL, Interest::READABLE)?;
        let now = Instant::now();
        let (clock, block) = (Clock::start(now), assignment.block);
        let hosts = match assignment.admin_socket.address {
            BoundAddress::Tcp(_) => Hosts::Only(assignment.hosts),
            BoundAddress::Unix(..) => Hosts::Any,
        };
        let service = Http::new(Shared { layout: assignment.layout, block, clock }, hosts);
        Ok(Self {
            listener: Some(Listener::new(&assignment.admin_socket, &registry, LISTENER)?),
            connections: Connections::new(0, &connection_config(), service, block, None),
            assignment,
            registry,
            signals,
            clock,
            drain_deadline: None,
            // At least three heartbeats within the worker timeout.
            heartbeat: assignment.worker_timeout.map_or(HEARTBEAT, |it| HEARTBEAT.min(it / 3)),
            housekeeping: now + HEARTBEAT,
            accepted: 0,
            signals_ready: false,
            channel_ready: false,
        })
    }

    fn on_channel(&mut self, now: Instant) {
        loop {
            match self.assignment.channel.receive() {
                Ok(Received::Nothing) => return,
                // A successor is accepting.
                Ok(Received::Message(ToAdmin::Retire { drain_ms, .. }, _)) => {
                    self.drain(now, Duration::from_millis(drain_ms));
                }
                Ok(Received::Closed) | Err(_) => {
                    let channel = self.assignment.channel.as_raw_fd();
                    let _ = self.registry.deregister(&mut SourceFd(&channel));
                    debug!("controller died");
                    return self.drain(now, STOP_TIMEOUT);
                }
            }
        }
    }

    /// Stops accepting and drains connections for at most `timeout`.
    fn drain(&mut self, now: Instant, timeout: Duration) {
        let at = now + timeout;
        self.drain_deadline = Some(self.drain_deadline.map_or(at, |deadline| deadline.min(at)));
        if let Some(listener) = self.listener.take() {
            listener.close(&self.registry);
            self.connections.service().close();
            self.connections.drain(self.clock.tick(now), None);
        }
    }

    fn accept(&mut self, now: Instant, tick: Tick) {
        let block = self.assignment.block;
        for _ in 0..ACCEPTS_PER_ITERATION {
            let accepted = self.listener.as_mut().and_then(|listener| listener.accept(now, block));
            let Some(stream) = accepted else { return };
            self.accepted += 1;
            block.set(Field::Accepted, self.accepted);
            if self.connections.len() >= MAX_CONNECTIONS {
                self.connections.evict_idlest(tick);
            }
            if let Err(error) = self.connections.insert(&self.registry, stream, tick) {
                debug!(%error, "cannot register connection");
            }
        }
    }

    fn publish(&self, now: Instant) {
        let block = self.assignment.block;
        block.set(Field::Heartbeat, self.clock.uptime_ms(now));
        block.set(Field::Connections, self.connections.len() as u64);
        let stage = if self.listener.is_some() { Stage::Serving } else { Stage::Retiring };
        block.set(Field::Stage, stage as u64);
    }
}

impl Handler for Server<'_> {
    type Stop = ();

    fn ready(&mut self, event: &Event) {
        match event.token() {
            SIGNALS => self.signals_ready = true,
            CHANNEL => self.channel_ready = true,
            LISTENER => self.listener.iter_mut().for_each(Listener::mark_ready),
            _ => self.connections.mark(event),
        }
    }

    fn tick(&mut self, now: Instant) -> ControlFlow<()> {
        let tick = self.clock.tick(now);
        if std::mem::take(&mut self.signals_ready) && !self.signals.pending().is_empty() {
            self.drain(now, STOP_TIMEOUT);
        }
        if std::mem::take(&mut self.channel_ready) {
            self.on_channel(now);
        }
        self.accept(now, tick);
        self.connections.work(tick);
        self.publish(now);
        if self.housekeeping <= now {
            self.housekeeping = now + HEARTBEAT;
            self.assignment.block.add(Field::LogDropped, logging::report_dropped());
        }
        match self.drain_deadline {
            Some(deadline) if deadline <= now || self.connections.is_empty() => {
                self.connections.reset_all(tick);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let listener = self.listener.as_ref();
        if self.connections.has_work() || listener.is_some_and(Listener::is_ready) {
            return Some(now);
        }
        let timer = self.connections.next_timer().map(|tick| self.clock.instant(tick));
        [timer, self.drain_deadline, listener.and_then(Listener::retry_at)]
            .into_iter()
            .flatten()
            .chain([now + self.heartbeat])
            .min()
    }
}
