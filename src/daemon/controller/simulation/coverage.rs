//! Coverage: counters of the events, actions, and states that simulations reach.

use std::fmt;

use nix::sys::signal::Signal;

use crate::daemon::controller::fleet::{Action, Event};
use crate::daemon::controller::queues;
use crate::daemon::controller::supervisor::{self, LogEvent};
use crate::daemon::stats::{Phase, SlotState};

macro_rules! points {
    ($($point:ident),* $(,)?) => {
        /// Event, action, or state that simulations must reach.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Point {
            $(#[allow(missing_docs)] $point),*
        }

        const POINTS: &[Point] = &[$(Point::$point),*];
    };
}

points! {
    // Events.
    Tick, Spawned, NotSpawned, Ready, Beat, Retiring, Draining, Exited, AddWorker, RemoveWorker, Stop,
    Opened, Attending, Refused, Released, Unsent, QueueClosed, NotEmpty, Stored, NotStored, Unstored,
    // Actions.
    Spawn, SignalTerm, SignalAbort, SignalKill, Kill, Retire, CloseAddresses, Exit,
    CountRestart, FinishStartup, CountReload,
    Grant, Release, Close, CloseByForce, Store, Unstore,
    // Log events.
    Serving, NoneReady, WorkerReady, WorkerExited, AdminExited, RestartDelayed, Unresponsive, Responsive,
    Hung, NotReady, Abandoned, ReloadDone, ReloadAborted, Scaled, CannotScale, Delaying, DrainingBegun,
    Killing, UnknownExited,
    // Phases.
    PhaseStarting, PhaseServing, PhaseReloading, PhaseDraining,
    // Transitions of a slot in the statistics.
    EmptyToBooting, BootingToServing, BootingToBackoff, ServingToBooting, ServingToBackoff,
    ServingToHung, HungToServing, HungToBooting, BackoffToBooting, BootingToEmpty, ServingToEmpty,
    // Situations.
    Reloaded, ReloadRejected, ReloadPostponed, PidReused, GrantRefused, PartlyRefused, HandedOff,
    HandoffTaken, AnsweredLate, Drained, DrainDeadline, SteeredAway, SteeringEnded, GroupMoved,
    ExitOk, ExitFailure, SecondStop, OwnSilence, HandshakeReset, ExcusedReset, ManyPassed, Recovered,
    ExternalRecovered, SocketUnkept,
}

/// Number of times that each point was reached.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Coverage([u64; POINTS.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; POINTS.len()])
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, point) in POINTS.iter().enumerate() {
            let end = if index % 6 == 5 { "\n" } else { "  " };
            write!(f, "{:>18} {:<9}{end}", format!("{point:?}"), self.0[index])?;
        }
        Ok(())
    }
}

impl Coverage {
    /// Counts a point.
    pub(super) fn hit(&mut self, point: Point) {
        self.0[point as usize] += 1;
    }

