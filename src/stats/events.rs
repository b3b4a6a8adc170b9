//! The last things that happened to the daemon, for whoever looks later.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::layout::{EVENTS, Layout};
use super::words::FleetWord;

/// What happened. The value is what it says at the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub kind: Kind,
    /// To which slot, from 1; 0: to the daemon.
    pub slot: u32,
    /// How much of it.
    pub value: u64,
}

super::labels::labels! {
    /// The kinds of events.
    Kind {
        /// The daemon serves; the value is the number of workers.
        Serving = "serving",
        /// A worker serves; the value is its pid.
        Ready = "worker_ready",
        /// A worker has gone; the value is its pid.
        Exited = "worker_exited",
        /// The next worker waits; the value is for how long, in milliseconds.
        Backoff = "backoff",
        /// A worker's loop stands still; the value is its pid.
        Unresponsive = "worker_unresponsive",
        /// It turns again; the value is its pid.
        Responsive = "worker_responsive",
        /// A worker is replaced because it hangs; the value is its pid.
        Hung = "worker_hung",
        /// A worker cannot start; the value is its pid, if there is one.
        NotReady = "worker_not_ready",
        /// A reload has begun.
        Reloading = "reloading",
        /// All workers are new; the value is how many reloads there were.
        Reloaded = "reloaded",
        /// A reload was refused or given up; the value is how many were.
        ReloadFailed = "reload_failed",
        /// The number of workers has changed to the value.
        Scaled = "scaled",
        /// The daemon stops; the value is how much longer it accepts, in milliseconds.
        Stopping = "stopping",
        /// Draining has begun.
        Draining = "draining",
        /// The remaining workers are killed; the value is how many.
        Killing = "killing",
        /// A worker is at a limit and accepts no more for now; the value is 1 for the number of
        /// connections, 2 for what the system has.
        Paused = "accepting_paused",
        /// It accepts again.
        Resumed = "accepting_resumed",
        /// The admin process was replaced; the value is the pid of the former one.
        AdminExited = "admin_exited",
    }
}

/// Remembers an event; for the controller only.
pub fn record(layout: Layout<'_>, event: Event) {
    let number = layout.fleet(FleetWord::Events);
    let words = [event.at_ms, event.kind as u64, u64::from(event.slot), event.value];
    layout.change(|| {
        for (word, value) in layout.event(number).iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        layout.set_fleet(FleetWord::Events, number.wrapping_add(1));
    });
}

/// The events that are remembered, the latest first.
pub fn recent(layout: Layout<'_>) -> Vec<Event> {
    let written = layout.fleet(FleetWord::Events);
    let first = written.saturating_sub(EVENTS as u64);
    (first..written)
        .rev()
        .map(|number| {
            let words = layout.event(number);
            let value = |index: usize| words[index].load(Ordering::Relaxed);
            let slot = u32::try_from(value(2)).unwrap_or(0);
            Event { at_ms: value(0), kind: Kind::numbered(value(1)), slot, value: value(3) }
        })
        .collect()
}
