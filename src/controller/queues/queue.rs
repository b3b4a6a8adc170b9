//! One queue: who holds it, and where it stands between open and closed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::ids::QueueId;

/// An effect on a queue, for the controller to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send these queues' descriptors to a process, which is to attend them. It answers
    /// [`super::Queues::attending`] or [`super::Queues::refused`]; [`super::Queues::unsent`] if they cannot be sent.
    Grant(Pid, Vec<QueueId>),
    /// Tell a process to empty and close its descriptors of these queues. It answers
    /// [`super::Queues::released`].
    Release(Pid, Vec<QueueId>),
    /// Close the controller's descriptor, which is the last, if nothing waits in the queue or `force`
    /// is set: [`super::Queues::closed`] or [`super::Queues::not_empty`].
    Close {
        /// The queue.
        queue: QueueId,
        /// Close it whatever waits there.
        force: bool,
    },
    /// Have the service manager keep a duplicate: [`super::Queues::stored`] if it was sent.
    Store(QueueId),
    /// Have the service manager close its duplicate: [`super::Queues::unstored`] once it has.
    Unstore(QueueId),
}

/// Kinds of queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The accept queue of a listening socket, bound to this address.
    Accept(SocketAddr),
    /// The accept queue of a socket that another program opened and holds: never closed, and its
    /// position in its group is unknown.
    External(SocketAddr),
    /// Connections that siblings have handed off to the slot.
    Handoff,
}

/// The relation of a process to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Has the descriptor since its fork and is not ready yet.
    Inherited,
    /// Was sent the descriptor at `since` and has not answered.
    Granted { since: Instant },
    /// Accepts from the queue.
    Attending,
    /// Was told at `since` to close the descriptor, or is to be told at `since` if `sent` is not set.
    Releasing { since: Instant, sent: bool },
}

/// A duplicate in the service manager's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    No,
    /// To be sent.
    Sending,
    /// It could not be sent, and is not tried again before a reload.
    Refused,
    /// Under this number among the slot's.
    As(u32),
    /// Told to close it, at the latest at this time.
    Removing(u32, Instant),
}

#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) kind: Kind,
    /// The slot whose worker attends it; of an external one, the slot that it came back for.
    pub(super) slot: u32,
    pub(super) holds: BTreeMap<Pid, Hold>,
    /// Since when no process that is meant to attend it does.
    pub(super) unattended: Option<Instant>,
    /// Since when it is not wanted.
    pub(super) closing: Option<Instant>,
    /// The controller is to close its descriptor, the last one.
    pub(super) close_requested: bool,
    /// Connections were found in it when it was to be closed.
    pub(super) waiting: bool,
    /// The last process that attends it is not told to release it before this time.
    pub(super) release_not_before: Option<Instant>,
    /// Processes that could not take it, and when they may be asked again.
    pub(super) refused: BTreeMap<Pid, Instant>,
    pub(super) stored: Stored,
}

impl Queue {
    pub(super) fn new(kind: Kind, slot: u32) -> Self {
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
