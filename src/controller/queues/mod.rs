//! The owner of all queues: which process accepts from which.
//!
//! A **queue** is the accept queue of a listening socket, or the handoff queue of a slot. The kernel
//! keeps a queue for as long as any process holds a descriptor of it, and resets what waits there when
//! the last one is closed. So this module knows, for each queue, every process that may hold it, who
//! **attends** it (accepts from it), what was granted and not acknowledged yet, and whether it is closing.
//! Steering, accept queue takeover, closing, socket activation and the service manager's
//! store are views of that.
//!
//! It is pure: processes, acknowledgements and time come in, [`Action`]s go out. A process holds a
//! queue from the moment in which it may have got it (a fork, a message with descriptors) until it
//! acknowledges the release or is reaped; what it is told in between changes nothing. The controller's
//! own duplicate is the last that is closed, so only [`Queues::closed`] changes positions in a group.

mod queue;
mod reconcile;
mod serialize;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

pub(crate) use self::queue::{Action, Kind};
use self::queue::{Hold, Queue, Stored};
pub(crate) use self::reconcile::{SlotView, View};
pub(crate) use self::serialize::{HandedQueue, HandedQueues, Version1};
use crate::ids::QueueId;

/// Time for a handshake that has begun before the group was steered away from a closing queue.
const LAST_CALL: Duration = Duration::from_secs(1);
/// Time in which a process acknowledges a grant or a release before another one is asked.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);
/// Time between two workers in which a queue waits before another worker takes over.
const TAKEOVER_AFTER: Duration = Duration::from_millis(300);
/// Time before something that was refused is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Time before another attempt to close a queue that was found not to be empty.
const PACE: Duration = Duration::from_millis(50);

/// All queues of the daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queues {
    all: BTreeMap<QueueId, Queue>,
    /// Members of each `SO_REUSEPORT` group in the kernel's order: by the time of listen(2), and the
    /// last moves into the place of one that is closed.
    groups: BTreeMap<SocketAddr, Vec<QueueId>>,
    next: u32,
    /// Processes that may still hold everything that there was at their fork: all queues before this.
    forked: BTreeMap<Pid, QueueId>,
    /// Workers of an older build, which acknowledge nothing.
    legacy: Vec<Pid>,
    /// Addresses that are listened on; queues of others are closed.
    addresses: Vec<SocketAddr>,
    /// Workers hand connections off to each other.
    handoff: bool,
    /// A service manager keeps duplicates.
    stores: bool,
    /// The processes at the last comparison, and the time of the next.
    seen: View,
    next_due: Option<Instant>,
    changed: bool,
}

impl Queues {
    /// No queue yet. `stores` says whether a service manager keeps duplicates.
    pub(crate) fn new(stores: bool) -> Self {
        Self { stores, changed: true, ..Self::default() }
    }

    /// Sets what is wanted: the addresses, and whether there are handoff queues.
    pub(crate) fn want(&mut self, addresses: Vec<SocketAddr>, handoff: bool) {
        (self.addresses, self.handoff, self.changed) = (addresses, handoff, true);
    }

    /// Returns a name that no queue has had.
    pub(crate) fn reserve(&mut self) -> QueueId {
        let id = QueueId(self.next);
        self.next += 1;
        id
    }

