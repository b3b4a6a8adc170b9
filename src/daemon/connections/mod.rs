//! The connections of a process, served by a [`Service`]: their table, their timers, and the queue of
//! those that have work. Workers use it for the echo, the admin process for HTTP.
//!
//! Events only mark a connection and put it into the queue; [`Connections::work`] drives each one in
//! the queue once. So a loop iteration is bounded by the number of open connections, however fast a
//! client sends.
//!
//! | question | answer |
//! |---|---|
//! | where does a timeout end a connection? | `timeouts`: `Connections::check_deadline` |
//! | how does a drain end connections? | `timeouts`: [`Connections::drain`] shortens their deadlines |
//! | where are pending bytes kept? | `write_buffer` |
//! | what happens to unsent bytes if a client does not read? | `timeouts`: the write timeout resets the connection |
//! | how are bytes received, answered, and sent? | `connection::steps` |
//! | when are bytes spliced instead of copied? | `bulk`; the pipes are in `pipes` |

mod buffers;
mod bulk;
mod connection;
mod pipes;
pub mod record;
pub mod table;
#[cfg(test)]
mod tests;
mod timeouts;
mod transport;
mod trim;
mod write_buffer;

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use slab::Slab;
use tracing::debug;

use self::buffers::BufferPool;
use self::connection::{Connection, Context, Next};
use self::pipes::PipePool;
use self::record::{Record, Recorder};
use self::timeouts::Timeouts;
use self::transport::{SplicePipe, Transport};
use self::trim::TrimPolicy;
use crate::config::{ConnectionConfig, IdleClose, Splice};
use crate::daemon::services::Service;
use crate::daemon::stats::{Field, Reason, StatsBlock};
use crate::event_loop::Readiness;
use crate::event_loop::timers::{Tick, TimerRing};
use crate::sys::memory;

/// Bits of a token that hold the connection's key in its table.
const KEY_BITS: u32 = 32;

/// Bits of a token that hold the connection's generation, so that an event for a closed connection is
/// never taken for one of its successor. The remaining bits hold the number of the table.
const GENERATION_BITS: u32 = 24;

/// Limit on the number of tables of a process. Tokens with a higher number are not a connection's.
pub const MAX_TABLES: usize = 255;

/// Entries of a list above which its memory is freed after a burst.
const KEPT_CAPACITY: usize = 1024;

/// The context of a connection: everything but the table, which the connection is borrowed from.
macro_rules! context {
    ($self:ident, $now:expr) => {
        Context {
            service: &mut $self.service,
            buffer: &mut $self.buffer,
            pools: &mut $self.pools,
            block: $self.block,
            now: $now,
        }
    };
}

use context;

/// Memory and pipes for pending writes.
#[derive(Debug)]
struct Pools<P> {
    buffers: BufferPool,
    pipes: PipePool<P>,
}

impl<P: SplicePipe> Pools<P> {
    fn new(splice: bool, buffer_size: usize) -> Self {
        Self { buffers: BufferPool::default(), pipes: PipePool::new(splice, buffer_size) }
    }
}

/// All connections of a process, served by `S` over sockets of type `X`.
#[derive(Debug)]
pub struct Connections<'a, S: Service, X: Transport = TcpStream> {
    table: Slab<Connection<S::Session, X>>,
    /// Number of the table in its process.
    number: u32,
    generation: u32,
    queue: VecDeque<Token>,
    /// Entries are keys only, half as long as tokens.
    timers: TimerRing<u32>,
    due: Vec<(Tick, u32)>,
    service: S,
    buffer: Box<[u8]>,
    pools: Pools<X::Pipe>,
    trim: TrimPolicy,
    timeouts: Timeouts,
    draining: bool,
    idle_close: IdleClose,
    idle_message: Box<[u8]>,
    block: StatsBlock<'a>,
    recorder: Option<Box<dyn Recorder + 'a>>,
}

