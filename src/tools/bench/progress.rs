//! The progress line of a run.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::stats::LoadStats;
use crate::sys::clock::millis;
use crate::text;

/// Counters that a load thread publishes for the progress line. They are not mutually consistent.
#[derive(Debug, Default)]
pub(super) struct LiveCounters {
    open: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl LiveCounters {
    /// Publishes the current counts.
    pub(super) fn publish(&self, stats: &LoadStats, open: u32) {
        self.open.store(open.into(), Ordering::Relaxed);
        self.messages.store(stats.messages, Ordering::Relaxed);
        self.bytes.store(stats.bytes_received, Ordering::Relaxed);
        self.errors.store(stats.errors.total(), Ordering::Relaxed);
    }
}

/// The progress line. It draws nothing unless standard error is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// Sums and time of the last update.
    messages: u64,
    bytes: u64,
    updated: Duration,
}

impl Progress {
    /// Returns a progress line for a run of `duration`.
    pub(super) fn new(enabled: bool, duration: Duration) -> Self {
        let bar = (enabled && stderr().is_terminal()).then(|| {
            let length = millis(duration);
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:20} {elapsed} {wide_msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, messages: 0, bytes: 0, updated: Duration::ZERO }
    }

    /// Draws the rates since the last update. `now` is the time since the start of the run.
    pub(super) fn update(&mut self, threads: &[LiveCounters], now: Duration) {
        let Some(bar) = &self.bar else { return };
        let sum = |count: fn(&LiveCounters) -> &AtomicU64| -> u64 {
            threads.iter().map(|counters| count(counters).load(Ordering::Relaxed)).sum()
        };
        let (messages, bytes) = (sum(|it| &it.messages), sum(|it| &it.bytes));
        let seconds = (now - self.updated).as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        bar.set_position(millis(now));
        bar.set_message(format!(
            "{} connections, {} messages/s, {:.1} MB/s, {} errors",
            text::count(sum(|it| &it.open)),
            text::rate(rate(messages, self.messages)),
            rate(bytes, self.bytes) / 1e6,
            text::count(sum(|it| &it.errors)),
        ));
        (self.messages, self.bytes, self.updated) = (messages, bytes, now);
    }

    /// Removes the line.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
