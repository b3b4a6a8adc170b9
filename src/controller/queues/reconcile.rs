//! Comparison of the queues with what is wanted: every queue is attended, or closed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::{
    ACKNOWLEDGE, Action, Hold, Kind, LAST_CALL, Queue, Queues, RETRY, Stored, TAKEOVER_AFTER,
};
use crate::ids::QueueId;

/// Time that a service manager may take to confirm that it has closed a duplicate.
const UNSTORE: Duration = Duration::from_secs(5);

/// A slot as its queues need to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotView {
    /// The worker that serves.
    pub(crate) worker: Option<Pid>,
    /// That worker responds.
    pub(crate) healthy: bool,
    /// That worker is of the build before and will be replaced.
    pub(crate) outdated: bool,
    /// The slot will be without a healthy worker for longer than a fork takes.
    pub(crate) takeover_now: bool,
}

/// The processes, as the supervisor sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The slots that are wanted, from slot 1.
    pub(crate) slots: Vec<SlotView>,
    /// Workers that have left their slot in good order and drain.
    pub(crate) draining: Vec<Pid>,
    /// Workers take over each other's queues; `false` while the daemon starts.
    pub(crate) takeover: bool,
    /// The daemon is ending: all workers have been told to drain.
    pub(crate) stopping: bool,
}

impl View {
    fn is_healthy(&self, pid: Pid) -> bool {
        self.slots.iter().any(|slot| slot.healthy && slot.worker == Some(pid))
    }

    fn slot(&self, number: u32) -> Option<&SlotView> {
        self.slots.get((number as usize).checked_sub(1)?)
    }

    /// Healthy workers, from the slot after this one on, and around.
    fn helpers(&self, slot: u32) -> impl Iterator<Item = Pid> {
        let (before, after) = self.slots.split_at((slot as usize).min(self.slots.len()));
        let healthy = after.iter().chain(before).filter(|slot| slot.healthy);
        healthy.filter_map(|slot| slot.worker)
    }
}

/// One comparison of what is with what is wanted.
struct Reconciliation<'a> {
    view: &'a View,
    now: Instant,
    forked: &'a BTreeMap<Pid, QueueId>,
    legacy: &'a [Pid],
    stores: bool,
    /// When to compare again though nothing has happened.
    next: Option<Instant>,
    grants: BTreeMap<Pid, Vec<QueueId>>,
    releases: BTreeMap<Pid, Vec<QueueId>>,
    others: Vec<Action>,
}

impl Queues {
    /// Appends the actions that follow. Cheap if nothing has changed and no deadline has passed.
    pub(crate) fn reconcile(&mut self, view: View, now: Instant, actions: &mut Vec<Action>) {
        let idle = !self.changed && view == self.seen;
        if idle && self.next_due.is_none_or(|due| due > now) {
            return;
        }
        self.changed = false;
        let shares = self.shares(view.slots.len() as u32);
        let mut reconciliation = Reconciliation {
            view: &view,
            now,
            forked: &self.forked,
            legacy: &self.legacy,
            stores: self.stores,
            next: None,
            grants: BTreeMap::new(),
            releases: BTreeMap::new(),
            others: Vec::new(),
        };
        for (id, queue) in &mut self.all {
            // An old worker keeps what it has until it is replaced, wanted by the configuration or not.
            let kept = |slot: &SlotView| {
                slot.outdated && slot.worker.is_some_and(|pid| queue.holds.contains_key(&pid))
            };
            let wanted = |configured: bool| {
                let slot = view.slot(queue.slot).filter(|slot| configured || kept(slot));
                slot.map(|_| vec![queue.slot])
            };
            let slots = match queue.kind {
                Kind::Accept(address) => wanted(self.addresses.contains(&address)),
                Kind::Handoff => wanted(self.handoff),
                Kind::External(_) => shares.get(id).cloned(),
            };
            match slots {
                _ if view.stopping => reconciliation.stop(*id, queue),
                Some(slots) => reconciliation.attend(*id, queue, &slots),
                None => reconciliation.close(*id, queue),
            }
        }
        let Reconciliation { next, grants, releases, others, .. } = reconciliation;
        self.next_due = next;
        self.seen = view;
        // First what frees a socket, then what needs one.
        actions.extend(releases.into_iter().map(|(pid, ids)| Action::Release(pid, ids)));
        actions.extend(grants.into_iter().map(|(pid, ids)| Action::Grant(pid, ids)));
        actions.extend(others);
    }

