//! The fleet: all decisions of the controller about processes and queues.
//!
//! It joins the [`Supervisor`], which decides which processes to run, and [`Queues`], which decides
//! which worker accepts from which queue: if a worker hangs, the others take over its accept
//! queues, and new connections are steered to them. A listener that a reload removes is closed by
//! the queues once no worker holds it. Both are pure, so the simulation drives the code that the
//! daemon runs.

use std::time::Instant;

use nix::unistd::Pid;

use super::queues::{self, Kind, Queues};
use super::supervisor::{self, Supervisor};
use crate::daemon::ids::{QueueId, SlotId};

/// An observed change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A change of a process, a signal, or the passage of time.
    Process(supervisor::Event),
    /// A socket bound by a process listens, as the last member of its group; precedes its READY.
    Opened(Pid, QueueId, Kind, SlotId),
    /// A process attends granted queues.
    Attending(Pid, Vec<QueueId>),
    /// A process had no free descriptor for granted queues.
    Refused(Pid, Vec<QueueId>),
    /// A process has closed these queues.
    Released(Pid, Vec<QueueId>),
    /// A grant or a release could not be sent.
    Unsent(Pid, Vec<QueueId>),
    /// The controller's descriptor of this queue, the last one, is closed.
    Closed(QueueId),
    /// It was not closed, because connections wait there.
    NotEmpty(QueueId),
    /// The service manager was sent a duplicate, under this number; `None` if that failed.
    Stored(QueueId, Option<u32>),
    /// The service manager has closed its duplicate of this number.
    Unstored(QueueId, u32),
}

impl From<supervisor::Event> for Event {
    fn from(event: supervisor::Event) -> Self {
        Self::Process(event)
    }
}

/// An effect for the controller to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Effect on a process.
    Process(supervisor::Action),
    /// Effect on a queue.
    Queue(queues::Action),
}

/// The processes and the queues of the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) supervisor: Supervisor,
    pub(crate) queues: Queues,
}

impl Fleet {
    /// Returns the queues whose descriptors a new worker of `slot` inherits.
    pub(crate) fn queues_for_slot(&self, slot: SlotId) -> Vec<QueueId> {
        match slot {
            SlotId::ADMIN => Vec::new(),
            _ => self.queues.queues_for_slot(slot, self.supervisor.wanted()),
        }
    }

    /// Applies an event and appends the actions that follow.
    pub(crate) fn apply(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        let queues = &mut self.queues;
        let mut decided = Vec::new();
        match event {
            Event::Process(event) => {
                self.apply_to_queues(event);
                self.supervisor.apply(event, now, &mut decided);
                if matches!(event, supervisor::Event::Beat(..)) && decided.is_empty() {
                    // Each worker reports heartbeats; the tick that follows them reconciles once.
                    return;
                }
                if let supervisor::Event::Exited(pid, _) = event {
                    // Another process could get the same pid.
                    actions.retain(|action| !action.is_to(pid));
                }
            }
            // The queues are reconciled after the READY that follows.
            Event::Opened(pid, id, kind, slot) => return queues.add(id, kind, slot, Some(pid)),
            Event::Attending(pid, ids) => queues.attending(pid, &ids),
            Event::Refused(pid, ids) => queues.refused(pid, &ids, now),
            Event::Released(pid, ids) => queues.released(pid, &ids),
            Event::Unsent(pid, ids) => queues.unsent(pid, &ids, now),
            Event::Closed(id) => queues.closed(id),
            Event::NotEmpty(id) => queues.not_empty(id, now),
            Event::Stored(id, Some(number)) => queues.stored(id, number),
            Event::Stored(id, None) => queues.not_stored(id),
            Event::Unstored(id, number) => queues.unstored(id, number),
        }
        actions.extend(decided.into_iter().map(Action::Process));
        let mut decided = Vec::new();
        self.queues.reconcile(self.supervisor.view(now), now, &mut decided);
        actions.extend(decided.into_iter().map(Action::Queue));
    }

    fn apply_to_queues(&mut self, event: supervisor::Event) {
        match event {
            supervisor::Event::Spawned(slot, pid) => {
                let inherited = self.queues_for_slot(slot);
                self.queues.forked(pid, &inherited);
            }
            supervisor::Event::Ready(pid) => self.queues.ready(pid),
            supervisor::Event::Exited(pid, _) => self.queues.reaped(pid),
            _ => {}
        }
    }

    /// Returns the time by which the next [`supervisor::Event::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.supervisor.deadline().into_iter().chain(self.queues.deadline()).min()
    }
}

impl Action {
    /// Returns `true` if it sends a message or a signal to this process.
    fn is_to(&self, pid: Pid) -> bool {
        match self {
            Self::Process(supervisor::Action::Signal(to, _) | supervisor::Action::Retire(to))
            | Self::Process(supervisor::Action::Kill(to, _)) => *to == pid,
            Self::Queue(queues::Action::Grant(to, _) | queues::Action::Release(to, _)) => {
                *to == pid
            }
            _ => false,
        }
    }
}
