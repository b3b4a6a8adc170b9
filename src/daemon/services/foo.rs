//! A server for the foo protocol: lines `Type SP Seq [SP Data]`, each of which is answered in order.
//!
//! The answer to a message is `NAK Seq m` if `m` begins with `2` or `d`, and `ACK Seq m` otherwise. `m` is
//! the MD5, in hexadecimal digits, of the type, the decimal sequence number, the code point of each
//! character of the data in hexadecimal digits, and `weaveworks`. The answer to anything else is
//! `NAK 0 ERRDECODE`. A line ends at LF, CRLF, or the end of the input. A line beyond 64 KiB ends the
//! connection.

use std::io::Write;

use md5::{Digest, Md5};

use super::line_splitter::{LineSplitter, TooLong};
use super::{Create, Io, Service, ServiceContext};

/// Longest line in bytes, without its ending.
pub const MAX_LINE: usize = 64 << 10;

/// Answer to a line that is no message.
const UNDECODABLE: &[u8] = b"NAK 0 ERRDECODE\n";

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// A request.
    Req,
    /// A positive answer.
    Ack,
    /// A negative answer.
    Nak,
}

/// A message of the foo protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Type.
    pub message_type: MessageType,
    /// Sequence number.
    pub seq: i64,
    /// Data; empty if there is none.
    pub data: &'a [u8],
}

impl MessageType {
    /// Returns the type as a message has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Req => "REQ",
            Self::Ack => "ACK",
            Self::Nak => "NAK",
        }
    }
}

impl<'a> Message<'a> {
    /// Parses a line without its ending; `None` if it is no message.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let message_type = match fields.next()? {
            b"REQ" => MessageType::Req,
            b"ACK" => MessageType::Ack,
            b"NAK" => MessageType::Nak,
            _ => return None,
        };
        let seq = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let data = fields.next().unwrap_or_default();
        fields.next().is_none().then_some(Self { message_type, seq, data })
    }

    /// Returns the digest of the message in hexadecimal digits. Data that is not UTF-8 counts with
    /// U+FFFD.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Md5::new();
        digest.update(self.message_type.as_str());
        digest.update(self.seq.to_string());
        for chunk in self.data.utf8_chunks() {
            let invalid = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
            for character in chunk.valid().chars().chain(invalid) {
                let (digits, start) = hexadecimal(character);
                digest.update(&digits[start..]);
            }
        }
        digest.update("weaveworks");
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(digest.finalize()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        digits
    }
}

fn digit(value: u8) -> u8 {
    DIGITS[usize::from(value)]
}

/// Returns the code point in hexadecimal digits, and the index of the first of them.
fn hexadecimal(character: char) -> ([u8; 6], usize) {
    let (mut digits, mut start, mut rest) = ([b'0'; 6], 6, u32::from(character));
    loop {
        start -= 1;
        digits[start] = digit((rest & 15) as u8);
        rest >>= 4;
        if rest == 0 {
            return (digits, start);
        }
    }
}

/// A service that answers the messages of the foo protocol.
#[derive(Clone, Debug)]
pub struct Foo {
    buffer_size: usize,
    /// Answers to the piece of input at hand: one send(2) for all of them.
    answers: Vec<u8>,
}

impl Foo {
    /// Creates the service. The answers to a piece of input have about `buffer_size` bytes at most.
    #[must_use]
    pub fn new(buffer_size: usize) -> Self {
        Self { buffer_size, answers: Vec::new() }
    }

    fn add(&mut self, line: &[u8]) {
        let Some(message) = Message::parse(line) else {
            self.answers.extend_from_slice(UNDECODABLE);
            return;
        };
        let digest = message.digest();
        let answer = if matches!(digest[0], b'2' | b'd') { "NAK" } else { "ACK" };
        // Writing to a Vec cannot fail.
        let _ = write!(self.answers, "{answer} {} ", message.seq);
        self.answers.extend_from_slice(&digest);
        self.answers.push(b'\n');
    }

