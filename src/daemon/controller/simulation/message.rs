//! Messages between the simulated controller and the simulated processes.

use std::time::Duration;

use super::kernel::SocketId;
use crate::daemon::ids::{QueueId, SlotId};

/// Message from the controller, with the descriptors that it carries.
#[derive(Clone, Debug)]
pub(super) enum ToProcess {
    Retire { drain: Duration },
    Grant(Vec<(QueueId, SocketId)>),
    GrantHandoff(QueueId, SocketId),
    Release(Vec<QueueId>),
    Sibling(SlotId, SocketId),
}

impl ToProcess {
    /// Returns the sockets whose descriptors the message carries.
    pub(super) fn sockets(&self) -> Vec<SocketId> {
        match self {
            Self::Grant(queues) => queues.iter().map(|(_, socket)| *socket).collect(),
            Self::GrantHandoff(_, socket) => vec![*socket],
            // A sending end does not keep the receiving end alive.
            Self::Sibling(..) | Self::Retire { .. } | Self::Release(_) => Vec::new(),
        }
    }
}

/// Message to the controller.
#[derive(Clone, Debug)]
pub(super) enum FromProcess {
    /// Startup is complete; carries the sockets that the worker has bound.
    Ready(Vec<(QueueId, SocketId)>),
    Retiring,
    Draining,
    Failed,
    Attending(Vec<QueueId>),
    Refused(Vec<QueueId>),
    Released(Vec<QueueId>),
}
