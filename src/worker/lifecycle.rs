//! The ways in which a worker comes to its end.

use std::time::{Duration, Instant};

use tracing::info;

use super::server::Server;
use crate::ids::QueueId;
use crate::process::channel::MOST_DESCRIPTORS;
use crate::protocol::FromWorker;
use crate::service::Service;

/// Why a worker stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// All connections have ended.
    Drained,
    /// Time was up; so many connections were reset.
    DeadlineReached {
        /// How many.
        reset: usize,
    },
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepts and serves.
    Serving,
    /// Has had all the connections it may have: they live on undisturbed until then.
    Recycling(Instant),
    /// Ends its connections as soon as they are quiet, gently, and the rest then: a successor serves.
    Retiring(Instant),
    /// The same, but not gently: the daemon stops.
    Draining(Instant),
}

impl<S: Service> Server<'_, S> {
    /// Leaves the queues to a successor and serves what it has to the end.
    pub(super) fn recycle(&mut self, now: Instant) {
        if self.phase != Phase::Serving {
            return;
        }
        info!(accepted = self.accepted, "retiring");
        let queues = self.close_queues(|_| true);
        self.phase = Phase::Recycling(now + self.assignment.config.fleet.drain_timeout);
        self.tell(&FromWorker::Retiring);
        self.released(queues);
    }

    /// A successor serves, or the slot is given up: ends what is open, gently, at the latest at `until`.
    /// Until the queues are released it accepts what comes.
    pub(super) fn retire(&mut self, now: Instant, until: Instant, spread: Duration) {
        if matches!(self.phase, Phase::Retiring(_) | Phase::Draining(_)) {
            return;
        }
        info!(connections = self.connections.len(), "retiring");
        self.connections.drain(self.clock.tick(now), Some(spread));
        self.phase = Phase::Retiring(until);
    }

    /// Accepts what is queued, then no more, and ends what is open, at the latest at `until`. What
    /// siblings hand off is taken until the end: they may not know yet.
    pub(super) fn drain(&mut self, now: Instant, until: Instant) {
        if let Phase::Draining(earlier) = self.phase {
            self.phase = Phase::Draining(until.min(earlier));
            return;
        }
        info!(connections = self.connections.len(), "draining");
        let queues = self.acceptor.queues();
        self.accept_all(&queues, now);
        self.acceptor.close(&queues, &self.registry);
        self.take_all_passed(now);
        self.connections.drain(self.clock.tick(now), None);
        if self.phase == Phase::Serving {
            self.tell(&FromWorker::Draining);
        }
        self.released(queues);
        self.phase = Phase::Draining(until);
    }

    /// Empties these queues and closes them: the controller has found a better place for them.
    pub(super) fn release(&mut self, queues: Vec<QueueId>, now: Instant) {
        self.accept_all(&queues, now);
        if self.balancer.queues().iter().any(|queue| queues.contains(queue)) {
            self.take_all_passed(now);
        }
        self.close_queues(|queue| queues.contains(&queue));
        // Those that it does not have are released, too.
        self.released(queues);
    }

    /// Closes queues of either kind, and names them.
    fn close_queues(&mut self, which: impl Fn(QueueId) -> bool) -> Vec<QueueId> {
        let mut queues = self.acceptor.queues();
        queues.extend(self.balancer.queues());
        queues.retain(|queue| which(*queue));
        self.acceptor.close(&queues, &self.registry);
        self.balancer.close(&queues, &self.registry);
        queues
    }

    fn released(&self, queues: Vec<QueueId>) {
        for queues in queues.chunks(MOST_DESCRIPTORS) {
            self.tell(&FromWorker::Released { queues: queues.to_vec() });
        }
    }

    /// Accepts all that waits in these queues: better one more than allowed than one that is reset
    /// unheard.
    fn accept_all(&mut self, queues: &[QueueId], now: Instant) {
        let tick = self.clock.tick(now);
        self.acceptor.resume();
        // Its event may be in a batch that we have not seen.
        self.acceptor.mark_queues(queues);
        for _ in 0..u16::MAX {
            let which = |queue| queues.contains(&queue);
            let Some(stream) = self.acceptor.accept_from(which, now) else { return };
            self.admit(stream, now, tick);
        }
    }

    /// Takes all that was handed off, as far as there are descriptors.
    fn take_all_passed(&mut self, now: Instant) {
        let tick = self.clock.tick(now);
        self.balancer.mark();
        while self.acceptor.retry_at().is_none() && self.balancer.has_work() {
            self.take_passed(now, tick);
        }
    }

    pub(super) fn until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Serving => None,
            Phase::Recycling(until) | Phase::Retiring(until) | Phase::Draining(until) => {
                Some(until)
            }
        }
    }

    pub(super) fn stop(&mut self, now: Instant) -> Option<Stop> {
        let until = self.until()?;
        if self.connections.is_empty() && self.acceptor.is_closed() {
            return Some(Stop::Drained);
        }
        (until <= now).then(|| Stop::DeadlineReached {
            reset: self.connections.reset_all(self.clock.tick(now)),
        })
    }
}
