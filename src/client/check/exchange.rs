//! One connection of a case: what goes out, what comes back, and the end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;

use super::failure::Failure;
use super::plan::{Case, Reads, Writes};
use crate::client::socket;
use crate::client::source::{Dice, REACH, Source};

/// A slow reader begins so late.
const LATE: Duration = Duration::from_millis(100);
/// It rests so long between two bites.
const REST: Duration = Duration::from_millis(1);
/// It takes so many bites, and a smaller one at the end.
const BITES: usize = 100;
/// The kernel may keep so much for it.
const SLOW_BUFFER: usize = 32 * 1024;
/// Without a half-close nothing tells that the echo is over: bytes too many are waited for so long.
const EXCESS: Duration = Duration::from_millis(10);

/// A connection at work. Nothing in here waits.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    stream: TcpStream,
    source: &'a Source,
    /// Where in the source this connection begins: each has bytes of its own.
    offset: u64,
    case: Case,
    sent: usize,
    received: usize,
    /// Whether the last byte is kept back.
    held: bool,
    connected: bool,
    readable: bool,
    writable: bool,
    half_closed: bool,
    /// Writing has failed; what can be read says how far the server came.
    broken: bool,
    dice: Dice,
    /// When to read next.
    next_read: Instant,
    /// When a connection without a half-close has waited long enough for bytes too many.
    settled: Option<Instant>,
}

impl<'a> Exchange<'a> {
    /// Begins to connect. `number` tells the connections of a case apart.
    pub(super) fn open(
        case: &Case,
        number: usize,
        address: SocketAddr,
        source: &'a Source,
        now: Instant,
    ) -> Result<Self, Failure> {
        let slow = case.reads == Reads::Slow;
        let stream = socket::connect(address, None, slow.then_some(SLOW_BUFFER))
            .map_err(|error| Failure::connecting(&error))?;
        let mut dice = Dice::new(number as u64);
        Ok(Self {
            stream,
            source,
            offset: u64::from(dice.next() as u32),
            case: *case,
            sent: 0,
            received: 0,
            held: case.connections > 1 && case.bytes > 1,
            connected: false,
            readable: false,
            writable: false,
            half_closed: false,
            broken: false,
            dice,
            next_read: if slow { now + LATE } else { now },
            settled: None,
        })
    }

    /// The socket, to be registered.
    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Notes what the kernel says.
    pub(super) fn mark(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_error();
    }

    /// Whether it waits for the other connections to get something back.
    pub(super) fn waits_for_others(&self) -> bool {
        self.held && self.received > 0
    }

    /// All connections are served at once: the last byte may go.
    pub(super) fn release(&mut self) {
        self.held = false;
    }

    /// Does what can be done now; `true` when it has ended as it should.
    pub(super) fn advance(&mut self, now: Instant, buffer: &mut [u8]) -> Result<bool, Failure> {
        if !self.connected && self.writable {
            if let Some(error) = self.stream.take_error()? {
                return Err(Failure::connecting(&error));
            }
            self.connected = true;
        }
        while self.connected {
            let before = (self.sent, self.received);
            self.write()?;
            if self.read(now, buffer)? {
                return Ok(true);
            }
            if before == (self.sent, self.received) {
                break;
            }
        }
        if self.received == self.case.bytes && !self.case.half_close && self.connected {
            let settled = *self.settled.get_or_insert(now + EXCESS);
            return Ok(settled <= now);
        }
        Ok(false)
    }

    /// When to look again though the kernel says nothing.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.settled.or_else(|| self.readable.then_some(self.next_read))
    }

    /// What is missing when the time is up.
    pub(super) fn overdue(&self, limit: Duration) -> Failure {
        let (received, total) = (self.received, self.case.bytes);
        if !self.connected {
            Failure::ConnectTimeout(limit)
        } else if received == total {
            Failure::NoEnd { total, limit }
        } else {
            Failure::Stalled { received, total, limit }
        }
    }

    fn write(&mut self) -> Result<(), Failure> {
        while self.writable && !self.broken {
            let most = self.case.bytes - usize::from(self.held);
            let goal = most.min(self.received.saturating_add(self.case.window()));
            if self.sent >= goal {
                break;
            }
            let length = (goal - self.sent).min(self.piece());
            let bytes = self.source.bytes(self.offset + self.sent as u64, length as u64);
            match self.stream.write(bytes) {
                Ok(count) => self.sent += count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.writable = false,
                    ErrorKind::Interrupted => {}
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => self.broken = true,
                    _ => return Err(error.into()),
                },
            }
        }
        if self.case.half_close && self.sent == self.case.bytes && !self.half_closed {
            self.half_closed = true;
            // It fails only on a connection that is gone, and reading says so, too.
            self.broken |= self.stream.shutdown(Shutdown::Write).is_err();
        }
        Ok(())
    }

    /// How much to write at once.
    fn piece(&mut self) -> usize {
        match self.case.writes {
            Writes::AtOnce | Writes::OneByOne => REACH,
            // Mostly small, now and then much.
            Writes::Ragged => {
                let most = 1 << (4 + self.dice.next() % 14);
                1 + (self.dice.next() % most) as usize
            }
        }
    }

    /// Reads and compares; `true` when the server has ended as it should.
    fn read(&mut self, now: Instant, buffer: &mut [u8]) -> Result<bool, Failure> {
        let total = self.case.bytes;
        while self.readable && self.next_read <= now {
            let most = match self.case.reads {
                Reads::Eager => buffer.len(),
                Reads::Slow => buffer.len().min(total / BITES + 1),
            };
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) if self.received == total && !self.broken => return Ok(true),
                Ok(0) if !self.broken => {
                    return Err(Failure::Short { received: self.received, total });
                }
                Ok(0) => return Err(Failure::Reset { received: self.received, total }),
                Ok(count) => self.verify(&buffer[..count])?,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.readable = false,
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                        return Err(Failure::Reset { received: self.received, total });
                    }
                    _ => return Err(error.into()),
                },
            }
            if self.case.reads == Reads::Slow {
                self.next_read = now + REST;
            }
        }
        Ok(false)
    }

    fn verify(&mut self, got: &[u8]) -> Result<(), Failure> {
        let owed = got.len().min(self.sent - self.received);
        self.source
            .compare(self.offset + self.received as u64, &got[..owed])
            .map_err(|wrong| Failure::corrupted(wrong, self.received, self.case.bytes))?;
        self.received += got.len();
        if owed < got.len() {
            return Err(Failure::TooMuch { received: self.received, sent: self.sent });
        }
        Ok(())
    }
}
