//! One connection of a run: sends messages, verifies their echo, and measures latency.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::event::Event;
use mio::net::TcpStream;

use super::clock::Clock;
use super::schedule::Schedule;
use super::stats::{Cause, ConnectionError, LoadStats};
use super::workload::{Traffic, Workload};
use crate::event_loop::Readiness;
use crate::tools::payload::Mismatch;

/// Phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// The message in progress is completed, and no further one starts.
    Finishing,
    /// The FIN is sent. The rest of the echo and the server's FIN are outstanding.
    HalfClosed,
}

/// Result of [`Connection::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The connection waits for an event or a task.
    Wait,
    /// The connection can continue at once.
    Again,
    /// The connection has ended regularly.
    Closed,
}

/// The parts of a load thread that its connections share.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub workload: &'a Workload,
    pub clock: Clock,
    /// Receive buffer.
    pub buffer: &'a mut [u8],
    pub stats: &'a mut LoadStats,
    /// `true` once the run ends and no further message may start.
    pub run_ends: bool,
}

/// A connection. Byte counts start with the connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// `true` while the connection is in the thread's ready queue.
    pub queued: bool,
    /// `true` while the ramp-up counts the connection as being opened.
    pub opening: bool,
    phase: Phase,
    readiness: Readiness,
    /// Number of the client within the run.
    number: u32,
    /// Start position in the payload.
    offset: u64,
    sent: u64,
    received: u64,
    /// Number of bytes that may be sent so far.
    send_limit: u64,
    /// Closed loop: send times of the messages in flight, by message number modulo the pipeline length.
    send_times: Box<[u64]>,
    /// Open loop: intended send times.
    schedule: Option<Schedule>,
}

impl Connection {
    /// Wraps a connecting stream. `generation` counts the connections of the client `number`.
    pub(super) fn new(
        stream: TcpStream,
        workload: &Workload,
        number: u32,
        generation: u32,
        schedule: Option<Schedule>,
    ) -> Self {
        let (send_limit, window) = match workload.traffic {
            Traffic::Closed { pipeline } => {
                (u64::from(pipeline) * workload.message_size, pipeline as usize)
            }
            Traffic::Open { .. } => (0, 0),
            Traffic::Stream => (u64::MAX, 0),
        };
        // Any factors will do, as long as connections start at different positions.
        let offset = u64::from(number) * 7_919 + u64::from(generation) * 104_729;
        Self {
            stream,
            queued: false,
            opening: true,
            phase: Phase::Connecting,
            readiness: Readiness::default(),
            number,
            offset: if workload.varies_offset { offset } else { 0 },
            sent: 0,
            received: 0,
            send_limit,
            send_times: vec![0; window].into_boxed_slice(),
            schedule,
        }
    }

    /// Records the readiness of the socket.
    pub(super) fn update_readiness(&mut self, event: &Event) {
        self.readiness.add(event.into());
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Returns the number of bytes sent but not yet echoed.
    pub(super) fn in_flight(&self) -> u64 {
        self.sent - self.received
    }

    /// Returns `true` if the server has accepted the connection. An established connection may still be
    /// in the accept queue, so the first echo is the proof, unless it depends on a schedule.
    pub(super) fn is_accepted(&self, workload: &Workload) -> bool {
        match workload.traffic {
            Traffic::Open { .. } => !self.is_connecting(),
            Traffic::Closed { .. } | Traffic::Stream => self.has_echoed(),
        }
    }

    pub(super) fn has_echoed(&self) -> bool {
        self.received > 0
    }

    /// Returns the error of a connection that does not finish in time.
    pub(super) fn stalled(&self) -> ConnectionError {
        let Self { number, sent, received, .. } = self;
        let text = format!("connection {number}: got {received} of {sent} bytes, then nothing");
        ConnectionError::new(Cause::Stalled, text)
    }

    /// Permits the messages that are due by `now`, and returns the time of the next one. Returns `None`
    /// if the connection is not open or has no schedule.
    pub(super) fn permit_due(&mut self, now: u64, workload: &Workload) -> Option<u64> {
        let schedule = self.schedule.as_ref().filter(|_| self.phase == Phase::Open)?;
        let due = schedule.due(now);
        self.send_limit = due * workload.message_size;
        Some(schedule.time(due))
    }

    /// Returns the schedule of the messages that have not been started.
    pub(super) fn remaining_schedule(&self, workload: &Workload) -> Option<Schedule> {
        self.schedule.map(|schedule| schedule.after(self.sent.div_ceil(workload.message_size)))
    }

    /// Lets the message in progress complete and starts no further one.
    pub(super) fn finish(&mut self, workload: &Workload) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Finishing;
        self.send_limit = match workload.traffic {
            Traffic::Stream => self.sent,
            Traffic::Closed { .. } | Traffic::Open { .. } => {
                self.sent.next_multiple_of(workload.message_size)
            }
        };
    }

