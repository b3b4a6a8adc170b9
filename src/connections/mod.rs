//! The connections of a process, served by a [`Service`]: a table of them, their timers, and the queue
//! of those that have work. Workers echo with it; the admin process answers HTTP with it.
//!
//! Events only mark a connection and put it into the queue; [`Connections::work`] gives each one in
//! the queue a turn. So a turn of the loop is bounded by what is open, however fast anybody sends.

mod buffers;
mod bulk;
mod burst;
mod connection;
mod patience;
mod pipes;
pub mod record;
mod remainder;
mod send;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use slab::Slab;
use tracing::debug;

use self::buffers::Buffers;
use self::burst::Burst;
use self::connection::{Connection, Next, Turn};
use self::patience::{Overdue, Patience};
use self::pipes::Pipes;
use self::record::{Record, Recorder};
use crate::config::{ConnectionConfig, IdleClose, Splice};
use crate::event_loop::timers::{Tick, TimerRing};
use crate::process::memory;
use crate::service::Service;
use crate::stats::{Reason, Seat, Word};

/// The lower half of a token is the table's key, the upper half the generation, so that an event for
/// a closed connection is never taken for one of its successor.
const KEY_BITS: u32 = 32;

/// A list that grew larger than this in a burst gives its memory back afterwards.
const KEPT_CAPACITY: usize = 1024;

/// What a connection's turn works with: everything but the table, which it is borrowed from.
macro_rules! turn {
    ($self:ident, $now:expr) => {
        Turn {
            service: &mut $self.service,
            buffer: &mut $self.buffer,
            pools: &mut $self.pools,
            seat: $self.seat,
            now: $now,
        }
    };
}

/// Where connections keep what they cannot send yet.
#[derive(Debug)]
struct Pools {
    buffers: Buffers,
    pipes: Pipes,
}

impl Pools {
    fn new(splice: bool, buffer_size: usize) -> Self {
        Self { buffers: Buffers::default(), pipes: Pipes::new(splice, buffer_size) }
    }
}

/// All connections of a process, served by `S`.
#[derive(Debug)]
pub struct Connections<'a, S: Service> {
    table: Slab<Connection<S::Session>>,
    generation: u32,
    queue: VecDeque<Token>,
    /// By the key alone, which is half as long as the token.
    timers: TimerRing<u32>,
    due: Vec<(Tick, u32)>,
    service: S,
    buffer: Box<[u8]>,
    pools: Pools,
    burst: Burst,
    patience: Patience,
    draining: bool,
    idle_close: IdleClose,
    idle_message: Box<[u8]>,
    seat: Seat<'a>,
    recorder: Option<Box<dyn Recorder + 'a>>,
}

impl<'a, S: Service> Connections<'a, S> {
    /// An empty table. What happens is counted at `seat`; every end is told to `recorder`.
    pub fn new(
        config: &ConnectionConfig,
        service: S,
        seat: Seat<'a>,
        recorder: Option<Box<dyn Recorder + 'a>>,
    ) -> Self {
        Self {
            table: Slab::new(),
            generation: 0,
            queue: VecDeque::new(),
            timers: TimerRing::new(),
            due: Vec::new(),
            service,
            buffer: vec![0; config.buffer_size].into(),
            pools: Pools::new(config.splice == Splice::Auto, config.buffer_size),
            burst: Burst::default(),
            patience: Patience::new(config),
            draining: false,
            idle_close: config.idle_close,
            idle_message: config.idle_message.as_deref().unwrap_or("").as_bytes().into(),
            seat,
            recorder,
        }
    }

