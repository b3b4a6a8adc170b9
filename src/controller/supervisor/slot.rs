//! A slot and the processes in it.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::{BOOT_TIMEOUT, OWN_SILENCE, Plan, UNRESPONSIVE};
use crate::controller::backoff::Backoff;
use crate::stats::SlotState;

/// A slot as the statistics show it.
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
    /// Nothing; a process is due at this time.
    Empty { due: Instant },
    /// A fork was asked for.
    Forking,
    /// A process that was forked at `since` and is not ready.
    Booting { pid: Pid, since: Instant },
    /// A process that has been ready since `since`; its loop was last seen to turn at `beat`.
    Serving { pid: Pid, since: Instant, beat: Instant },
    /// Nothing until the daemon ends: its worker cannot listen.
    Abandoned,
}

/// The process that is to take over from one that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// A fork was asked for.
    Forking,
    /// Forked at `since`, not ready.
    Booting { pid: Pid, since: Instant },
}

/// A slot: a stable number, and processes that come and go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) successor: Option<Successor>,
    /// Its process is of an old generation.
    pub(super) outdated: bool,
    /// Its process is of an old generation and stays: a reload was given up.
    pub(super) kept: bool,
    /// Its process's loop stands still.
    pub(super) unresponsive: bool,
    /// A successor failed: when the next one is due.
    pub(super) renew_at: Option<Instant>,
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
            renew_at: None,
            backoff: Backoff::default(),
        }
    }

    /// Takes over a process of the image before.
    pub(super) fn inherit(&mut self, pid: Pid, now: Instant, outdated: bool) {
        self.state = State::Serving { pid, since: now, beat: now };
        self.outdated = outdated;
    }

    /// The slot as the statistics show it.
    pub(super) fn view(&self, now: Instant) -> SlotView {
        let backoff = match self.state {
            State::Empty { due } => due.saturating_duration_since(now),
            _ => Duration::ZERO,
        };
        let state = match self.state {
            State::Serving { .. } if self.unresponsive => SlotState::Hung,
            State::Serving { .. } => SlotState::Serving,
            State::Forking | State::Booting { .. } => SlotState::Booting,
            State::Empty { .. } if !backoff.is_zero() => SlotState::Backoff,
            State::Empty { .. } | State::Abandoned => SlotState::Empty,
        };
        SlotView { state, pid: self.state.pid(), backoff }
    }

    pub(super) fn is_healthy(&self) -> bool {
        matches!(self.state, State::Serving { .. }) && !self.unresponsive
    }

    /// The process that serves.
    pub(super) fn serving(&self) -> Option<Pid> {
        self.state.pid().filter(|_| matches!(self.state, State::Serving { .. }))
    }

    /// Its processes: the one that is, and the one to come.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> + use<> {
        let successor = match self.successor {
            Some(Successor::Booting { pid, .. }) => Some(pid),
            Some(Successor::Forking) | None => None,
        };
        self.state.pid().into_iter().chain(successor)
    }

    /// Returns `true` if it will be without a healthy process for longer than the millisecond or two
    /// of a fork: in a backoff, or while its process stands still.
    pub(super) fn is_long_without_worker(&self, now: Instant) -> bool {
        match self.state {
            State::Empty { due } => due > now,
            State::Abandoned => true,
            State::Serving { .. } => self.unresponsive,
            State::Forking | State::Booting { .. } => false,
        }
    }

    /// The silence after which its process counts as hung. One of an old generation beats at the pace that
    /// it was told, at least once a second: during the reload it is not judged by a new limit, and if it
    /// stays, by no short one.
    pub(super) fn worker_timeout(&self, plan: &Plan) -> Option<Duration> {
        let least = if self.kept { OWN_SILENCE } else { Duration::ZERO };
        plan.worker_timeout.filter(|_| !self.outdated).map(|limit| limit.max(least))
    }

    /// Returns `true` if a fork was asked for and has not come back.
    pub(super) fn is_forking(&self) -> bool {
        self.state == State::Forking || self.successor == Some(Successor::Forking)
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
            State::Serving { beat: seen, .. } | State::Booting { since: seen, .. } => *seen = now,
            State::Empty { .. } | State::Forking | State::Abandoned => {}
        }
        if let Some(Successor::Booting { since, .. }) = &mut self.successor {
            *since = now;
        }
    }

    /// When something about this slot is to be decided. `wanted` says whether it is to have a process.
    pub(super) fn deadlines(
        &self,
        plan: &Plan,
        wanted: bool,
    ) -> impl Iterator<Item = Instant> + use<> {
        let state = match self.state {
            State::Empty { due } => wanted.then_some(due),
            State::Booting { since, .. } => Some(since + BOOT_TIMEOUT),
            State::Serving { beat, .. } if self.unresponsive => {
                self.worker_timeout(plan).map(|limit| beat + limit)
            }
            State::Serving { beat, .. } => {
                Some(beat + unresponsive_after(self.worker_timeout(plan)))
            }
            State::Forking | State::Abandoned => None,
        };
        let successor = match self.successor {
            Some(Successor::Booting { since, .. }) => Some(since + BOOT_TIMEOUT),
            Some(Successor::Forking) => None,
            None => self.renew_at.filter(|_| wanted),
        };
        state.into_iter().chain(successor)
    }
}

impl State {
    /// Returns `true` if a process is between fork and READY.
    pub(super) fn is_unsettled(self) -> bool {
        matches!(self, Self::Forking | Self::Booting { .. })
    }

    pub(super) fn pid(self) -> Option<Pid> {
        match self {
            Self::Booting { pid, .. } | Self::Serving { pid, .. } => Some(pid),
            Self::Empty { .. } | Self::Forking | Self::Abandoned => None,
        }
    }
}

/// Silence after which a worker gets no new connections any more: well before it counts as hung.
pub(super) fn unresponsive_after(worker_timeout: Option<Duration>) -> Duration {
    worker_timeout.map_or(UNRESPONSIVE, |limit| UNRESPONSIVE.min(limit))
}

/// A process that has left its slot and has not ended yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) pid: Pid,
    pub(super) slot: u32,
    pub(super) kill_at: Instant,
    /// When its loop was last seen to turn.
    pub(super) beat: Instant,
    /// Told to be quick, because too many are leaving.
    pub(super) hurried: bool,
    /// Found hung, or not ready in time: it does nothing any more.
    pub(super) aborted: bool,
}

impl Leaving {
    pub(super) fn new(pid: Pid, slot: u32, now: Instant, kill_at: Instant) -> Self {
        Self { pid, slot, kill_at, beat: now, hurried: false, aborted: false }
    }
}
