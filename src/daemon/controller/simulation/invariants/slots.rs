//! Invariants of processes and slots.

use super::super::world::World;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::SlotState;

impl World {
    /// Checks the processes of all slots.
    pub(super) fn check_slots(&mut self) {
        self.check_children();
        self.check_slot_states();
    }

    /// Checks that each slot has one process, or two while its worker is renewed.
    fn check_children(&mut self) {
        let renewing = self.fleet.supervisor.is_replacing();
        let mut fault = None;
        let stay = self.children.values().filter(|child| !child.leaving);
        let mut stay: Vec<_> = stay.map(|child| (child.slot, child.ready.is_some())).collect();
        stay.sort_unstable();
        for of_slot in stay.chunk_by(|(one, _), (other, _)| one == other) {
            let slot = of_slot[0].0;
            let ready = of_slot.iter().filter(|(_, ready)| *ready).count();
            let unready = of_slot.len() - ready;
            let two = ready > 0 && unready > 0;
            if ready > 1 || unready > 1 || (two && slot != SlotId::ADMIN && !renewing) {
                fault = Some(slot);
            }
        }
        if let Some(slot) = fault {
            let children = format!("slot {slot}: {:?}", self.children);
            self.fail("one process stays in a slot", || children);
        }
        let most = 6 * self.setup.slots.max(self.fleet.supervisor.wanted()) as usize + 64 + 16;
        if self.processes.len() > most {
            self.fail("processes are bounded", || format!("more than {most}"));
        }
    }

    /// Checks that each wanted slot has a worker, or a reason to have none.
    fn check_slot_states(&mut self) {
        let supervisor = &self.fleet.supervisor;
        let stopping = supervisor.is_draining();
        let mut vacant = None;
        for (slot, view) in SlotId::workers(supervisor.wanted()).zip(supervisor.views(self.now)) {
            let index = slot.index() - SlotId::FIRST.index();
            match self.watch.states.get_mut(index) {
                Some(state) => {
                    self.coverage.transition(*state, view.state);
                    *state = view.state;
                }
                None => self.watch.states.push(view.state),
            }
            let due = view.state == SlotState::Backoff && self.deadline.is_some();
            let given_up = self.watch.refusals.contains(&slot);
            if view.pid.is_none() && !due && !given_up && !stopping {
                vacant = vacant.or(Some(slot));
            }
        }
        if let Some(slot) = vacant {
            self.fail("a slot has a worker or is to get one", || format!("slot {slot}"));
        }
    }
}
