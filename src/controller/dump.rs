//! SIGUSR2: all figures as one line of JSON on standard output.
//!
//! The line may be longer than what a pipe takes at once, and its reader may be slow or gone: what is
//! left is written in later turns, and given up in the end.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::process::output::{Output, Stream};
use crate::stats::Snapshot;

/// How long a reader may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// From try to try.
const RETRY: Duration = Duration::from_millis(50);

/// A line on its way out.
#[derive(Debug, Default)]
pub(super) struct Dump {
    line: Vec<u8>,
    written: usize,
    until: Option<Instant>,
    /// Whether nobody has been found to read: said once, not every time.
    unread: bool,
    /// Whether the last line was given up in the middle.
    torn: bool,
}

impl Dump {
    /// Begins a line, unless there is one that has not been read yet.
    pub(super) fn begin(&mut self, snapshot: &Snapshot, now: Instant) {
        if self.until.is_some() {
            return self.complain("the line before has not been read yet");
        }
        if Output::open(Stream::Out).is_nowhere() {
            return self.complain("it is closed, or /dev/null");
        }
        self.line.clear();
        if self.torn {
            self.line.push(b'\n');
        }
        if let Err(error) = serde_json::to_writer(&mut self.line, snapshot) {
            return self.complain(&error.to_string());
        }
        self.line.push(b'\n');
        self.written = 0;
        self.until = Some(now + PATIENCE);
        self.go_on(now);
    }

    fn complain(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.unread, true) {
            warn!("cannot write the statistics to standard output: {reason}");
        }
    }

    /// Writes as much as there is room for.
    pub(super) fn go_on(&mut self, now: Instant) {
        let Some(until) = self.until else { return };
        let output = Output::open(Stream::Out);
        while self.written < self.line.len() {
            match output.write(&self.line[self.written..]) {
                Ok(0) => {
                    self.until = None;
                    return self.complain("it takes nothing");
                }
                Ok(count) => {
                    self.written += count;
                    self.torn = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && now < until => return,
                Err(error) => {
                    self.complain(&error.to_string());
                    self.until = None;
                    return;
                }
            }
        }
        *self = Self::default();
    }

    /// When to try again.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.until.map(|_| now + RETRY)
    }
}
