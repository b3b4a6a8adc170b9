//! The ways in which a worker comes to its end.

use std::time::{Duration, Instant};

use tracing::info;

use super::server::Server;
use crate::process::channel::Message;
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
    /// Leaves the queue to a successor and serves what it has to the end.
    pub(super) fn recycle(&mut self, now: Instant) {
        if self.phase != Phase::Serving {
            return;
        }
        info!(accepted = self.accepted, "retiring");
        self.acceptor.close_all(&self.registry);
        self.leave_exchange();
        self.phase = Phase::Recycling(now + self.assignment.config.fleet.drain_timeout);
        self.tell(&Message::Retiring);
    }

    /// A successor serves, or the slot is given up: ends what is open, gently, at the latest at `until`.
    pub(super) fn retire(
        &mut self,
        now: Instant,
        until: Instant,
        spread: Duration,
        accept: Duration,
    ) {
        if matches!(self.phase, Phase::Retiring(_) | Phase::Draining(_)) {
            return;
        }
        info!(connections = self.connections.len(), "retiring");
        if accept.is_zero() {
            self.leave_exchange();
        } else {
            self.acceptor.close_at(self.assignment.slot, now + accept);
        }
        self.acceptor.release_all(&self.registry);
        self.connections.drain(self.clock.tick(now), Some(spread));
        self.phase = Phase::Retiring(until);
    }

    /// Accepts what is queued, then no more, and ends what is open, at the latest at `until`.
    pub(super) fn drain(&mut self, now: Instant, until: Instant) {
        if let Phase::Draining(earlier) = self.phase {
            self.phase = Phase::Draining(until.min(earlier));
            return;
        }
        info!(connections = self.connections.len(), "draining");
        self.accept_all(now);
        self.acceptor.close_all(&self.registry);
        self.take_passed(now, self.clock.tick(now));
        self.leave_exchange();
        self.connections.drain(self.clock.tick(now), None);
        if self.phase == Phase::Serving {
            self.tell(&Message::Draining);
        }
        self.phase = Phase::Draining(until);
    }

    /// Empties and closes the queues of slots that were given up.
    pub(super) fn close_overdue(&mut self, now: Instant) {
        while let Some(slot) = self.acceptor.overdue(now) {
            self.accept_all(now);
            self.acceptor.close(slot, &self.registry);
            if slot == self.assignment.slot {
                self.take_passed(now, self.clock.tick(now));
                self.leave_exchange();
            }
            self.tell(&Message::Closed { slot });
        }
    }

    /// Accepts all that is queued: better one more than allowed than one that is reset unheard.
    fn accept_all(&mut self, now: Instant) {
        let tick = self.clock.tick(now);
        self.acceptor.resume();
        // Its event may be in a batch that we have not seen.
        self.acceptor.mark_all();
        for _ in 0..u16::MAX {
            let Some(stream) = self.acceptor.accept(now) else { return };
            self.admit(stream, now, tick);
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
