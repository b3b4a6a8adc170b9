//! State handover of the queues.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{Hold, Kind, Queue, Queues, Stored};
use crate::daemon::ids::{QueueId, SlotId};

/// State handover of all queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct HandoverQueues {
    /// Next identifier.
    pub(crate) next: u32,
    /// Queues; those of one address in the order of their group.
    pub(crate) queues: Vec<HandoverQueue>,
}

/// State handover of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct HandoverQueue {
    pub(crate) id: QueueId,
    pub(crate) kind: Kind,
    pub(crate) slot: SlotId,
    /// Pids of the processes that attend it.
    pub(crate) attendants: Vec<i32>,
    /// Pids of other processes that may hold it.
    pub(crate) holders: Vec<i32>,
    /// Number under which the service manager stores it.
    pub(crate) stored: Option<u32>,
    /// `true` if the service manager was told to close it.
    #[serde(default)]
    pub(crate) removing: bool,
}

impl Queues {
    /// Returns the state handover.
    pub(crate) fn serialize(&self) -> HandoverQueues {
        let members = self.groups.values().flatten();
        let listed: Vec<QueueId> = members.copied().collect();
        let others = self.all.keys().copied().filter(|id| !listed.contains(id));
        let all = listed.iter().copied().chain(others);
        let queues = all.filter_map(|id| {
            let queue = self.all.get(&id)?;
            let pids = |attends: bool| {
                let holds = queue.holds.iter();
                let these = holds.filter(|(_, hold)| (**hold == Hold::Attending) == attends);
                these.map(|(pid, _)| pid.as_raw()).collect()
            };
            let stored = match queue.stored {
                Stored::As(number) | Stored::Removing(number, _) => Some(number),
                Stored::No | Stored::Sending | Stored::Refused => None,
            };
            let (kind, slot) = (queue.kind, queue.slot);
            let mut holders: Vec<i32> = pids(false);
            // A process that left its slot before it was ready may hold it too.
            let forked = self
                .forked
                .iter()
                .filter(|(pid, next)| id < **next && !queue.holds.contains_key(pid));
            holders.extend(forked.map(|(pid, _)| pid.as_raw()));
            Some(HandoverQueue {
                id,
                kind,
                slot,
                attendants: pids(true),
                holders,
                stored,
                removing: matches!(queue.stored, Stored::Removing(..)),
            })
        });
        HandoverQueues { next: self.next, queues: queues.collect() }
    }

    /// Restores the queues of the previous image.
    pub(crate) fn restore(handover: HandoverQueues, stores: bool, now: Instant) -> Self {
        let mut restored = Self::new(stores);
        for queue in handover.queues {
            let attending = queue.attendants.iter().map(|&pid| (pid, Hold::Attending));
            // The release may not have been sent, so it is repeated.
            let releasing = Hold::Releasing { since: now, sent: false };
            let others = queue.holders.iter().map(|&pid| (pid, releasing));
            let holds = attending.chain(others).map(|(pid, hold)| (Pid::from_raw(pid), hold));
            let holds: BTreeMap<Pid, Hold> = holds.collect();
            let stored = match (queue.stored, queue.removing) {
                (Some(number), true) => Stored::Removing(number, now),
                (Some(number), false) => Stored::As(number),
                _ => Stored::No,
            };
            let restored_queue = Queue { holds, stored, ..Queue::new(queue.kind, queue.slot) };
            restored.insert(queue.id, restored_queue);
        }
        restored.next = restored.next.max(handover.next);
        restored
    }
}

/// Queues in handover version 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version1 {
    /// Sockets with slot and address.
    pub(crate) sockets: Vec<(SlotId, SocketAddr)>,
    /// Members of the groups in the kernel's order, with address and slot.
    pub(crate) members: Vec<(SocketAddr, SlotId)>,
    /// Addresses of external sockets.
    pub(crate) external: Vec<SocketAddr>,
    /// Slots of the handoff queues.
    pub(crate) handoff: Vec<SlotId>,
    /// Sockets in the service manager's store: slot, and number among the slot's.
    pub(crate) stored: Vec<(SlotId, u32)>,
    /// Pids and slots of the workers in their slots.
    pub(crate) workers: Vec<(i32, SlotId)>,
}

impl Version1 {
    /// Returns the queues with their index in `sockets` or, after those, in `handoff`.
    pub(crate) fn queues(&self) -> Vec<(HandoverQueue, usize)> {
        let mut queues = Vec::new();
        let attendants = |slot: SlotId| {
            let of_slot = self.workers.iter().filter(move |(_, own)| *own == slot);
            of_slot.map(|(pid, _)| *pid).collect::<Vec<i32>>()
        };
        let mut add = |place: usize, kind, slot: SlotId, stored| {
            // High enough that no number in the service manager's store is used twice.
            let id = QueueId(1000 + queues.len() as u32);
            let attendants = attendants(slot);
            let queue = HandoverQueue {
                id,
                kind,
                slot,
                attendants,
                holders: Vec::new(),
                stored,
                removing: false,
            };
            queues.push((queue, place));
        };
        let number = |place: usize| {
            let slot = self.sockets[place].0;
            let before = self.sockets[..place].iter().filter(|(other, _)| *other == slot);
            let number = before.count() as u32;
            self.stored.contains(&(slot, number)).then_some(number)
        };
        let mut used: Vec<usize> = Vec::new();
        for &(address, slot) in &self.members {
            let places = (0..).zip(&self.sockets).filter(|(_, socket)| **socket == (slot, address));
            if let Some(place) = places.map(|(place, _)| place).find(|place| !used.contains(place))
            {
                used.push(place);
                add(place, Kind::Accept(address), slot, number(place));
            }
        }
        for (place, &(slot, address)) in self.sockets.iter().enumerate() {
            if self.external.contains(&address) && !self.members.contains(&(address, slot)) {
                add(place, Kind::External(address), slot, number(place));
            }
        }
        for (place, &slot) in (self.sockets.len()..).zip(&self.handoff) {
            add(place, Kind::Handoff, slot, None);
        }
        queues
    }
}
