//! Reconciliation: a wanted queue gets an attendant, an unwanted one is drained and closed (`close`).

mod close;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::view::{SlotView, View};
use super::{
    ACKNOWLEDGE_TIMEOUT, Action, Hold, Kind, NO_SLOT, Queue, Queues, RETRY, Stored, TAKEOVER_DELAY,
};
use crate::daemon::ids::{QueueId, SlotId};

/// Time in which the service manager confirms that it has closed a duplicate.
const UNSTORE_TIMEOUT: Duration = Duration::from_secs(5);

/// A single reconciliation.
struct Reconciliation<'a> {
    view: &'a View,
    now: Instant,
    forked: &'a BTreeMap<Pid, QueueId>,
    legacy: &'a [Pid],
    stores: bool,
    /// Time of the next reconciliation without an event.
    next: Option<Instant>,
    grants: BTreeMap<Pid, Vec<QueueId>>,
    releases: BTreeMap<Pid, Vec<QueueId>>,
    others: Vec<Action>,
}

impl Queues {
    /// Appends the actions that follow from the current state of queues and processes. Cheap if
    /// nothing has changed and no deadline has passed.
    pub(crate) fn reconcile(&mut self, view: View, now: Instant, actions: &mut Vec<Action>) {
        let idle = !self.changed && view == self.seen;
        if idle && self.next_due.is_none_or(|due| due > now) {
            return;
        }
        self.changed = false;
        let shares = self.shares(view.slots.len() as u32);
        let unserved = self.unserved_addresses(&view);
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
            // An outdated worker keeps its queues until it is replaced, even if they are not
            // configured.
            let kept = |slot: &SlotView| {
                slot.outdated && slot.worker.is_some_and(|pid| queue.holds.contains_key(&pid))
            };
            let wanted = |configured: bool| {
                view.slot(queue.slot).is_some_and(|slot| configured || kept(slot))
            };
            let own = [queue.slot];
            let slots = match queue.kind {
                Kind::Accept(address) => {
                    let wanted = wanted(self.addresses.contains(&address));
                    (wanted || unserved.contains(&address)).then_some(&own[..])
                }
                Kind::Handoff => wanted(self.handoff).then_some(&own[..]),
                Kind::External(_) => shares.get(id).map(Vec::as_slice),
            };
            match slots {
                _ if view.stopping => reconciliation.stop(*id, queue),
                Some(slots) => reconciliation.attend(*id, queue, slots),
                None => reconciliation.close(*id, queue),
            }
        }
        let Reconciliation { next, grants, releases, others, .. } = reconciliation;
        self.next_due = next;
        self.seen = view;
        // Releases first, because they free descriptors.
        actions.extend(releases.into_iter().map(|(pid, ids)| Action::Release(pid, ids)));
        actions.extend(grants.into_iter().map(|(pid, ids)| Action::Grant(pid, ids)));
        actions.extend(others);
    }

    /// Returns the configured addresses that have neither a queue of a wanted slot nor an external
    /// queue. After an aborted reload and a removed worker, the only queues of an address can be of
    /// slots that are not wanted.
    fn unserved_addresses(&self, view: &View) -> Vec<SocketAddr> {
        let serves = |queue: &Queue, address: SocketAddr| match queue.kind {
            Kind::Accept(own) => own == address && view.slot(queue.slot).is_some(),
            Kind::External(own) => own == address,
            Kind::Handoff => false,
        };
        let served = |address| self.all.values().any(|queue| serves(queue, address));
        self.addresses.iter().copied().filter(|address| !served(*address)).collect()
    }

    /// Returns the time of the next [`Self::reconcile`] without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_due
    }

    /// Returns the slots that attend each external queue. Every queue gets a slot. Every slot gets
    /// a queue of each address that has queues without a slot; if there are fewer queues than
    /// slots, slots share one.
    pub(super) fn shares(&self, slots: u32) -> BTreeMap<QueueId, Vec<SlotId>> {
        let mut shares: BTreeMap<QueueId, Vec<SlotId>> = BTreeMap::new();
        let mut by_address: BTreeMap<_, Vec<(QueueId, SlotId)>> = BTreeMap::new();
        for (id, queue) in &self.all {
            if let Kind::External(address) = queue.kind {
                by_address.entry(address).or_default().push((*id, queue.slot));
            }
        }
        for queues in by_address.into_values().filter(|_| slots > 0) {
            let unowned: Vec<QueueId> =
                queues.iter().filter(|(_, slot)| *slot == NO_SLOT).map(|(id, _)| *id).collect();
            let mut served = vec![false; slots as usize];
            let mut next = 0;
            for (id, slot) in queues {
                let index = slot.worker_index().unwrap_or(next) % served.len();
                next += usize::from(slot == NO_SLOT);
                served[index] = true;
                shares.entry(id).or_default().push(SlotId::from_worker_index(index));
            }
            for (index, _) in served.iter().enumerate().filter(|(_, served)| !**served) {
                // A slot without one opens its own socket if all queues belong to slots.
                if let Some(id) = unowned.get(index % unowned.len().max(1)) {
                    shares.entry(*id).or_default().push(SlotId::from_worker_index(index));
                }
            }
        }
        shares
    }
}

