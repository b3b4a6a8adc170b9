//! The queues: decides which process accepts from which queue.
//!
//! A **queue** is the accept queue of a listening socket, or the handoff queue of a slot. The
//! kernel keeps a queue while any process holds a descriptor of it, and resets the connections in
//! it when the last descriptor is closed. So this module knows, for each queue, every process that
//! may hold it, which process **attends** it (accepts from it), what was granted and not
//! acknowledged, and whether it is closing.
//!
//! | question | answer |
//! |---|---|
//! | who gets the new connections of a hung worker? | `steering`: [`Queues::steering`] selects the other queues; `reconcile`: `Reconciliation::attend` lets another worker take over its queue |
//! | when is a listener closed after a reload? | `reconcile::close`: once its last holder has drained and released it |
//! | what happens to the queues when the daemon stops? | `reconcile::close`: `Reconciliation::stop` |
//! | how do the queues survive a reload? | `serialize` |
//!
//! It is pure: processes, acknowledgments, and time come in, [`Action`]s come out. A process holds
//! a queue from the moment at which it may have received the descriptor (a fork, a message) until
//! it acknowledges the release or is reaped. The controller closes its duplicate last, so only
//! [`Queues::closed`] changes positions in a group.

mod queue;
mod reconcile;
mod serialize;
mod steering;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

pub(crate) use self::queue::{Action, Kind};
use self::queue::{Hold, Queue, Stored};
pub(crate) use self::serialize::{HandoverQueue, HandoverQueues, Version1};
pub(crate) use self::view::{SlotView, View};
use crate::daemon::ids::{QueueId, SlotId};

/// Time for handshakes that began before new connections were steered away from a closing queue.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);
/// Time in which a process acknowledges a grant or a release before another process gets the queue.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which a queue is unattended before another worker takes it over.
const TAKEOVER_DELAY: Duration = Duration::from_millis(300);
/// Time before a refused or unsent message is repeated.
const RETRY: Duration = Duration::from_millis(500);
/// Time before another attempt to close a queue that was not empty.
const CLOSE_RETRY: Duration = Duration::from_millis(50);

/// Slot of a queue that another program opened for no slot.
pub(crate) const NO_SLOT: SlotId = SlotId::ADMIN;

/// All queues of the daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queues {
    all: BTreeMap<QueueId, Queue>,
    /// Members of each `SO_REUSEPORT` group in the kernel's order: that of listen(2), except that
    /// the last member moves to the position of a closed one.
    groups: BTreeMap<SocketAddr, Vec<QueueId>>,
    next: u32,
    /// Processes that may still hold every queue that existed at their fork: those before this one.
    forked: BTreeMap<Pid, QueueId>,
    /// Workers of handover version 1, which acknowledge nothing.
    legacy: Vec<Pid>,
    /// Configured addresses; queues of other addresses are closed.
    addresses: Vec<SocketAddr>,
    /// `true` if workers hand connections off to each other.
    handoff: bool,
    /// `true` if a service manager stores duplicates.
    stores: bool,
    /// Processes at the last reconciliation, and the time of the next one.
    seen: View,
    next_due: Option<Instant>,
    changed: bool,
}

impl Queues {
    /// Returns an empty set of queues. `stores` is `true` if a service manager stores duplicates.
    pub(crate) fn new(stores: bool) -> Self {
        Self { stores, changed: true, ..Self::default() }
    }

    /// Sets the configured addresses, and whether handoff queues are wanted.
    pub(crate) fn want(&mut self, addresses: Vec<SocketAddr>, handoff: bool) {
        (self.addresses, self.handoff, self.changed) = (addresses, handoff, true);
    }

    /// Returns an identifier that no queue has had.
    pub(crate) fn reserve(&mut self) -> QueueId {
        let id = QueueId(self.next);
        self.next += 1;
        id
    }

    /// Adds a queue that `holder`, if any, attends. Its socket is the last that began to listen, so
    /// it is the last member of its group.
    pub(crate) fn add(&mut self, id: QueueId, kind: Kind, slot: SlotId, holder: Option<Pid>) {
        let holds = holder.into_iter().map(|pid| (pid, Hold::Attending)).collect();
        self.insert(id, Queue { holds, ..Queue::new(kind, slot) });
    }