    /// Advances the connection by at most one receive and one send, so that all get their share.
    ///
    /// # Errors
    /// An error that ends the connection.
    pub(super) fn advance(&mut self, context: &mut Context<'_>) -> Result<Next, ConnectionError> {
        if self.phase == Phase::Connecting {
            if !self.readiness.writable {
                return Ok(Next::Wait);
            }
            self.establish(context)?;
        }
        if self.readiness.readable && self.receive(context)? {
            return Ok(Next::Closed);
        }
        if self.readiness.writable && self.sent < self.send_limit {
            self.send(context)?;
        }
        if self.phase == Phase::Finishing && self.sent == self.send_limit {
            self.stream.shutdown(Shutdown::Write)?;
            self.phase = Phase::HalfClosed;
        }
        let more =
            self.readiness.readable || (self.readiness.writable && self.sent < self.send_limit);
        Ok(if more { Next::Again } else { Next::Wait })
    }

    fn establish(&mut self, context: &mut Context<'_>) -> Result<(), ConnectionError> {
        // Only an event with an error or a FIN needs the system call.
        if self.readiness.read_on {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
        }
        context.stats.opened += 1;
        self.phase = Phase::Open;
        if context.run_ends {
            self.phase = Phase::Finishing;
            self.send_limit = 0;
        }
        Ok(())
    }

    /// Receives once and verifies. Returns `true` if the connection has ended regularly.
    fn receive(&mut self, context: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let length = match self.stream.read(context.buffer) {
            Ok(0) => return self.end_of_file(),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readiness.receive_blocked();
                return Ok(false);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let now = context.clock.now();
        self.readiness.received(length, context.buffer.len());

        let number = self.number;
        let expected = self.in_flight().min(length as u64) as usize;
        let position = self.offset + self.received;
        let payload = &context.workload.payload;
        payload.compare(position, &context.buffer[..expected]).map_err(|mismatch| {
            let Mismatch { index, expected, got } = mismatch;
            let byte = self.received + index as u64;
            let text = format!(
                "connection {number}: byte {byte} came back as {got:#04x}, not as {expected:#04x}"
            );
            ConnectionError::new(Cause::WrongBytes, text)
        })?;
        if expected < length {
            let (received, sent) = (self.received + length as u64, self.sent);
            let text =
                format!("connection {number}: got {received} bytes, but only {sent} were sent");
            return Err(ConnectionError::new(Cause::ExcessBytes, text));
        }
        context.stats.bytes_received += length as u64;
        context.stats.last_echo = now;
        self.count_echo(self.received + length as u64, now, context);
        Ok(false)
    }

    /// Counts the messages whose echo is complete once `received` bytes are verified.
    fn count_echo(&mut self, received: u64, now: u64, context: &mut Context<'_>) {
        let size = context.workload.message_size;
        let (before, after) = (self.received / size, received / size);
        self.received = received;
        match context.workload.traffic {
            Traffic::Stream => {}
            Traffic::Open { .. } => {
                let Some(schedule) = &self.schedule else { return };
                for index in before..after {
                    context.stats.count_message(now.saturating_sub(schedule.time(index)));
                }
            }
            Traffic::Closed { pipeline } => {
                for index in before..after {
                    let sent = self.send_times[(index % u64::from(pipeline)) as usize];
                    context.stats.count_message(now.saturating_sub(sent));
                }
                if self.phase == Phase::Open {
                    self.send_limit = (after + u64::from(pipeline)) * size;
                }
            }
        }
    }

    /// Judges the server's FIN. Returns `true` if it was expected.
    fn end_of_file(&self) -> Result<bool, ConnectionError> {
        let Self { number, sent, received, .. } = self;
        let missing = sent - received;
        match self.phase {
            Phase::HalfClosed if missing == 0 => Ok(true),
            Phase::HalfClosed => {
                let text = format!(
                    "connection {number}: got {received} of {sent} bytes after a half-close, \
                     then end of file"
                );
                Err(ConnectionError::new(Cause::LostBytes, text))
            }
            _ => {
                let text =
                    format!("connection {number}: closed by the server, {missing} bytes in flight");
                Err(ConnectionError::new(Cause::Closed, text))
            }
        }
    }

    /// Sends once.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), ConnectionError> {
        let permitted = self.send_limit - self.sent;
        let bytes = context.workload.payload.bytes(self.offset + self.sent, permitted);
        let now = if self.send_times.is_empty() { 0 } else { context.clock.now() };
        match self.stream.write(bytes) {
            Ok(length) => {
                self.readiness.sent(length, bytes.len());
                context.stats.bytes_sent += length as u64;
                let sent = self.sent + length as u64;
                self.record_send_times(sent, now, context.workload.message_size);
                self.sent = sent;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readiness.send_blocked();
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Records the send time of the messages that started between `self.sent` and `sent`.
    fn record_send_times(&mut self, sent: u64, now: u64, size: u64) {
        let window = self.send_times.len() as u64;
        if window > 0 {
            for index in self.sent.div_ceil(size)..sent.div_ceil(size) {
                self.send_times[(index % window) as usize] = now;
            }
        }
    }
}
