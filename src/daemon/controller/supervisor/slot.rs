//! A slot, its current process, and the successor that is started in a reload.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::{OWN_PAUSE, Plan, STARTUP_TIMEOUT, UNRESPONSIVE_AFTER};
use crate::daemon::controller::restart_backoff::Backoff;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::SlotState;

/// State of a slot for the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotView {
    pub(crate) state: SlotState,
    pub(crate) pid: Option<Pid>,
    /// Time until its next process is started.
    pub(crate) backoff: Duration,
}

impl SlotView {
    /// State of a slot that was removed.
    pub(crate) const EMPTY: Self =
        Self { state: SlotState::Empty, pid: None, backoff: Duration::ZERO };
}

/// Current process of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No process; the next one is started at this time.
    Empty { due: Instant },
    /// A fork was requested.
    Forking,
    /// The process was forked at `since` and is not ready.
    Starting { pid: Pid, since: Instant },
    /// The process has been ready since `since`, and sent its last heartbeat at `beat`.
    Serving { pid: Pid, since: Instant, beat: Instant },
    /// No process until the next reload: the last one asked not to be restarted.
    Abandoned,
}

/// Process that replaces the current one once it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// A fork was requested.
    Forking,
    /// The process was forked at `since` and is not ready.
    Starting { pid: Pid, since: Instant },
}

/// A slot, which keeps its number while its processes change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) successor: Option<Successor>,
    /// `true` if the current reload has yet to replace its process.
    pub(super) outdated: bool,
    /// `true` if its process runs an older build, and stays because a reload was aborted.
    pub(super) kept: bool,
    /// `true` if its process sends no heartbeats.
    pub(super) unresponsive: bool,
    /// Time at which the next successor is started, after one has failed.
    pub(super) successor_due: Option<Instant>,
    pub(super) backoff: Backoff,
}

