//! One client's socket: what we got, what we want, and what is left to send.
//!
//! The socket is registered once, edge-triggered. `readable` and `writable` say what the kernel has
//! told us and has not yet contradicted; all work is done while what we got and what we want overlap.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};

use mio::event::Event;

use super::Pools;
use super::bulk::Bulk;
use super::patience::{Overdue, Patience};
use super::record::Record;
use super::remainder::Remainder;
use super::send::{send, taken};
use crate::event_loop::timers::Tick;
use crate::process::pipe::{self, Pipe};
use crate::process::sockets::{reset_on_close, unsent};
use crate::service::{Answer, Service};
use crate::stats::{Reason, Seat, Word};

/// Receives a turn: a full buffer and the end of file behind it; more waits for the others.
const RECEIVES_PER_TURN: usize = 2;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes are answered.
    Serving,
    /// We end it: what is left is sent, then our FIN.
    Leaving(Reason),
    /// Our FIN is sent: input is thrown away until the client's FIN. Closing with unread input would
    /// make the kernel send RST, and the client could lose what it has not read yet.
    Lingering(Reason),
}

/// What a connection waits for after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An event, or its deadline.
    Wait,
    /// Another turn: there is more to do.
    Again,
    /// Nothing: it is over and can be closed.
    Close(Reason),
}

/// What a turn works with.
#[derive(Debug)]
pub(super) struct Turn<'a, S> {
    /// Says what to answer.
    pub service: &'a mut S,
    /// The process's one receive buffer.
    pub buffer: &'a mut [u8],
    /// Where what cannot be sent is kept.
    pub pools: &'a mut Pools,
    /// Where bytes are counted.
    pub seat: Seat<'a>,
    /// The time.
    pub now: Tick,
}

/// A connection of the table. 48 bytes beside the session in a release build.
#[derive(Debug)]
pub(super) struct Connection<T> {
    stream: TcpStream,
    remainder: Option<Box<Remainder>>,
    /// What the access log will say of it, if there is one.
    record: Option<Box<Record>>,
    session: T,
    /// Tells this connection from earlier ones with the same key.
    pub generation: u32,
    /// When its timer fires; [`Tick::NEVER`] when none is armed.
    pub armed: Tick,
    /// Whether it stands in the queue for a turn.
    pub queued: bool,
    accepted: Tick,
    last_moved: Tick,
    /// Bytes in the kernel's hands at the last look.
    unsent: u32,
    state: State,
    bulk: Bulk,
    readable: bool,
    writable: bool,
    /// Whether a short receive does not mean that the socket is empty: behind it may be the end of
    /// file, or the rest after an urgent byte, and no new event will say so.
    read_on: bool,
}

impl<T: Default> Connection<T> {
    /// A connection that has just been accepted.
    pub(super) fn new(
        stream: TcpStream,
        generation: u32,
        now: Tick,
        record: Option<Box<Record>>,
    ) -> Self {
        Self {
            stream,
            remainder: None,
            record,
            session: T::default(),
            generation,
            armed: Tick::NEVER,
            queued: false,
            accepted: now,
            last_moved: now,
            unsent: 0,
            state: State::Serving,
            bulk: Bulk::default(),
            readable: false,
            writable: false,
            read_on: false,
        }
    }

    /// The socket, to be registered.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// When something has moved on it.
    pub(super) fn last_moved(&self) -> Tick {
        self.last_moved
    }

    /// Notes what the kernel says.
    pub(super) fn mark(&mut self, event: &Event) {
        // An error is fetched, like everything else, by reading.
        let failed = event.is_error();
        self.readable |= event.is_readable() || event.is_priority() || failed;
        self.writable |= event.is_writable() || failed;
        self.read_on |= event.is_read_closed() || event.is_priority() || failed;
    }

    /// Does what can be done now, within a turn's budget.
    pub(super) fn drive<S: Service<Session = T>>(&mut self, turn: &mut Turn<'_, S>) -> Next {
        for _ in 0..RECEIVES_PER_TURN {
            match self.step(turn) {
                Ok(()) if self.can_step() => {}
                Ok(()) => return Next::Wait,
                Err(reason) => return Next::Close(reason),
            }
        }
        Next::Again
    }

