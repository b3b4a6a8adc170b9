//! The time protocol (RFC 868): the seconds since 1900 as 32 bits, then the end.

use super::{Create, Io, Service, ServiceContext};
use crate::sys::clock;

/// Seconds from 1900-01-01 to 1970-01-01, both at 00:00 UTC.
const FROM_1900_TO_1970: u64 = 2_208_988_800;

/// A service that sends the time and ends the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Time;

impl Create for Time {
    fn create(_: &ServiceContext<'_>) -> Self {
        Self
    }
}

impl Service for Time {
    type Session = ();

    fn opened(&mut self, (): &mut (), io: &mut impl Io) {
        io.send(&time(clock::unix_ms() / 1000));
        io.finish();
    }

    fn received(&mut self, (): &mut (), _: &mut impl Io, _: &[u8]) {}
}

/// Returns the seconds since 1900, modulo 2^32, in network byte order.
fn time(unix_seconds: u64) -> [u8; 4] {
    ((unix_seconds + FROM_1900_TO_1970) as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::recorder::converse;
    use super::*;

    #[test]
    fn times_are_those_of_the_rfc() {
        // 1970-01-01, 1976-01-01, 1980-01-01, and 1983-05-01, each at 00:00 UTC.
        for (unix_seconds, seconds) in [
            (0, 2_208_988_800_u32),
            (189_302_400, 2_398_291_200),
            (315_532_800, 2_524_521_600),
            (420_595_200, 2_629_584_000),
        ] {
            assert_eq!(time(unix_seconds), seconds.to_be_bytes());
        }
        assert_eq!(time(0), [0x83, 0xaa, 0x7e, 0x80]);
    }

    #[test]
    fn the_count_wraps_in_2036() {
        // 2036-02-07 06:28:15 UTC and the second after it.
        assert_eq!(time(2_085_978_495), [0xff; 4]);
        assert_eq!(time(2_085_978_496), [0; 4]);
    }

    #[test]
    fn a_connection_gets_the_current_time_and_ends() {
        let before = clock::unix_ms() / 1000;
        let io = converse(&mut Time, []);
        let after = clock::unix_ms() / 1000;
        assert!(io.finished);
        assert!((before..=after).any(|second| io.sent == time(second)), "{:?}", io.sent);
    }
}