    /// Adds a queue whose socket `holder`, if any, has opened and attends. A socket must have begun to
    /// listen just now: it is the last member of its group.
    pub(crate) fn add(&mut self, id: QueueId, kind: Kind, slot: u32, holder: Option<Pid>) {
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

    /// Names the queues that a new worker of `slot` is to have.
    pub(crate) fn inheritance(&self, slot: u32, slots: u32) -> Vec<QueueId> {
        let shares = self.shares(slots);
        let all = self.all.iter();
        let wanted = |(id, queue): &(&QueueId, &Queue)| match queue.kind {
            Kind::Accept(address) => queue.slot == slot && self.addresses.contains(&address),
            Kind::External(_) => shares.get(id).is_some_and(|slots| slots.contains(&slot)),
            Kind::Handoff => queue.slot == slot && self.handoff,
        };
        all.filter(wanted).map(|(id, _)| *id).collect()
    }

    /// Notes a fork: the process holds these queues, and may hold every other one until it is ready.
    pub(crate) fn forked(&mut self, pid: Pid, inherited: &[QueueId]) {
        self.forked.insert(pid, QueueId(self.next));
        for id in inherited {
            if let Some(queue) = self.all.get_mut(id) {
                queue.holds.insert(pid, Hold::Inherited);
            }
        }
        self.changed = true;
    }

    /// Notes that a process attends what it has inherited, and has closed everything else.
    pub(crate) fn ready(&mut self, pid: Pid) {
        self.forked.remove(&pid);
        for hold in self.all.values_mut().filter_map(|queue| queue.holds.get_mut(&pid)) {
            if *hold == Hold::Inherited {
                *hold = Hold::Attending;
            }
        }
        self.changed = true;
    }

    /// Notes that a process attends what it was granted.
    pub(crate) fn attending(&mut self, pid: Pid, ids: &[QueueId]) {
        self.update(ids, |queue| {
            if matches!(queue.holds.get(&pid), Some(Hold::Granted { .. })) {
                queue.holds.insert(pid, Hold::Attending);
            }
        });
    }

    /// Notes that the descriptors did not find room at a process: it has none of them.
    pub(crate) fn refused(&mut self, pid: Pid, ids: &[QueueId], now: Instant) {
        self.update(ids, |queue| {
            queue.holds.remove(&pid);
            queue.refused.insert(pid, now + RETRY);
        });
    }

    /// Notes that a message about these queues could not be sent to a process.
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

    /// Notes that a process has closed its descriptors of these queues.
    pub(crate) fn released(&mut self, pid: Pid, ids: &[QueueId]) {
        self.update(ids, |queue| {
            // An answer to a release from before the last grant.
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

    /// Notes that a process of an older build attends the queues of its slot and acknowledges nothing.
    /// It may hold every other one: it says nothing of what it has taken over.
    pub(crate) fn attended_by_legacy(&mut self, pid: Pid, slot: u32, now: Instant) {
        self.legacy.push(pid);
        for queue in self.all.values_mut() {
            let other = Hold::Releasing { since: now, sent: true };
            queue.holds.insert(pid, if queue.slot == slot { Hold::Attending } else { other });
        }
        self.changed = true;
    }

    /// Notes that a process has been reaped: it holds nothing.
    pub(crate) fn reaped(&mut self, pid: Pid) {
        self.forked.remove(&pid);
        self.legacy.retain(|one| *one != pid);
        for queue in self.all.values_mut() {
            queue.holds.remove(&pid);
            queue.refused.remove(&pid);
        }
        self.changed = true;
    }

    /// Notes that the controller's descriptor, the last one, is closed: the last member of the group
    /// moves into its place.
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

    /// Notes that connections wait in a queue that was to be closed.
    pub(crate) fn not_empty(&mut self, id: QueueId, now: Instant) {
        if let Some(queue) = self.all.get_mut(&id) {
            (queue.close_requested, queue.waiting, queue.release_not_before) =
                (false, true, Some(now + PACE));
        }
        self.changed = true;
    }

    /// Notes that the service manager was sent a duplicate, under this number among the slot's.
    pub(crate) fn stored(&mut self, id: QueueId, number: u32) {
        if let Some(queue) = self.all.get_mut(&id) {
            queue.stored = Stored::As(number);
        }
        self.changed = true;
    }

    /// Notes that a duplicate could not be sent to the service manager.
    pub(crate) fn not_stored(&mut self, id: QueueId) {
        if let Some(queue) = self.all.get_mut(&id) {
            queue.stored = Stored::Refused;
        }
    }

    /// Notes that the service manager has closed its duplicate of this number. An answer to an earlier
    /// removal says nothing about the one that is stored now.
    pub(crate) fn unstored(&mut self, id: QueueId, number: u32) {
        if let Some(queue) = self.all.get_mut(&id) {
            if matches!(queue.stored, Stored::Removing(removing, _) if removing == number) {
                queue.stored = Stored::No;
            }
        }
        self.changed = true;
    }

    /// The number under which the service manager keeps, or is to keep, a duplicate: the smallest that
    /// no other queue of the slot has.
    pub(crate) fn stored_number(&self, id: QueueId) -> (u32, u32) {
        let Some(queue) = self.all.get(&id) else { return (0, 0) };
        let number = |queue: &Queue| match queue.stored {
            Stored::As(number) | Stored::Removing(number, _) => Some(number),
            Stored::No | Stored::Sending | Stored::Refused => None,
        };
        let of_slot = self.all.values().filter(|other| other.slot == queue.slot);
        let taken: Vec<u32> = of_slot.filter_map(number).collect();
        let free = (0..).find(|one| !taken.contains(one)).unwrap_or_default();
        (queue.slot, number(queue).unwrap_or(free))
    }

    /// The queues of a slot, open ones only, in the order of their names.
    pub(crate) fn of_slot(&self, slot: u32) -> impl Iterator<Item = (QueueId, Kind)> {
        let open =
            move |(_, queue): &(&QueueId, &Queue)| queue.slot == slot && queue.closing.is_none();
        self.all.iter().filter(open).map(|(id, queue)| (*id, queue.kind))
    }

    /// The handoff queue of a slot, even one that is closing: it comes back with its slot.
    pub(crate) fn handoff_of(&self, slot: u32) -> Option<QueueId> {
        let mut all = self.all.iter();
        all.find(|(_, queue)| queue.slot == slot && queue.kind == Kind::Handoff).map(|(id, _)| *id)
    }

    /// The slot of a queue; 0 if another program opened it for no slot.
    pub(crate) fn slot(&self, id: QueueId) -> u32 {
        self.all.get(&id).map_or(0, |queue| queue.slot)
    }

    /// The kind of a queue.
    pub(crate) fn kind(&self, id: QueueId) -> Option<Kind> {
        self.all.get(&id).map(|queue| queue.kind)
    }

    /// Returns `true` if a queue is still to be closed: since [`Action::Close`] was decided a slot may
    /// have come back.
    pub(crate) fn is_to_be_closed(&self, id: QueueId) -> bool {
        self.all.get(&id).is_some_and(|queue| queue.close_requested && queue.holds.is_empty())
    }

    /// The positions in each group that new connections may go to; `None` for all of them, which the
    /// kernel's hash spreads best. With each group comes a member that stands for it.
    pub(crate) fn steering(&self) -> Vec<(SocketAddr, QueueId, Option<Vec<u16>>)> {
        let mut groups = Vec::new();
        for (address, members) in &self.groups {
            if self.is_external(*address) || members.is_empty() {
                continue;
            }
            // If no slot's own worker is healthy, a queue that a helper attends is better than one that
            // is about to be closed, and so is any other that stays.
            let preferences: [&dyn Fn(&Queue) -> bool; 3] =
                [&|it| self.is_served(it), &|it| self.is_helped(it), &|it| it.closing.is_none()];
            let choose = |fit: &&dyn Fn(&Queue) -> bool| {
                let fits = |id: &QueueId| self.all.get(id).is_some_and(fit);
                let fit = (0..).zip(members).filter(|(_, id)| fits(id));
                let positions: Vec<u16> = fit.map(|(position, _)| position).collect();
                (!positions.is_empty()).then_some(positions)
            };
            let positions = preferences.iter().find_map(choose).unwrap_or_default();
            let all = positions.is_empty() || positions.len() == members.len();
            groups.push((*address, members[0], (!all).then_some(positions)));
        }
        groups
    }

    /// Returns `true` if any healthy worker attends an open queue.
    fn is_helped(&self, queue: &Queue) -> bool {
        let healthy = self.seen.slots.iter().filter(|slot| slot.healthy);
        let mut workers = healthy.filter_map(|slot| slot.worker);
        queue.closing.is_none() && workers.any(|pid| queue.is_attended_by(pid))
    }

    /// Returns `true` if the slot's own healthy worker attends an open queue.
    fn is_served(&self, queue: &Queue) -> bool {
        let slot =
            (queue.slot as usize).checked_sub(1).and_then(|index| self.seen.slots.get(index));
        let worker = slot.filter(|slot| slot.healthy).and_then(|slot| slot.worker);
        queue.closing.is_none() && worker.is_some_and(|pid| queue.is_attended_by(pid))
    }

    /// Returns `true` if a group has members that another program opened.
    fn is_external(&self, address: SocketAddr) -> bool {
        self.all.values().any(|queue| queue.kind == Kind::External(address))
    }
}