    /// Notes whether the client has taken something that the kernel holds for it since the last look:
    /// no event says so before a third of the kernel's buffer is free.
    fn notice_progress(&mut self, now: Tick) -> bool {
        let unsent = unsent(&self.stream);
        let moved = unsent != 0 && unsent != self.unsent;
        if moved {
            self.last_moved = now;
        }
        self.unsent = unsent;
        moved
    }

    /// Whether to look again: its time is up, or something waits for the client and it has moved.
    pub(super) fn is_due(&mut self, patience: &Patience, now: Tick) -> bool {
        let moved = self.remainder.is_some() && self.notice_progress(now);
        moved || self.deadline(patience) <= now
    }

    /// A turn for a connection that is due, whatever the kernel has told us about it.
    pub(super) fn look_again<S: Service<Session = T>>(&mut self, turn: &mut Turn<'_, S>) -> Next {
        self.notice_progress(turn.now);
        self.readable = true;
        self.writable = true;
        self.drive(turn)
    }

    /// Whether what we got and what we want overlap.
    fn can_step(&self) -> bool {
        match self.state {
            _ if self.remainder.is_some() => self.writable,
            State::Leaving(_) => true,
            State::Serving | State::Lingering(_) => self.readable,
        }
    }

    /// Sends what is left; only if nothing is, goes on. So a client that does not read costs one
    /// buffer, and then the kernel's window stops it.
    fn step<S: Service<Session = T>>(&mut self, turn: &mut Turn<'_, S>) -> Result<(), Reason> {
        self.flush(turn)?;
        if self.remainder.is_some() {
            return Ok(());
        }
        match self.state {
            State::Serving => self.serve(turn),
            State::Leaving(reason) => {
                self.stream.shutdown(Shutdown::Write).map_err(|_| reason)?;
                self.state = State::Lingering(reason);
                self.last_moved = turn.now;
                Ok(())
            }
            State::Lingering(reason) => match self.receive(turn.buffer) {
                Ok(Some(0)) | Err(_) => Err(reason),
                Ok(_) => Ok(()),
            },
        }
    }

    fn serve<S: Service<Session = T>>(&mut self, turn: &mut Turn<'_, S>) -> Result<(), Reason> {
        // Behind an urgent byte, or the end of file, splice(2) sees less than a receive does.
        if S::PASSES_THROUGH && self.bulk.is_it() && self.readable && !self.read_on {
            if let Some(pipe) = turn.pools.pipes.take() {
                return self.pass_through(pipe, turn);
            }
        }
        match self.receive(turn.buffer)? {
            None => {}
            // Whatever came before has been sent: we receive only when nothing is left.
            Some(0) => return Err(Reason::ClientDone),
            Some(count) => {
                turn.seat.add(Word::Received, count as u64);
                turn.seat.add(Word::Messages, 1);
                self.bulk.weigh(count);
                let Answer { bytes, last } =
                    turn.service.answer(&mut self.session, &turn.buffer[..count]);
                if S::INPUT_IS_ACTIVITY || !bytes.is_empty() {
                    self.last_moved = turn.now;
                }
                if last {
                    self.state = State::Leaving(Reason::Answered);
                }
                let result = send(&mut self.stream, bytes, &mut self.writable);
                let sent = *result.as_ref().unwrap_or(&0);
                let unsent = &bytes[sent..];
                self.remainder = Remainder::keep(unsent, turn.pools);
                self.count(turn.seat, count, sent, unsent.len());
                result?;
            }
        }
        Ok(())
    }

    /// What [`Self::serve`] does for bulk, without copying it.
    fn pass_through<S>(&mut self, mut pipe: Pipe, turn: &mut Turn<'_, S>) -> Result<(), Reason> {
        let result = match pipe.fill(&self.stream) {
            // In front of an urgent byte, too: only a receive can say that the input has ended.
            Ok(0) => {
                self.read_on = true;
                Ok(())
            }
            Ok(count) => {
                self.last_moved = turn.now;
                turn.seat.add(Word::Received, count as u64);
                turn.seat.add(Word::Messages, 1);
                self.bulk.weigh(count);
                let result = taken(pipe.drain(&self.stream), &mut self.writable);
                let sent = *result.as_ref().unwrap_or(&0);
                self.count(turn.seat, count, sent, count - sent);
                result.map(drop)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(())
            }
            // No such way for this socket: back to copying.
            Err(error) if pipe::is_unusable(&error) => {
                self.bulk = Bulk::default();
                Ok(())
            }
            // The socket's own error, which it does not tell twice: a receive would see the end.
            Err(_) => Err(Reason::ClientReset),
        };
        if pipe.is_empty() {
            turn.pools.pipes.give_back(pipe);
        } else {
            self.bulk.give_up();
            self.remainder = Some(Box::new(Remainder::Piped(pipe)));
        }
        result
    }