impl Reconciliation<'_> {
    /// Reconciles a wanted queue: its slots' workers attend it, or another worker takes it over
    /// until they do.
    fn attend(&mut self, id: QueueId, queue: &mut Queue, slots: &[SlotId]) {
        (queue.closing, queue.close_requested, queue.waiting, queue.release_not_before) =
            (None, false, false, None);
        let view = self.view;
        let of_slots = || slots.iter().filter_map(|slot| view.slot(*slot));
        let is_own = |pid| of_slots().any(|slot| slot.worker == Some(pid));
        let mut attended = false;
        for pid in of_slots().filter(|slot| slot.healthy).filter_map(|slot| slot.worker) {
            attended |= queue.is_attended_by(pid);
            if !queue.holds.contains_key(&pid) {
                self.grant(id, queue, pid);
            }
        }
        self.follow_up(id, queue);
        // A removal must be confirmed before the queue is stored again.
        if matches!(queue.stored, Stored::Removing(..)) {
            self.unstore(id, queue);
        }
        if attended {
            if self.stores && queue.stored == Stored::No && matches!(queue.kind, Kind::Accept(_)) {
                queue.stored = Stored::Sending;
                self.others.push(Action::Store(id));
            }
            queue.unattended = None;
            return self.release_where(id, queue, |pid| !is_own(pid));
        }
        let since = *queue.unattended.get_or_insert(self.now);
        let attendant = self.attendant(queue, false);
        if attendant.is_some() {
            return self.release_where(id, queue, |pid| {
                Some(pid) != attendant && !is_own(pid) && view.is_healthy(pid)
            });
        }
        let pending = queue.holds.values().any(|hold| matches!(hold, Hold::Granted { .. }));
        if pending || !self.view.takeover {
            return;
        }
        let takeover_now = of_slots().all(|slot| slot.takeover_now);
        let due = if takeover_now { self.now } else { since + TAKEOVER_DELAY };
        match due <= self.now {
            true => _ = self.grant_takeover(id, queue, slots[0]),
            false => self.wait(due),
        }
    }

    /// Returns the process that attends a queue and can keep it: a healthy worker or, if `draining`
    /// is set, one that has left its slot.
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

    fn unstore(&mut self, id: QueueId, queue: &mut Queue) {
        let number = match queue.stored {
            Stored::As(number) => number,
            Stored::Removing(number, due) if due <= self.now => number,
            Stored::Removing(_, due) => return self.wait(due),
            Stored::No | Stored::Sending | Stored::Refused => return,
        };
        let due = self.now + UNSTORE_TIMEOUT;
        queue.stored = Stored::Removing(number, due);
        self.wait(due);
        self.others.push(Action::Unstore(id));
    }

    /// Revokes grants that were not acknowledged in time, and repeats releases that could not be
    /// sent.
    fn follow_up(&mut self, id: QueueId, queue: &mut Queue) {
        for (pid, hold) in &mut queue.holds {
            let due = match *hold {
                Hold::Granted { since } => since + ACKNOWLEDGE_TIMEOUT,
                Hold::Releasing { since, sent: false } => since,
                _ => continue,
            };
            if due > self.now {
                self.next = Some(self.next.map_or(due, |next| next.min(due)));
                continue;
            }
            // The release follows the grant in the channel, so a late grant is released at once.
            *hold = Hold::Releasing { since: self.now, sent: true };
            self.releases.entry(*pid).or_default().push(id);
            queue.refused.insert(*pid, self.now + RETRY);
        }
    }

    /// Grants a queue to the next worker that can take it over, or waits for one that has refused
    /// it. Returns `false` if there is none. While the daemon stops, draining workers take over
    /// too.
    fn grant_takeover(&mut self, id: QueueId, queue: &mut Queue, slot: SlotId) -> bool {
        let able = |pid: &Pid| !queue.holds.contains_key(pid) && !self.legacy.contains(pid);
        let draining = self.view.draining.iter().copied().filter(|_| self.view.stopping);
        let candidates: Vec<Pid> =
            self.view.takeover_workers(slot).chain(draining).filter(able).collect();
        let refused = |pid: &Pid| queue.refused.get(pid).filter(|until| **until > self.now);
        match candidates.iter().find(|pid| refused(pid).is_none()).copied() {
            Some(pid) => self.grant(id, queue, pid),
            None => {
                let retry = candidates.iter().filter_map(refused).min();
                retry.copied().into_iter().for_each(|due| self.wait(due));
            }
        }
        !candidates.is_empty()
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
        self.wait(self.now + ACKNOWLEDGE_TIMEOUT);
        self.grants.entry(pid).or_default().push(id);
    }

    fn release(&mut self, id: QueueId, queue: &mut Queue, pid: Pid) {
        queue.holds.insert(pid, Hold::Releasing { since: self.now, sent: true });
        self.wait(self.now + ACKNOWLEDGE_TIMEOUT);
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

    fn wait(&mut self, due: Instant) {
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
    }
}
