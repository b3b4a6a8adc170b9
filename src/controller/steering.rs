//! Steering: new connections go to slots that can serve them.
//!
//! A program in the kernel picks a member of a group by a random number. It is attached only while
//! some slot is not healthy; otherwise the kernel's own hash is just as good and costs nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tracing::{debug, warn};

use super::Controller;
use super::supervisor::MOST_SLOTS;
use crate::config::{Balance, Fault};
use crate::process::steering;

/// What is attached to each address's group; `None`: nothing.
#[derive(Debug, Default)]
pub(super) struct Steering {
    attached: BTreeMap<SocketAddr, Option<Vec<u16>>>,
    refused: bool,
}

/// The positions that new connections may go to; `None`: leave it to the kernel.
fn choose(members: &[Option<u32>], healthy: &[u32]) -> Option<Vec<u16>> {
    let fit = |(_, slot): &(u16, &Option<u32>)| slot.is_some_and(|slot| healthy.contains(&slot));
    let positions: Vec<u16> =
        (0..).zip(members).filter(fit).map(|(position, _)| position).collect();
    (!positions.is_empty() && positions.len() < members.len()).then_some(positions)
}

impl Controller<'_> {
    /// Says in the directory which workers connections may be passed to.
    pub(super) fn list_healthy(&self) {
        if self.inboxes.is_empty() {
            return;
        }
        let mut seats = [None; MOST_SLOTS as usize];
        // After a reload that has switched to the hash nobody passes anything on any more.
        if self.config.fleet.balance == Balance::LeastConnections {
            for (slot, pid) in self.supervisor.healthy_workers() {
                let handle = self.handles.get(&pid).filter(|handle| handle.exchanges);
                seats[slot as usize - 1] = handle.map(|handle| handle.seat);
            }
        }
        for (seat, slot) in seats.into_iter().zip(1..) {
            self.statistics.list(slot, seat);
        }
    }

    /// Brings the groups' programs in line with the slots' health.
    pub(super) fn steer(&mut self) {
        // Members of another daemon have positions that we do not know.
        if self.steering.refused || self.config.listen.share_port || self.supervisor.is_starting() {
            return;
        }
        if self.config.faults.contains(&Fault::NoSteering) {
            return;
        }
        let healthy = self.supervisor.healthy();
        for (address, group, members) in self.listeners.groups() {
            let wanted = choose(&members, &healthy);
            if self.steering.attached.get(&address) == Some(&wanted) {
                continue;
            }
            let done = match &wanted {
                Some(positions) => steering::steer(group, positions),
                None => steering::unsteer(group),
            };
            match done {
                Ok(()) => debug!(%address, members = ?wanted, "steering"),
                Err(error) => {
                    self.steering.refused = true;
                    warn!("cannot steer connections away from workers in trouble: {error}");
                    return;
                }
            }
            self.steering.attached.insert(address, wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn only_trouble_is_steered_around() {
        let members = [Some(1), Some(2), Some(3)];
        assert_eq!(choose(&members, &[1, 2, 3]), None);
        assert_eq!(choose(&members, &[1, 3]), Some(vec![0, 2]));
        assert_eq!(choose(&members, &[]), None, "a queue is better than a refusal");
    }

    #[test]
    fn a_slot_that_was_given_up_gets_nothing() {
        assert_eq!(choose(&[Some(1), None, Some(2)], &[1, 2]), Some(vec![0, 2]));
    }
}