    /// Adds the counters of another simulation.
    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own += other);
    }

    /// Returns the points that were never reached.
    pub(crate) fn missed(&self) -> Vec<Point> {
        POINTS.iter().copied().filter(|point| self.0[*point as usize] == 0).collect()
    }

    /// Counts an event.
    pub(super) fn event(&mut self, event: &Event) {
        use supervisor::Event as Process;
        self.hit(match event {
            Event::Process(event) => match event {
                Process::Tick => Point::Tick,
                Process::Spawned(..) => Point::Spawned,
                Process::NotSpawned(_) => Point::NotSpawned,
                Process::Ready(_) => Point::Ready,
                Process::Beat(..) => Point::Beat,
                Process::Retiring(_) => Point::Retiring,
                Process::Draining(_) => Point::Draining,
                Process::Exited(..) => Point::Exited,
                Process::AddWorker => Point::AddWorker,
                Process::RemoveWorker => Point::RemoveWorker,
                Process::Stop => Point::Stop,
            },
            Event::Opened(..) => Point::Opened,
            Event::Attending(..) => Point::Attending,
            Event::Refused(..) => Point::Refused,
            Event::Released(..) => Point::Released,
            Event::Unsent(..) => Point::Unsent,
            Event::Closed(_) => Point::QueueClosed,
            Event::NotEmpty(_) => Point::NotEmpty,
            Event::Stored(_, Some(_)) => Point::Stored,
            Event::Stored(_, None) => Point::NotStored,
            Event::Unstored(..) => Point::Unstored,
        });
    }

    /// Counts an action.
    pub(super) fn action(&mut self, action: &Action) {
        use supervisor::Action as Process;
        self.hit(match action {
            Action::Process(action) => match action {
                Process::Spawn(_) => Point::Spawn,
                Process::Signal(_, Signal::SIGABRT) => Point::SignalAbort,
                Process::Signal(_, Signal::SIGKILL) => Point::SignalKill,
                Process::Signal(..) => Point::SignalTerm,
                Process::Kill(..) => Point::Kill,
                Process::Retire(_) => Point::Retire,
                Process::CloseAddresses => Point::CloseAddresses,
                Process::Exit(_) => Point::Exit,
                Process::CountRestart(..) => Point::CountRestart,
                Process::FinishStartup => Point::FinishStartup,
                Process::CountReload(_) => Point::CountReload,
                Process::Log(event) => return self.log_event(event),
            },
            Action::Queue(action) => match action {
                queues::Action::Grant(..) => Point::Grant,
                queues::Action::Release(..) => Point::Release,
                queues::Action::Close { force: false, .. } => Point::Close,
                queues::Action::Close { force: true, .. } => Point::CloseByForce,
                queues::Action::Store(_) => Point::Store,
                queues::Action::Unstore(_) => Point::Unstore,
            },
        });
    }

    fn log_event(&mut self, event: &LogEvent) {
        self.hit(match event {
            LogEvent::Serving(_) => Point::Serving,
            LogEvent::NoneReady => Point::NoneReady,
            LogEvent::Ready(..) => Point::WorkerReady,
            LogEvent::Exited(..) => Point::WorkerExited,
            LogEvent::AdminExited(..) => Point::AdminExited,
            LogEvent::RestartDelayed(..) => Point::RestartDelayed,
            LogEvent::Unresponsive(..) => Point::Unresponsive,
            LogEvent::Responsive(..) => Point::Responsive,
            LogEvent::Hung(..) => Point::Hung,
            LogEvent::NotReady(..) => Point::NotReady,
            LogEvent::Abandoned(_) => Point::Abandoned,
            LogEvent::ReloadDone => Point::ReloadDone,
            LogEvent::ReloadAborted(_) => Point::ReloadAborted,
            LogEvent::Scaled(_) => Point::Scaled,
            LogEvent::CannotScale(_) => Point::CannotScale,
            LogEvent::Delaying(_) => Point::Delaying,
            LogEvent::Draining => Point::DrainingBegun,
            LogEvent::Killing(_) => Point::Killing,
            LogEvent::UnknownExited(..) => Point::UnknownExited,
        });
    }

    /// Counts the phase of the daemon.
    pub(super) fn phase(&mut self, phase: Phase) {
        self.hit(match phase {
            Phase::Starting => Point::PhaseStarting,
            Phase::Serving => Point::PhaseServing,
            Phase::Reloading => Point::PhaseReloading,
            Phase::Draining => Point::PhaseDraining,
        });
    }

    /// Counts a transition of a slot.
    pub(super) fn transition(&mut self, from: SlotState, to: SlotState) {
        self.hit(match (from, to) {
            (SlotState::Empty, SlotState::Booting) => Point::EmptyToBooting,
            (SlotState::Booting, SlotState::Serving) => Point::BootingToServing,
            (SlotState::Booting, SlotState::Backoff) => Point::BootingToBackoff,
            (SlotState::Booting, SlotState::Empty) => Point::BootingToEmpty,
            (SlotState::Serving, SlotState::Booting) => Point::ServingToBooting,
            (SlotState::Serving, SlotState::Backoff) => Point::ServingToBackoff,
            (SlotState::Serving, SlotState::Empty) => Point::ServingToEmpty,
            (SlotState::Serving, SlotState::Hung) => Point::ServingToHung,
            (SlotState::Hung, SlotState::Serving) => Point::HungToServing,
            (SlotState::Hung, SlotState::Booting) => Point::HungToBooting,
            (SlotState::Backoff, SlotState::Booting) => Point::BackoffToBooting,
            _ => return,
        });
    }
}
