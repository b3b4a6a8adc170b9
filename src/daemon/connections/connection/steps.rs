//! The way of the bytes: receive, answer, send, and keep what the kernel does not take.

use std::io;

use super::super::bulk::BulkDetector;
use super::super::transport::{SplicePipe, Transport};
use super::super::write_buffer::WriteBuffer;
use super::service_io::send_failed;
use super::{Connection, Context, Next, State};
use crate::daemon::services::Service;
use crate::daemon::stats::{Field, Reason, StatsBlock};
use crate::sys::pipe;

/// Receives of a connection in a loop iteration: a full buffer and the end of file behind it. More
/// waits until the other connections had theirs.
const RECEIVES_PER_ITERATION: usize = 2;

impl<T, X: Transport> Connection<T, X> {
    /// Does the work that is possible now, within the budget of a loop iteration.
    pub(in crate::daemon::connections) fn drive<S>(
        &mut self,
        context: &mut Context<'_, S, X::Pipe>,
    ) -> Next
    where
        S: Service<Session = T>,
    {
        for _ in 0..RECEIVES_PER_ITERATION {
            match self.step(context) {
                Ok(()) if self.can_step::<S>() => {}
                Ok(()) => return Next::Wait,
                // Clients of a service that sends without end have no other way to end.
                Err(Reason::ClientReset) if S::PRODUCES => return Next::Close(Reason::ClientDone),
                Err(reason) => return Next::Close(reason),
            }
        }
        Next::Again
    }

    /// Returns `true` if the readiness permits a further step.
    pub(in crate::daemon::connections) fn can_step<S: Service>(&self) -> bool {
        match self.state {
            _ if self.write_buffer.is_some() => self.readiness.writable,
            State::Closing(_) => true,
            State::Serving if S::PRODUCES && self.readiness.writable => true,
            State::Serving | State::Lingering(_) => self.readiness.readable,
        }
    }

    /// Lets the service begin.
    ///
    /// # Errors
    /// The reason for which the connection has ended.
    pub(in crate::daemon::connections) fn open<S>(
        &mut self,
        context: &mut Context<'_, S, X::Pipe>,
    ) -> Result<(), Reason>
    where
        S: Service<Session = T>,
    {
        self.call(context, |service, session, io, _| service.opened(session, io))
    }