    /// When to call [`Self::reconcile`] again though nothing has happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_due
    }

    /// The slots that attend each external queue. Every queue gets a slot and every slot a queue of
    /// each address, where any were passed without a slot's name; if there are fewer queues than
    /// slots, several share one.
    pub(super) fn shares(&self, slots: u32) -> BTreeMap<QueueId, Vec<u32>> {
        let mut shares: BTreeMap<QueueId, Vec<u32>> = BTreeMap::new();
        let mut by_address: BTreeMap<_, Vec<(QueueId, u32)>> = BTreeMap::new();
        for (id, queue) in &self.all {
            if let Kind::External(address) = queue.kind {
                by_address.entry(address).or_default().push((*id, queue.slot));
            }
        }
        for queues in by_address.into_values().filter(|_| slots > 0) {
            let of_nobody: Vec<QueueId> =
                queues.iter().filter(|(_, slot)| *slot == 0).map(|(id, _)| *id).collect();
            let mut dealt = vec![false; slots as usize];
            let mut next = 0;
            for (id, slot) in queues {
                let place = slot.checked_sub(1).unwrap_or(next) % slots;
                next += u32::from(slot == 0);
                dealt[place as usize] = true;
                shares.entry(id).or_default().push(place + 1);
            }
            for (slot, _) in (0..).zip(&dealt).filter(|(_, dealt)| !**dealt) {
                // A slot whose own socket did not come back opens one beside the others.
                if let Some(id) = of_nobody.get(slot as usize % of_nobody.len().max(1)) {
                    shares.entry(*id).or_default().push(slot + 1);
                }
            }
        }
        shares
    }
}

