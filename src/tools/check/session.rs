//! A session: one connection of a case, from connect to the end of the echo.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;

use super::case::{Case, Reads, Writes};
use super::failure::Failure;
use crate::event_loop::Readiness;
use crate::tools::payload::{MAX_SLICE, Payload};
use crate::tools::socket;

/// Delay before the first read of a slow reader.
const SLOW_START: Duration = Duration::from_millis(100);
/// Pause of a slow reader between two reads.
const SLOW_PAUSE: Duration = Duration::from_millis(1);
/// Reads that a slow reader needs for the whole echo, not counting a shorter last one.
const SLOW_READS: usize = 100;
/// `SO_RCVBUF` of a slow reader in bytes.
const SLOW_BUFFER: usize = 32 * 1024;
/// Time to wait for excess bytes. Without a half-close no end of file marks the end of the echo.
const EXCESS_WAIT: Duration = Duration::from_millis(10);

/// A non-blocking connection that sends the payload of a case and verifies the echo.
#[derive(Debug)]
pub(super) struct Session<'a> {
    stream: TcpStream,
    payload: &'a Payload,
    /// Start position in the payload; it differs between the sessions of a case.
    offset: u64,
    case: Case,
    sent: usize,
    received: usize,
    /// `true` while the last byte is withheld until all sessions have received something.
    withholds_last_byte: bool,
    connected: bool,
    readiness: Readiness,
    half_closed: bool,
    /// `true` after a failed write. Reading continues, to report how far the server got.
    write_failed: bool,
    rng: fastrand::Rng,
    /// Earliest time of the next read.
    next_read: Instant,
    /// End of the wait for excess bytes, if there is no half-close.
    excess_deadline: Option<Instant>,
}

impl<'a> Session<'a> {
    /// Starts to connect. `number` is the index of the session in its case.
    pub(super) fn open(
        case: &Case,
        number: usize,
        address: SocketAddr,
        payload: &'a Payload,
        now: Instant,
    ) -> Result<Self, Failure> {
        let slow = case.reads == Reads::Slow;
        let stream = socket::connect(address, None, slow.then_some(SLOW_BUFFER))
            .map_err(|error| Failure::connecting(&error))?;
        let mut rng = fastrand::Rng::with_seed(number as u64);
        Ok(Self {
            stream,
            payload,
            offset: u64::from(rng.u32(..)),
            case: *case,
            sent: 0,
            received: 0,
            withholds_last_byte: case.connections > 1 && case.bytes > 1,
            connected: false,
            readiness: Readiness::default(),
            half_closed: false,
            write_failed: false,
            rng,
            next_read: if slow { now + SLOW_START } else { now },
            excess_deadline: None,
        })
    }

    /// Returns the socket for registration with the event loop.
    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Records the readiness of the socket.
    pub(super) fn update_readiness(&mut self, event: &Event) {
        self.readiness.add(event.into());
    }

    /// Returns `true` if the session is being served but still withholds its last byte.
    pub(super) fn waits_for_others(&self) -> bool {
        self.withholds_last_byte && self.received > 0
    }

    /// Lets the last byte be sent. To be called once the server serves all sessions concurrently.
    pub(super) fn release_last_byte(&mut self) {
        self.withholds_last_byte = false;
    }

    /// Writes and reads until the socket would block. Returns `true` if the session is complete.
    pub(super) fn advance(&mut self, now: Instant, buffer: &mut [u8]) -> Result<bool, Failure> {
        if !self.connected && self.readiness.writable {
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
            return Ok(*self.excess_deadline.get_or_insert(now + EXCESS_WAIT) <= now);
        }
        Ok(false)
    }

    /// Returns the time at which to call [`Self::advance`] even without an event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.excess_deadline.or_else(|| self.readiness.readable.then_some(self.next_read))
    }

    /// Returns the failure of a session that is incomplete when the timeout expires.
    pub(super) fn timed_out(&self, limit: Duration) -> Failure {
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
        while self.readiness.writable && !self.write_failed {
            let allowed = self.case.bytes - usize::from(self.withholds_last_byte);
            let goal = allowed.min(self.received.saturating_add(self.case.window()));
            if self.sent >= goal {
                break;
            }
            let length = (goal - self.sent).min(self.write_size());
            let bytes = self.payload.bytes(self.offset + self.sent as u64, length as u64);
            match self.stream.write(bytes) {
                Ok(count) => self.sent += count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.readiness.send_blocked(),
                    ErrorKind::Interrupted => {}
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => self.write_failed = true,
                    _ => return Err(error.into()),
                },
            }
        }
        if self.case.half_close && self.sent == self.case.bytes && !self.half_closed {
            self.half_closed = true;
            // Fails only on a closed connection, which the next read reports.
            self.write_failed |= self.stream.shutdown(Shutdown::Write).is_err();
        }
        Ok(())
    }

    /// Returns the maximum size of the next write in bytes.
    fn write_size(&mut self) -> usize {
        match self.case.writes {
            Writes::AtOnce | Writes::OneByOne => MAX_SLICE,
            // Mostly small, occasionally up to 128 KiB.
            Writes::Ragged => {
                let max = 1 << self.rng.u32(4..18);
                self.rng.usize(1..=max)
            }
        }
    }

    /// Reads and verifies. Returns `true` if the server has closed after the complete echo.
    fn read(&mut self, now: Instant, buffer: &mut [u8]) -> Result<bool, Failure> {
        let total = self.case.bytes;
        while self.readiness.readable && self.next_read <= now {
            let max = match self.case.reads {
                Reads::Eager => buffer.len(),
                Reads::Slow => buffer.len().min(total / SLOW_READS + 1),
            };
            match self.stream.read(&mut buffer[..max]) {
                Ok(0) if self.received == total && !self.write_failed => return Ok(true),
                Ok(0) if !self.write_failed => {
                    return Err(Failure::Short { received: self.received, total });
                }
                Ok(0) => return Err(Failure::Reset { received: self.received, total }),
                Ok(count) => self.verify(&buffer[..count])?,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.readiness.receive_blocked(),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                        return Err(Failure::Reset { received: self.received, total });
                    }
                    _ => return Err(error.into()),
                },
            }
            if self.case.reads == Reads::Slow {
                self.next_read = now + SLOW_PAUSE;
            }
        }
        Ok(false)
    }

    fn verify(&mut self, got: &[u8]) -> Result<(), Failure> {
        let expected = got.len().min(self.sent - self.received);
        self.payload
            .compare(self.offset + self.received as u64, &got[..expected])
            .map_err(|mismatch| Failure::corrupted(mismatch, self.received, self.case.bytes))?;
        self.received += got.len();
        if expected < got.len() {
            return Err(Failure::Excess { received: self.received, sent: self.sent });
        }
        Ok(())
    }
}
