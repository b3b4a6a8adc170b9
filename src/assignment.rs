//! What the controller gives a worker, or the admin process: all that the roles know of each other.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::unistd::Pid;

use crate::config::{Config, Endpoint, HostName};
use crate::exit::Exit;
use crate::ids::QueueId;
use crate::process::channel::Channel;
use crate::process::front::Front;
use crate::stats::{Layout, Seat, Siblings};

/// A worker's orders.
#[derive(Debug)]
pub struct Assignment<'a> {
    /// The slot it serves, from 1.
    pub slot: u32,
    /// Who gives the orders.
    pub controller: Pid,
    /// The addresses, with real ports, that the slot has no socket for yet, and the names of the
    /// queues to be: the worker opens a socket for each and sends duplicates along with READY.
    pub missing: Vec<(QueueId, Endpoint)>,
    /// The slot's listening sockets.
    pub listeners: Vec<(QueueId, OwnedFd)>,
    /// Connections that siblings hand off, if they do.
    pub exchange: Option<Exchange>,
    /// The workers that there are, and how much they have.
    pub siblings: Siblings<'a>,
    /// The wire to the controller.
    pub channel: Channel,
    /// Its place in the shared statistics.
    pub seat: Seat<'a>,
    /// How to serve.
    pub config: &'a Config,
}

/// How workers pass connections to each other.
#[derive(Debug)]
pub struct Exchange {
    /// The handoff queue of this worker's slot. The controller holds it too: what has not been taken
    /// when the worker dies, its successor takes.
    pub inbox: (QueueId, Channel),
    /// The ways to the slots, this one's among them.
    pub outboxes: Vec<(u32, Channel)>,
}

/// A worker's whole life, run in a process of its own.
pub type WorkerMain = fn(Assignment<'_>) -> Exit;

/// The orders of the admin process.
#[derive(Debug)]
pub struct AdminAssignment<'a> {
    /// Who gives the orders.
    pub controller: Pid,
    /// Where it accepts.
    pub front: Front,
    /// Names that clients may call it by.
    pub hosts: &'a [HostName],
    /// The wire to the controller.
    pub channel: Channel,
    /// Its place in the shared statistics.
    pub seat: Seat<'a>,
    /// All of them.
    pub layout: Layout<'a>,
    /// How much silence the controller puts up with, if there is a limit.
    pub worker_timeout: Option<Duration>,
}

/// The admin process's whole life, run in a process of its own.
pub type AdminMain = fn(AdminAssignment<'_>) -> Exit;
