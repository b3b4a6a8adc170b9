//! One connection of a run: what may be sent, what has come back, and how long that took.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::event::Event;
use mio::net::TcpStream;

use super::clock::Clock;
use super::plan::{Plan, Traffic};
use super::schedule::Timetable;
use super::tally::{Cause, Tally, Trouble};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not yet established.
    Connecting,
    /// Messages go and come.
    Open,
    /// No further message: the one that has begun is sent to its end.
    Ending,
    /// Our FIN is sent. What is owed must come, and then the server's FIN.
    HalfClosed,
}

/// What a connection waits for after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An event, or a time.
    Wait,
    /// Another turn: there is more to do.
    Again,
    /// Nothing: it has ended in order.
    Closed,
}

/// What a turn works with.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    /// The run.
    pub plan: &'a Plan,
    /// Its time.
    pub clock: Clock,
    /// The thread's one receive buffer.
    pub buffer: &'a mut [u8],
    /// Where it is all counted.
    pub tally: &'a mut Tally,
    /// Whether the run ends.
    pub ending: bool,
}

/// A connection. Positions count bytes from its beginning.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Whether it stands in the queue for a turn.
    pub queued: bool,
    /// Whether it is counted among those that are being opened.
    pub on_its_way: bool,
    phase: Phase,
    readable: bool,
    writable: bool,
    /// Whether a short receive does not mean that the socket is empty: behind it is the end of file,
    /// and no new event will say so.
    read_on: bool,
    /// Which of the run's connections it is, and where in the source it begins.
    number: u32,
    offset: u64,
    sent: u64,
    received: u64,
    /// How far sending may go.
    allowed: u64,
    /// Closed loop: when the messages under way were sent, by their number modulo its length.
    stamps: Box<[u64]>,
    /// Open loop: when each message is due.
    timetable: Option<Timetable>,
}

impl Connection {
    /// A connection that has begun to connect. `life` counts those of the same number.
    pub(super) fn new(
        stream: TcpStream,
        plan: &Plan,
        number: u32,
        life: u32,
        timetable: Option<Timetable>,
    ) -> Self {
        let (allowed, window) = match plan.traffic {
            Traffic::Closed { pipeline } => (u64::from(pipeline) * plan.message, pipeline as usize),
            Traffic::Open { .. } => (0, 0),
            Traffic::Stream => (u64::MAX, 0),
        };
        // Anywhere, but not in the same place as the neighbours; a text has only one beginning.
        let place = u64::from(number) * 7_919 + u64::from(life) * 104_729;
        Self {
            stream,
            queued: false,
            on_its_way: true,
            phase: Phase::Connecting,
            readable: false,
            writable: false,
            read_on: false,
            number,
            offset: if plan.patterned { place } else { 0 },
            sent: 0,
            received: 0,
            allowed,
            stamps: vec![0; window].into_boxed_slice(),
            timetable,
        }
    }

    /// Notes what the kernel says.
    pub(super) fn mark(&mut self, event: &Event) {
        let failed = event.is_error();
        self.readable |= event.is_readable() || failed;
        self.writable |= event.is_writable() || failed;
        self.read_on |= event.is_read_closed() || failed;
    }

    /// Whether it is not yet established.
    pub(super) fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Bytes under way.
    pub(super) fn owed(&self) -> u64 {
        self.sent - self.received
    }

    /// Whether the server has it. An established connection may still wait in the server's queue; the
    /// first echo is the proof, where one is to come soon.
    pub(super) fn has_arrived(&self, plan: &Plan) -> bool {
        match plan.traffic {
            Traffic::Open { .. } => !self.is_connecting(),
            Traffic::Closed { .. } | Traffic::Stream => self.has_echoed(),
        }
    }

    /// Whether anything has come back.
    pub(super) fn has_echoed(&self) -> bool {
        self.received > 0
    }

    /// What to say when it takes too long to end.
    pub(super) fn stalled(&self) -> Trouble {
        let Self { number, sent, received, .. } = self;
        let text = format!("connection {number}: {received} of {sent} bytes back, then nothing");
        Trouble::new(Cause::Stalled, text)
    }

    /// Lets the messages go that are due by `now`; returns when the next one will be. There is none
    /// when the connection is not open, or not in an open loop.
    pub(super) fn release_due(&mut self, now: u64, plan: &Plan) -> Option<u64> {
        let table = self.timetable.as_ref().filter(|_| self.phase == Phase::Open)?;
        let due = table.due(now);
        self.allowed = due * plan.message;
        Some(table.time(due))
    }

    /// What is left of its timetable: the messages that have not been begun.
    pub(super) fn timetable_left(&self, plan: &Plan) -> Option<Timetable> {
        self.timetable.map(|table| table.after(self.sent.div_ceil(plan.message)))
    }

