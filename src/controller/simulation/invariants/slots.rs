//! Invariants of processes and slots.

use super::super::world::{Child, World};
use crate::controller::supervisor::ADMIN;
use crate::stats::SlotState;

impl World {
    /// Checks the processes of all slots.
    pub(super) fn check_slots(&mut self) {
        self.check_children();
        self.check_slot_states();
    }

    /// Checks that each slot has one process, or two while its worker is renewed.
    fn check_children(&mut self) {
        let renewing = self.fleet.supervisor.is_renewing();
        let mut fault = None;
        let slots = self.children.values().map(|child| child.slot).max().unwrap_or(0);
        for slot in 0..=slots {
            let stays = self
                .children
                .values()
                .filter(|child| child.slot == slot && !child.leaving)
                .copied();
            let (ready, unready): (Vec<Child>, Vec<_>) =
                stays.partition(|child| child.ready.is_some());
            let two = !ready.is_empty() && !unready.is_empty();
            if ready.len() > 1 || unready.len() > 1 || (two && slot != ADMIN && !renewing) {
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
        let stopping = self.fleet.supervisor.is_draining();
        let views =
            self.fleet.supervisor.views(self.now).take(self.fleet.supervisor.wanted() as usize);
        let views: Vec<_> = views.collect();
        for (index, view) in views.iter().enumerate() {
            let slot = index as u32 + 1;
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
                self.fail("a slot has a worker or is to get one", || format!("slot {slot}"));
            }
        }
    }
}