    fn insert(&mut self, id: QueueId, queue: Queue) {
        if let Kind::Accept(address) = queue.kind {
            self.groups.entry(address).or_default().push(id);
        }
        self.next = self.next.max(id.0 + 1);
        self.all.insert(id, queue);
        self.changed = true;
    }

    /// Returns the queues for a new worker of `slot`, if `slots` workers are wanted.
    pub(crate) fn queues_for_slot(&self, slot: SlotId, slots: u32) -> Vec<QueueId> {
        let shares = self.shares(slots);
        let all = self.all.iter();
        let wanted = |(id, queue): &(&QueueId, &Queue)| match queue.kind {
            Kind::Accept(address) => queue.slot == slot && self.addresses.contains(&address),
            Kind::External(_) => shares.get(id).is_some_and(|slots| slots.contains(&slot)),
            Kind::Handoff => queue.slot == slot && self.handoff,
        };
        all.filter(wanted).map(|(id, _)| *id).collect()
    }

    /// Records a fork: the process holds these queues, and may hold every other one until it is
    /// ready.
    pub(crate) fn forked(&mut self, pid: Pid, inherited: &[QueueId]) {
        self.forked.insert(pid, QueueId(self.next));
        for id in inherited {
            if let Some(queue) = self.all.get_mut(id) {
                queue.holds.insert(pid, Hold::Forked);
            }
        }
        self.changed = true;
    }

    /// Records that a process attends its inherited queues, and has closed all others.
    pub(crate) fn ready(&mut self, pid: Pid) {
        self.forked.remove(&pid);
        for hold in self.all.values_mut().filter_map(|queue| queue.holds.get_mut(&pid)) {
            if *hold == Hold::Forked {
                *hold = Hold::Attending;
            }
        }
        self.changed = true;
    }

    /// Records that a process attends granted queues.
    pub(crate) fn attending(&mut self, pid: Pid, ids: &[QueueId]) {
        self.update(ids, |queue| {
            if matches!(queue.holds.get(&pid), Some(Hold::Granted { .. })) {
                queue.holds.insert(pid, Hold::Attending);
            }
        });
    }

    /// Records that a process had no free descriptor for granted queues.
    pub(crate) fn refused(&mut self, pid: Pid, ids: &[QueueId], now: Instant) {
        self.update(ids, |queue| {
            queue.holds.remove(&pid);
            queue.refused.insert(pid, now + RETRY);
        });
    }

    /// Records that a grant or release could not be sent to a process.
    pub(crate) fn unsent(&mut self, pid: Pid, ids: &[QueueId], now: Instant) {
        self.update(ids, |queue| match queue.holds.get_mut(&pid) {
            Some(Hold::Granted { .. }) => {
                queue.holds.remove(&pid);
                queue.refused.insert(pid, now + RETRY);
            }
            Some(Hold::Releasing { since, sent }) => (*since, *sent) = (now + RETRY, false),
            _ => {}
        });
    }

    /// Records that a process has closed its descriptors of these queues.
    pub(crate) fn released(&mut self, pid: Pid, ids: &[QueueId]) {
        self.update(ids, |queue| {
            // After a repeated grant, this answers the earlier release.
            if !matches!(queue.holds.get(&pid), Some(Hold::Granted { .. })) {
                queue.holds.remove(&pid);
            }
            queue.waiting = false;
        });
    }

    fn update(&mut self, ids: &[QueueId], change: impl Fn(&mut Queue)) {
        for id in ids {
            self.all.get_mut(id).into_iter().for_each(&change);
        }
        self.changed = true;
    }

    /// Records that a worker of handover version 1 attends the queues of its slot. It may hold
    /// every other one, because it does not report takeovers.
    pub(crate) fn attended_by_legacy(&mut self, pid: Pid, slot: SlotId, now: Instant) {
        self.legacy.push(pid);
        for queue in self.all.values_mut() {
            let other = Hold::Releasing { since: now, sent: true };
            queue.holds.insert(pid, if queue.slot == slot { Hold::Attending } else { other });
        }
        self.changed = true;
    }

    /// Records that a process was reaped and holds nothing.
    pub(crate) fn reaped(&mut self, pid: Pid) {
        self.forked.remove(&pid);
        self.legacy.retain(|one| *one != pid);
        for queue in self.all.values_mut() {
            queue.holds.remove(&pid);
            queue.refused.remove(&pid);
        }
        self.changed = true;
    }

