//! Stats of a run: counted by each thread, then summed.

use std::io;

use hdrhistogram::Histogram;
use nix::errno::Errno;
use serde::{Serialize, Serializer};

use crate::text;

/// Highest latency that the histogram distinguishes, in nanoseconds: one hour.
const MAX_LATENCY: u64 = 3_600_000_000_000;
/// Significant digits of the latencies.
const DIGITS: u8 = 3;

/// Cause of a connection error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Refused,
    ConnectTimeout,
    /// No free descriptor in this process or on this machine.
    NoDescriptors,
    /// No free local port for this server.
    NoPorts,
    /// Reset by the server or the network.
    Reset,
    /// Early close by the server.
    Closed,
    /// Missing echo at the end of the run or of the connection's lifetime.
    Stalled,
    /// Incomplete echo after a half-close.
    LostBytes,
    WrongBytes,
    /// More bytes received than sent.
    ExcessBytes,
    Other,
}

impl Cause {
    /// All causes in order of declaration, with their keys in the JSON report.
    pub(super) const ALL: [(Self, &'static str); 11] = [
        (Self::Refused, "refused"),
        (Self::ConnectTimeout, "connect_timeout"),
        (Self::NoDescriptors, "no_descriptors"),
        (Self::NoPorts, "no_ports"),
        (Self::Reset, "reset"),
        (Self::Closed, "closed"),
        (Self::Stalled, "stalled"),
        (Self::LostBytes, "lost_bytes"),
        (Self::WrongBytes, "wrong_bytes"),
        (Self::ExcessBytes, "excess_bytes"),
        (Self::Other, "other"),
    ];
}

/// Error that ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConnectionError {
    pub cause: Cause,
    /// One clause for the report.
    pub detail: String,
}

impl ConnectionError {
    pub(super) fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        let (cause, hint) = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => (Cause::Refused, ""),
            Some(Errno::ETIMEDOUT) => (Cause::ConnectTimeout, ""),
            Some(Errno::EMFILE | Errno::ENFILE) => (Cause::NoDescriptors, " (raise ulimit -n)"),
            Some(Errno::EADDRNOTAVAIL) => {
                (Cause::NoPorts, " (add a --source-ip of this machine: each has its own ports)")
            }
            // shutdown(2) returns ENOTCONN after a reset that was already reported.
            Some(Errno::ECONNRESET | Errno::EPIPE | Errno::ENOTCONN) => (Cause::Reset, ""),
            _ => (Cause::Other, ""),
        };
        Self::new(cause, text::reason(&error).to_lowercase() + hint)
    }
}

/// Number of connection errors by cause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ErrorCounts([u64; Cause::ALL.len()]);

impl ErrorCounts {
    pub(super) fn of(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the keys of the causes with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Cause::ALL.iter().zip(self.0).map(|((_, key), count)| (*key, count))
    }
}

impl Serialize for ErrorCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Stats of one thread, or the sum of all threads. Times are nanoseconds since the start of the run.
#[derive(Clone, Debug)]
pub(super) struct LoadStats {
    /// Established connections.
    pub opened: u64,
    /// Connections that could not be established.
    pub failed: u64,
    /// Connections that ended regularly, after a half-close by this side.
    pub closed: u64,
    /// Messages with a complete and correct echo.
    pub messages: u64,
    /// Messages that were due but not started by the end of the run.
    pub unsent: u64,
    /// Bytes accepted by the kernel.
    pub bytes_sent: u64,
    /// Correctly echoed bytes.
    pub bytes_received: u64,
    /// Bytes without an echo on failed connections.
    pub bytes_lost: u64,
    /// Nanoseconds from sending a message, or from its intended time, to its last byte.
    pub latency: Histogram<u64>,
    /// Time of the last received byte.
    pub last_echo: u64,
    /// Time at which the last thread stopped sending.
    pub ended: u64,
    pub errors: ErrorCounts,
    pub first_error: Option<String>,
}

