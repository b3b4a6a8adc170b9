//! The log's way out: a line is written whole at once, or dropped and counted.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::output::{Output, Stream};

/// The longest line, in bytes: what pipe(7) writes whole or not at all (`PIPE_BUF`).
pub const LONGEST_LINE: usize = 4096;

/// Where the log goes: standard error, never blocking.
#[derive(Debug)]
pub struct LogPipe {
    output: Output,
    dropped: AtomicU64,
    /// Those of them that nobody has been told of.
    unsaid: AtomicU64,
    /// Whether the last line was written only in part: a terminal may do that.
    torn: AtomicBool,
}

impl LogPipe {
    /// Looks at what standard error is.
    pub fn open() -> Self {
        let output = Output::open(Stream::Err);
        let [dropped, unsaid] = [const { AtomicU64::new(0) }; 2];
        Self { output, dropped, unsaid, torn: AtomicBool::new(false) }
    }

    /// Writes one line, at most [`LONGEST_LINE`] bytes of it, or drops and counts it. Never blocks.
    pub fn write_line(&self, line: &[u8]) {
        let line = &*fitting(line);
        if self.torn.load(Ordering::Relaxed) && self.output.write(b"\n").is_ok() {
            self.torn.store(false, Ordering::Relaxed);
        }
        match self.output.write(line) {
            Ok(count) if count == line.len() => {}
            Ok(_) => self.torn.store(true, Ordering::Relaxed),
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                self.unsaid.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many lines were dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// The same of another count, provided that there is room to say so now.
    pub fn take_unsaid(&self) -> u64 {
        match self.unsaid.load(Ordering::Relaxed) {
            0 => 0,
            _ if !self.output.has_room() => 0,
            _ => self.unsaid.swap(0, Ordering::Relaxed),
        }
    }
}

/// The line if it is short enough; otherwise as much of it as fits, and a newline.
fn fitting(line: &[u8]) -> Cow<'_, [u8]> {
    if line.len() <= LONGEST_LINE {
        return line.into();
    }
    [&line[..LONGEST_LINE - 1], b"\n"].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of this many bytes.
    fn line(length: usize) -> Vec<u8> {
        let mut line = vec![b'x'; length];
        line[length - 1] = b'\n';
        line
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_ends_with_a_newline() {
        for length in [1, 80, LONGEST_LINE - 1, LONGEST_LINE] {
            assert!(*fitting(&line(length)) == *line(length), "{length} bytes");
        }
        for length in [LONGEST_LINE + 1, 2 * LONGEST_LINE, 100_000] {
            assert!(*fitting(&line(length)) == *line(LONGEST_LINE), "{length} bytes");
        }
    }
}
