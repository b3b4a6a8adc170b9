//! Closing: when a listener is closed after a reload or a removed worker, and when the daemon stops.

use std::time::Instant;

use nix::unistd::Pid;

use super::super::{ACKNOWLEDGE_TIMEOUT, Action, HANDSHAKE_GRACE, Hold, Kind, Queue, Stored};
use super::Reconciliation;
use crate::daemon::ids::QueueId;

impl Reconciliation<'_> {
    /// Reconciles an unwanted queue: it is attended until the attendant is the only process that
    /// holds it, then drained and closed. A reload closes the listeners of removed addresses here.
    pub(super) fn close(&mut self, id: QueueId, queue: &mut Queue) {
        let since = *queue.closing.get_or_insert(self.now);
        queue.unattended = None;
        self.unstore(id, queue);
        self.follow_up(id, queue);
        let held = self.is_held_elsewhere(id, queue);
        if queue.holds.is_empty() && !held {
            let due = since + HANDSHAKE_GRACE;
            if queue.waiting || due > self.now {
                self.wait_if_later(due);
                self.grant_takeover(id, queue, queue.slot);
                return;
            }
            return self.close_last(id, queue, false);
        }
        // A process may have been forked since the request.
        queue.close_requested = false;
        if let Some(attendant) = self.attendant(queue, true) {
            self.release_where(id, queue, |pid| pid != attendant);
            if queue.holds.len() == 1 && !held && !self.legacy.contains(&attendant) {
                let due = (since + HANDSHAKE_GRACE).max(queue.release_not_before.unwrap_or(since));
                match due <= self.now {
                    true => self.release(id, queue, attendant),
                    false => self.wait(due),
                }
            }
            return;
        }
        let answer = queue.holds.iter().filter_map(|(pid, hold)| match hold {
            Hold::Granted { since } => Some(*since + ACKNOWLEDGE_TIMEOUT),
            Hold::Releasing { since, sent: true } if self.responds(*pid) => {
                Some(*since + ACKNOWLEDGE_TIMEOUT)
            }
            _ => None,
        });
        match answer.max().filter(|due| *due > self.now) {
            Some(due) => self.wait(due),
            None => _ = self.grant_takeover(id, queue, queue.slot),
        }
    }

    /// Reconciles a queue of a daemon that stops: workers drain and close it. It is granted again
    /// only if connections remain after that.
    pub(super) fn stop(&mut self, id: QueueId, queue: &mut Queue) {
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
            // Draining workers end at their deadline, even under constant new connections. An
            // unresponsive one may respond again before that.
            if self.grant_takeover(id, queue, queue.slot) || self.view.alive > 0 {
                return;
            }
        }
        let force = queue.waiting || external;
        self.close_last(id, queue, force);
    }

    /// Requests closing of the last descriptor, once.
    fn close_last(&mut self, id: QueueId, queue: &mut Queue, force: bool) {
        if !std::mem::replace(&mut queue.close_requested, true) {
            self.others.push(Action::Close { queue: id, force });
        }
    }

    fn responds(&self, pid: Pid) -> bool {
        self.view.is_healthy(pid) || self.view.draining.contains(&pid)
    }

    fn is_held_elsewhere(&self, id: QueueId, queue: &Queue) -> bool {
        let stored = matches!(queue.stored, Stored::As(_) | Stored::Removing(..));
        stored || self.forked.values().any(|next| id < *next)
    }

    fn wait_if_later(&mut self, due: Instant) {
        if due > self.now {
            self.wait(due);
        }
    }
}