impl Slot {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Empty { due: now },
            successor: None,
            outdated: false,
            kept: false,
            unresponsive: false,
            successor_due: None,
            backoff: Backoff::default(),
        }
    }

    /// Restores a process of the previous image.
    pub(super) fn restore(&mut self, pid: Pid, now: Instant, outdated: bool) {
        self.state = State::Serving { pid, since: now, beat: now };
        self.outdated = outdated;
    }

    /// Returns the state for the statistics.
    pub(super) fn view(&self, now: Instant) -> SlotView {
        let backoff = match self.state {
            State::Empty { due } => due.saturating_duration_since(now),
            _ => Duration::ZERO,
        };
        let state = match self.state {
            State::Serving { .. } if self.unresponsive => SlotState::Hung,
            State::Serving { .. } => SlotState::Serving,
            State::Forking | State::Starting { .. } => SlotState::Booting,
            State::Empty { .. } if !backoff.is_zero() => SlotState::Backoff,
            State::Empty { .. } | State::Abandoned => SlotState::Empty,
        };
        SlotView { state, pid: self.state.pid(), backoff }
    }

    pub(super) fn is_healthy(&self) -> bool {
        matches!(self.state, State::Serving { .. }) && !self.unresponsive
    }

    /// Returns the current process if it is ready.
    pub(super) fn serving(&self) -> Option<Pid> {
        self.state.pid().filter(|_| matches!(self.state, State::Serving { .. }))
    }

    /// Returns the current process and the successor, as far as they exist.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> + use<> {
        self.state.pid().into_iter().chain(self.successor_pid())
    }

    /// Returns the successor if it was forked.
    pub(super) fn successor_pid(&self) -> Option<Pid> {
        match self.successor {
            Some(Successor::Starting { pid, .. }) => Some(pid),
            Some(Successor::Forking) | None => None,
        }
    }

    /// Returns `true` if the slot will lack a healthy process for longer than a fork takes: during
    /// a restart delay, or while its process is unresponsive.
    pub(super) fn is_long_without_worker(&self, now: Instant) -> bool {
        match self.state {
            State::Empty { due } => due > now,
            State::Abandoned => true,
            State::Serving { .. } => self.unresponsive,
            State::Forking | State::Starting { .. } => false,
        }
    }

    /// Returns the time without heartbeat after which its process counts as hung, or `None` for
    /// never. An outdated process sends heartbeats at the interval of its own configuration, at
    /// most a second: the new limit does not apply during a reload, and if it stays, no limit
    /// shorter than [`OWN_PAUSE`].
    pub(super) fn worker_timeout(&self, plan: &Plan) -> Option<Duration> {
        let least = if self.kept { OWN_PAUSE } else { Duration::ZERO };
        plan.worker_timeout.filter(|_| !self.outdated).map(|limit| limit.max(least))
    }

    /// Returns `true` if a requested fork was not answered yet.
    pub(super) fn is_forking(&self) -> bool {
        self.state == State::Forking || self.successor == Some(Successor::Forking)
    }

    /// Cancels a requested fork.
    pub(super) fn stop_forking(&mut self) {
        if self.state == State::Forking {
            self.state = State::Abandoned;
        }
        self.successor = self.successor.filter(|successor| *successor != Successor::Forking);
    }

    /// Counts a heartbeat, and the start of each process that is not ready, from now.
    pub(super) fn reset_heartbeats(&mut self, now: Instant) {
        match &mut self.state {
            State::Serving { beat: seen, .. } | State::Starting { since: seen, .. } => *seen = now,
            State::Empty { .. } | State::Forking | State::Abandoned => {}
        }
        if let Some(Successor::Starting { since, .. }) = &mut self.successor {
            *since = now;
        }
    }

    /// Returns the times at which to reconcile this slot. `wanted` is `true` if it should have a
    /// process.
    pub(super) fn deadlines(
        &self,
        plan: &Plan,
        wanted: bool,
    ) -> impl Iterator<Item = Instant> + use<> {
        let state = match self.state {
            State::Empty { due } => wanted.then_some(due),
            State::Starting { since, .. } => Some(since + STARTUP_TIMEOUT),
            State::Serving { beat, .. } if self.unresponsive => {
                self.worker_timeout(plan).map(|limit| beat + limit)
            }
            State::Serving { beat, .. } => {
                Some(beat + unresponsive_after(self.worker_timeout(plan)))
            }
            State::Forking | State::Abandoned => None,
        };
        let successor = match self.successor {
            Some(Successor::Starting { since, .. }) => Some(since + STARTUP_TIMEOUT),
            Some(Successor::Forking) => None,
            None => self.successor_due.filter(|_| wanted),
        };
        state.into_iter().chain(successor)
    }
}

impl State {
    /// Returns `true` if a process is between fork and READY.
    pub(super) fn is_starting(self) -> bool {
        matches!(self, Self::Forking | Self::Starting { .. })
    }

    pub(super) fn pid(self) -> Option<Pid> {
        match self {
            Self::Starting { pid, .. } | Self::Serving { pid, .. } => Some(pid),
            Self::Empty { .. } | Self::Forking | Self::Abandoned => None,
        }
    }
}

/// Returns the time without heartbeat after which a worker gets no new connections, at most the
/// time after which it counts as hung.
pub(super) fn unresponsive_after(worker_timeout: Option<Duration>) -> Duration {
    worker_timeout.map_or(UNRESPONSIVE_AFTER, |limit| UNRESPONSIVE_AFTER.min(limit))
}

/// Process that has left its slot and has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) pid: Pid,
    pub(super) slot: SlotId,
    pub(super) kill_at: Instant,
    /// Time of its last heartbeat.
    pub(super) beat: Instant,
    /// `true` if its drain was shortened, because too many processes drain.
    pub(super) hurried: bool,
    /// `true` if it has hung or did not become ready.
    pub(super) aborted: bool,
}

impl Leaving {
    pub(super) fn new(pid: Pid, slot: SlotId, now: Instant, kill_at: Instant) -> Self {
        Self { pid, slot, kill_at, beat: now, hurried: false, aborted: false }
    }
}
