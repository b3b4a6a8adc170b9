//! A service that returns each line of its input, behind a prefix that tells who answers.
//!
//! A line ends at LF, CRLF, or the end of the input; its answer ends at LF. If the listener has
//! `quit=true`, a line `quit` ends the connection without an answer. So does a line beyond `max-line`.

use super::expansion::Expansion;
use super::line_splitter::{LineSplitter, TooLong};
use super::{Create, Io, Service, ServiceContext};
use crate::config::ServiceConfig;

/// A service that returns each line behind a prefix.
#[derive(Clone, Debug)]
pub struct Lines {
    prefix: Expansion,
    quit: bool,
    max_line: usize,
    buffer_size: usize,
    /// Prefix for the connection that is being answered.
    expanded: Vec<u8>,
    /// Answer to the piece of input at hand: one send(2) for all its lines.
    answer: Vec<u8>,
}

impl Lines {
    /// Creates the service of a worker. Without their line endings, lines have at most `max_line` bytes.
    /// The answer to a piece of input has at most `buffer_size` bytes, besides one line whose beginning
    /// arrived earlier.
    #[must_use]
    pub fn new(prefix: Expansion, quit: bool, max_line: usize, buffer_size: usize) -> Self {
        let (expanded, answer) = (Vec::new(), Vec::new());
        Self { prefix, quit, max_line, buffer_size, expanded, answer }
    }

    /// Reads the addresses only once for all lines of a piece of input.
    fn begin(&mut self, io: &impl Io) {
        self.expanded.clear();
        self.prefix.write(io, &mut self.expanded);
    }

    /// Adds the answer to a line, and returns `true` unless the line ends the connection.
    fn add(&mut self, line: &[u8]) -> bool {
        if self.quit && line == b"quit" {
            return false;
        }
        self.answer.extend_from_slice(&self.expanded);
        self.answer.extend_from_slice(line);
        self.answer.push(b'\n');
        true
    }

    fn send(&mut self, io: &mut impl Io) {
        if !self.answer.is_empty() {
            io.send(&self.answer);
        }
        self.answer.clear();
        // A line may be much longer than the buffer.
        self.answer.shrink_to(self.buffer_size);
    }
}

impl Create for Lines {
    fn create(context: &ServiceContext<'_>) -> Self {
        let ServiceConfig { prefix, quit, max_line, .. } = context.config;
        let prefix = Expansion::new(prefix.parts(), context.identity);
        Self::new(prefix, *quit, *max_line, context.buffer_size)
    }
}

impl Service for Lines {
    type Session = LineSplitter;

    fn max_input(&self) -> usize {
        // The longest answer in proportion: each byte is an empty line.
        (self.buffer_size / (self.prefix.max_len() + 1)).max(1)
    }

    fn received(&mut self, session: &mut LineSplitter, io: &mut impl Io, mut input: &[u8]) {
        self.begin(io);
        let goes_on = loop {
            match session.next_line(&mut input, self.max_line) {
                Ok(Some(line)) if self.add(&line) => {}
                Ok(None) => break true,
                Ok(Some(_)) | Err(TooLong) => break false,
            }
        };
        self.send(io);
        if !goes_on {
            io.finish();
        }
    }

