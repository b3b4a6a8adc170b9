//! Log lines on standard error: each is written whole, or dropped and counted.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::output::{Output, Stream};

/// Maximum length of a line, in bytes: pipe(7) writes so much atomically (`PIPE_BUF`).
pub(crate) const LONGEST_LINE: usize = 4096;

/// Standard error as the destination of log lines. Never blocks.
#[derive(Debug)]
pub(crate) struct LogPipe {
    output: Output,
    dropped: AtomicU64,
    /// Dropped lines not yet reported in the log.
    unreported: AtomicU64,
    /// `true` if the last line was written in part, as by a terminal.
    torn: AtomicBool,
}

impl LogPipe {
    /// Determines how standard error can be written.
    pub(crate) fn open() -> Self {
        let output = Output::open(Stream::Err);
        let [dropped, unreported] = [const { AtomicU64::new(0) }; 2];
        Self { output, dropped, unreported, torn: AtomicBool::new(false) }
    }

    /// Writes a line, shortened to [`LONGEST_LINE`] bytes, or drops and counts it.
    pub(crate) fn write_line(&self, line: &[u8]) {
        let line = &*fitting(line);
        if self.torn.load(Ordering::Relaxed) && self.output.write(b"\n").is_ok() {
            self.torn.store(false, Ordering::Relaxed);
        }
        match self.output.write(line) {
            Ok(count) if count == line.len() => {}
            Ok(_) => self.torn.store(true, Ordering::Relaxed),
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                self.unreported.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns the number of lines dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// Returns the number of dropped lines not yet reported, if the log can be written now; otherwise 0.
    pub(crate) fn take_unreported(&self) -> u64 {
        match self.unreported.load(Ordering::Relaxed) {
            0 => 0,
            _ if !self.output.has_room() => 0,
            _ => self.unreported.swap(0, Ordering::Relaxed),
        }
    }
}

/// Returns the line, cut to [`LONGEST_LINE`] bytes with a newline at the end.
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
