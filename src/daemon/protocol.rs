//! Messages between the controller and its processes, one enum for each direction.
//!
//! They are JSON, because the two sides can run different builds: after a reload, workers of the
//! previous build drain under the controller of the new one.

use serde::{Deserialize, Serialize};

use crate::daemon::ids::{BlockId, QueueId, SlotId};
use crate::sys::channel::LONGEST_MESSAGE;

/// Message from the controller to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToWorker {
    /// Drain the connections, because a successor has taken over. Queues are released separately.
    Retire {
        /// Always 0: builds of handover version 1 close their queues at once.
        accept_ms: u64,
        /// Time after which remaining connections are reset, in milliseconds.
        drain_ms: u64,
        /// Time over which idle connections are closed, in milliseconds.
        spread_ms: u64,
    },
    /// Attend these queues; their listening sockets are attached in this order. The answer is
    /// [`FromWorker::Attending`] or [`FromWorker::Refused`].
    Grant {
        queues: Vec<QueueId>,
        /// Slot of the queues, for the log.
        slot: SlotId,
    },
    /// Attend this handoff queue; its receiving end is attached.
    GrantHandoff {
        queue: QueueId,
        /// Slot of the queue, for the log.
        slot: SlotId,
    },
    /// Drain and close these queues. The answer is [`FromWorker::Released`].
    Release { queues: Vec<QueueId> },
    /// The handoff queue of this slot has the attached sending end.
    Sibling { slot: SlotId },
}

/// Message from a worker to the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromWorker {
    /// The worker attends its inherited queues, and has closed all other descriptors of the
    /// controller. The sockets that it has bound are attached in this order; the controller lets
    /// them listen.
    Ready { opened: Vec<QueueId> },
    /// The worker has reached its connection limit, and exits when drained.
    Retiring,
    /// The worker was told to drain by another process, and exits when drained.
    Draining,
    /// The worker cannot start, for this reason.
    Failed(String),
    /// The worker attends these granted queues.
    Attending { queues: Vec<QueueId> },
    /// The worker had no free descriptor for these granted queues.
    Refused { queues: Vec<QueueId> },
    /// The worker has closed these queues.
    Released { queues: Vec<QueueId> },
    /// A worker of handover version 1 has drained its accept queue, and holds it until it exits.
    Closed { slot: SlotId },
}

/// Message from the controller to the admin process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToAdmin {
    /// Exit, because a successor has taken over or no admin process is wanted.
    Retire {
        /// Always 0.
        accept_ms: u64,
        /// Time for responses in progress, in milliseconds.
        drain_ms: u64,
        /// Always 0.
        spread_ms: u64,
    },
}

/// Message from the admin process to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromAdmin {
    /// The admin process accepts connections.
    Ready,
}

/// Message from worker to worker through a handoff queue; the connection is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Handoff {
    /// A build of handover version 1 does not name the worker with the reservation.
    Connection,
    /// The connection counts as reserved at this worker.
    Reserved { block_id: BlockId, pid: u64 },
}

impl FromWorker {
    /// Returns a [`FromWorker::Failed`] with the reason truncated to the size of a message.
    pub(crate) fn failed(reason: &str) -> Self {
        // Every character may take six bytes as JSON.
        Self::Failed(reason.chars().take(LONGEST_MESSAGE / 8).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_to_what_fits() {
        for text in ["x", "\u{1}", "ß"] {
            let long = FromWorker::failed(&text.repeat(5000));
            assert!(serde_json::to_vec(&long).expect("JSON").len() <= LONGEST_MESSAGE);
        }
    }

    #[test]
    fn what_an_older_build_says_is_understood() {
        let closed = serde_json::from_str::<FromWorker>("{\"closed\":{\"slot\":3}}");
        assert_eq!(closed.ok(), Some(FromWorker::Closed { slot: SlotId(3) }));
        let handoff = serde_json::from_str::<Handoff>("\"connection\"");
        assert_eq!(handoff.ok(), Some(Handoff::Connection));
        let ready = serde_json::from_str::<FromAdmin>("\"ready\"");
        assert_eq!(ready.ok(), Some(FromAdmin::Ready));
    }
}
