//! The cases of a check, as the options select them.

use std::fmt::{self, Display};

use super::options::CheckOptions;

/// Sizes of the plain cases in bytes: none, one, some, around the limit of 16 bits, and many.
const SIZES: [usize; 7] = [0, 1, 1_000, 65_535, 65_536, 65_537, MIB];
const MIB: usize = 1024 * 1024;
/// Size of the slow reader's case. It exceeds the socket buffers of both ends, so the server must keep
/// pending output and stop reading.
const SLOW_SIZE: usize = 4 * MIB;
/// Size for each connection of the concurrent case.
const CONCURRENT_SIZE: usize = MIB / 4;
/// Size of the `--quick` case.
const QUICK_SIZE: usize = 1024;
/// Messages of the message-by-message case.
const MESSAGES: usize = 100;

/// Pattern of a connection's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// As much as the kernel accepts.
    AtOnce,
    /// Pieces of random sizes.
    Ragged,
    /// [`MESSAGES`] messages, each sent after the echo of the one before.
    OneByOne,
}

/// Pattern of a connection's reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// Immediate reads.
    Eager,
    /// Small reads after a delay, with pauses between them.
    Slow,
}

/// A case: one load that a server must echo exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// Bytes for each connection to send and receive.
    pub bytes: usize,
    /// Concurrent connections, at least 1.
    pub connections: usize,
    pub writes: Writes,
    pub reads: Reads,
    /// `true` if the client closes its sending side right after the last byte. The server's FIN must
    /// then follow the echo.
    pub half_close: bool,
}

impl Case {
    /// Returns the bytes that all connections together send.
    pub(super) fn total(&self) -> u64 {
        self.bytes as u64 * self.connections as u64
    }

    /// Returns the maximum number of bytes in flight on a connection.
    pub(super) fn window(&self) -> usize {
        match self.writes {
            Writes::AtOnce | Writes::Ragged => usize::MAX,
            Writes::OneByOne => self.bytes.div_ceil(MESSAGES).max(1),
        }
    }
}

impl Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            1 => write!(f, "1 byte")?,
            bytes => write!(f, "{bytes} bytes")?,
        }
        match self.writes {
            Writes::AtOnce => {}
            Writes::Ragged => write!(f, " in ragged pieces")?,
            Writes::OneByOne => write!(f, " message by message")?,
        }
        if self.reads == Reads::Slow {
            write!(f, " to a slow reader")?;
        }
        if self.connections > 1 {
            write!(f, " on each of {} connections", self.connections)?;
        }
        write!(f, " {} half-close", if self.half_close { "with" } else { "without" })
    }
}

/// Returns the distinct cases that the options select, at least one.
pub(super) fn cases(options: &CheckOptions) -> Vec<Case> {
    let bytes = |default: usize| options.bytes.map_or(default, |size| size.get());
    let plain = |bytes: usize| Case {
        bytes,
        connections: 1,
        writes: Writes::AtOnce,
        reads: Reads::Eager,
        half_close: true,
    };
    let mut cases: Vec<Case> = Vec::new();
    if options.quick {
        cases.push(plain(bytes(QUICK_SIZE)));
    } else {
        cases.extend(SIZES.map(bytes).map(plain));
        cases.push(Case { writes: Writes::Ragged, ..plain(bytes(MIB)) });
        cases.push(Case { reads: Reads::Slow, ..plain(bytes(SLOW_SIZE)) });
        cases
            .push(Case { connections: options.connections.get(), ..plain(bytes(CONCURRENT_SIZE)) });
        cases.push(Case { half_close: false, ..plain(bytes(MIB)) });
        cases.push(Case { writes: Writes::OneByOne, half_close: false, ..plain(bytes(SIZES[3])) });
    }
    for case in &mut cases {
        case.half_close &= !options.no_half_close;
        if options.slow {
            case.reads = Reads::Slow;
        }
        if options.ragged && case.writes == Writes::AtOnce {
            case.writes = Writes::Ragged;
        }
    }
    let mut distinct: Vec<Case> = Vec::with_capacity(cases.len());
    for case in cases {
        if !distinct.contains(&case) {
            distinct.push(case);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::parse_options;

    fn selected(options: &str) -> Vec<Case> {
        cases(&parse_options(options))
    }

    #[test]
    fn the_default_cases_cover_common_faults() {
        let names: Vec<String> = selected("").iter().map(Case::to_string).collect();
        assert_eq!(
            names,
            [
                "0 bytes with half-close",
                "1 byte with half-close",
                "1000 bytes with half-close",
                "65535 bytes with half-close",
                "65536 bytes with half-close",
                "65537 bytes with half-close",
                "1048576 bytes with half-close",
                "1048576 bytes in ragged pieces with half-close",
                "4194304 bytes to a slow reader with half-close",
                "262144 bytes on each of 4 connections with half-close",
                "1048576 bytes without half-close",
                "65535 bytes message by message without half-close",
            ]
        );
    }

    #[test]
    fn options_apply_to_every_case_and_cases_are_distinct() {
        assert_eq!(selected("--quick").len(), 1);
        assert_eq!(selected("--quick --bytes 3")[0].bytes, 3);
        let cases = selected("--bytes 5000 --no-half-close --slow --ragged --connections 3");
        assert!(cases.iter().all(|case| case.bytes == 5000 && !case.half_close), "{cases:?}");
        assert!(cases.iter().all(|case| case.reads == Reads::Slow), "{cases:?}");
        let names: Vec<String> = cases.iter().map(Case::to_string).collect();
        assert_eq!(
            names,
            [
                "5000 bytes in ragged pieces to a slow reader without half-close",
                "5000 bytes in ragged pieces to a slow reader on each of 3 connections without half-close",
                "5000 bytes message by message to a slow reader without half-close",
            ]
        );
    }

    #[test]
    fn only_the_message_case_has_a_window() {
        let cases = selected("");
        assert_eq!(cases[0].window(), usize::MAX);
        assert_eq!(cases[11].window(), 656);
        assert_eq!(cases[9].total(), 1 << 20);
    }
}
