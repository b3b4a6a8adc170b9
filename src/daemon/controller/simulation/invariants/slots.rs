//! Invariants of processes and slots.

use std::collections::BTreeSet;

use super::super::world::{Child, World};
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
        let slots = self.children.values().map(|child| child.slot).collect::<BTreeSet<_>>();
        for slot in slots {
            let stay = |child: &&Child| child.slot == slot && !child.leaving;
            let (mut ready, mut unready) = (0, 0);
            for child in self.children.values().filter(stay) {
                *if child.ready.is_some() { &mut ready } else { &mut unready } += 1;
            }
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
        let stopping = self.fleet.supervisor.is_draining();
        let views =
            self.fleet.supervisor.views(self.now).take(self.fleet.supervisor.wanted() as usize);
        let views: Vec<_> = views.collect();
        for (index, view) in views.iter().enumerate() {
            let slot = SlotId::from_worker_index(index);
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
