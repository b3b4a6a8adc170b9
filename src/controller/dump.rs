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
    /// Whether the reader has been found gone: said once, not every time.
    gone: bool,
}

impl Dump {
    /// Begins a line, unless there is one that has not been read yet.
    pub(super) fn begin(&mut self, snapshot: &Snapshot, now: Instant) {
        if self.until.is_some() {
            warn!("nobody reads the statistics on standard output");
            return;
        }
        match serde_json::to_vec(snapshot) {
            Ok(line) => self.line = line,
            Err(error) => return warn!("the statistics have no form in JSON: {error}"),
        }
        self.line.push(b'\n');
        self.written = 0;
        self.until = Some(now + PATIENCE);
        self.go_on(now);
    }

    /// Writes as much as there is room for.
    pub(super) fn go_on(&mut self, now: Instant) {
        let Some(until) = self.until else { return };
        let output = Output::open(Stream::Out);
        while self.written < self.line.len() {
            match output.write(&self.line[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && now < until => return,
                Err(error) => {
                    if !std::mem::replace(&mut self.gone, true) {
                        warn!("cannot write the statistics to standard output: {error}");
                    }
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