    /// What answers.
    pub fn service(&mut self) -> &mut S {
        &mut self.service
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Takes a connection in.
    ///
    /// # Errors
    /// Those of epoll_ctl(2): no memory, or too many watches. The connection is closed then.
    pub fn insert(&mut self, registry: &Registry, stream: TcpStream, now: Tick) -> io::Result<()> {
        // The highest generation is left to the tokens of the worker itself.
        self.generation = (self.generation + 1) % (u32::MAX - 1);
        let entry = self.table.vacant_entry();
        let token = Token(entry.key() | (self.generation as usize) << KEY_BITS);
        let record = self.recorder.as_ref().map(|_| Record::begin(&stream));
        let mut connection = Connection::new(stream.into(), self.generation, now, record);
        // Priority: without it an urgent byte would look like the end of what has arrived.
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        if let Err(error) =
            registry.register(&mut SourceFd(&connection.stream().as_raw_fd()), token, interest)
        {
            let record = connection.end(Reason::Error, now, self.seat, &mut self.pools);
            tell(&mut self.recorder, record, Reason::Error);
            return Err(error);
        }
        connection.armed = self.timers.arm(connection.deadline(&self.patience), key_of(token));
        entry.insert(connection);
        debug!(connection = token.0, "connection accepted");
        Ok(())
    }

    /// Notes an event.
    pub fn mark(&mut self, event: &Event) {
        let token = event.token();
        let Some(connection) = find(&mut self.table, token) else { return };
        connection.mark(event);
        enqueue(&mut self.queue, connection, token);
    }

    /// Gives every connection in the queue a turn, then fires the timers.
    pub fn work(&mut self, now: Tick) {
        // Those that want another turn get it after the next look at what else has happened.
        for _ in 0..self.queue.len() {
            let Some(token) = self.queue.pop_front() else { return };
            let Some(connection) = find(&mut self.table, token) else { continue };
            connection.queued = false;
            let mut turn = turn!(self, now);
            match connection.drive(&mut turn) {
                Next::Wait => {}
                Next::Again => enqueue(&mut self.queue, connection, token),
                Next::Close(reason) => {
                    self.close(token, reason, now);
                    continue;
                }
            }
            let look = connection.next_look(&self.patience, now);
            if look < connection.armed {
                connection.armed = self.timers.arm(look, key_of(token));
            }
        }
        self.fire_timers(now);
    }

    /// Whether somebody waits for a turn.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the next timer fires.
    pub fn next_timer(&self) -> Option<Tick> {
        self.timers.next()
    }

    /// Makes room: closes the connection on which nothing has moved for the longest time.
    pub fn close_stalest(&mut self, now: Tick) {
        let moved = |(_, connection): &(usize, &Connection<S::Session>)| connection.last_moved();
        if let Some((key, connection)) = self.table.iter().min_by_key(moved) {
            let token = Token(key | (connection.generation as usize) << KEY_BITS);
            self.close(token, Reason::Idle, now);
        }
    }

    /// From now on a connection ends as soon as nothing moves on it; within `spread`, if there is one.
    pub fn drain(&mut self, now: Tick, spread: Option<Duration>) {
        self.draining = true;
        self.idle_close = IdleClose::Fin;
        self.idle_message = Box::default();
        self.patience = match spread {
            Some(spread) => self.patience.while_retiring(now, spread),
            None => self.patience.while_stopping(),
        };
        for (key, connection) in &mut self.table {
            let token = Token(key | (connection.generation as usize) << KEY_BITS);
            let deadline = connection.deadline(&self.patience);
            if deadline < connection.armed {
                connection.armed = self.timers.arm(deadline, key_of(token));
            }
        }
    }

    /// Once a second: gives back to the system what a burst has left behind.
    pub fn tidy(&mut self) {
        self.pools.buffers.shrink();
        self.pools.pipes.shrink();
        let capacity = self.table.capacity();
        if self.table.len() < capacity / 4 {
            self.table.shrink_to_fit();
        }
        let waited = self.seat.get(Word::Buffered).max(self.pools.buffers.take_kept());
        if self.burst.ebbs(waited) || self.table.capacity() < capacity {
            self.queue.shrink_to(KEPT_CAPACITY);
            self.due.shrink_to(KEPT_CAPACITY);
            memory::trim();
        }
    }

    /// Closes all that are left; returns how many had to be reset.
    pub fn reset_all(&mut self, now: Tick) -> usize {
        let mut reset = 0;
        for mut connection in self.table.drain() {
            let reason = Reason::DrainDeadline;
            debug!(
                generation = connection.generation,
                reason = reason.label(),
                "connection closed"
            );
            reset += usize::from(connection.reset());
            let record = connection.end(reason, now, self.seat, &mut self.pools);
            tell(&mut self.recorder, record, reason);
        }
        reset
    }

    fn fire_timers(&mut self, now: Tick) {
        self.timers.advance(now, &mut self.due);
        while let Some((fired, key)) = self.due.pop() {
            // An entry that is not the last one armed has been overtaken by an earlier deadline, or is
            // a former connection's. (If that was armed for the same tick, the new one is looked at
            // twice, which does no harm.)
            match self.table.get(key as usize) {
                Some(connection) if connection.armed == fired => {
                    let token = Token(key as usize | (connection.generation as usize) << KEY_BITS);
                    self.check_deadline(token, now);
                }
                _ => {}
            }
        }
    }

    fn check_deadline(&mut self, token: Token, now: Tick) {
        let Some(connection) = find(&mut self.table, token) else { return };
        if connection.is_due(&self.patience, now) {
            // Before judging, a last look: what the client has sent or taken may not have reached us,
            // if we were stopped, or the batch of events was full.
            let mut turn = turn!(self, now);
            match connection.look_again(&mut turn) {
                Next::Wait => {}
                Next::Again => enqueue(&mut self.queue, connection, token),
                Next::Close(reason) => return self.close(token, reason, now),
            }
        }
        if connection.deadline(&self.patience) > now {
            let look = connection.next_look(&self.patience, now);
            connection.armed = self.timers.arm(look, key_of(token));
            return;
        }
        connection.armed = Tick::NEVER;
        match connection.overdue() {
            Overdue::Linger(reason) => self.close(token, reason, now),
            Overdue::Write => {
                connection.reset();
                self.close(token, Reason::WriteTimeout, now);
            }
            Overdue::Idle if self.idle_close == IdleClose::Reset => {
                connection.reset();
                self.close(token, Reason::Idle, now);
            }
            Overdue::Idle => {
                let reason = if self.draining { Reason::Drain } else { Reason::Idle };
                let mut turn = turn!(self, now);
                connection.leave(reason, &self.idle_message, &mut turn);
                enqueue(&mut self.queue, connection, token);
            }
        }
    }

    fn close(&mut self, token: Token, reason: Reason, now: Tick) {
        debug!(connection = token.0, reason = reason.label(), "connection closed");
        let mut connection = self.table.remove(key_of(token) as usize);
        let record = connection.end(reason, now, self.seat, &mut self.pools);
        // Its descriptor is free before the log asks for one.
        drop(connection);
        tell(&mut self.recorder, record, reason);
    }
}

fn tell(
    recorder: &mut Option<Box<dyn Recorder + '_>>,
    record: Option<Box<Record>>,
    reason: Reason,
) {
    if let Some((recorder, record)) = recorder.as_mut().zip(record) {
        recorder.record(&record, reason);
    }
}

fn key_of(token: Token) -> u32 {
    token.0 as u32
}

fn enqueue<T>(queue: &mut VecDeque<Token>, connection: &mut Connection<T>, token: Token) {
    if !connection.queued {
        connection.queued = true;
        queue.push_back(token);
    }
}

fn find<T>(table: &mut Slab<Connection<T>>, token: Token) -> Option<&mut Connection<T>> {
    let generation = (token.0 >> KEY_BITS) as u32;
    table.get_mut(key_of(token) as usize).filter(|connection| connection.generation == generation)
}
