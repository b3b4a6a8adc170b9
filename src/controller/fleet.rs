//! All that the controller decides about processes and queues: the supervisor and the owner of the
//! queues as one pure machine, so that a simulation drives what the daemon runs.

use std::time::Instant;

use nix::unistd::Pid;

use super::queues::{self, Kind, Queues};
use super::supervisor::{self, Supervisor};
use crate::ids::QueueId;

/// A change that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// To a process.
    Process(supervisor::Event),
    /// A socket that a process has bound, and that its READY brings, listens now; the last member of
    /// its group. Comes before the READY.
    Opened(Pid, QueueId, Kind, u32),
    /// A process attends what it was granted.
    Attending(Pid, Vec<QueueId>),
    /// The descriptors of a grant found no room at the process.
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

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// About a process.
    Process(supervisor::Action),
    /// About a queue.
    Queue(queues::Action),
}

/// The processes and the queues.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) supervisor: Supervisor,
    pub(crate) queues: Queues,
}

impl Fleet {
    /// The queues that a worker of `slot` is given at its fork.
    pub(crate) fn inheritance(&self, slot: u32) -> Vec<QueueId> {
        match slot {
            supervisor::ADMIN => Vec::new(),
            _ => self.queues.inheritance(slot, self.supervisor.wanted()),
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
                if let supervisor::Event::Exited(pid, _) = event {
                    // What is still to be sent to it would reach another process of the same number.
                    actions.retain(|action| !action.is_to(pid));
                }
            }
            // What it means for the others is decided when its READY is in.
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
                let inherited = self.inheritance(slot);
                self.queues.forked(pid, &inherited);
            }
            supervisor::Event::Ready(pid) => self.queues.ready(pid),
            supervisor::Event::Exited(pid, _) => self.queues.reaped(pid),
            _ => {}
        }
    }

    /// When the next [`supervisor::Event::Tick`] is due at the latest.
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