impl Reconciliation<'_> {
    /// A queue that is wanted: the workers of its slots attend it, or a helper until they do.
    fn attend(&mut self, id: QueueId, queue: &mut Queue, slots: &[u32]) {
        (queue.closing, queue.close_requested, queue.waiting, queue.release_not_before) =
            (None, false, false, None);
        let of_slots: Vec<_> = slots.iter().filter_map(|slot| self.view.slot(*slot)).collect();
        let own: Vec<Pid> = of_slots.iter().filter_map(|slot| slot.worker).collect();
        let healthy = of_slots.iter().filter(|slot| slot.healthy).filter_map(|slot| slot.worker);
        let mut attended = false;
        for pid in healthy {
            attended |= queue.is_attended_by(pid);
            if !queue.holds.contains_key(&pid) {
                self.grant(id, queue, pid);
            }
        }
        self.follow_up(id, queue);
        // A removal that has begun must be confirmed before it is stored again.
        if matches!(queue.stored, Stored::Removing(..)) {
            self.unstore(id, queue);
        }
        if attended {
            if self.stores && queue.stored == Stored::No && matches!(queue.kind, Kind::Accept(_)) {
                queue.stored = Stored::Sending;
                self.others.push(Action::Store(id));
            }
            queue.unattended = None;
            return self.release_where(id, queue, |pid| !own.contains(&pid));
        }
        let since = *queue.unattended.get_or_insert(self.now);
        let helper = self.attendant(queue, false);
        if helper.is_some() {
            return self.release_where(id, queue, |pid| {
                Some(pid) != helper && !own.contains(&pid) && self.view.is_healthy(pid)
            });
        }
        let pending = queue.holds.values().any(|hold| matches!(hold, Hold::Granted { .. }));
        if pending || !self.view.takeover {
            return;
        }
        let takeover_now = of_slots.iter().all(|slot| slot.takeover_now);
        let due = if takeover_now { self.now } else { since + TAKEOVER_AFTER };
        match due <= self.now {
            true => _ = self.find_helper(id, queue, slots[0]),
            false => self.wait(due),
        }
    }

    /// A queue that is not wanted any more: it is attended until the attendant is the only process
    /// that holds it, then emptied and closed.
    fn close(&mut self, id: QueueId, queue: &mut Queue) {
        let since = *queue.closing.get_or_insert(self.now);
        queue.unattended = None;
        self.unstore(id, queue);
        self.follow_up(id, queue);
        let held = self.is_held_elsewhere(id, queue);
        if queue.holds.is_empty() && !held {
            let due = since + LAST_CALL;
            if queue.waiting || due > self.now {
                self.wait_if_later(due);
                self.find_helper(id, queue, queue.slot);
                return;
            }
            return self.close_last(id, queue, false);
        }
        // Since that was decided a process may have been forked.
        queue.close_requested = false;
        if let Some(attendant) = self.attendant(queue, true) {
            self.release_where(id, queue, |pid| pid != attendant);
            if queue.holds.len() == 1 && !held && !self.legacy.contains(&attendant) {
                let due = (since + LAST_CALL).max(queue.release_not_before.unwrap_or(since));
                match due <= self.now {
                    true => self.release(id, queue, attendant),
                    false => self.wait(due),
                }
            }
            return;
        }
        let answer = queue.holds.iter().filter_map(|(pid, hold)| match hold {
            Hold::Granted { since } => Some(*since + ACKNOWLEDGE),
            Hold::Releasing { since, sent: true } if self.responds(*pid) => {
                Some(*since + ACKNOWLEDGE)
            }
            _ => None,
        });
        match answer.max().filter(|due| *due > self.now) {
            Some(due) => self.wait(due),
            None => _ = self.find_helper(id, queue, queue.slot),
        }
    }

    /// The daemon ends: workers empty and close what they hold, and nothing is granted but what
    /// somebody still has to empty.
    fn stop(&mut self, id: QueueId, queue: &mut Queue) {
        queue.closing.get_or_insert(self.now);
        self.follow_up(id, queue);
        if !queue.holds.is_empty() || self.forked.values().any(|next| id < *next) {
            queue.close_requested = false;
            return;
        }
        let external = matches!(queue.kind, Kind::External(_));
        if queue.waiting {
            if let Some(paced) = queue.release_not_before.filter(|paced| *paced > self.now) {
                return self.wait(paced);
            }
            // They all end at their drain deadline, also under a storm of connections.
            if self.find_helper(id, queue, queue.slot) {
                return;
            }
        }
        let force = queue.waiting || external;
        self.close_last(id, queue, force);
    }

    fn close_last(&mut self, id: QueueId, queue: &mut Queue, force: bool) {
        if !std::mem::replace(&mut queue.close_requested, true) {
            self.others.push(Action::Close { queue: id, force });
        }
    }

    /// The process that accepts from a queue and may go on: a healthy worker, or, if `draining` may,
    /// one that has left its slot.
    fn attendant(&self, queue: &Queue, draining: bool) -> Option<Pid> {
        let attending = || queue.holds.iter().filter(|(_, hold)| **hold == Hold::Attending);
        let mut pids = attending().map(|(pid, _)| *pid);
        let healthy = pids.find(|pid| self.view.is_healthy(*pid));
        let leaving = || {
            let mut pids = attending().map(|(pid, _)| *pid);
            pids.find(|pid| self.view.draining.contains(pid) && !self.legacy.contains(pid))
        };
        healthy.or_else(|| draining.then(leaving).flatten())
    }

    fn responds(&self, pid: Pid) -> bool {
        self.view.is_healthy(pid) || self.view.draining.contains(&pid)
    }

    fn is_held_elsewhere(&self, id: QueueId, queue: &Queue) -> bool {
        let stored = matches!(queue.stored, Stored::As(_) | Stored::Removing(..));
        stored || self.forked.values().any(|next| id < *next)
    }

    fn unstore(&mut self, id: QueueId, queue: &mut Queue) {
        let number = match queue.stored {
            Stored::As(number) => number,
            Stored::Removing(number, due) if due <= self.now => number,
            Stored::Removing(_, due) => return self.wait(due),
            Stored::No | Stored::Sending | Stored::Refused => return,
        };
        let due = self.now + UNSTORE;
        queue.stored = Stored::Removing(number, due);
        self.wait(due);
        self.others.push(Action::Unstore(id));
    }

    /// Takes grants back that were not acknowledged in time, and repeats releases that could not be
    /// sent.
    fn follow_up(&mut self, id: QueueId, queue: &mut Queue) {
        for (pid, hold) in &mut queue.holds {
            let due = match *hold {
                Hold::Granted { since } => since + ACKNOWLEDGE,
                Hold::Releasing { since, sent: false } => since,
                _ => continue,
            };
            if due > self.now {
                self.next = Some(self.next.map_or(due, |next| next.min(due)));
                continue;
            }
            // Behind the grant in the same channel: should it arrive late, it does not stay.
            *hold = Hold::Releasing { since: self.now, sent: true };
            self.releases.entry(*pid).or_default().push(id);
            queue.refused.insert(*pid, self.now + RETRY);
        }
    }

    /// Grants a queue to the next worker in turn that takes it, or waits for one that will; `false` if
    /// there is none. When the daemon ends those that have left their slots do, too.
    fn find_helper(&mut self, id: QueueId, queue: &mut Queue, slot: u32) -> bool {
        let able = |pid: &Pid| !queue.holds.contains_key(pid) && !self.legacy.contains(pid);
        let draining = self.view.draining.iter().copied().filter(|_| self.view.stopping);
        let helpers: Vec<Pid> = self.view.helpers(slot).chain(draining).filter(able).collect();
        let refused = |pid: &Pid| queue.refused.get(pid).filter(|until| **until > self.now);
        match helpers.iter().find(|pid| refused(pid).is_none()).copied() {
            Some(pid) => self.grant(id, queue, pid),
            None => {
                let again = helpers.iter().filter_map(refused).min();
                again.copied().into_iter().for_each(|due| self.wait(due));
            }
        }
        !helpers.is_empty()
    }

    fn grant(&mut self, id: QueueId, queue: &mut Queue, pid: Pid) {
        if let Some(until) = queue.refused.get(&pid).filter(|until| **until > self.now) {
            return self.wait(*until);
        }
        if self.legacy.contains(&pid) {
            return;
        }
        queue.refused.remove(&pid);
        queue.holds.insert(pid, Hold::Granted { since: self.now });
        self.wait(self.now + ACKNOWLEDGE);
        self.grants.entry(pid).or_default().push(id);
    }

    fn release(&mut self, id: QueueId, queue: &mut Queue, pid: Pid) {
        queue.holds.insert(pid, Hold::Releasing { since: self.now, sent: true });
        self.wait(self.now + ACKNOWLEDGE);
        self.releases.entry(pid).or_default().push(id);
    }

    fn release_where(&mut self, id: QueueId, queue: &mut Queue, whom: impl Fn(Pid) -> bool) {
        for (pid, hold) in &mut queue.holds {
            let holds = matches!(hold, Hold::Attending | Hold::Granted { .. });
            if holds && whom(*pid) && !self.legacy.contains(pid) {
                *hold = Hold::Releasing { since: self.now, sent: true };
                self.releases.entry(*pid).or_default().push(id);
            }
        }
    }

    fn wait_if_later(&mut self, due: Instant) {
        if due > self.now {
            self.wait(due);
        }
    }

    fn wait(&mut self, due: Instant) {
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
    }
}