impl<'a, S: Service> Connections<'a, S> {
    /// Creates an empty table, which counts in `block` and records finished connections with
    /// `recorder`. Its `number` is below [`MAX_TABLES`], and no other table of the process has it.
    pub fn new(
        number: u32,
        config: &ConnectionConfig,
        service: S,
        block: StatsBlock<'a>,
        recorder: Option<Box<dyn Recorder + 'a>>,
    ) -> Self {
        Self::over(number, config, service, block, recorder)
    }

    /// Adds an accepted connection.
    ///
    /// # Errors
    /// Those of epoll_ctl(2): no memory, or too many watches. The connection is closed then.
    pub fn insert(
        &mut self,
        registry: &Registry,
        stream: mio::net::TcpStream,
        now: Tick,
    ) -> io::Result<()> {
        let stream = TcpStream::from(stream);
        let record = self.recorder.as_ref().map(|_| Record::begin(&stream));
        // Priority: without it an urgent byte would look like the end of what has arrived.
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        self.add(stream, record, now, |stream, token| {
            registry.register(&mut SourceFd(&stream.as_raw_fd()), token, interest)
        })
    }
}

impl<'a, S: Service, X: Transport> Connections<'a, S, X> {
    fn over(
        number: u32,
        config: &ConnectionConfig,
        service: S,
        block: StatsBlock<'a>,
        recorder: Option<Box<dyn Recorder + 'a>>,
    ) -> Self {
        Self {
            table: Slab::new(),
            number,
            generation: 0,
            queue: VecDeque::new(),
            timers: TimerRing::new(),
            due: Vec::new(),
            service,
            buffer: vec![0; config.buffer_size].into(),
            pools: Pools::new(config.splice == Splice::Auto, config.buffer_size),
            trim: TrimPolicy::default(),
            timeouts: Timeouts::new(config),
            draining: false,
            idle_close: config.idle_close,
            idle_message: config.idle_message.as_deref().unwrap_or("").as_bytes().into(),
            block,
            recorder,
        }
    }

    /// Returns the service.
    pub fn service(&mut self) -> &mut S {
        &mut self.service
    }

    /// Returns the number of open connections.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns `true` if no connection is open.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Adds a connection under a new token, which `register` passes to the event loop.
    fn add(
        &mut self,
        transport: X,
        record: Option<Box<Record>>,
        now: Tick,
        register: impl FnOnce(&X, Token) -> io::Result<()>,
    ) -> io::Result<()> {
        self.generation = (self.generation + 1) % (1 << GENERATION_BITS);
        let generation = self.number << GENERATION_BITS | self.generation;
        let entry = self.table.vacant_entry();
        let token = token_of(entry.key(), generation);
        let mut connection = Connection::new(transport, generation, now, record);
        if let Err(error) = register(connection.transport(), token) {
            let record = connection.finish::<S>(Reason::Error, now, self.block, &mut self.pools);
            log_access(&mut self.recorder, record, Reason::Error);
            return Err(error);
        }
        let connection = entry.insert(connection);
        debug!(connection = token.0, "connection accepted");
        let mut context = context!(self, now);
        let opened = connection.open(&mut context);
        if S::PRODUCES && self.draining {
            connection.begin_close(Reason::Drain, b"", &mut context);
        }
        connection.armed =
            self.timers.arm(connection.next_check(&self.timeouts, now), key_of(token));
        if connection.can_step::<S>() {
            enqueue(&mut self.queue, connection, token);
        }
        if let Err(reason) = opened {
            self.close(token, reason, now);
        }
        Ok(())
    }

    /// Notes an event of a connection.
    pub fn mark(&mut self, event: &Event) {
        self.mark_ready(event.token(), event.into());
    }

    fn mark_ready(&mut self, token: Token, readiness: Readiness) {
        let Some(connection) = find(&mut self.table, token) else { return };
        connection.mark(readiness);
        enqueue(&mut self.queue, connection, token);
    }

