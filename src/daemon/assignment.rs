//! Assignments: descriptors and configuration that the controller passes to a new process.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::{Config, Endpoint, HostName};
use crate::daemon::admin_socket::AdminSocket;
use crate::daemon::ids::{QueueId, SlotId};
use crate::daemon::stats::{HealthTable, Layout, StatsBlock};
use crate::exit::Exit;
use crate::sys::channel::Channel;

/// Signals that workers and the admin process ignore. Those for the controller may be sent to the whole
/// process group.
pub(crate) const IGNORED_SIGNALS: [Signal; 10] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
    Signal::SIGPIPE,
    Signal::SIGXFSZ,
];

/// Assignment of a worker.
#[derive(Debug)]
pub struct Assignment<'a> {
    /// Slot of the worker.
    pub slot: SlotId,
    /// Pid of the controller.
    pub controller: Pid,
    /// Addresses, with real ports, that the slot has no socket for, and the identifiers of the new
    /// queues: the worker opens a socket for each, and sends duplicates with its READY.
    pub missing: Vec<(QueueId, Endpoint)>,
    /// Inherited listening sockets.
    pub listeners: Vec<(QueueId, OwnedFd)>,
    /// Handoff queues of all slots; `None` unless workers hand connections off.
    pub handoff: Option<HandoffQueues>,
    /// The workers that there are, and how much they have.
    pub siblings: HealthTable<'a>,
    /// The wire to the controller.
    pub channel: Channel,
    /// Block in the shared statistics.
    pub block: StatsBlock<'a>,
    /// Configuration of the daemon.
    pub config: &'a Config,
}

/// Ends of the handoff queues, through which workers hand connections off to each other.
#[derive(Debug)]
pub struct HandoffQueues {
    /// Receiving end of the queue of the worker's slot. The controller holds a duplicate, so that
    /// connections in the queue outlive the worker.
    pub receiver: (QueueId, Channel),
    /// Sending ends of the queues of all slots, including the worker's, by slot.
    pub senders: Vec<(SlotId, Channel)>,
}

/// Main function of a worker, which runs in a new process.
pub type WorkerMain = fn(Assignment<'_>) -> Exit;

/// Assignment of the admin process.
#[derive(Debug)]
pub struct AdminAssignment<'a> {
    /// Pid of the controller.
    pub controller: Pid,
    /// Socket on which it accepts.
    pub admin_socket: AdminSocket,
    /// Accepted host names.
    pub hosts: &'a [HostName],
    /// Channel to the controller.
    pub channel: Channel,
    /// Block in the shared statistics.
    pub block: StatsBlock<'a>,
    /// All statistics.
    pub layout: Layout<'a>,
    /// Time without heartbeat after which it counts as hung; `None` disables the check.
    pub worker_timeout: Option<Duration>,
}

/// Main function of the admin process, which runs in a new process.
pub type AdminMain = fn(AdminAssignment<'_>) -> Exit;