    /// Records that the controller has closed the last descriptor: the last member of the group
    /// moves to its position.
    pub(crate) fn closed(&mut self, id: QueueId) {
        let Some(queue) = self.all.remove(&id) else { return };
        if let Kind::Accept(address) = queue.kind {
            let group = self.groups.entry(address).or_default();
            if let Some(position) = group.iter().position(|member| *member == id) {
                group.swap_remove(position);
            }
            if group.is_empty() {
                self.groups.remove(&address);
            }
        }
        self.changed = true;
    }

    /// Records that a queue cannot be closed, because connections wait in it.
    pub(crate) fn not_empty(&mut self, id: QueueId, now: Instant) {
        if let Some(queue) = self.all.get_mut(&id) {
            (queue.close_requested, queue.waiting, queue.release_not_before) =
                (false, true, Some(now + CLOSE_RETRY));
        }
        self.changed = true;
    }

    /// Records that a duplicate was sent to the service manager under this number.
    pub(crate) fn stored(&mut self, id: QueueId, number: u32) {
        if let Some(queue) = self.all.get_mut(&id) {
            queue.stored = Stored::As(number);
        }
        self.changed = true;
    }

    /// Records that a duplicate could not be sent to the service manager.
    pub(crate) fn not_stored(&mut self, id: QueueId) {
        if let Some(queue) = self.all.get_mut(&id) {
            queue.stored = Stored::Refused;
        }
    }

    /// Records that the service manager has closed its duplicate of this number. Confirmations of
    /// earlier removals are ignored.
    pub(crate) fn unstored(&mut self, id: QueueId, number: u32) {
        if let Some(queue) = self.all.get_mut(&id) {
            if matches!(queue.stored, Stored::Removing(removing, _) if removing == number) {
                queue.stored = Stored::No;
            }
        }
        self.changed = true;
    }

    /// Returns the slot and the number under which the service manager stores a duplicate: the
    /// smallest number that no other queue of the slot has.
    pub(crate) fn stored_number(&self, id: QueueId) -> (SlotId, u32) {
        let Some(queue) = self.all.get(&id) else { return (NO_SLOT, 0) };
        let number = |queue: &Queue| match queue.stored {
            Stored::As(number) | Stored::Removing(number, _) => Some(number),
            Stored::No | Stored::Sending | Stored::Refused => None,
        };
        let of_slot = self.all.values().filter(|other| other.slot == queue.slot);
        let taken: Vec<u32> = of_slot.filter_map(number).collect();
        let free = (0..).find(|one| !taken.contains(one)).unwrap_or_default();
        (queue.slot, number(queue).unwrap_or(free))
    }

    /// Returns the slot and the number of a duplicate whose removal the service manager has not
    /// confirmed.
    pub(crate) fn removed_number(&self, id: QueueId) -> Option<(SlotId, u32)> {
        let queue = self.all.get(&id)?;
        match queue.stored {
            Stored::Removing(number, _) => Some((queue.slot, number)),
            _ => None,
        }
    }

    /// Returns the open queues of a slot in the order of their identifiers.
    pub(crate) fn of_slot(&self, slot: SlotId) -> impl Iterator<Item = (QueueId, Kind)> {
        let open =
            move |(_, queue): &(&QueueId, &Queue)| queue.slot == slot && queue.closing.is_none();
        self.all.iter().filter(open).map(|(id, queue)| (*id, queue.kind))
    }

    /// Returns the handoff queue of a slot, even if it is closing: it is reopened with its slot.
    pub(crate) fn handoff_of(&self, slot: SlotId) -> Option<QueueId> {
        let mut all = self.all.iter();
        all.find(|(_, queue)| queue.slot == slot && queue.kind == Kind::Handoff).map(|(id, _)| *id)
    }

    /// Returns the slot of a queue, or [`NO_SLOT`].
    pub(crate) fn slot(&self, id: QueueId) -> SlotId {
        self.all.get(&id).map_or(NO_SLOT, |queue| queue.slot)
    }

    /// Returns the kind of a queue.
    pub(crate) fn kind(&self, id: QueueId) -> Option<Kind> {
        self.all.get(&id).map(|queue| queue.kind)
    }

    /// Returns `true` if [`Action::Close`] is still to be carried out: the slot may have been added
    /// again since.
    pub(crate) fn is_to_be_closed(&self, id: QueueId) -> bool {
        self.all.get(&id).is_some_and(|queue| queue.close_requested && queue.holds.is_empty())
    }
}
