//! One connection of a table, with a scripted socket and a clock of its own.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::script::{Call, Socket, Wire};
use crate::config::{ConnectionConfig, IdleClose, Splice};
use crate::daemon::connections::record::{Record, Recorder};
use crate::daemon::connections::{Connections, token_of};
use crate::daemon::services::Service;
use crate::daemon::stats::{Field, Reason, Statistics, StatsBlock};
use crate::event_loop::timers::{Clock, Tick};

/// Ticks of 0.1 s until the timeouts of [`config`] have surely passed: a tick may have begun earlier.
pub(super) const IDLE: u32 = 101;
pub(super) const WRITE: u32 = 161;
pub(super) const LINGER: u32 = 21;
/// Ticks after which a draining worker takes a connection for quiet.
pub(super) const QUIET: u32 = 11;

/// Small buffers, and a different time for each timeout.
pub(super) fn config() -> ConnectionConfig {
    ConnectionConfig {
        buffer_size: 16,
        splice: Splice::Off,
        idle_timeout: Some(Duration::from_secs(10)),
        write_timeout: Some(Duration::from_secs(16)),
        linger_timeout: Duration::from_secs(2),
        idle_close: IdleClose::Fin,
        idle_message: None,
    }
}

/// Byte of the client's stream at `position`: none equals one that is a buffer or a pipe away.
fn pattern(position: usize) -> u8 {
    (position % 251) as u8 ^ (position / 251 % 241) as u8
}

type Endings = Rc<RefCell<Vec<(Record, Reason)>>>;

#[derive(Debug)]
struct Journal(Endings);

impl Recorder for Journal {
    fn record(&mut self, record: &Record, reason: Reason) {
        self.0.borrow_mut().push((record.clone(), reason));
    }
}

/// A table with one connection.
pub(super) struct World<'a, S: Service> {
    pub(super) connections: Connections<'a, S, Wire>,
    socket: Rc<RefCell<Socket>>,
    block: StatsBlock<'a>,
    endings: Endings,
    start: Instant,
    ticks: u32,
    /// Bytes received that no end has counted as abandoned: those of evicted connections.
    lost: u64,
}

impl<'a, S: Service> World<'a, S> {
    /// A world in which the kernel takes everything.
    pub(super) fn new(statistics: &'a Statistics, config: &ConnectionConfig, service: S) -> Self {
        let world = Self::without_room(statistics, config, service);
        world.socket().add_room(usize::MAX / 2);
        world
    }

    /// A world in which the kernel takes nothing.
    pub(super) fn without_room(
        statistics: &'a Statistics,
        config: &ConnectionConfig,
        service: S,
    ) -> Self {
        let block = statistics.block(crate::daemon::ids::BlockId(0));
        let counters =
            [Field::Received, Field::Injected, Field::Consumed, Field::Sent, Field::Abandoned];
        counters.into_iter().for_each(|field| block.set(field, 0));
        let endings = Endings::default();
        let journal = Box::new(Journal(Rc::clone(&endings)));
        let connections = Connections::over(0, config, service, block, Some(journal));
        let (socket, start) = (Rc::default(), Instant::now());
        let mut world = Self { connections, socket, block, endings, start, ticks: 0, lost: 0 };
        world.socket = world.accept();
        world
    }

    /// Accepts one more connection.
    pub(super) fn accept(&mut self) -> Rc<RefCell<Socket>> {
        let socket = Rc::<RefCell<Socket>>::default();
        socket.borrow_mut().wants_room = true;
        let record = Record { peer: None, local: None, since: self.start, received: 0, sent: 0 };
        let (wire, now) = (Wire(Rc::clone(&socket)), self.now());
        self.connections.add(wire, Some(Box::new(record)), now, |_, _| Ok(())).expect("accepted");
        socket
    }

