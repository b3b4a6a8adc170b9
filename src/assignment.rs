//! What the controller gives a worker: all that the two roles know of each other.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use crate::config::{Config, Endpoint};
use crate::exit::Exit;
use crate::process::channel::Channel;
use crate::stats::{Seat, Siblings};

/// A worker's orders.
#[derive(Debug)]
pub struct Assignment<'a> {
    /// The slot it serves, from 1.
    pub slot: u32,
    /// Who gives the orders.
    pub controller: Pid,
    /// The addresses, with real ports, that the slot has no socket for yet: the worker opens one
    /// each and sends duplicates along with READY.
    pub missing: Vec<Endpoint>,
    /// The slot's sockets, with their queues.
    pub listeners: Vec<OwnedFd>,
    /// Connections that siblings pass on, if they do.
    pub exchange: Option<Exchange<'a>>,
    /// The wire to the controller.
    pub channel: Channel,
    /// Its place in the shared statistics.
    pub seat: Seat<'a>,
    /// How to serve.
    pub config: &'a Config,
}

/// How workers pass connections to each other.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// What siblings pass to this worker's slot arrives here. The controller holds it too: what has
    /// not been taken when the worker dies, its successor takes.
    pub inbox: Channel,
    /// The ways to the slots, this one's among them.
    pub outboxes: Vec<(u32, Channel)>,
    /// Who is there, and how much they have.
    pub siblings: Siblings<'a>,
}

/// A worker's whole life, run in a process of its own.
pub type WorkerMain = fn(Assignment<'_>) -> Exit;