    fn input_ended(&mut self, session: &mut LineSplitter, io: &mut impl Io) {
        if let Some(line) = session.last_line() {
            self.begin(io);
            self.add(&line);
            self.send(io);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::super::recorder::{Recorder, converse};
    use super::*;
    use crate::config::template::Part;
    use proptest::prelude::*;

    const BUFFER_SIZE: usize = 4096;

    fn lines(prefix: &[Part], quit: bool, max_line: usize) -> Lines {
        let identity =
            Identity { hostname: "web-1".into(), pid: 4711, worker: 3, version: "2.0.0" };
        Lines::new(Expansion::new(prefix, &identity), quit, max_line, BUFFER_SIZE)
    }

    fn with_address() -> Vec<Part> {
        vec![Part::Hostname, Part::Text(" to ".into()), Part::PeerIp, Part::Text(": ".into())]
    }

    fn plain(pieces: &[&[u8]]) -> Recorder {
        converse(&mut lines(&[], true, 100), pieces.iter().copied())
    }

    #[test]
    fn each_line_comes_back_behind_the_prefix() {
        let io = converse(&mut lines(&with_address(), false, 100), [&b"foo\nba"[..], b"r\r\n\n"]);
        let answer = "web-1 to 192.0.2.7: foo\nweb-1 to 192.0.2.7: bar\nweb-1 to 192.0.2.7: \n";
        assert_eq!((io.text(), io.finished), (answer, false));
    }

    #[test]
    fn an_unterminated_line_is_answered_at_the_end() {
        assert_eq!(plain(&[b"foo\nbar"]).text(), "foo\nbar\n");
        assert_eq!(plain(&[b"foo\n"]).text(), "foo\n");
        assert_eq!(plain(&[b"foo\nquit"]).text(), "foo\n");
        assert_eq!(plain(&[]).text(), "");
    }

    #[test]
    fn the_line_quit_ends_the_connection_after_earlier_answers() {
        let io = plain(&[b"a\nquits\nq", b"uit\r\nb\n", b"c\n"]);
        assert_eq!((io.text(), io.finished), ("a\nquits\n", true));
    }

    #[test]
    fn quit_is_a_line_like_others_if_it_is_disabled() {
        let io = converse(&mut lines(&[], false, 100), [&b"quit\n"[..]]);
        assert_eq!((io.text(), io.finished), ("quit\n", false));
    }

    #[test]
    fn a_line_beyond_the_limit_ends_the_connection_after_earlier_answers() {
        for pieces in [&[&b"12345\n123456\na\n"[..]][..], &[b"12345\n1234", b"56", b"\na\n"]] {
            let io = converse(&mut lines(&[], true, 5), pieces.iter().copied());
            assert_eq!((io.text(), io.finished), ("12345\n", true));
        }
    }

    #[test]
    fn a_piece_is_answered_at_once() {
        let io = plain(&[b"a\nb\nc\nd", b"e", b"f\n"]);
        assert_eq!(io.calls, [6, 4]);
    }

    #[test]
    fn the_answer_to_empty_lines_stays_within_the_buffer() {
        let mut service = lines(&with_address(), false, 100);
        let io = converse(&mut service, [&[b'\n'; 10_000][..]]);
        assert_eq!(io.sent.len(), 10_000 * "web-1 to 192.0.2.7: \n".len());
        assert!(io.calls.iter().all(|sent| *sent <= BUFFER_SIZE), "{:?}", io.calls);
        // A prefix larger than the buffer leaves one byte at a time.
        let prefix = [Part::Text("x".repeat(BUFFER_SIZE))];
        assert_eq!(lines(&prefix, false, 100).max_input(), 1);
        assert_eq!(lines(&[], false, 100).max_input(), BUFFER_SIZE);
    }

    #[test]
    fn the_memory_of_a_long_answer_is_freed() {
        let mut service = lines(&[], false, 1 << 20);
        let io = converse(&mut service, [&vec![b'x'; 1 << 20][..]]);
        assert_eq!(io.sent.len(), (1 << 20) + 1);
        assert!(service.answer.capacity() <= BUFFER_SIZE, "{}", service.answer.capacity());
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![Just("quit".into()), "[a\r]{0,12}"];
        (line, any::<bool>()).prop_map(|(line, ends)| {
            if ends { format!("{line}\n").into() } else { line.into_bytes() }
        })
    }

    proptest! {
        #[test]
        fn answers_are_those_of_whole_lines(
            pieces in prop::collection::vec(piece(), 0..20),
            quit: bool,
        ) {
            let max_line = 15;
            let input = pieces.concat();
            let mut expected = Vec::new();
            let mut ends = false;
            for line in input.split_inclusive(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.len() > max_line || quit && line == b"quit" {
                    ends = true;
                    break;
                }
                expected.extend([&b"web-1 to 192.0.2.7: "[..], line, b"\n"].concat());
            }
            let mut service = lines(&with_address(), quit, max_line);
            let whole = converse(&mut service, [&input[..]]);
            prop_assert_eq!(&whole.sent, &expected);
            let in_pieces = converse(&mut service, pieces.iter().map(|piece| &piece[..]));
            prop_assert_eq!(&in_pieces.sent, &expected);
            let single = converse(&mut service, input.chunks(1));
            prop_assert_eq!(&single.sent, &expected);
            // The end of the input ends the connection, too: it needs no further order then.
            prop_assert!(ends || !(whole.finished || in_pieces.finished || single.finished));
        }
    }
}
