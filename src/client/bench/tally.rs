//! What a thread has counted, and the sum of all.

use std::io;

use hdrhistogram::Histogram;
use nix::errno::Errno;

/// The longest latency that is told from longer ones: an hour, in nanoseconds.
const LONGEST: u64 = 3_600_000_000_000;
/// Three digits of every latency are kept.
const DIGITS: u8 = 3;

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody listens.
    Refused,
    /// No answer to connect.
    ConnectTimeout,
    /// This process, or this machine, has no descriptor left.
    NoDescriptors,
    /// This machine has no port left towards the server.
    NoPorts,
    /// The server, or the network, has reset the connection.
    Reset,
    /// The server has closed the connection before we have.
    Closed,
    /// What was under way at the end has not come back.
    Stalled,
    /// After our half-close the server has closed with bytes missing.
    LostBytes,
    /// A byte was not the one that was sent.
    WrongBytes,
    /// More bytes came back than had been sent.
    ExcessBytes,
    /// Anything else.
    Other,
}

impl Cause {
    /// All of them, in the order of the report.
    pub(super) const ALL: [Self; 11] = [
        Self::Refused,
        Self::ConnectTimeout,
        Self::NoDescriptors,
        Self::NoPorts,
        Self::Reset,
        Self::Closed,
        Self::Stalled,
        Self::LostBytes,
        Self::WrongBytes,
        Self::ExcessBytes,
        Self::Other,
    ];

    /// The cause as a key of the JSON object.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::NoDescriptors => "no_descriptors",
            Self::NoPorts => "no_ports",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Stalled => "stalled",
            Self::LostBytes => "lost_bytes",
            Self::WrongBytes => "wrong_bytes",
            Self::ExcessBytes => "excess_bytes",
            Self::Other => "other",
        }
    }

    /// Whether the server has broken the promise of an echo.
    pub(super) fn is_wrong_echo(self) -> bool {
        matches!(self, Self::LostBytes | Self::WrongBytes | Self::ExcessBytes)
    }
}

/// Why a connection failed, and what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The cause it is counted under.
    pub cause: Cause,
    /// One clause.
    pub detail: String,
}

impl Trouble {
    /// A cause that needs a word.
    pub(super) fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        let cause = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Cause::Refused,
            Some(Errno::ETIMEDOUT) => Cause::ConnectTimeout,
            Some(Errno::EMFILE | Errno::ENFILE) => Cause::NoDescriptors,
            Some(Errno::EADDRNOTAVAIL) => Cause::NoPorts,
            // The last one by shutdown(2), when the reset has been told already.
            Some(Errno::ECONNRESET | Errno::EPIPE | Errno::ENOTCONN) => Cause::Reset,
            _ => Cause::Other,
        };
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        let hint = match cause {
            Cause::NoDescriptors => " (ulimit -n)",
            Cause::NoPorts => {
                " (each --source-ip has ports of its own, and must be this machine's)"
            }
            _ => "",
        };
        Self::new(cause, text + hint)
    }
}

/// Counts, by one thread or by all.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Connections that were established.
    pub opened: u64,
    /// Connections that were not.
    pub failed: u64,
    /// Connections that ended in order, by our half-close.
    pub closed: u64,
    /// Messages that came back whole and as they were sent.
    pub messages: u64,
    /// Messages that were due and not even begun when the run ended.
    pub unsent: u64,
    /// Bytes that the kernel has taken.
    pub bytes_sent: u64,
    /// Bytes that came back as they were sent.
    pub bytes_received: u64,
    /// Bytes that were under way on connections that failed, and will not come back.
    pub bytes_lost: u64,
    /// Nanoseconds from sending a message, or from when it was due, to its last byte.
    pub latency: Histogram<u64>,
    /// When the last byte came, in nanoseconds since the run began.
    pub last_echo: u64,
    /// When the last thread stopped sending, in nanoseconds since the run began.
    pub ended: u64,
    /// By cause, in the order of [`Cause::ALL`].
    errors: [u64; Cause::ALL.len()],
    /// The first one in words.
    pub first_error: Option<String>,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST, DIGITS);
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
            errors: [0; Cause::ALL.len()],
            first_error: None,
        }
    }

    /// A message has come back after so many nanoseconds.
    pub(super) fn message(&mut self, nanoseconds: u64) {
        self.messages += 1;
        self.latency.saturating_record(nanoseconds.max(1));
    }

    /// A connection has failed.
    pub(super) fn error(&mut self, trouble: Trouble) {
        self.errors[trouble.cause as usize] += 1;
        self.first_error.get_or_insert(trouble.detail);
    }

    /// How often for this cause.
    pub(super) fn errors(&self, cause: Cause) -> u64 {
        self.errors[cause as usize]
    }

    /// How often for any cause.
    pub(super) fn all_errors(&self) -> u64 {
        self.errors.iter().sum()
    }

    /// Adds what another thread has counted.
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
        for (sum, count) in self.errors.iter_mut().zip(other.errors) {
            *sum += count;
        }
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_has_everything() {
        let mut one = Tally::new();
        one.message(1_000);
        one.error(Trouble::new(Cause::Closed, "early"));
        let mut other = Tally::new();
        other.message(3_000_000);
        other.message(0);
        other.last_echo = 9;
        other.error(Trouble::new(Cause::WrongBytes, "late"));
        one.add(&other);
        assert_eq!((one.messages, one.latency.len(), one.last_echo), (3, 3, 9));
        assert_eq!((one.all_errors(), one.errors(Cause::WrongBytes)), (2, 1));
        assert_eq!(one.first_error.as_deref(), Some("early"));
    }

    #[test]
    fn causes_are_told_apart_and_stand_in_their_order() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
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
            assert_eq!(Trouble::from(io::Error::from_raw_os_error(number)).cause, cause);
        }
    }
}