impl LoadStats {
    pub(super) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, MAX_LATENCY, DIGITS);
        Self {
            opened: 0,
            failed: 0,
            closed: 0,
            messages: 0,
            unsent: 0,
            bytes_sent: 0,
            bytes_received: 0,
            bytes_lost: 0,
            latency: latency.expect("these bounds are valid"),
            last_echo: 0,
            ended: 0,
            errors: ErrorCounts::default(),
            first_error: None,
        }
    }

    /// Counts an echoed message with its latency in nanoseconds.
    pub(super) fn count_message(&mut self, latency: u64) {
        self.messages += 1;
        self.latency.saturating_record(latency.max(1));
    }

    /// Counts an error and keeps the first one for the report.
    pub(super) fn count_error(&mut self, error: ConnectionError) {
        self.errors.0[error.cause as usize] += 1;
        self.first_error.get_or_insert(error.detail);
    }

    /// Returns the first error if no connection was established, and not for a lack of descriptors or
    /// ports of this machine.
    pub(super) fn absent_server(&self) -> Option<&str> {
        let causes = [Cause::Refused, Cause::ConnectTimeout, Cause::Other];
        let of_server = causes.iter().map(|cause| self.errors.of(*cause)).sum::<u64>();
        let is_absent = self.opened == 0 && of_server > 0 && of_server == self.errors.total();
        self.first_error.as_deref().filter(|_| is_absent)
    }

    /// Adds the stats of another thread.
    pub(super) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.closed += other.closed;
        self.messages += other.messages;
        self.unsent += other.unsent;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.bytes_lost += other.bytes_lost;
        self.latency.add(&other.latency).expect("the bounds are the same");
        self.last_echo = self.last_echo.max(other.last_echo);
        self.ended = self.ended.max(other.ended);
        for (sum, count) in self.errors.0.iter_mut().zip(other.errors.0) {
            *sum += count;
        }
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_includes_every_field() {
        let mut one = LoadStats::new();
        one.count_message(1_000);
        one.count_error(ConnectionError::new(Cause::Closed, "early"));
        let mut other = LoadStats::new();
        other.count_message(3_000_000);
        other.count_message(0);
        other.last_echo = 9;
        other.count_error(ConnectionError::new(Cause::WrongBytes, "late"));
        one.add(&other);
        assert_eq!((one.messages, one.latency.len(), one.last_echo), (3, 3, 9));
        assert_eq!((one.errors.total(), one.errors.of(Cause::WrongBytes)), (2, 1));
        assert_eq!(one.first_error.as_deref(), Some("early"));
    }

    #[test]
    fn a_server_is_absent_if_no_connection_was_established() {
        let with = |opened, causes: &[Cause]| {
            let mut stats = LoadStats { opened, ..LoadStats::new() };
            causes.iter().for_each(|cause| stats.count_error(ConnectionError::new(*cause, "why")));
            stats.absent_server().map(str::to_owned)
        };
        assert_eq!(with(0, &[Cause::Refused, Cause::ConnectTimeout]).as_deref(), Some("why"));
        assert_eq!(with(0, &[Cause::Other]).as_deref(), Some("why"));
        assert_eq!(with(1, &[Cause::Refused]), None);
        assert_eq!(with(0, &[Cause::Refused, Cause::NoPorts]), None);
        assert_eq!(with(0, &[]), None);
    }

    #[test]
    fn every_errno_has_its_cause_and_causes_keep_their_order() {
        for (index, (cause, _)) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index, "{cause:?}");
        }
        for (number, cause) in [
            (111, Cause::Refused),
            (110, Cause::ConnectTimeout),
            (24, Cause::NoDescriptors),
            (99, Cause::NoPorts),
            (104, Cause::Reset),
            (107, Cause::Reset),
            (101, Cause::Other),
        ] {
            assert_eq!(ConnectionError::from(io::Error::from_raw_os_error(number)).cause, cause);
        }
    }
}