    /// Begins no further message.
    pub(super) fn finish(&mut self, plan: &Plan) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Ending;
        self.allowed = match plan.traffic {
            Traffic::Stream => self.sent,
            Traffic::Closed { .. } | Traffic::Open { .. } => {
                self.sent.div_ceil(plan.message) * plan.message
            }
        };
    }

    /// Does what can be done now: at most one receive and one send, so that others get their turn.
    ///
    /// # Errors
    /// Whatever ends the connection before its time.
    pub(super) fn drive(&mut self, turn: &mut Turn<'_>) -> Result<Next, Trouble> {
        if self.phase == Phase::Connecting {
            if !self.writable {
                return Ok(Next::Wait);
            }
            self.establish(turn)?;
        }
        if self.readable && self.receive(turn)? {
            return Ok(Next::Closed);
        }
        if self.writable && self.sent < self.allowed {
            self.send(turn)?;
        }
        if self.phase == Phase::Ending && self.sent == self.allowed {
            self.stream.shutdown(Shutdown::Write)?;
            self.phase = Phase::HalfClosed;
        }
        let more = self.readable || (self.writable && self.sent < self.allowed);
        Ok(if more { Next::Again } else { Next::Wait })
    }

    fn establish(&mut self, turn: &mut Turn<'_>) -> Result<(), Trouble> {
        // An event without an error needs no further question.
        if self.read_on {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
        }
        turn.tally.opened += 1;
        self.phase = Phase::Open;
        if turn.ending {
            self.phase = Phase::Ending;
            self.allowed = 0;
        }
        Ok(())
    }

    /// One receive; `true` when the connection has ended as it should.
    fn receive(&mut self, turn: &mut Turn<'_>) -> Result<bool, Trouble> {
        let length = match self.stream.read(turn.buffer) {
            Ok(0) => return self.at_end(),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                (self.readable, self.read_on) = (false, false);
                return Ok(false);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let now = turn.clock.now();
        // A receive that does not fill the buffer has emptied the socket.
        self.readable = length == turn.buffer.len() || self.read_on;

        let owed = (self.sent - self.received).min(length as u64) as usize;
        let position = self.offset + self.received;
        turn.plan.source.compare(position, &turn.buffer[..owed]).map_err(|wrong| {
            let byte = self.received + wrong.index as u64;
            let (number, got, sent) = (self.number, wrong.got, wrong.expected);
            let text = format!(
                "connection {number}: byte {byte} came back as {got:#04x}, sent was {sent:#04x}"
            );
            Trouble::new(Cause::WrongBytes, text)
        })?;
        if owed < length {
            let (number, back) = (self.number, self.received + length as u64);
            let text = format!("connection {number}: {back} bytes back, {} sent", self.sent);
            return Err(Trouble::new(Cause::ExcessBytes, text));
        }
        turn.tally.bytes_received += length as u64;
        turn.tally.last_echo = now;
        self.complete(self.received + length as u64, now, turn);
        Ok(false)
    }

    /// Everything up to `received` is back.
    fn complete(&mut self, received: u64, now: u64, turn: &mut Turn<'_>) {
        let message = turn.plan.message;
        let before = self.received / message;
        self.received = received;
        let after = received / message;
        match turn.plan.traffic {
            Traffic::Stream => {}
            Traffic::Open { .. } => {
                let Some(table) = &self.timetable else { return };
                for index in before..after {
                    turn.tally.message(now.saturating_sub(table.time(index)));
                }
            }
            Traffic::Closed { pipeline } => {
                for index in before..after {
                    let stamp = self.stamps[(index % u64::from(pipeline)) as usize];
                    turn.tally.message(now.saturating_sub(stamp));
                }
                if self.phase == Phase::Open {
                    self.allowed = (after + u64::from(pipeline)) * message;
                }
            }
        }
    }

    /// The server's FIN has come.
    fn at_end(&self) -> Result<bool, Trouble> {
        let Self { number, sent, received, .. } = self;
        let missing = sent - received;
        match self.phase {
            Phase::HalfClosed if missing == 0 => Ok(true),
            Phase::HalfClosed => {
                let text = format!(
                    "connection {number}: got {received} of {sent} bytes after a half-close, \
                     then end of file"
                );
                Err(Trouble::new(Cause::LostBytes, text))
            }
            _ => {
                let text =
                    format!("connection {number}: closed by the server, {missing} bytes under way");
                Err(Trouble::new(Cause::Closed, text))
            }
        }
    }

    /// One send.
    fn send(&mut self, turn: &mut Turn<'_>) -> Result<(), Trouble> {
        let left = self.allowed - self.sent;
        let bytes = turn.plan.source.bytes(self.offset + self.sent, left);
        let now = if self.stamps.is_empty() { 0 } else { turn.clock.now() };
        match self.stream.write(bytes) {
            Ok(length) => {
                self.writable = length == bytes.len();
                turn.tally.bytes_sent += length as u64;
                let sent = self.sent + length as u64;
                self.stamp(sent, now, turn.plan.message);
                self.sent = sent;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Notes the time for those messages whose first byte has just been sent.
    fn stamp(&mut self, sent: u64, now: u64, message: u64) {
        let window = self.stamps.len() as u64;
        if window > 0 {
            for index in self.sent.div_ceil(message)..sent.div_ceil(message) {
                self.stamps[(index % window) as usize] = now;
            }
        }
    }
}
