//! The messages between the controller and its processes, one type for each direction.
//!
//! It is JSON, because the two sides may be of different builds: an old worker goes on under the
//! controller of the build that has replaced its own.

use serde::{Deserialize, Serialize};

use crate::ids::QueueId;
use crate::process::channel::LONGEST_MESSAGE;

/// From the controller to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToWorker {
    /// End the connections as they fall silent. The queues are released one by one.
    Retire {
        /// Always 0: what builds of handover version 1 understood as closing their queues at once.
        accept_ms: u64,
        /// Reset what has not ended after this time.
        drain_ms: u64,
        /// Close idle connections at random points of this time.
        spread_ms: u64,
    },
    /// Attend these queues, whose listening sockets come along, in this order. The answer is
    /// [`FromWorker::Attending`] or [`FromWorker::Refused`].
    Grant {
        /// The queues.
        queues: Vec<QueueId>,
        /// Their slot, for the log.
        slot: u32,
    },
    /// Attend this handoff queue, whose receiving end comes along.
    GrantHandoff {
        /// The queue.
        queue: QueueId,
        /// Its slot, for the log.
        slot: u32,
    },
    /// Empty these queues and close them. The answer is [`FromWorker::Released`].
    Release {
        /// The queues.
        queues: Vec<QueueId>,
    },
    /// The sending end of a sibling's handoff queue comes along.
    Sibling {
        /// The sibling's slot.
        slot: u32,
    },
}

/// From a worker to the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromWorker {
    /// It attends what it has inherited, and has closed everything else that it got by the fork. The
    /// sockets that it has bound come along, in this order, for the controller to let listen.
    Ready {
        /// The queues of the sockets that come along.
        opened: Vec<QueueId>,
    },
    /// It has had all the connections that it may have, and ends when they have.
    Retiring,
    /// It was told to drain, by any process, and ends when its connections have.
    Draining,
    /// It cannot start, and why.
    Failed(String),
    /// It attends what it was granted.
    Attending {
        /// The queues.
        queues: Vec<QueueId>,
    },
    /// The descriptors of these queues found no room.
    Refused {
        /// The queues.
        queues: Vec<QueueId>,
    },
    /// It has closed these queues.
    Released {
        /// The queues.
        queues: Vec<QueueId>,
    },
    /// A worker of handover version 1 has emptied a queue. It holds the queue until it ends.
    Closed {
        /// Its slot.
        slot: u32,
    },
}

/// From the controller to the admin process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToAdmin {
    /// End: there is a successor, or no admin address any more.
    Retire {
        /// Always 0.
        accept_ms: u64,
        /// Time for the answers under way.
        drain_ms: u64,
        /// Always 0.
        spread_ms: u64,
    },
}

/// From the admin process to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromAdmin {
    /// It answers.
    Ready,
}

/// From worker to worker, through a handoff queue: a connection comes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Handoff {
    /// From a build of handover version 1, which does not say where the connection was reserved.
    Connection,
    /// The connection was reserved with this worker.
    Reserved {
        /// The worker's statistics block.
        block: usize,
        /// The worker's pid.
        pid: u64,
    },
}

impl FromWorker {
    /// A [`FromWorker::Failed`], its reason cut to what fits into a message.
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
        assert_eq!(closed.ok(), Some(FromWorker::Closed { slot: 3 }));
        let handoff = serde_json::from_str::<Handoff>("\"connection\"");
        assert_eq!(handoff.ok(), Some(Handoff::Connection));
        let ready = serde_json::from_str::<FromAdmin>("\"ready\"");
        assert_eq!(ready.ok(), Some(FromAdmin::Ready));
    }
}
