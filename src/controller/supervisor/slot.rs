//! A slot and what is in it.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::{BOOT_TIMEOUT, Plan, RESCUE_AFTER, UNRESPONSIVE};
use crate::controller::backoff::Backoff;
use crate::stats::SlotState;

/// What anybody may know of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// What it has.
    pub state: SlotState,
    /// Its worker.
    pub pid: Option<Pid>,
    /// Until its next worker is forked.
    pub backoff: Duration,
}

impl SlotView {
    /// A slot that is not there.
    pub const NOTHING: Self = Self { state: SlotState::Empty, pid: None, backoff: Duration::ZERO };
}

/// What a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Wants a worker at this time.
    Empty(Instant),
    /// The shell is forking.
    Forking,
    /// Forked at this time, not ready.
    Booting(Pid, Instant),
    /// Ready since the first time; its loop was last seen to turn at the second.
    Serving(Pid, Instant, Instant),
    /// Wants no worker any more.
    Abandoned,
}

/// The worker that is to take over from one that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// The shell is forking.
    Forking,
    /// Forked at this time, not ready.
    Booting(Pid, Instant),
}

/// Who accepts from a slot's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// Its own worker.
    Attended,
    /// Nobody; until then that is only the moment between two workers.
    Unattended(Instant),
    /// Nobody, and it is time for a sibling to help.
    Abandoned,
}

/// A slot: a stable number, and workers that come and go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) successor: Option<Successor>,
    /// Its worker is of an old generation.
    pub(super) outdated: bool,
    /// Its worker's loop stands still.
    pub(super) unresponsive: bool,
    /// Who accepts from its queue besides its own worker.
    pub(super) rescuer: Option<Pid>,
    /// Whether its queue has somebody.
    pub(super) queue: Queue,
    pub(super) backoff: Backoff,
}

impl Slot {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Empty(now),
            successor: None,
            outdated: false,
            unresponsive: false,
            rescuer: None,
            queue: Queue::Attended,
            backoff: Backoff::default(),
        }
    }

    /// Takes over a worker of the image before.
    pub(super) fn inherit(&mut self, pid: Pid, now: Instant, outdated: bool) {
        self.state = State::Serving(pid, now, now);
        self.outdated = outdated;
    }

    /// What anybody may know of it.
    pub(super) fn view(&self, now: Instant) -> SlotView {
        let backoff = match self.state {
            State::Empty(due) => due.saturating_duration_since(now),
            _ => Duration::ZERO,
        };
        let state = match self.state {
            State::Serving(..) if self.unresponsive => SlotState::Hung,
            State::Serving(..) => SlotState::Serving,
            State::Forking | State::Booting(..) => SlotState::Booting,
            State::Empty(_) if !backoff.is_zero() => SlotState::Backoff,
            State::Empty(_) | State::Abandoned => SlotState::Empty,
        };
        SlotView { state, pid: self.state.pid(), backoff }
    }

    pub(super) fn is_healthy(&self) -> bool {
        matches!(self.state, State::Serving(..)) && !self.unresponsive
    }

    /// Its workers: the one that is, and the one to come.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> + use<> {
        let successor = match self.successor {
            Some(Successor::Booting(pid, _)) => Some(pid),
            Some(Successor::Forking) | None => None,
        };
        self.state.pid().into_iter().chain(successor)
    }

    /// Who accepts from its queue now. A fork takes a millisecond or two; a wait is known to be long,
    /// and so is a standstill.
    pub(super) fn queue_at(&self, now: Instant) -> Queue {
        let is_long = match self.state {
            State::Empty(due) => due > now,
            State::Abandoned => true,
            State::Serving(..) => self.unresponsive,
            State::Forking | State::Booting(..) => false,
        };
        match self.queue {
            _ if self.is_healthy() => Queue::Attended,
            _ if is_long => Queue::Abandoned,
            Queue::Attended => Queue::Unattended(now + RESCUE_AFTER),
            Queue::Unattended(until) if until <= now => Queue::Abandoned,
            before => before,
        }
    }

    /// The fork that was asked for will not take place.
    pub(super) fn stop_forking(&mut self) {
        if self.state == State::Forking {
            self.state = State::Abandoned;
        }
        self.successor = self.successor.filter(|successor| *successor != Successor::Forking);
    }

    pub(super) fn forgive(&mut self, now: Instant) {
        match &mut self.state {
            State::Serving(_, _, seen) | State::Booting(_, seen) => *seen = now,
            State::Empty(_) | State::Forking | State::Abandoned => {}
        }
        if let Some(Successor::Booting(_, since)) = &mut self.successor {
            *since = now;
        }
    }

    /// When something about this slot is to be decided.
    pub(super) fn deadlines(
        &self,
        plan: &Plan,
        wanted: bool,
    ) -> impl Iterator<Item = Instant> + use<> {
        let state = match self.state {
            State::Empty(due) => wanted.then_some(due),
            State::Booting(_, since) => Some(since + BOOT_TIMEOUT),
            State::Serving(_, _, beat) if self.unresponsive => {
                plan.worker_timeout.map(|limit| beat + limit)
            }
            State::Serving(_, _, beat) => Some(beat + unresponsive_after(plan.worker_timeout)),
            State::Forking | State::Abandoned => None,
        };
        let successor = match self.successor {
            Some(Successor::Booting(_, since)) => Some(since + BOOT_TIMEOUT),
            Some(Successor::Forking) | None => None,
        };
        let rescue = match self.queue {
            Queue::Unattended(until) => wanted.then_some(until),
            Queue::Attended | Queue::Abandoned => None,
        };
        state.into_iter().chain(successor).chain(rescue)
    }
}

impl State {
    /// Whether a worker is on its way.
    pub(super) fn is_unsettled(self) -> bool {
        matches!(self, Self::Forking | Self::Booting(..))
    }

    pub(super) fn pid(self) -> Option<Pid> {
        match self {
            Self::Booting(pid, _) | Self::Serving(pid, ..) => Some(pid),
            Self::Empty(_) | Self::Forking | Self::Abandoned => None,
        }
    }
}

/// When a silent worker gets no new connections any more: well before it counts as hung.
pub(super) fn unresponsive_after(worker_timeout: Option<Duration>) -> Duration {
    worker_timeout.map_or(UNRESPONSIVE, |limit| UNRESPONSIVE.min(limit))
}

/// A worker that has left its slot and has not ended yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) pid: Pid,
    pub(super) slot: u32,
    pub(super) kill_at: Instant,
    /// Told to be quick, because too many are leaving.
    pub(super) hurried: bool,
}

impl Leaving {
    pub(super) fn new(pid: Pid, slot: u32, kill_at: Instant) -> Self {
        Self { pid, slot, kill_at, hurried: false }
    }
}
