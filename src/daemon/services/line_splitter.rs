//! Lines of a stream that arrives in pieces.

use std::borrow::Cow;

/// Splits the input of a connection into lines.
///
/// A line ends at LF or at the end of the input; one CR at its end is not part of it. Lines that lie
/// within one piece of input are not copied. An incomplete line is kept until it is complete.
#[derive(Debug, Default)]
pub struct LineSplitter {
    /// Beginning of the line whose end has not arrived; no memory is held without one.
    partial: Vec<u8>,
}

/// A line that is longer than permitted. What follows it cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl LineSplitter {
    /// Takes the next line from the front of `input`. Once there is no further line, keeps the incomplete
    /// one and returns `None`; `input` is empty then.
    ///
    /// # Errors
    /// [`TooLong`] if the line has more than `max` bytes, as soon as that is certain.
    pub fn next_line<'a>(
        &mut self,
        input: &mut &'a [u8],
        max: usize,
    ) -> Result<Option<Cow<'a, [u8]>>, TooLong> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (piece, rest) = match end {
            Some(end) => (&input[..end], &input[end + 1..]),
            None => (*input, &[][..]),
        };
        *input = rest;
        if end.is_some() && self.partial.is_empty() {
            let line = without_cr(piece);
            return if line.len() > max { Err(TooLong) } else { Ok(Some(line.into())) };
        }
        // The length is judged first: no input makes the memory grow.
        let longest = max.saturating_add(1).saturating_sub(self.partial.len());
        if piece.len() > longest {
            return Err(self.reject());
        }
        self.partial.extend_from_slice(piece);
        if without_cr(&self.partial).len() > max {
            return Err(self.reject());
        }
        Ok(end.is_some().then(|| self.take().into()))
    }

    /// Returns the line that the end of the input ends; `None` if the input ended with LF or was empty.
    pub fn last_line(&mut self) -> Option<Vec<u8>> {
        (!self.partial.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> Vec<u8> {
        let mut line = std::mem::take(&mut self.partial);
        line.truncate(without_cr(&line).len());
        line
    }

    /// Frees the line: the connection may stay open until the client has received why it ends.
    fn reject(&mut self) -> TooLong {
        self.partial = Vec::new();
        TooLong
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines of an input that arrives in `pieces`, up to the first that is too long.
    fn split<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
        max: usize,
    ) -> (Vec<Vec<u8>>, Option<TooLong>) {
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        for mut input in pieces {
            loop {
                match splitter.next_line(&mut input, max) {
                    Ok(Some(line)) => lines.push(line.into_owned()),
                    Ok(None) => break,
                    Err(error) => return (lines, Some(error)),
                }
                assert!(splitter.partial.is_empty());
            }
            assert!(input.is_empty());
            assert!(splitter.partial.len() <= max + 1);
        }
        lines.extend(splitter.last_line());
        (lines, None)
    }

    /// Lines by the definition, for an input that is there at once.
    fn model(input: &[u8], max: usize) -> (Vec<Vec<u8>>, Option<TooLong>) {
        let mut lines: Vec<_> = input.split(|byte| *byte == b'\n').collect();
        if lines.last().is_some_and(|last| last.is_empty()) {
            lines.pop();
        }
        let lines = lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut short = Vec::new();
        for line in lines {
            if line.len() > max {
                return (short, Some(TooLong));
            }
            short.push(line.to_vec());
        }
        (short, None)
    }

    fn lines(input: &[u8]) -> Vec<Vec<u8>> {
        split([input], 100).0
    }

    #[test]
    fn a_line_ends_at_lf_and_loses_one_cr() {
        assert_eq!(lines(b"a\nb\r\nc\r\r\n"), [&b"a"[..], b"b", b"c\r"]);
        assert_eq!(lines(b"a\rb\n\r\n\n"), [&b"a\rb"[..], b"", b""]);
    }

    #[test]
    fn the_end_of_the_input_ends_a_line() {
        assert_eq!(lines(b"a\nb"), [b"a", b"b"]);
        assert_eq!(lines(b"a\n\r"), [&b"a"[..], b""]);
        assert_eq!(lines(b"a\n"), [b"a"]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn the_limit_counts_neither_cr_nor_lf() {
        for (input, whole) in [
            (&b"12345\r\n"[..], true),
            (b"12345\r", true),
            (b"123456\n", false),
            (b"123456", false),
        ] {
            assert_eq!(split([input], 5).1.is_none(), whole, "{input:?}");
            assert_eq!(split(input.chunks(1), 5).1.is_none(), whole, "{input:?} byte by byte");
        }
        // The CR turns out to be part of the line.
        assert_eq!(split([&b"12345\r"[..], b"6\n"], 5).1, Some(TooLong));
    }

    #[test]
    fn a_line_within_one_piece_is_borrowed() {
        let mut splitter = LineSplitter::default();
        let mut input = &b"foo\nbar"[..];
        let line = splitter.next_line(&mut input, 100).unwrap();
        assert!(matches!(line, Some(Cow::Borrowed(b"foo"))), "{line:?}");
    }

    #[test]
    fn nothing_is_held_between_lines_or_after_one_that_is_too_long() {
        let mut splitter = LineSplitter::default();
        let mut feed = |mut input: &[u8]| {
            while let Ok(Some(_)) = splitter.next_line(&mut input, 5) {}
            splitter.partial.capacity()
        };
        assert_ne!(feed(b"fo"), 0);
        assert_eq!(feed(b"o\n"), 0);
        assert_ne!(feed(b"1234"), 0);
        assert_eq!(feed(b"56"), 0);
    }

    /// Bytes that make many lines, and few that fit.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()];
        prop::collection::vec(byte, 0..200)
    }

    proptest! {
        #[test]
        fn lines_are_those_of_split_whatever_the_pieces(
            input in input(),
            sizes in prop::collection::vec(1usize..20, 200),
            max in 0usize..30,
        ) {
            let mut pieces = Vec::new();
            let mut rest = &input[..];
            for size in sizes {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(split(pieces, max), model(&input, max));
        }
    }
}
