//! A connection, as its service sees it.

use std::io;
use std::net::SocketAddr;

use super::super::Pools;
use super::super::record::Record;
use super::super::transport::Transport;
use super::super::write_buffer::WriteBuffer;
use super::{Connection, Context, State};
use crate::daemon::services::{Io, Service};
use crate::daemon::stats::{Field, Reason, StatsBlock};
use crate::event_loop::Readiness;

/// The parts of a connection that its service works with, for one call.
pub(super) struct ServiceIo<'c, X: Transport> {
    transport: &'c mut X,
    write_buffer: &'c mut Option<Box<WriteBuffer<X::Pipe>>>,
    record: Option<&'c mut Record>,
    state: &'c mut State,
    readiness: &'c mut Readiness,
    pools: &'c mut Pools<X::Pipe>,
    block: StatsBlock<'c>,
    /// `true` if the bytes that are sent are those that were received.
    returns_input: bool,
    /// `true` once the service has sent something.
    has_sent: bool,
    /// Reason for which the connection has ended.
    failure: Option<Reason>,
}

impl<T, X: Transport> Connection<T, X> {
    /// Calls the service, with the receive buffer beside it.
    ///
    /// # Errors
    /// The reason for which the connection has ended meanwhile.
    #[inline]
    pub(super) fn call<S>(
        &mut self,
        context: &mut Context<'_, S, X::Pipe>,
        call: impl FnOnce(&mut S, &mut T, &mut ServiceIo<'_, X>, &[u8]),
    ) -> Result<(), Reason>
    where
        S: Service<Session = T>,
    {
        let mut io = ServiceIo {
            transport: &mut self.transport,
            write_buffer: &mut self.write_buffer,
            record: self.record.as_deref_mut(),
            state: &mut self.state,
            readiness: &mut self.readiness,
            pools: context.pools,
            block: context.block,
            returns_input: S::RETURNS_INPUT,
            has_sent: false,
            failure: None,
        };
        call(context.service, &mut self.session, &mut io, context.buffer);
        let ServiceIo { has_sent, failure, .. } = io;
        if has_sent {
            self.last_moved = context.now;
        }
        failure.map_or(Ok(()), Err)
    }
}

impl<X: Transport> Io for ServiceIo<'_, X> {
    #[inline]
    fn send(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.failure.is_some() {
            return;
        }
        self.has_sent = true;
        let sent = match self.write_buffer {
            None => self.send_now(bytes),
            Some(_) => 0,
        };
        let unsent = &bytes[sent..];
        self.block.add(Field::Sent, sent as u64);
        if !self.returns_input {
            self.block.add(Field::Injected, bytes.len() as u64);
        }
        if !unsent.is_empty() {
            self.block.add(Field::Buffered, unsent.len() as u64);
            match self.write_buffer {
                Some(pending) => pending.append(unsent),
                None => *self.write_buffer = WriteBuffer::copy(unsent, self.pools),
            }
        }
        if let Some(record) = &mut self.record {
            record.sent += sent as u64;
        }
    }

    fn finish(&mut self) {
        if *self.state == State::Serving {
            *self.state = State::Closing(Reason::Answered);
        }
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.transport.peer()
    }

    fn local(&self) -> Option<SocketAddr> {
        self.transport.local()
    }
}

impl<X: Transport> ServiceIo<'_, X> {
    /// Sends `bytes` once and returns the number that the kernel took.
    #[inline]
    fn send_now(&mut self, bytes: &[u8]) -> usize {
        let result = match self.transport.send(bytes) {
            Ok(sent) => {
                self.readiness.sent(sent, bytes.len());
                Ok(sent)
            }
            Err(error) => send_failed(self.readiness, &error),
        };
        result.unwrap_or_else(|reason| {
            self.failure = Some(reason);
            0
        })
    }
}

/// Returns 0, the number of bytes sent, if the socket buffer is full or the call was interrupted.
pub(super) fn send_failed(readiness: &mut Readiness, error: &io::Error) -> Result<usize, Reason> {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            readiness.send_blocked();
            Ok(0)
        }
        // The socket is still writable: the next step sends again.
        io::ErrorKind::Interrupted => Ok(0),
        _ => Err(Reason::ClientReset),
    }
}
