//! Processes and slots as the queues see them.

use nix::unistd::Pid;

use crate::daemon::ids::SlotId;

/// State of a slot for the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotView {
    /// Ready worker.
    pub(crate) worker: Option<Pid>,
    /// `true` if the worker is responsive.
    pub(crate) healthy: bool,
    /// `true` if the worker runs the previous configuration.
    pub(crate) outdated: bool,
    /// `true` if the slot will lack a healthy worker for longer than a fork takes.
    pub(crate) takeover_now: bool,
}

/// State of the processes, as the supervisor knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Wanted slots, from slot 1.
    pub(crate) slots: Vec<SlotView>,
    /// Responsive workers outside the wanted slots, which drain or are about to.
    pub(crate) draining: Vec<Pid>,
    /// Number of workers that have not ended, responsive or not.
    pub(crate) alive: usize,
    /// `true` if workers take over each other's queues; `false` while the daemon starts.
    pub(crate) takeover: bool,
    /// `true` once all workers were told to drain.
    pub(crate) stopping: bool,
}

impl View {
    pub(super) fn is_healthy(&self, pid: Pid) -> bool {
        self.slots.iter().any(|slot| slot.healthy && slot.worker == Some(pid))
    }

    pub(super) fn slot(&self, slot: SlotId) -> Option<&SlotView> {
        self.slots.get(slot.worker_index()?)
    }

    /// Returns the healthy workers, beginning with the slot after this one.
    pub(super) fn takeover_workers(&self, slot: SlotId) -> impl Iterator<Item = Pid> {
        let (before, after) = self.slots.split_at(slot.index().min(self.slots.len()));
        let healthy = after.iter().chain(before).filter(|slot| slot.healthy);
        healthy.filter_map(|slot| slot.worker)
    }
}
