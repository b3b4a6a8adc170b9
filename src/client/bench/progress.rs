//! The live line of a run.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::tally::Tally;
use crate::client::amount;

/// What a thread shows of itself. It writes, the line reads; the numbers need not fit together.
#[derive(Debug, Default)]
pub(super) struct Live {
    open: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl Live {
    /// The counts of now.
    pub(super) fn publish(&self, tally: &Tally, open: u32) {
        self.open.store(open.into(), Ordering::Relaxed);
        self.messages.store(tally.messages, Ordering::Relaxed);
        self.bytes.store(tally.bytes_received, Ordering::Relaxed);
        self.errors.store(tally.all_errors(), Ordering::Relaxed);
    }
}

/// The line, or nothing where nobody looks.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    messages: u64,
    bytes: u64,
    at: Duration,
}

impl Progress {
    /// A line on standard error for a run that takes `duration`, if it is `wanted` and standard
    /// error is a terminal.
    pub(super) fn new(wanted: bool, duration: Duration) -> Self {
        let bar = (wanted && stderr().is_terminal()).then(|| {
            let length = duration.as_millis() as u64;
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:20} {elapsed} {wide_msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, messages: 0, bytes: 0, at: Duration::ZERO }
    }

    /// Draws what has happened since the last time. `now` is the time since the run began.
    pub(super) fn update(&mut self, threads: &[Live], now: Duration) {
        let Some(bar) = &self.bar else { return };
        let sum = |count: fn(&Live) -> &AtomicU64| -> u64 {
            threads.iter().map(|live| count(live).load(Ordering::Relaxed)).sum()
        };
        let (messages, bytes) = (sum(|live| &live.messages), sum(|live| &live.bytes));
        let seconds = (now - self.at).as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        bar.set_position(now.as_millis() as u64);
        bar.set_message(format!(
            "{} connections, {} messages/s, {:.1} MB/s, {} errors",
            amount::count(sum(|live| &live.open)),
            amount::rate(rate(messages, self.messages)),
            rate(bytes, self.bytes) / 1e6,
            amount::count(sum(|live| &live.errors)),
        ));
        (self.messages, self.bytes, self.at) = (messages, bytes, now);
    }

    /// Takes the line away.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
