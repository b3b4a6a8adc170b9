//! The event history and the restart counters in the shared statistics.

use nix::unistd::Pid;

use crate::daemon::controller::Controller;
use crate::daemon::controller::supervisor::LogEvent;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::events::{self, Event, Kind};
use crate::daemon::stats::{Cause, FleetField};
use crate::sys::clock;

/// Slot of an event that concerns the whole daemon.
pub(crate) const DAEMON: SlotId = SlotId(0);

impl Controller<'_> {
    /// Counts a process that was replaced because it has failed.
    pub(crate) fn count_restart(&self, slot: SlotId, pid: Pid, cause: Cause) {
        let layout = self.publisher.statistics.layout();
        if slot.is_admin() {
            let restarts = layout.fleet(FleetField::AdminRestarts);
            layout.set_fleet(FleetField::AdminRestarts, restarts.wrapping_add(1));
            self.record(Kind::AdminExited, SlotId::ADMIN, pid.as_raw() as u64);
        } else {
            layout.count_restart(slot, cause);
        }
    }

    /// Appends an event of the supervisor to the event history.
    pub(crate) fn record_event(&self, event: LogEvent) {
        let number = |pid: Pid| pid.as_raw() as u64;
        let (kind, slot, value) = match event {
            LogEvent::Serving(workers) => (Kind::Serving, DAEMON, u64::from(workers)),
            LogEvent::AdminExited(..) | LogEvent::Ready(SlotId::ADMIN, _) => return,
            LogEvent::Ready(slot, pid) => (Kind::Ready, slot, number(pid)),
            LogEvent::Exited(slot, pid, _) => (Kind::Exited, slot, number(pid)),
            LogEvent::RestartDelayed(slot, delay) => {
                (Kind::Backoff, slot, delay.as_millis() as u64)
            }
            LogEvent::Unresponsive(slot, pid) => (Kind::Unresponsive, slot, number(pid)),
            LogEvent::Responsive(slot, pid) => (Kind::Responsive, slot, number(pid)),
            LogEvent::Hung(slot, pid) => (Kind::Hung, slot, number(pid)),
            LogEvent::NotReady(slot, pid) => (Kind::NotReady, slot, number(pid)),
            LogEvent::Abandoned(slot) => (Kind::NotReady, slot, 0),
            LogEvent::ReloadDone => (Kind::Reloaded, DAEMON, self.reload.done),
            LogEvent::ReloadAborted(slot) => (Kind::ReloadFailed, slot, self.reload.failed),
            LogEvent::Scaled(workers) => (Kind::Scaled, DAEMON, u64::from(workers)),
            LogEvent::Delaying(delay) => (Kind::Stopping, DAEMON, delay.as_millis() as u64),
            LogEvent::Draining => (Kind::Draining, DAEMON, 0),
            LogEvent::Killing(workers) => (Kind::Killing, DAEMON, u64::from(workers)),
            LogEvent::NoneReady | LogEvent::CannotScale(_) | LogEvent::UnknownExited(..) => return,
        };
        self.record(kind, slot, value);
    }

    /// Appends an event to the event history.
    pub(crate) fn record(&self, kind: Kind, slot: SlotId, value: u64) {
        let event = Event { at_ms: clock::unix_ms(), kind, slot, value };
        events::record(self.publisher.statistics.layout(), event);
    }
}
