//! One client's socket and the bytes still to be sent to it.
//!
//! The socket is registered once, edge-triggered. [`Readiness`] holds what the kernel has reported and
//! no system call has contradicted; a connection works while its readiness and its needs overlap.

mod service_io;
mod steps;

use std::net::TcpStream;

use super::Pools;
use super::bulk::BulkDetector;
use super::record::Record;
use super::timeouts::{Timeout, Timeouts};
use super::transport::Transport;
use super::write_buffer::WriteBuffer;
use crate::daemon::services::Service;
use crate::daemon::stats::{Field, Reason, StatsBlock};
use crate::event_loop::Readiness;
use crate::event_loop::timers::Tick;

/// Stage of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Input is answered.
    Serving,
    /// The daemon ends the connection: the pending write is sent, then a FIN.
    Closing(Reason),
    /// The FIN is sent; input is discarded until the client's FIN. Closing with unread input would
    /// make the kernel send RST, and the client could lose bytes that it has not read.
    Lingering(Reason),
}

/// Next need of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An event or a deadline.
    Wait,
    /// Another loop iteration: it has work left.
    Again,
    /// To be closed, for this reason.
    Close(Reason),
}

/// Parts of the process that a connection works with.
#[derive(Debug)]
pub(super) struct Context<'a, S, P> {
    /// The service that answers input.
    pub service: &'a mut S,
    /// The receive buffer of the process.
    pub buffer: &'a mut [u8],
    /// Memory and pipes for pending writes.
    pub pools: &'a mut Pools<P>,
    /// Counters of the process.
    pub block: StatsBlock<'a>,
    /// Time of the loop iteration.
    pub now: Tick,
}

/// A connection of the table. 48 bytes beside the session in a release build.
#[derive(Debug)]
pub(super) struct Connection<T, X: Transport = TcpStream> {
    transport: X,
    write_buffer: Option<Box<WriteBuffer<X::Pipe>>>,
    /// Data for the access log, if there is one.
    record: Option<Box<Record>>,
    session: T,
    /// Distinguishes the connection from earlier ones with the same key.
    pub generation: u32,
    /// Tick of the timer entry that counts; [`Tick::NEVER`] if there is none.
    pub armed: Tick,
    /// `true` if the connection is in the work queue.
    pub queued: bool,
    accepted: Tick,
    last_moved: Tick,
    /// Bytes that the peer had not acknowledged at the last check.
    unsent: u32,
    state: State,
    bulk: BulkDetector,
    readiness: Readiness,
}

impl<T: Default, X: Transport> Connection<T, X> {
    /// Creates the state of a connection that was accepted at `now`.
    pub(super) fn new(
        transport: X,
        generation: u32,
        now: Tick,
        record: Option<Box<Record>>,
    ) -> Self {
        Self {
            transport,
            write_buffer: None,
            record,
            session: T::default(),
            generation,
            armed: Tick::NEVER,
            queued: false,
            accepted: now,
            last_moved: now,
            unsent: 0,
            state: State::Serving,
            bulk: BulkDetector::default(),
            readiness: Readiness::default(),
        }
    }
}

impl<T, X: Transport> Connection<T, X> {
    /// Returns the socket.
    pub(super) fn transport(&self) -> &X {
        &self.transport
    }

    /// Returns the time at which a byte last moved.
    pub(super) fn last_moved(&self) -> Tick {
        self.last_moved
    }

    /// Adds the readiness that an event has reported.
    pub(super) fn mark(&mut self, readiness: Readiness) {
        // A pending error is fetched, like data, by a receive.
        self.readiness.add(readiness);
    }

    /// Checks whether the client has acknowledged bytes since the last check. The kernel reports room
    /// only once a third of the socket buffer is free.
    fn check_progress(&mut self, now: Tick) -> bool {
        let unsent = self.transport.unsent();
        let progressed = unsent != 0 && unsent != self.unsent;
        if progressed {
            self.last_moved = now;
        }
        self.unsent = unsent;
        progressed
    }

    /// Returns `true` if the deadline has passed, or if the client has acknowledged bytes while a write
    /// is pending.
    pub(super) fn is_due(&mut self, timeouts: &Timeouts, now: Tick) -> bool {
        let progressed = self.write_buffer.is_some() && self.check_progress(now);
        progressed || self.deadline(timeouts) <= now
    }

    /// Drives a connection that is due, whatever events have reported.
    pub(super) fn recheck<S>(&mut self, context: &mut Context<'_, S, X::Pipe>) -> Next
    where
        S: Service<Session = T>,
    {
        self.check_progress(context.now);
        self.readiness.add(Readiness::UNKNOWN);
        self.drive(context)
    }

    /// Begins to end the connection from the daemon's side. A `message` is sent first, unless a write is
    /// pending.
    pub(super) fn begin_close<S>(
        &mut self,
        reason: Reason,
        message: &[u8],
        context: &mut Context<'_, S, X::Pipe>,
    ) {
        self.state = State::Closing(reason);
        if self.write_buffer.is_none() {
            self.write_buffer = WriteBuffer::copy(message, context.pools);
            context.block.add(Field::Injected, message.len() as u64);
            context.block.add(Field::Buffered, message.len() as u64);
        }
    }

    /// Counts the end of the connection, and returns its data for the access log.
    pub(super) fn finish<S: Service>(
        &mut self,
        reason: Reason,
        now: Tick,
        block: StatsBlock<'_>,
        pools: &mut Pools<X::Pipe>,
    ) -> Option<Box<Record>> {
        let write_buffer = self.write_buffer.take();
        let unsent = write_buffer.as_ref().map_or(0, |write_buffer| write_buffer.len()) as u64;
        write_buffer.into_iter().for_each(|it| it.release(pools));
        block.count_closed(reason, now.since(self.accepted), unsent);
        if !S::RETURNS_INPUT && reason.is_orderly() {
            // The service made these bytes, so they are not lost.
            block.add(Field::Abandoned, unsent);
        }
        self.record.take()
    }

    /// Makes the close of the socket a reset, which discards unsent bytes, and returns `true`. A
    /// lingering connection has sent everything and is closed without a reset.
    pub(super) fn reset_on_close(&mut self) -> bool {
        let owes = !matches!(self.state, State::Lingering(_));
        if owes {
            self.transport.reset_on_close();
        }
        owes
    }

    /// Returns the time at which the connection ends if no byte moves.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Tick {
        match self.timeout() {
            Timeout::Write => self.last_moved.after(timeouts.write),
            Timeout::Linger(_) => self.last_moved.after(timeouts.linger),
            Timeout::Idle => timeouts.idle_deadline(self.last_moved, self.generation),
        }
    }

    /// Returns the time of the next check: the deadline, or earlier while a write is pending.
    pub(super) fn next_check(&self, timeouts: &Timeouts, now: Tick) -> Tick {
        let deadline = self.deadline(timeouts);
        self.write_buffer.as_ref().map_or(deadline, |_| timeouts.next_check(now).min(deadline))
    }

    /// Returns the timeout that bounds the current state.
    pub(super) fn timeout(&self) -> Timeout {
        match (&self.write_buffer, self.state) {
            (Some(_), _) => Timeout::Write,
            (None, State::Lingering(reason)) => Timeout::Linger(reason),
            (None, _) => Timeout::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        // Its timer entry takes eight more; all in all an idle connection stays below 64 bytes.
        assert_eq!(size_of::<Connection<()>>(), 48);
    }
}
