//! The way of the bytes: receive, answer, send, and keep what the kernel does not take.

use std::io;

use super::super::bulk::BulkDetector;
use super::super::transport::{SplicePipe, Transport};
use super::super::write_buffer::WriteBuffer;
use super::{Connection, Context, Next, State};
use crate::daemon::services::{Answer, Service};
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
                Ok(()) if self.can_step() => {}
                Ok(()) => return Next::Wait,
                Err(reason) => return Next::Close(reason),
            }
        }
        Next::Again
    }

    /// Returns `true` if the readiness permits a further step.
    fn can_step(&self) -> bool {
        match self.state {
            _ if self.write_buffer.is_some() => self.readiness.writable,
            State::Closing(_) => true,
            State::Serving | State::Lingering(_) => self.readiness.readable,
        }
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
        match self.receive(context.buffer)? {
            None => {}
            // All answers are sent: nothing is received while a write is pending.
            Some(0) => return Err(Reason::ClientDone),
            Some(count) => {
                context.block.add(Field::Received, count as u64);
                context.block.add(Field::Messages, 1);
                self.bulk.observe(count);
                let Answer { bytes, last } =
                    context.service.answer(&mut self.session, &context.buffer[..count]);
                if S::INPUT_IS_ACTIVITY || !bytes.is_empty() {
                    self.last_moved = context.now;
                }
                if last {
                    self.state = State::Closing(Reason::Answered);
                }
                let result = self.send(bytes);
                let sent = *result.as_ref().unwrap_or(&0);
                let unsent = &bytes[sent..];
                self.write_buffer = WriteBuffer::copy(unsent, context.pools);
                self.count(context.block, count, sent, unsent.len());
                result?;
            }
        }
        Ok(())
    }

    /// Serves a bulk transfer as [`Self::serve`] does, without copying the bytes.
    fn splice<S>(
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
                context.block.add(Field::Received, count as u64);
                context.block.add(Field::Messages, 1);
                self.bulk.observe(count);
                // A short splice(2) does not mean that the socket buffer is full.
                let result = self.transport.splice_to(&mut pipe);
                let result = result.or_else(|error| self.send_failed(&error));
                let sent = *result.as_ref().unwrap_or(&0);
                self.count(context.block, count, sent, count - sent);
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
            Err(error) => self.send_failed(&error)?,
        };
        if sent > 0 {
            self.last_moved = context.now;
        }
        if sent == length {
            self.write_buffer.take().into_iter().for_each(|it| it.release(context.pools));
        }
        context.block.subtract(Field::Buffered, sent as u64);
        self.count(context.block, 0, sent, 0);
        Ok(())
    }

    /// Counts bytes that were received, sent, and added to the pending write.
    fn count(&mut self, block: StatsBlock<'_>, received: usize, sent: usize, unsent: usize) {
        block.add(Field::Sent, sent as u64);
        if unsent > 0 {
            block.add(Field::Buffered, unsent as u64);
        }
        if let Some(record) = &mut self.record {
            record.received += received as u64;
            record.sent += sent as u64;
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

    /// Sends `bytes` once and returns the number that the kernel took.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match self.transport.send(bytes) {
            Ok(sent) => {
                self.readiness.sent(sent, bytes.len());
                Ok(sent)
            }
            Err(error) => self.send_failed(&error),
        }
    }

    /// Returns 0, the number of bytes sent, if the socket buffer is full or the call was interrupted.
    fn send_failed(&mut self, error: &io::Error) -> Result<usize, Reason> {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                self.readiness.send_blocked();
                Ok(0)
            }
            // The socket is still writable: the next step sends again.
            io::ErrorKind::Interrupted => Ok(0),
            _ => Err(Reason::ClientReset),
        }
    }
}