    fn send(&mut self, io: &mut impl Io) {
        if !self.answers.is_empty() {
            io.send(&self.answers);
        }
        self.answers.clear();
    }
}

impl Create for Foo {
    fn create(context: &ServiceContext<'_>) -> Self {
        Self::new(context.buffer_size)
    }
}

impl Service for Foo {
    type Session = LineSplitter;

    fn max_input(&self) -> usize {
        // The longest answer in proportion: each byte is an empty line, which is no message.
        (self.buffer_size / UNDECODABLE.len()).max(1)
    }

    fn received(&mut self, session: &mut LineSplitter, io: &mut impl Io, mut input: &[u8]) {
        let goes_on = loop {
            match session.next_line(&mut input, MAX_LINE) {
                Ok(Some(line)) => self.add(&line),
                Ok(None) => break true,
                Err(TooLong) => break false,
            }
        };
        if !goes_on {
            // It is no message either; the answer tells why the connection ends.
            self.answers.extend_from_slice(UNDECODABLE);
        }
        self.send(io);
        if !goes_on {
            io.finish();
        }
    }

    fn input_ended(&mut self, session: &mut LineSplitter, io: &mut impl Io) {
        if let Some(line) = session.last_line() {
            self.add(&line);
            self.send(io);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorder::converse;
    use super::*;
    use proptest::prelude::*;

    const BUFFER_SIZE: usize = 4096;

    /// Lines and their answers.
    const VECTORS: [(&str, &str); 19] = [
        ("REQ 7", "ACK 7 e9a04e52b582eefbbe505d99f0f804f5"),
        ("REQ 1 a", "ACK 1 96d2f54a4e05eb24cb11da9fd78d47ca"),
        ("REQ 2 b", "NAK 2 2ff45a0a866112db36a3f7322f03ee35"),
        ("REQ 3 c", "ACK 3 7481eb48fcfc51400e3b7e7b81423103"),
        ("REQ 5 ", "ACK 5 caa021b304a36b125ece8793116a10e8"),
        ("ACK 7", "ACK 7 60b324871c6dad51cd44334bc4d93695"),
        (
            "NAK -9223372036854775808 é€😀",
            "ACK -9223372036854775808 bf9f77f9199512171f9d2aaf2b755a9f",
        ),
        ("REQ 9223372036854775807", "ACK 9223372036854775807 6c97c8e32ca3a160f941b87cf9affb1c"),
        ("REQ 9223372036854775808", "NAK 0 ERRDECODE"),
        ("REQ 1 a b", "NAK 0 ERRDECODE"),
        ("REQ 1 a ", "NAK 0 ERRDECODE"),
        ("FOO 1", "NAK 0 ERRDECODE"),
        ("req 1", "NAK 0 ERRDECODE"),
        ("REQ x", "NAK 0 ERRDECODE"),
        ("REQ  1", "NAK 0 ERRDECODE"),
        (" REQ 1", "NAK 0 ERRDECODE"),
        ("REQ", "NAK 0 ERRDECODE"),
        ("REQ ", "NAK 0 ERRDECODE"),
        ("", "NAK 0 ERRDECODE"),
    ];

    fn answers<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let io = converse(&mut Foo::new(BUFFER_SIZE), pieces);
        assert!(!io.finished);
        io.text().to_owned()
    }

    #[test]
    fn every_line_has_its_answer() {
        for (line, answer) in VECTORS {
            for ending in ["\n", "\r\n"] {
                let input = format!("{line}{ending}");
                assert_eq!(answers([input.as_bytes()]), format!("{answer}\n"), "{input:?}");
            }
        }
    }

    #[test]
    fn pipelined_lines_are_answered_in_order_whatever_the_pieces() {
        let input: String = VECTORS.iter().map(|(line, _)| format!("{line}\n")).collect();
        let expected: String = VECTORS.iter().map(|(_, answer)| format!("{answer}\n")).collect();
        for size in [1, 2, 7, 64, input.len()] {
            assert_eq!(answers(input.as_bytes().chunks(size)), expected, "pieces of {size}");
        }
    }

    #[test]
    fn an_unterminated_line_is_answered_at_the_end() {
        let answer = "ACK 7 e9a04e52b582eefbbe505d99f0f804f5\n";
        assert_eq!(answers([&b"REQ 7"[..]]), answer);
        assert_eq!(answers([&b"REQ 7\nRE"[..], b"Q 7"]), answer.repeat(2));
        assert_eq!(answers([&b"REQ 7\n"[..]]), answer);
        assert_eq!(answers([]), "");
    }

    #[test]
    fn data_that_is_not_text_counts_as_replacement_characters() {
        assert_eq!(answers([&b"REQ 1 a\xffb\n"[..]]), answers(["REQ 1 a\u{fffd}b\n".as_bytes()]));
    }

    #[test]
    fn a_line_beyond_the_limit_ends_the_connection() {
        let longest = format!("REQ 1 {}\n", "x".repeat(MAX_LINE - 6));
        let answer = answers([longest.as_bytes()]);
        assert!(answer.starts_with("ACK 1 ") || answer.starts_with("NAK 1 "), "{answer}");
        let longer = format!("REQ 7\nREQ 1 {}\nREQ 7\n", "x".repeat(MAX_LINE - 5));
        for size in [1000, longer.len()] {
            let io = converse(&mut Foo::new(1 << 20), longer.as_bytes().chunks(size));
            let answer = "ACK 7 e9a04e52b582eefbbe505d99f0f804f5\nNAK 0 ERRDECODE\n";
            assert_eq!((io.text(), io.finished), (answer, true));
        }
    }

    #[test]
    fn answers_stay_within_the_buffer_and_are_sent_at_once() {
        for line in ["\n", "REQ 1\n"] {
            let input = line.repeat(5000);
            let io = converse(&mut Foo::new(BUFFER_SIZE), [input.as_bytes()]);
            assert_eq!(io.text().lines().count(), 5000);
            assert!(io.calls.iter().all(|sent| *sent <= BUFFER_SIZE), "{:?}", io.calls);
            assert_eq!(io.calls.len(), input.len().div_ceil(BUFFER_SIZE / 16));
        }
    }

    /// Text of the digest's input, and the answer, by the words of the protocol.
    fn model(line: &str) -> String {
        let fields: Vec<_> = line.split(' ').collect();
        let seq = fields.get(1).and_then(|seq| seq.parse::<i64>().ok());
        let known = ["REQ", "ACK", "NAK"].contains(&fields[0]);
        let (Some(seq), true, 2..=3) = (seq, known, fields.len()) else {
            return "NAK 0 ERRDECODE\n".into();
        };
        let data = fields.get(2).copied().unwrap_or_default();
        let codes: String = data.chars().map(|it| format!("{:x}", u32::from(it))).collect();
        let digest = Md5::digest(format!("{}{seq}{codes}weaveworks", fields[0]));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let answer = if digest.starts_with(['2', 'd']) { "NAK" } else { "ACK" };
        format!("{answer} {seq} {digest}\n")
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            "(REQ|ACK|NAK) -?[0-9]{1,20}( [^ \r\n]{0,20})?",
            "(REQ|ACK|NAK|FOO|)( [-+0-9a ]{0,4}){0,4}",
            "[^\r\n]{0,30}",
        ]
    }

    proptest! {
        #[test]
        fn answers_are_those_of_the_model(
            lines in prop::collection::vec(line(), 0..20),
            size in 1usize..100,
        ) {
            let expected: String = lines.iter().map(|line| model(line)).collect();
            let input: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            prop_assert_eq!(answers(input.as_bytes().chunks(size)), expected);
        }

        #[test]
        fn the_digits_of_a_code_point_are_those_of_the_standard_library(character: char) {
            let (digits, start) = hexadecimal(character);
            let expected = format!("{:x}", u32::from(character));
            prop_assert_eq!(&digits[start..], expected.as_bytes());
        }
    }
}
