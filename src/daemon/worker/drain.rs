//! The end of a worker: it retires, drains its queues and connections, and stops.

use std::time::{Duration, Instant};

use tracing::info;

use super::phase::{Phase, Stop};
use super::server::Server;
use crate::daemon::ids::QueueId;
use crate::daemon::protocol::FromWorker;
use crate::sys::channel::MOST_DESCRIPTORS;

impl Server<'_> {
    /// Releases all queues to a successor, and serves the open connections to their end.
    pub(super) fn recycle(&mut self, now: Instant) {
        if !self.phase.recycle(now + self.assignment.config.fleet.drain_timeout) {
            return;
        }
        info!(accepted = self.accepted, "retiring");
        let queues = self.close_queues(|_| true);
        self.report(&FromWorker::Retiring);
        self.report_released(&queues);
    }

    /// Closes connections once they are quiet, spread over `spread`, and resets the remaining ones at
    /// `deadline`. Queues stay attended until the controller releases them.
    pub(super) fn retire(&mut self, now: Instant, deadline: Instant, spread: Duration) {
        if self.phase.retire(deadline) {
            info!(connections = self.connections.len(), "retiring");
            self.connections.drain(self.clock.tick(now), Some(spread));
        }
    }

    /// Drains and closes the accept queues, closes connections once they are quiet, and resets the
    /// remaining ones at `deadline`. The handoff queues stay attended: siblings may not know yet.
    pub(super) fn drain(&mut self, now: Instant, deadline: Instant) {
        let Some(before) = self.phase.drain(deadline) else { return };
        info!(connections = self.connections.len(), "draining");
        let queues = self.acceptor.queues();
        self.accept_all(&queues, now);
        self.acceptor.close(&queues, &self.registry);
        self.receive_all_handoffs(now);
        self.connections.drain(self.clock.tick(now), None);
        if before == Phase::Serving {
            self.report(&FromWorker::Draining);
        }
        self.report_released(&queues);
    }

    /// Drains and closes these queues: another process attends them, or none is to.
    pub(super) fn release(&mut self, queues: &[QueueId], now: Instant) {
        self.accept_all(queues, now);
        if self.balancer.queues().iter().any(|queue| queues.contains(queue)) {
            self.receive_all_handoffs(now);
        }
        self.close_queues(|queue| queues.contains(&queue));
        // Queues that the worker does not have are released, too.
        self.report_released(queues);
    }

    /// Closes accept and handoff queues, and returns them.
    fn close_queues(&mut self, which: impl Fn(QueueId) -> bool) -> Vec<QueueId> {
        let mut queues = self.acceptor.queues();
        queues.extend(self.balancer.queues());
        queues.retain(|queue| which(*queue));
        self.acceptor.close(&queues, &self.registry);
        self.balancer.close(&queues, &self.registry);
        queues
    }

    fn report_released(&self, queues: &[QueueId]) {
        for queues in queues.chunks(MOST_DESCRIPTORS) {
            self.report(&FromWorker::Released { queues: queues.to_vec() });
        }
    }

    /// Accepts all that waits in these queues, beyond the limit of connections: a connection too many is
    /// better than one that is reset unserved.
    fn accept_all(&mut self, queues: &[QueueId], now: Instant) {
        let tick = self.clock.tick(now);
        self.acceptor.resume();
        // The event may be in a batch that is still to come.
        self.acceptor.mark_queues(queues);
        for _ in 0..u16::MAX {
            let which = |queue| queues.contains(&queue);
            let Some((stream, table)) = self.acceptor.accept_from(which, now) else { return };
            self.admit(stream, table, None, now, tick);
        }
    }

    /// Receives all connections that were handed off, as far as there are descriptors.
    fn receive_all_handoffs(&mut self, now: Instant) {
        let tick = self.clock.tick(now);
        self.balancer.mark();
        while self.acceptor.retry_at().is_none() && self.balancer.has_work() {
            self.receive_handoffs(now, tick);
        }
    }

    /// Returns the reason to stop, if there is one; at the deadline, resets all connections.
    pub(super) fn stop(&mut self, now: Instant) -> Option<Stop> {
        let deadline = self.phase.deadline()?;
        if self.connections.is_empty() && self.acceptor.is_closed() {
            return Some(Stop::Drained);
        }
        (deadline <= now).then(|| Stop::DeadlineReached {
            reset: self.connections.reset_all(self.clock.tick(now)),
        })
    }
}
