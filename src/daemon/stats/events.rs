//! The last events of the daemon, for `/stats` and the stats dump.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::fields::FleetField;
use super::labels::from_number;
use super::layout::{EVENTS, Layout};
use crate::daemon::ids::SlotId;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// Time of the event, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) kind: Kind,
    /// Slot it happened to, from 1; 0 for the daemon.
    pub(crate) slot: SlotId,
    /// A pid, count, or time, as the kind says.
    pub(crate) value: u64,
}

super::labels::labels! {
    /// The kinds of events, and the meaning of [`Event::value`].
    pub(crate) Kind {
        /// The daemon serves: number of workers.
        Serving = "serving",
        /// A worker is ready: its pid.
        Ready = "worker_ready",
        /// A worker exited: its pid.
        Exited = "worker_exited",
        /// The next worker is delayed: milliseconds.
        Backoff = "backoff",
        /// A worker's heartbeat is overdue: its pid.
        Unresponsive = "worker_unresponsive",
        /// A worker became responsive again: its pid.
        Responsive = "worker_responsive",
        /// A hung worker is replaced: its pid.
        Hung = "worker_hung",
        /// A worker did not become ready: its pid, 0 if there is none.
        NotReady = "worker_not_ready",
        /// A reload began.
        Reloading = "reloading",
        /// A reload completed: completed reloads.
        Reloaded = "reloaded",
        /// A reload was rejected or aborted: failed reloads.
        ReloadFailed = "reload_failed",
        /// The daemon was scaled: number of workers.
        Scaled = "scaled",
        /// The daemon was told to stop: milliseconds for which it still accepts.
        Stopping = "stopping",
        /// Draining began.
        Draining = "draining",
        /// The remaining workers are killed: their number.
        Killing = "killing",
        /// A worker paused accepting: 1 connection limit reached, 2 out of descriptors or memory.
        Paused = "accepting_paused",
        /// A worker resumed accepting.
        Resumed = "accepting_resumed",
        /// The admin process exited: its pid.
        AdminExited = "admin_exited",
    }
}

/// Records an event, in place of the oldest one. Only for the controller.
pub(crate) fn record(layout: Layout<'_>, event: Event) {
    let number = layout.fleet(FleetField::Events);
    let words = [event.at_ms, event.kind as u64, u64::from(event.slot.0), event.value];
    layout.change(|| {
        for (word, value) in layout.event(number).iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        layout.set_fleet(FleetField::Events, number.wrapping_add(1));
    });
}

/// Returns the recorded events, the latest first.
pub(super) fn recent(layout: Layout<'_>) -> Vec<Event> {
    let written = layout.fleet(FleetField::Events);
    let first = written.saturating_sub(EVENTS as u64);
    (first..written)
        .rev()
        .map(|number| {
            let words = layout.event(number);
            let value = |index: usize| words[index].load(Ordering::Relaxed);
            let slot = SlotId(u32::try_from(value(2)).unwrap_or(0));
            Event { at_ms: value(0), kind: from_number(Kind::ALL, value(1)), slot, value: value(3) }
        })
        .collect()
}
