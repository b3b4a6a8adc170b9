//! The character generator protocol (RFC 864): lines of printing characters, as fast as the client reads.
//!
//! Each line has 72 of the 95 printing ASCII characters and CRLF, and begins one character further than
//! the line before it. Input is discarded.

use super::{Create, Io, Service, ServiceContext};

/// Printing characters of ASCII: 32 to 126.
const CHARACTERS: usize = 95;

/// Characters on a line.
const WIDTH: usize = 72;

/// Bytes of a line, with CRLF.
const LINE: usize = WIDTH + 2;

/// Bytes of a rotation: after as many lines as there are characters, the first line follows.
const ROTATION: usize = CHARACTERS * LINE;

/// Rotations sent at once. More would save few system calls, and a client that does not read costs a
/// copy of what is sent at once.
const ROTATIONS: usize = 4;

static BLOCK: [u8; ROTATION * ROTATIONS] = block();

/// A service that sends lines of characters until the client ends the connection.
///
/// It sends whole rotations, so every connection begins with the first line without any state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chargen;

impl Create for Chargen {
    fn create(_: &ServiceContext<'_>) -> Self {
        Self
    }
}

impl Service for Chargen {
    type Session = ();

    const PRODUCES: bool = true;

    fn received(&mut self, (): &mut (), _: &mut impl Io, _: &[u8]) {}

    fn writable(&mut self, (): &mut (), io: &mut impl Io) {
        io.send(&BLOCK);
    }
}

const fn block() -> [u8; ROTATION * ROTATIONS] {
    let mut block = [0; ROTATION * ROTATIONS];
    let mut at = 0;
    while at < block.len() {
        block[at] = match at % LINE {
            WIDTH => b'\r',
            column if column > WIDTH => b'\n',
            column => b' ' + ((at / LINE + column) % CHARACTERS) as u8,
        };
        at += 1;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::super::recorder::{Recorder, converse};
    use super::*;

    /// Returns the output of a connection that has room `count` times.
    fn output(count: usize) -> Recorder {
        let mut io = Recorder::default();
        Chargen.opened(&mut (), &mut io);
        for _ in 0..count {
            io.call(|io| Chargen.writable(&mut (), io));
        }
        io
    }

    #[test]
    fn the_first_lines_are_those_of_the_rfc() {
        let io = output(1);
        let lines: Vec<_> = io.text().split("\r\n").collect();
        let first = r##" !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg"##;
        let second =
            r##"!"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefgh"##;
        assert_eq!(lines[..2], [first, second]);
        assert_eq!(
            lines[94],
            r##"~ !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdef"##
        );
        assert_eq!(lines[95], first);
    }

    #[test]
    fn lines_go_on_rotating_from_one_send_to_the_next() {
        let io = output(3);
        let lines = io.text().strip_suffix("\r\n").expect("whole lines").split("\r\n");
        let mut count = 0;
        for (number, line) in lines.enumerate() {
            let expected: Vec<u8> =
                (number..number + 72).map(|character| b' ' + (character % 95) as u8).collect();
            assert_eq!(line.as_bytes(), expected, "line {number}");
            count += 1;
        }
        assert_eq!(count, 3 * 4 * 95);
    }

    #[test]
    fn input_is_discarded() {
        let io = converse(&mut Chargen, [&b"foo\r\n"[..], b"quit"]);
        assert_eq!((io.sent.len(), io.finished), (0, false));
    }

    #[test]
    fn a_client_that_does_not_read_costs_little() {
        assert!(output(1).sent.len() <= 32 << 10);
    }
}
