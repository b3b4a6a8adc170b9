//! Failures of a case, each with a distinct message.

use std::io;
use std::time::Duration;

use crate::text;
use crate::tools::payload::Mismatch;

/// Failure of a case. The message is a clause that follows the name of the case.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("connection refused")]
    Refused,
    /// Failed connect(2) for any other reason, local or remote.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// Connect without an answer from the host.
    #[error("no answer to connect within {0:?}")]
    ConnectTimeout(Duration),
    /// Incomplete echo when the timeout of the whole check expires.
    #[error("got {received} of {total} bytes, then nothing until the timeout of {limit:?}")]
    Stalled { received: usize, total: usize, limit: Duration },
    /// Complete echo without the FIN after it.
    #[error("got all {total} bytes, but no end of file until the timeout of {limit:?}")]
    NoEnd { total: usize, limit: Duration },
    #[error("got {received} of {total} bytes, then a reset")]
    Reset { received: usize, total: usize },
    #[error("got {received} of {total} bytes, then end of file")]
    Short { received: usize, total: usize },
    /// Wrong byte at `offset`, counted from 0.
    #[error("byte {offset} of {total} came back as {got:#04x}, not as {expected:#04x}")]
    Corrupted { offset: usize, total: usize, expected: u8, got: u8 },
    #[error("got excess bytes: {received} received, {sent} sent")]
    Excess { received: usize, sent: usize },
    /// Local system error.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl Failure {
    /// Returns the failure for an error of connect(2).
    pub(super) fn connecting(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Unreachable(text::reason(error).to_lowercase()),
        }
    }

    /// Returns the failure for a mismatch in a read that started at byte `before`.
    pub(super) fn corrupted(mismatch: Mismatch, before: usize, total: usize) -> Self {
        let Mismatch { index, expected, got } = mismatch;
        Self::Corrupted { offset: before + index, total, expected, got }
    }

    /// Returns the reason why there is no connection, and `true` if the host refused it.
    pub(super) fn unconnected(&self) -> Option<(String, bool)> {
        match self {
            Self::Refused => Some((self.to_string(), true)),
            Self::Unreachable(reason) => Some((reason.clone(), false)),
            Self::ConnectTimeout(limit) => Some((format!("no answer within {limit:?}"), false)),
            _ => None,
        }
    }

    /// Returns `true` if the remaining cases would fail for the same reason.
    pub(super) fn is_final(&self) -> bool {
        use Failure::{ConnectTimeout, NoEnd, Refused, Stalled, System, Unreachable};
        let server_is_absent = matches!(self, Refused | Unreachable(_) | System(_));
        let time_is_up = matches!(self, ConnectTimeout(_) | Stalled { .. } | NoEnd { .. });
        server_is_absent || time_is_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_distinct_message() {
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
                "byte 107 of 65536 came back as 0xff, not as 0x0a",
            ),
            (Failure::Excess { received: 12, sent: 10 }, "got excess bytes: 12 received, 10 sent"),
            (Failure::connecting(&io::Error::from_raw_os_error(111)), "connection refused"),
            (
                Failure::connecting(&io::Error::from_raw_os_error(101)),
                "cannot connect: network is unreachable",
            ),
        ] {
            assert_eq!(failure.to_string(), text);
        }
    }

    #[test]
    fn a_failure_to_connect_has_its_reason() {
        let limit = Duration::from_millis(300);
        let unreachable = Failure::connecting(&io::Error::from_raw_os_error(101));
        for (failure, reason, refused) in [
            (Failure::Refused, "connection refused", true),
            (unreachable, "network is unreachable", false),
            (Failure::ConnectTimeout(limit), "no answer within 300ms", false),
        ] {
            assert_eq!(failure.unconnected(), Some((reason.to_owned(), refused)));
        }
        assert_eq!(Failure::Short { received: 0, total: 1 }.unconnected(), None);
    }
}
