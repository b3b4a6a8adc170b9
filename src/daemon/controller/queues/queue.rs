//! A queue: the processes that hold it, and its state between open and closed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::daemon::ids::{QueueId, SlotId};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// An effect on a queue, for the controller to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Grant queues to a process, which then attends them. The answer is
    /// [`super::Queues::attending`] or [`super::Queues::refused`], or [`super::Queues::unsent`] if
    /// the message cannot be sent.
    Grant(Pid, Vec<QueueId>),
    /// Tell a process to drain and close queues. The answer is [`super::Queues::released`].
    Release(Pid, Vec<QueueId>),
    /// Close the controller's descriptor, the last one. The answer is [`super::Queues::closed`], or
    /// [`super::Queues::not_empty`] if connections wait in the queue.
    Close {
        queue: QueueId,
        /// `true` to close it even if connections wait.
        force: bool,
    },
    /// Store a duplicate with the service manager. The answer is [`super::Queues::stored`] or
    /// [`super::Queues::not_stored`].
    Store(QueueId),
    /// Make the service manager close its duplicate. The answer is [`super::Queues::unstored`].
    Unstore(QueueId),
}

/// Kind of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Accept queue of a listening socket, which is bound to this address.
    Accept(SocketAddr),
    /// Accept queue of an external socket, opened and held by another program. It is never closed,
    /// and its position in its group is unknown.
    External(SocketAddr),
    /// Handoff queue of a slot.
    Handoff,
}

/// Relation of a process to a queue that it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The process has the descriptor since its fork, and is not ready.
    Forked,
    /// The process was sent the descriptor at `since`, and has not answered.
    Granted { since: Instant },
    /// The process accepts from the queue.
    Attending,
    /// The process was told at `since` to close the descriptor, or is told at `since` unless `sent`
    /// is set.
    Releasing { since: Instant, sent: bool },
}

/// State of the duplicate in the service manager's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    No,
    /// The duplicate is about to be sent.
    Sending,
    /// The duplicate could not be sent; the next attempt is after a reload.
    Refused,
    /// Stored under this number among the slot's.
    As(u32),
    /// The manager was told to close the number; the request is repeated at this time.
    Removing(u32, Instant),
}

#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) kind: Kind,
    /// Slot whose worker attends it; of an external queue, the slot in its stored name, or
    /// `NO_SLOT`.
    pub(super) slot: SlotId,
    pub(super) holds: BTreeMap<Pid, Hold>,
    /// Time since which no worker of its slot attends it.
    pub(super) unattended: Option<Instant>,
    /// Time since which it is unwanted.
    pub(super) closing: Option<Instant>,
    /// `true` if [`Action::Close`] was requested.
    pub(super) close_requested: bool,
    /// `true` if connections were found in it when it was to be closed.
    pub(super) waiting: bool,
    /// Time before which its last attendant does not release it.
    pub(super) release_not_before: Option<Instant>,
    /// Processes that refused it, and the time of the next attempt.
    pub(super) refused: BTreeMap<Pid, Instant>,
    pub(super) stored: Stored,
}

impl Queue {
    pub(super) fn new(kind: Kind, slot: SlotId) -> Self {
        Self {
            kind,
            slot,
            holds: BTreeMap::new(),
            unattended: None,
            closing: None,
            close_requested: false,
            waiting: false,
            release_not_before: None,
            refused: BTreeMap::new(),
            stored: Stored::No,
        }
    }

    pub(super) fn is_attended_by(&self, pid: Pid) -> bool {
        self.holds.get(&pid) == Some(&Hold::Attending)
    }
}
