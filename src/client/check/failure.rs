//! What a server did wrong, in words that tell one fault from another.

use std::io;
use std::time::Duration;

use crate::client::source::Mismatch;

/// Why a case failed. Reads as the end of a sentence that begins with the case.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody listens.
    #[error("connection refused")]
    Refused,
    /// Something else is in the way of a connection, on this side or on the network.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// The server's host does not answer.
    #[error("no answer to connect within {0:?}")]
    ConnectTimeout(Duration),
    /// The time is up and something is missing.
    #[error("got {received} of {total} bytes, then nothing until the timeout of {limit:?}")]
    Stalled {
        /// Bytes that came back.
        received: usize,
        /// Bytes that should have.
        total: usize,
        /// The timeout of the whole check.
        limit: Duration,
    },
    /// Everything has come back, but not the FIN behind it.
    #[error("got all {total} bytes, but no end of file until the timeout of {limit:?}")]
    NoEnd {
        /// Bytes that came back.
        total: usize,
        /// The timeout of the whole check.
        limit: Duration,
    },
    /// The connection was reset.
    #[error("got {received} of {total} bytes, then a reset")]
    Reset {
        /// Bytes that came back.
        received: usize,
        /// Bytes that should have.
        total: usize,
    },
    /// The server closed too early.
    #[error("got {received} of {total} bytes, then end of file")]
    Short {
        /// Bytes that came back.
        received: usize,
        /// Bytes that should have.
        total: usize,
    },
    /// A byte is not the one that was sent.
    #[error("byte {offset} of {total} came back as {got:#04x}, sent was {expected:#04x}")]
    Corrupted {
        /// Where, from 0.
        offset: usize,
        /// Bytes that should have come back.
        total: usize,
        /// What was sent there.
        expected: u8,
        /// What came back.
        got: u8,
    },
    /// More comes back than was sent.
    #[error("got too much: {received} for {sent} bytes that were sent")]
    TooMuch {
        /// Bytes that came back until it was noticed.
        received: usize,
        /// Bytes that had been sent.
        sent: usize,
    },
    /// The system let us down.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl Failure {
    /// What stands in the way of a connection.
    pub(super) fn connecting(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Unreachable(reason(error)),
        }
    }

    /// The comparison has failed, `before` bytes behind the first one of `total`.
    pub(super) fn corrupted(mismatch: Mismatch, before: usize, total: usize) -> Self {
        let Mismatch { index, expected, got } = mismatch;
        Self::Corrupted { offset: before + index, total, expected, got }
    }

    /// Whether there is no point in trying the next case.
    pub(super) fn is_final(&self) -> bool {
        use Failure::{ConnectTimeout, NoEnd, Refused, Stalled, System, Unreachable};
        let server_is_absent = matches!(self, Refused | Unreachable(_) | System(_));
        let time_is_up = matches!(self, ConnectTimeout(_) | Stalled { .. } | NoEnd { .. });
        server_is_absent || time_is_up
    }
}

/// A system error without the "(os error 111)" that Rust appends, in small letters.
fn reason(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_words_of_its_own() {
        let limit = Duration::from_secs(5);
        let (received, total) = (40_960, 65_536);
        let mismatch = Mismatch { index: 7, expected: 0x0a, got: 0xff };
        for (failure, text) in [
            (Failure::Short { received, total }, "got 40960 of 65536 bytes, then end of file"),
            (Failure::Reset { received, total }, "got 40960 of 65536 bytes, then a reset"),
            (
                Failure::Stalled { received, total, limit },
                "got 40960 of 65536 bytes, then nothing until the timeout of 5s",
            ),
            (
                Failure::NoEnd { total, limit },
                "got all 65536 bytes, but no end of file until the timeout of 5s",
            ),
            (
                Failure::corrupted(mismatch, 100, total),
                "byte 107 of 65536 came back as 0xff, sent was 0x0a",
            ),
            (
                Failure::TooMuch { received: 12, sent: 10 },
                "got too much: 12 for 10 bytes that were sent",
            ),
            (Failure::connecting(&io::Error::from_raw_os_error(111)), "connection refused"),
            (
                Failure::connecting(&io::Error::from_raw_os_error(101)),
                "cannot connect: network is unreachable",
            ),
        ] {
            assert_eq!(failure.to_string(), text);
        }
    }
}