    /// Drives every connection in the queue once, then fires the timers.
    pub fn work(&mut self, now: Tick) {
        // Connections with work left go on in the next iteration, after other events are known.
        for _ in 0..self.queue.len() {
            let Some(token) = self.queue.pop_front() else { return };
            let Some(connection) = find(&mut self.table, token) else { continue };
            connection.queued = false;
            let mut context = context!(self, now);
            match connection.drive(&mut context) {
                Next::Wait => {}
                Next::Again => enqueue(&mut self.queue, connection, token),
                Next::Close(reason) => {
                    self.close(token, reason, now);
                    continue;
                }
            }
            let check = connection.next_check(&self.timeouts, now);
            if check < connection.armed {
                connection.armed = self.timers.arm(check, key_of(token));
            }
        }
        self.fire_timers(now);
    }

    /// Returns `true` if the queue is not empty.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Returns the time of the next timer.
    pub fn next_timer(&self) -> Option<Tick> {
        self.timers.next()
    }

    /// Makes room: closes the connection that has been idle for the longest time.
    pub fn evict_idlest(&mut self, now: Tick) {
        let moved = |(_, connection): &(usize, &Connection<S::Session, X>)| connection.last_moved();
        if let Some((key, connection)) = self.table.iter().min_by_key(moved) {
            self.close(token_of(key, connection.generation), Reason::Idle, now);
        }
    }

    /// Returns unused memory and pipes to the system. Called once a second.
    pub fn housekeeping(&mut self) {
        self.pools.buffers.shrink();
        self.pools.pipes.shrink();
        let capacity = self.table.capacity();
        if self.table.len() < capacity / 4 {
            self.table.shrink_to_fit();
        }
        let waiting = self.block.get(Field::Buffered).max(self.pools.buffers.take_copied());
        if self.trim.is_due(waiting) || self.table.capacity() < capacity {
            self.queue.shrink_to(KEPT_CAPACITY);
            self.due.shrink_to(KEPT_CAPACITY);
            memory::trim();
        }
    }

    /// Closes all connections and returns the number of those that were reset.
    pub fn reset_all(&mut self, now: Tick) -> usize {
        let mut reset = 0;
        for mut connection in self.table.drain() {
            let reason = Reason::DrainDeadline;
            debug!(
                generation = connection.generation,
                reason = reason.label(),
                "connection closed"
            );
            reset += usize::from(connection.reset_on_close());
            let record = connection.finish::<S>(reason, now, self.block, &mut self.pools);
            log_access(&mut self.recorder, record, reason);
        }
        reset
    }

    fn close(&mut self, token: Token, reason: Reason, now: Tick) {
        debug!(connection = token.0, reason = reason.label(), "connection closed");
        let mut connection = self.table.remove(key_of(token) as usize);
        let record = connection.finish::<S>(reason, now, self.block, &mut self.pools);
        // The access log may need the descriptor.
        drop(connection);
        log_access(&mut self.recorder, record, reason);
    }
}

fn log_access(
    recorder: &mut Option<Box<dyn Recorder + '_>>,
    record: Option<Box<Record>>,
    reason: Reason,
) {
    if let Some((recorder, record)) = recorder.as_mut().zip(record) {
        recorder.record(&record, reason);
    }
}

/// Returns the number of the table that has the connection with this token.
pub fn table_of(token: Token) -> usize {
    token.0 >> (KEY_BITS + GENERATION_BITS)
}

fn token_of(key: usize, generation: u32) -> Token {
    Token(key | (generation as usize) << KEY_BITS)
}

fn key_of(token: Token) -> u32 {
    token.0 as u32
}

fn enqueue<T, X: Transport>(
    queue: &mut VecDeque<Token>,
    connection: &mut Connection<T, X>,
    token: Token,
) {
    if !connection.queued {
        connection.queued = true;
        queue.push_back(token);
    }
}

fn find<T, X: Transport>(
    table: &mut Slab<Connection<T, X>>,
    token: Token,
) -> Option<&mut Connection<T, X>> {
    let generation = (token.0 >> KEY_BITS) as u32;
    table.get_mut(key_of(token) as usize).filter(|connection| connection.generation == generation)
}
