//! The table of a worker's connections, with their timers and the queue of those that have work.
//!
//! Events only mark a connection and put it into the queue; [`Connections::work`] gives each one in
//! the queue a turn. So a turn of the loop is bounded by what is open, however fast anybody sends.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use slab::Slab;
use tracing::debug;

use super::connection::{Connection, Next, Overdue, Reason, Turn};
use super::patience::Patience;
use crate::config::{ConnectionConfig, IdleClose};
use crate::event_loop::timers::{Tick, TimerRing};
use crate::service::Service;

/// The lower half of a token is the table's key, the upper half the generation, so that an event for
/// a closed connection is never taken for one of its successor.
const KEY_BITS: u32 = 32;

/// All connections of a worker, served by `S`.
#[derive(Debug)]
pub(super) struct Connections<S: Service> {
    table: Slab<Connection<S::Session>>,
    generation: u32,
    queue: VecDeque<Token>,
    timers: TimerRing<Token>,
    due: Vec<(Tick, Token)>,
    service: S,
    buffer: Box<[u8]>,
    patience: Patience,
    draining: bool,
    idle_close: IdleClose,
    idle_message: Box<[u8]>,
}

impl<S: Service> Connections<S> {
    /// An empty table.
    pub(super) fn new(config: &ConnectionConfig, service: S) -> Self {
        Self {
            table: Slab::new(),
            generation: 0,
            queue: VecDeque::new(),
            timers: TimerRing::new(),
            due: Vec::new(),
            service,
            buffer: vec![0; config.buffer_size].into(),
            patience: Patience::new(config),
            draining: false,
            idle_close: config.idle_close,
            idle_message: config.idle_message.as_deref().unwrap_or("").as_bytes().into(),
        }
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is open.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Takes a connection in.
    ///
    /// # Errors
    /// Those of epoll_ctl(2): no memory, or too many watches. The connection is closed then.
    pub(super) fn insert(
        &mut self,
        registry: &Registry,
        stream: TcpStream,
        now: Tick,
    ) -> io::Result<()> {
        // The highest generation is left to the tokens of the worker itself.
        self.generation = (self.generation + 1) % (u32::MAX - 1);
        let entry = self.table.vacant_entry();
        let token = Token(entry.key() | (self.generation as usize) << KEY_BITS);
        let mut connection = Connection::new(stream, self.generation, now);
        // Priority: without it an urgent byte would look like the end of what has arrived.
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        registry.register(connection.stream(), token, interest)?;
        connection.armed = self.timers.arm(connection.deadline(&self.patience), token);
        entry.insert(connection);
        debug!(connection = token.0, "connection accepted");
        Ok(())
    }

    /// Notes an event.
    pub(super) fn mark(&mut self, event: &Event) {
        let token = event.token();
        let Some(connection) = find(&mut self.table, token) else { return };
        connection.mark(event);
        enqueue(&mut self.queue, connection, token);
    }

    /// Gives every connection in the queue a turn, then fires the timers.
    pub(super) fn work(&mut self, now: Tick) {
        // Those that want another turn get it after the next look at what else has happened.
        for _ in 0..self.queue.len() {
            let Some(token) = self.queue.pop_front() else { return };
            let Some(connection) = find(&mut self.table, token) else { continue };
            connection.queued = false;
            let mut turn = Turn { service: &mut self.service, buffer: &mut self.buffer, now };
            match connection.drive(&mut turn) {
                Next::Wait => {}
                Next::Again => enqueue(&mut self.queue, connection, token),
                Next::Close(reason) => {
                    self.close(token, reason);
                    continue;
                }
            }
            let deadline = connection.deadline(&self.patience);
            if deadline < connection.armed {
                connection.armed = self.timers.arm(deadline, token);
            }
        }
        self.fire_timers(now);
    }

    /// Whether somebody waits for a turn.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the next timer fires.
    pub(super) fn next_timer(&self) -> Option<Tick> {
        self.timers.next()
    }

    /// From now on a connection ends as soon as nothing moves on it; within `spread`, if there is one.
    pub(super) fn drain(&mut self, now: Tick, spread: Option<Duration>) {
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
                connection.armed = self.timers.arm(deadline, token);
            }
        }
    }

    /// Closes all that are left; returns how many had to be reset.
    pub(super) fn reset_all(&mut self) -> usize {
        let mut reset = 0;
        for mut connection in self.table.drain() {
            debug!(generation = connection.generation, reason = %Reason::DrainDeadline, "connection closed");
            reset += usize::from(connection.reset());
        }
        reset
    }

    fn fire_timers(&mut self, now: Tick) {
        self.timers.advance(now, &mut self.due);
        while let Some((fired, token)) = self.due.pop() {
            // An entry that is not the last one armed has been overtaken by an earlier deadline.
            match find(&mut self.table, token) {
                Some(connection) if connection.armed == fired => self.check_deadline(token, now),
                _ => {}
            }
        }
    }

    fn check_deadline(&mut self, token: Token, now: Tick) {
        let Some(connection) = find(&mut self.table, token) else { return };
        if connection.deadline(&self.patience) <= now {
            // Before judging, a last look: what the client has sent or taken may not have reached us,
            // if we were stopped, or the batch of events was full.
            let mut turn = Turn { service: &mut self.service, buffer: &mut self.buffer, now };
            match connection.look_again(&mut turn) {
                Next::Wait => {}
                Next::Again => enqueue(&mut self.queue, connection, token),
                Next::Close(reason) => return self.close(token, reason),
            }
        }
        let deadline = connection.deadline(&self.patience);
        if deadline > now {
            connection.armed = self.timers.arm(deadline, token);
            return;
        }
        connection.armed = Tick::NEVER;
        match connection.overdue() {
            Overdue::Linger(reason) => self.close(token, reason),
            Overdue::Write => {
                connection.reset();
                self.close(token, Reason::WriteTimeout);
            }
            Overdue::Idle if self.idle_close == IdleClose::Reset => {
                connection.reset();
                self.close(token, Reason::Idle);
            }
            Overdue::Idle => {
                let reason = if self.draining { Reason::Drain } else { Reason::Idle };
                connection.leave(reason, &self.idle_message);
                enqueue(&mut self.queue, connection, token);
            }
        }
    }

    fn close(&mut self, token: Token, reason: Reason) {
        debug!(connection = token.0, %reason, "connection closed");
        self.table.remove(token.0 & (u32::MAX as usize));
    }
}

fn enqueue<T>(queue: &mut VecDeque<Token>, connection: &mut Connection<T>, token: Token) {
    if !connection.queued {
        connection.queued = true;
        queue.push_back(token);
    }
}

fn find<T>(table: &mut Slab<Connection<T>>, token: Token) -> Option<&mut Connection<T>> {
    let generation = (token.0 >> KEY_BITS) as u32;
    table
        .get_mut(token.0 & (u32::MAX as usize))
        .filter(|connection| connection.generation == generation)
}