    fn flush<S>(&mut self, turn: &mut Turn<'_, S>) -> Result<(), Reason> {
        let Some(remainder) = &mut self.remainder else { return Ok(()) };
        let length = remainder.len();
        let is_copy = matches!(**remainder, Remainder::Copied(_));
        let sent = taken(remainder.send(&mut self.stream), &mut self.writable)?;
        self.writable &= sent == length || !is_copy;
        if sent > 0 {
            self.last_moved = turn.now;
        }
        if sent == length {
            self.remainder.take().into_iter().for_each(|it| it.release(turn.pools));
        }
        turn.seat.subtract(Word::Buffered, sent as u64);
        self.count(turn.seat, 0, sent, 0);
        Ok(())
    }

    /// Counts bytes that have moved, and those that have to wait.
    fn count(&mut self, seat: Seat<'_>, received: usize, sent: usize, unsent: usize) {
        seat.add(Word::Sent, sent as u64);
        if unsent > 0 {
            seat.add(Word::Buffered, unsent as u64);
        }
        if let Some(record) = &mut self.record {
            record.received += received as u64;
            record.sent += sent as u64;
        }
    }

    /// One receive: the count, 0 at the end of file, `None` when nothing is there.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Reason> {
        if !self.readable {
            return Ok(None);
        }
        match self.stream.read(buffer) {
            Ok(count) => {
                // A short receive has emptied the socket (epoll(7), question 9).
                self.readable = count == buffer.len() || count == 0 || self.read_on;
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            // ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH, …: the ends that a network has.
            Err(_) => Err(Reason::ClientReset),
        }
    }

    /// Starts to end the connection from our side, with a last `message` if there is one.
    pub(super) fn leave<S>(&mut self, reason: Reason, message: &[u8], turn: &mut Turn<'_, S>) {
        self.state = State::Leaving(reason);
        if self.remainder.is_none() {
            self.remainder = Remainder::keep(message, turn.pools);
            self.writable = true;
            turn.seat.add(Word::Injected, message.len() as u64);
            turn.seat.add(Word::Buffered, message.len() as u64);
        }
    }

    /// Counts its end, and returns what the access log will say of it.
    pub(super) fn end(
        &mut self,
        reason: Reason,
        now: Tick,
        seat: Seat<'_>,
        pools: &mut Pools,
    ) -> Option<Box<Record>> {
        let remainder = self.remainder.take();
        let unsent = remainder.as_ref().map_or(0, |remainder| remainder.len());
        remainder.into_iter().for_each(|it| it.release(pools));
        seat.closed(reason, now.since(self.accepted), unsent as u64);
        self.record.take()
    }

    /// Makes the coming close a reset: what is unsent is thrown away. A connection that has only to
    /// wait for the client's FIN is closed as usual: it owes nothing.
    pub(super) fn reset(&mut self) -> bool {
        let owes = !matches!(self.state, State::Lingering(_));
        if owes {
            reset_on_close(&self.stream);
        }
        owes
    }

    /// When the client's time is up, if nothing moves.
    pub(super) fn deadline(&self, patience: &Patience) -> Tick {
        match (&self.remainder, self.state) {
            (Some(_), _) => self.last_moved.after(patience.write),
            (None, State::Lingering(_)) => self.last_moved.after(patience.linger),
            (None, _) => patience.idle_deadline(self.last_moved, self.generation),
        }
    }

    /// When to look at it next: at its deadline, or earlier if something waits for the client.
    pub(super) fn next_look(&self, patience: &Patience, now: Tick) -> Tick {
        let deadline = self.deadline(patience);
        self.remainder.as_ref().map_or(deadline, |_| patience.next_look(now).min(deadline))
    }

    /// Which patience has come to an end.
    pub(super) fn overdue(&self) -> Overdue {
        match (&self.remainder, self.state) {
            (Some(_), _) => Overdue::Write,
            (None, State::Lingering(reason)) => Overdue::Linger(reason),
            (None, _) => Overdue::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        // Its timer costs eight more; all in all an idle one must stay below 64.
        assert_eq!(size_of::<Connection<()>>(), 48);
    }
}