    /// Sends the pending write; only once that is sent, receives. So a client that does not read costs
    /// one buffer, and then the kernel's window stops it.
    fn step<S>(&mut self, context: &mut Context<'_, S, X::Pipe>) -> Result<(), Reason>
    where
        S: Service<Session = T>,
    {
        self.flush(context)?;
        if self.write_buffer.is_some() {
            return Ok(());
        }
        match self.state {
            State::Serving => self.serve(context),
            State::Closing(reason) => {
                self.transport.shutdown_write().map_err(|_| reason)?;
                self.state = State::Lingering(reason);
                self.last_moved = context.now;
                Ok(())
            }
            State::Lingering(reason) => match self.receive(context.buffer) {
                Ok(Some(0)) | Err(_) => Err(reason),
                Ok(_) => Ok(()),
            },
        }
    }

    fn serve<S>(&mut self, context: &mut Context<'_, S, X::Pipe>) -> Result<(), Reason>
    where
        S: Service<Session = T>,
    {
        // At the end of file or an urgent byte, splice(2) tells less than a receive does.
        let readiness = self.readiness;
        if S::RETURNS_INPUT && self.bulk.is_bulk() && readiness.readable && !readiness.read_on {
            if let Some(pipe) = context.pools.pipes.take() {
                return self.splice(pipe, context);
            }
        }
        let limit = context.buffer.len().min(context.service.max_input());
        match self.receive(&mut context.buffer[..limit])? {
            None => {}
            Some(0) => return self.end_input(context),
            Some(count) => {
                self.count_received::<S>(context.block, count);
                if S::INPUT_IS_ACTIVITY {
                    self.last_moved = context.now;
                }
                self.bulk.observe(count);
                self.call(context, |service, session, io, buffer| {
                    service.received(session, io, &buffer[..count]);
                })?;
            }
        }
        let is_idle = self.write_buffer.is_none() && self.state == State::Serving;
        if S::PRODUCES && is_idle && self.readiness.writable {
            self.call(context, |service, session, io, _| service.writable(session, io))?;
        }
        Ok(())
    }

    /// Lets the service react to the client's FIN. All earlier answers are sent: nothing is received
    /// while a write is pending.
    fn end_input<S>(&mut self, context: &mut Context<'_, S, X::Pipe>) -> Result<(), Reason>
    where
        S: Service<Session = T>,
    {
        self.call(context, |service, session, io, _| service.input_ended(session, io))?;
        if self.write_buffer.is_none() {
            return Err(Reason::ClientDone);
        }
        self.state = State::Closing(Reason::ClientDone);
        Ok(())
    }

    /// Serves a bulk transfer as [`Self::serve`] does, without copying the bytes.
    fn splice<S: Service>(
        &mut self,
        mut pipe: X::Pipe,
        context: &mut Context<'_, S, X::Pipe>,
    ) -> Result<(), Reason> {
        let result = match self.transport.splice_from(&mut pipe) {
            // At the end of file, or in front of an urgent byte: a receive tells them apart.
            Ok(0) => {
                self.readiness.read_on = true;
                Ok(())
            }
            Ok(count) => {
                self.last_moved = context.now;
                self.count_received::<S>(context.block, count);
                self.bulk.observe(count);
                // A short splice(2) does not mean that the socket buffer is full.
                let result = self.transport.splice_to(&mut pipe);
                let result = result.or_else(|error| send_failed(&mut self.readiness, &error));
                let sent = *result.as_ref().unwrap_or(&0);
                context.block.add(Field::Buffered, (count - sent) as u64);
                self.count_sent(context.block, sent);
                result.map(drop)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readiness.receive_blocked();
                Ok(())
            }
            // The kernel cannot splice this socket: back to copying.
            Err(error) if pipe::is_unusable(&error) => {
                self.bulk = BulkDetector::default();
                Ok(())
            }
            // The error of the socket, reported only once: a receive would see the end of file.
            Err(_) => Err(Reason::ClientReset),
        };
        if pipe.len() == 0 {
            context.pools.pipes.release(pipe);
        } else {
            self.bulk.disable();
            self.write_buffer = Some(Box::new(WriteBuffer::Piped(pipe)));
        }
        result
    }

    /// Sends the pending write once.
    fn flush<S>(&mut self, context: &mut Context<'_, S, X::Pipe>) -> Result<(), Reason> {
        let Some(write_buffer) = &mut self.write_buffer else { return Ok(()) };
        let length = write_buffer.len();
        let is_copy = matches!(**write_buffer, WriteBuffer::Copied(_));
        let sent = match write_buffer.send(&mut self.transport) {
            Ok(sent) => {
                // A short send(2) means that the socket buffer is full; a short splice(2) does not.
                if is_copy {
                    self.readiness.sent(sent, length);
                }
                sent
            }
            Err(error) => send_failed(&mut self.readiness, &error)?,
        };
        if sent > 0 {
            self.last_moved = context.now;
        }
        if sent == length {
            self.write_buffer.take().into_iter().for_each(|it| it.release(context.pools));
        }
        context.block.subtract(Field::Buffered, sent as u64);
        self.count_sent(context.block, sent);
        Ok(())
    }

    /// Counts a receive of `count` bytes.
    fn count_received<S: Service>(&mut self, block: StatsBlock<'_>, count: usize) {
        block.add(Field::Received, count as u64);
        block.add(Field::Messages, 1);
        if !S::RETURNS_INPUT {
            block.add(Field::Consumed, count as u64);
        }
        if let Some(record) = &mut self.record {
            record.received += count as u64;
        }
    }

    /// Counts bytes that the kernel has taken.
    fn count_sent(&mut self, block: StatsBlock<'_>, count: usize) {
        block.add(Field::Sent, count as u64);
        if let Some(record) = &mut self.record {
            record.sent += count as u64;
        }
    }

    /// Receives once: the number of bytes, 0 at the end of file, `None` if there are none.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Reason> {
        if !self.readiness.readable {
            return Ok(None);
        }
        match self.transport.receive(buffer) {
            Ok(count) => {
                self.readiness.received(count, buffer.len());
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readiness.receive_blocked();
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            // ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH, …: the network has ended the connection.
            Err(_) => Err(Reason::ClientReset),
        }
    }
}
