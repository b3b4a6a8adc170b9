//! What a check tries: a list of cases, from the options.

use std::fmt::{self, Display};

use crate::cli::CheckArguments;

/// Nothing, one byte, an ordinary amount, the edges of a 16 bit length, and much.
const SIZES: [usize; 7] = [0, 1, 1_000, 65_535, 65_536, 65_537, MIB];
const MIB: usize = 1024 * 1024;
/// More than the kernels on both ends hold for a client that does not read, so that the server must
/// keep something, and stop reading.
const SLOW: usize = 4 * MIB;
/// What each of several connections sends.
const SHARE: usize = MIB / 4;
/// What `--quick` sends.
const QUICK: usize = 1024;
/// Messages of the case that waits for each.
const MESSAGES: usize = 100;

/// How a connection writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// As much as the kernel takes.
    AtOnce,
    /// Pieces of many sizes.
    Ragged,
    /// A hundred messages, the next one when the last has come back.
    OneByOne,
}

/// How a connection reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// As fast as it comes.
    Eager,
    /// Begins late, takes little at a time, and rests in between.
    Slow,
}

/// One thing that a server must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// What each connection sends and wants back.
    pub bytes: usize,
    /// Connections at once, 1 or more.
    pub connections: usize,
    /// How they write.
    pub writes: Writes,
    /// How they read.
    pub reads: Reads,
    /// Whether the sending side is closed right behind the last byte. The end of the echo must then
    /// be followed by the server's FIN.
    pub half_close: bool,
}

impl Case {
    /// What goes out and must come back, all connections together.
    pub(super) fn total(&self) -> u64 {
        self.bytes as u64 * self.connections as u64
    }

    /// The most that may be under way on a connection.
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

/// The cases that these options ask for, each once: at least one.
pub(super) fn cases(options: &CheckArguments) -> Vec<Case> {
    let bytes = |usual: usize| options.bytes.map_or(usual, |size| size.get());
    let plain = |bytes: usize| Case {
        bytes,
        connections: 1,
        writes: Writes::AtOnce,
        reads: Reads::Eager,
        half_close: true,
    };
    let mut cases: Vec<Case> = Vec::new();
    if options.quick {
        cases.push(plain(bytes(QUICK)));
    } else {
        cases.extend(SIZES.map(bytes).map(plain));
        cases.push(Case { writes: Writes::Ragged, ..plain(bytes(MIB)) });
        cases.push(Case { reads: Reads::Slow, ..plain(bytes(SLOW)) });
        cases.push(Case { connections: options.connections.get(), ..plain(bytes(SHARE)) });
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
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{Cli, ClientCommand, SideCommand};

    fn planned(options: &str) -> Vec<Case> {
        let line = format!("check {options}");
        let words = line.split_whitespace().map(OsString::from).collect();
        match Cli::parse_from(words, |_| None).expect(options).command {
            Some(SideCommand::Client(ClientCommand::Check(arguments))) => cases(&arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_usual_cases_cover_what_goes_wrong() {
        let names: Vec<String> = planned("").iter().map(Case::to_string).collect();
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
    fn options_change_every_case_and_none_is_tried_twice() {
        assert_eq!(planned("--quick").len(), 1);
        assert_eq!(planned("--quick --bytes 3")[0].bytes, 3);
        let cases = planned("--bytes 5000 --no-half-close --slow --ragged --connections 3");
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
    fn only_the_case_that_waits_has_a_window() {
        let cases = planned("");
        assert_eq!(cases[0].window(), usize::MAX);
        assert_eq!(cases[11].window(), 656);
        assert_eq!(cases[9].total(), 1 << 20);
    }
}
