//! Steering: who gets new connections while a worker hangs, is missing, or is about to be replaced.
//!
//! Only the decision; `sockets::steering_programs` attaches the programs that carry it out.

use std::net::SocketAddr;

use super::{Kind, Queue, Queues};
use crate::daemon::ids::QueueId;

impl Queues {
    /// Returns the positions in each group that get new connections, and any member of the group.
    /// `None` means all positions, which the kernel's hash balances best.
    pub(crate) fn steering(&self) -> impl Iterator<Item = (SocketAddr, QueueId, Option<Vec<u16>>)> {
        let groups = self.groups.iter().filter(|(address, _)| !self.is_external(**address));
        groups.filter_map(|(address, members)| {
            Some((*address, *members.first()?, self.positions(members)))
        })
    }

    /// Returns the positions in a group that get new connections, or `None` for all.
    fn positions(&self, members: &[QueueId]) -> Option<Vec<u16>> {
        // If no slot's own worker is healthy, the next best queue is attended by another healthy
        // worker, and then any queue that is not closing.
        let preferences: [&dyn Fn(&Queue) -> bool; 3] =
            [&|it| self.is_served(it), &|it| self.is_taken_over(it), &|it| it.closing.is_none()];
        let choose = |fit: &&dyn Fn(&Queue) -> bool| {
            let fits = |id: &QueueId| self.all.get(id).is_some_and(fit);
            let fit = (0..).zip(members).filter(|(_, id)| fits(id));
            let positions: Vec<u16> = fit.map(|(position, _)| position).collect();
            (!positions.is_empty()).then_some(positions)
        };
        let positions = preferences.iter().find_map(choose)?;
        (positions.len() < members.len()).then_some(positions)
    }

    /// Returns `true` if a healthy worker of any slot attends an open queue.
    fn is_taken_over(&self, queue: &Queue) -> bool {
        let healthy = self.seen.slots.iter().filter(|slot| slot.healthy);
        let mut workers = healthy.filter_map(|slot| slot.worker);
        queue.closing.is_none() && workers.any(|pid| queue.is_attended_by(pid))
    }

    /// Returns `true` if the slot's own healthy worker attends an open queue.
    fn is_served(&self, queue: &Queue) -> bool {
        let slot = self.seen.slot(queue.slot);
        let worker = slot.filter(|slot| slot.healthy).and_then(|slot| slot.worker);
        queue.closing.is_none() && worker.is_some_and(|pid| queue.is_attended_by(pid))
    }

    /// Returns `true` if another program opened sockets of this address.
    fn is_external(&self, address: SocketAddr) -> bool {
        self.all.values().any(|queue| queue.kind == Kind::External(address))
    }
}
