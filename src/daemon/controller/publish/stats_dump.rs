//! SIGUSR2: dump of all statistics as one line of JSON on standard output.
//!
//! The line can be longer than the free space of a pipe, and its reader slow. The remaining part is
//! written in later loop iterations until [`WRITE_TIMEOUT`].

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::daemon::stats::Snapshot;
use crate::sys::output::{Output, Stream};

/// Time in which the reader must read the whole line.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two attempts to write.
const RETRY: Duration = Duration::from_millis(50);

/// Line that is being written.
#[derive(Debug, Default)]
pub(crate) struct StatsDump {
    line: Vec<u8>,
    written: usize,
    until: Option<Instant>,
    /// `true` if a failure was logged since the last complete line.
    warned: bool,
    /// `true` if only a part of the last line was written.
    truncated: bool,
}

impl StatsDump {
    /// Begins to write a line, unless the previous one is incomplete.
    pub(crate) fn begin(&mut self, snapshot: &Snapshot, now: Instant) {
        if self.until.is_some() {
            return self.warn_once("the previous line was not read");
        }
        if Output::open(Stream::Out).is_nowhere() {
            return self.warn_once("closed or /dev/null");
        }
        self.line.clear();
        if self.truncated {
            self.line.push(b'\n');
        }
        if let Err(error) = serde_json::to_writer(&mut self.line, snapshot) {
            return self.warn_once(&error.to_string());
        }
        self.line.push(b'\n');
        self.written = 0;
        self.until = Some(now + WRITE_TIMEOUT);
        self.continue_writing(now);
    }

    fn warn_once(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            warn!("cannot write statistics to standard output: {reason}");
        }
    }

    /// Writes as much as standard output accepts.
    pub(crate) fn continue_writing(&mut self, now: Instant) {
        let Some(until) = self.until else { return };
        let output = Output::open(Stream::Out);
        while self.written < self.line.len() {
            match output.write(&self.line[self.written..]) {
                Ok(0) => {
                    self.until = None;
                    return self.warn_once("nothing written");
                }
                Ok(count) => {
                    self.written += count;
                    self.truncated = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && now < until => return,
                Err(error) => {
                    self.warn_once(&error.to_string());
                    self.until = None;
                    return;
                }
            }
        }
        *self = Self::default();
    }

    /// Returns the time of the next attempt.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.until.map(|_| now + RETRY)
    }
}