    /// The socket of the first connection.
    pub(super) fn socket(&self) -> RefMut<'_, Socket> {
        self.socket.borrow_mut()
    }

    pub(super) fn now(&self) -> Tick {
        let time = self.start + Duration::from_millis(100) * self.ticks;
        Clock::start(self.start).tick(time)
    }

    /// The client sends the next `count` bytes of its stream, and the connection works.
    pub(super) fn send(&mut self, count: usize) {
        self.send_quietly(count);
        self.run();
    }

    /// The client sends the next `count` bytes of its stream.
    pub(super) fn send_quietly(&mut self, count: usize) {
        let position = self.socket().input().len();
        let bytes: Vec<u8> = (position..position + count).map(pattern).collect();
        self.socket().client_sends(&bytes);
    }

    /// The client sends the next byte of its stream as urgent data.
    pub(super) fn send_urgent(&mut self) {
        let position = self.socket().input().len();
        self.socket().client_sends_urgent(pattern(position));
    }

    /// One loop iteration.
    pub(super) fn iterate(&mut self) {
        let event = self.socket().take_event();
        if let Some(readiness) = event {
            self.connections.mark_ready(token_of(0, 1), readiness);
        }
        self.connections.work(self.now());
    }

    /// Loop iterations until nothing is left to be done.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            self.iterate();
            if !self.connections.has_work() && !self.socket().has_event() {
                return self.assert_balanced();
            }
        }
        let calls = self.take_calls();
        panic!("the loop spins: {:?}", &calls[calls.len().saturating_sub(9)..]);
    }

    /// Lets time pass tick by tick.
    pub(super) fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.ticks += 1;
            self.run();
        }
    }

    /// Lets time pass at once, as if the process had been stopped.
    pub(super) fn skip(&mut self, ticks: u32) {
        self.ticks += ticks;
        self.run();
    }

    /// Evicts the idlest connection.
    pub(super) fn evict(&mut self) {
        let buffered = self.count(Field::Buffered);
        self.connections.evict_idlest(self.now());
        self.lost += buffered - self.count(Field::Buffered);
    }

    pub(super) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.socket().calls)
    }

    pub(super) fn count(&self, field: Field) -> u64 {
        self.block.get(field)
    }

    pub(super) fn endings(&self) -> Vec<Reason> {
        self.endings.borrow().iter().map(|(_, reason)| *reason).collect()
    }

    /// Asserts that everything the client has sent came back.
    #[track_caller]
    pub(super) fn assert_echoed(&self) {
        let socket = self.socket();
        assert!(socket.sent == socket.input(), "{} of {}", socket.sent.len(), socket.input().len());
    }

    /// Asserts that the answers are what the client has sent, in order and without a gap.
    #[track_caller]
    pub(super) fn assert_in_order(&self) {
        let socket = self.socket();
        assert!(socket.input().starts_with(&socket.sent), "wrong bytes");
    }

    /// Asserts that the connection is open.
    #[track_caller]
    pub(super) fn assert_open(&self) {
        assert_eq!(self.endings(), []);
    }

    /// Asserts that every received byte is sent, pending, or counted as abandoned, and that the answers
    /// are what was received, in order.
    #[track_caller]
    pub(super) fn assert_balanced(&self) {
        let [received, injected] = [Field::Received, Field::Injected].map(|it| self.count(it));
        let gone = [Field::Consumed, Field::Sent, Field::Buffered, Field::Abandoned];
        let gone = gone.map(|it| self.count(it));
        let owed = received + injected - self.lost;
        assert_eq!(owed, gone.iter().sum::<u64>(), "consumed, sent, pending, abandoned: {gone:?}");
        let endings = self.endings.borrow();
        let recorded = endings.iter().map(|(record, _)| record.sent).sum::<u64>();
        if self.connections.is_empty() {
            assert_eq!(recorded, self.count(Field::Sent));
            assert_eq!(self.count(Field::Buffered), 0);
        }
    }

    /// Asserts that the connection was closed for `reason`.
    #[track_caller]
    pub(super) fn assert_closed(&self, reason: Reason) {
        assert_eq!(self.endings(), [reason]);
        assert!(self.socket().closed);
        self.assert_balanced();
    }
}

impl<S: Service> Drop for World<'_, S> {
    fn drop(&mut self) {
        // Statistics may serve several worlds, one after the other.
        if !std::thread::panicking() {
            self.connections.reset_all(self.now());
        }
    }
}
