//! The admin process at work: signals, the channel, accepting, connections.

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
use crate::assignment::AdminAssignment;
use crate::config::{ConnectionConfig, IdleClose, Splice};
use crate::connections::Connections;
use crate::event_loop::Handler;
use crate::event_loop::timers::{Clock, Tick};
use crate::logging;
use crate::process::channel::Received;
use crate::process::front::Place;
use crate::process::signals::SignalStream;
use crate::protocol::ToAdmin;
use crate::stats::{Stage, Word};

/// Tokens of the process itself: a generation that no connection ever has.
const OWN: usize = (u32::MAX as usize) << 32;
const SIGNALS: Token = Token(OWN);
const CHANNEL: Token = Token(OWN + 1);
const LISTENER: Token = Token(OWN + 2);

/// Connections open at once. When a further one comes, the one that was quiet for the longest time
/// ends: nobody can keep others out by holding on to what he has.
const MOST_CONNECTIONS: usize = 256;

/// Connections accepted a turn.
const ACCEPTS_PER_TURN: usize = 32;

/// How often the heartbeat is stamped at least.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long the answers under way may take when the daemon is about to end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How a connection is treated: a request has to be whole five seconds after the last answer.
fn patience() -> ConnectionConfig {
    ConnectionConfig {
        buffer_size: 16 * 1024,
        splice: Splice::Off,
        idle_timeout: Some(Duration::from_secs(5)),
        write_timeout: Some(Duration::from_secs(5)),
        linger_timeout: Duration::from_secs(1),
        idle_close: IdleClose::Fin,
        idle_message: None,
        max_connections: None,
        max_concurrent_connections: None,
    }
}

/// Everything the admin process has.
#[derive(Debug)]
pub(super) struct Server<'a> {
    assignment: &'a AdminAssignment<'a>,
    registry: Registry,
    signals: SignalStream,
    /// `None` once others accept.
    listener: Option<Listener>,
    connections: Connections<'a, Http<'a, Shared<'a>>>,
    clock: Clock,
    /// When to end at the latest, if it is to end.
    until: Option<Instant>,
    heartbeat: Duration,
    housekeeping: Instant,
    accepted: u64,
    signals_ready: bool,
    channel_ready: bool,
}

impl<'a> Server<'a> {
    /// Registers everything with `poll`.
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
        let (clock, seat) = (Clock::start(now), assignment.seat);
        let hosts = match assignment.front.place {
            Place::Tcp(_) => Hosts::Only(assignment.hosts),
            Place::Unix(..) => Hosts::Any,
        };
        let service = Http::new(Shared { layout: assignment.layout, seat, clock }, hosts);
        Ok(Self {
            listener: Some(Listener::new(&assignment.front, &registry, LISTENER)?),
            connections: Connections::new(&patience(), service, seat, None),
            assignment,
            registry,
            signals,
            clock,
            until: None,
            // Three beats within the controller's patience, however short that is.
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
                // A successor accepts already.
                Ok(Received::Message(ToAdmin::Retire { drain_ms, .. }, _)) => {
                    self.end(now, Duration::from_millis(drain_ms));
                }
                Ok(Received::Closed) | Err(_) => {
                    let channel = self.assignment.channel.as_raw_fd();
                    let _ = self.registry.deregister(&mut SourceFd(&channel));
                    debug!("the controller is gone");
                    return self.end(now, LAST_WORDS);
                }
            }
        }
    }

    /// Accepts no more, and lets answers that are under way end.
    fn end(&mut self, now: Instant, limit: Duration) {
        let at = now + limit;
        self.until = Some(self.until.map_or(at, |until| until.min(at)));
        if let Some(listener) = self.listener.take() {
            listener.close(&self.registry);
            self.connections.service().close();
            self.connections.drain(self.clock.tick(now), None);
        }
    }

    fn accept(&mut self, now: Instant, tick: Tick) {
        let seat = self.assignment.seat;
        for _ in 0..ACCEPTS_PER_TURN {
            let accepted = self.listener.as_mut().and_then(|listener| listener.accept(now, seat));
            let Some(stream) = accepted else { return };
            self.accepted += 1;
            seat.set(Word::Accepted, self.accepted);
            if self.connections.len() >= MOST_CONNECTIONS {
                self.connections.close_stalest(tick);
            }
            if let Err(error) = self.connections.insert(&self.registry, stream, tick) {
                debug!("cannot watch a new connection, closing it: {error}");
            }
        }
    }

    fn publish(&self, now: Instant) {
        let seat = self.assignment.seat;
        seat.set(Word::Heartbeat, self.clock.uptime(now).as_millis() as u64);
        seat.set(Word::Connections, self.connections.len() as u64);
        let stage = if self.listener.is_some() { Stage::Serving } else { Stage::Retiring };
        seat.set(Word::Stage, stage as u64);
    }
}

impl Handler for Server<'_> {
    type Stop = ();

    fn ready(&mut self, event: &Event) {
        match event.token() {
            SIGNALS => self.signals_ready = true,
            CHANNEL => self.channel_ready = true,
            LISTENER => self.listener.iter_mut().for_each(Listener::mark),
            _ => self.connections.mark(event),
        }
    }

    fn tick(&mut self, now: Instant) -> ControlFlow<()> {
        let tick = self.clock.tick(now);
        if std::mem::take(&mut self.signals_ready) && !self.signals.pending().is_empty() {
            self.end(now, LAST_WORDS);
        }
        if std::mem::take(&mut self.channel_ready) {
            self.on_channel(now);
        }
        self.accept(now, tick);
        self.connections.work(tick);
        self.publish(now);
        if self.housekeeping <= now {
            self.housekeeping = now + HEARTBEAT;
            self.assignment.seat.add(Word::LogDropped, logging::report_dropped());
        }
        match self.until {
            Some(until) if until <= now || self.connections.is_empty() => {
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
        [timer, self.until, listener.and_then(Listener::retry_at)]
            .into_iter()
            .flatten()
            .chain([now + self.heartbeat])
            .min()
    }
}
