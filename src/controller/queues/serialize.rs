//! The queues under the next image.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{Hold, Kind, Queue, Queues, Stored};
use crate::ids::QueueId;

/// All queues, as the next image needs to know them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct HandedQueues {
    /// The next name.
    pub(crate) next: u32,
    /// Every queue; those of one address in the order of their group.
    pub(crate) queues: Vec<HandedQueue>,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct HandedQueue {
    pub(crate) id: QueueId,
    pub(crate) kind: Kind,
    pub(crate) slot: u32,
    /// Processes that attend it.
    pub(crate) attendants: Vec<i32>,
    /// Processes that may hold it and do not attend it: what they were told last is on its way.
    pub(crate) holders: Vec<i32>,
    /// The number under which the service manager keeps it.
    pub(crate) stored: Option<u32>,
    /// The service manager was told to close it.
    #[serde(default)]
    pub(crate) removing: bool,
}

impl Queues {
    /// All queues, for the next image.
    pub(crate) fn serialize(&self) -> HandedQueues {
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
            // A process that was given up before it was ready may hold it, too.
            let forked = self
                .forked
                .iter()
                .filter(|(pid, next)| id < **next && !queue.holds.contains_key(pid));
            holders.extend(forked.map(|(pid, _)| pid.as_raw()));
            Some(HandedQueue {
                id,
                kind,
                slot,
                attendants: pids(true),
                holders,
                stored,
                removing: matches!(queue.stored, Stored::Removing(..)),
            })
        });
        HandedQueues { next: self.next, queues: queues.collect() }
    }

    /// Goes on with the queues of the image before.
    pub(crate) fn restore(handed: HandedQueues, stores: bool, now: Instant) -> Self {
        let mut restored = Self::new(stores);
        for handed in handed.queues {
            let attending = handed.attendants.iter().map(|&pid| (pid, Hold::Attending));
            // A release is repeated: it may not have been sent.
            let releasing = Hold::Releasing { since: now, sent: false };
            let others = handed.holders.iter().map(|&pid| (pid, releasing));
            let holds = attending.chain(others).map(|(pid, hold)| (Pid::from_raw(pid), hold));
            let holds: BTreeMap<Pid, Hold> = holds.collect();
            let stored = match (handed.stored, handed.removing) {
                (Some(number), true) => Stored::Removing(number, now),
                (Some(number), false) => Stored::As(number),
                _ => Stored::No,
            };
            let queue = Queue::new(handed.kind, handed.slot);
            restored.insert(handed.id, Queue { holds, stored, ..queue });
        }
        restored.next = restored.next.max(handed.next);
        restored
    }
}

/// The queues in a note of handover version 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version1 {
    /// Every socket: its slot and its address.
    pub(crate) sockets: Vec<(u32, SocketAddr)>,
    /// Every group's members in the kernel's order: address and slot.
    pub(crate) members: Vec<(SocketAddr, u32)>,
    /// Addresses of sockets that another program opened.
    pub(crate) external: Vec<SocketAddr>,
    /// The slots of the handoff queues.
    pub(crate) handoff: Vec<u32>,
    /// Sockets in the service manager's store: slot, and number among the slot's.
    pub(crate) stored: Vec<(u32, u32)>,
    /// The workers that serve: pid and slot.
    pub(crate) workers: Vec<(i32, u32)>,
}

impl Version1 {
    /// The queues, and the place of each in `sockets`, or behind them in `handoff`.
    pub(crate) fn queues(&self) -> Vec<(HandedQueue, usize)> {
        let mut queues = Vec::new();
        let attendants = |slot: u32| {
            let of_slot = self.workers.iter().filter(move |(_, own)| *own == slot);
            of_slot.map(|(pid, _)| *pid).collect::<Vec<i32>>()
        };
        let mut add = |place: usize, kind, slot: u32, stored| {
            // High, so that no number in the service manager's store is used twice.
            let id = QueueId(1000 + queues.len() as u32);
            let attendants = attendants(slot);
            let queue = HandedQueue {
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
