//! What the controller gives a worker: all that the two roles know of each other.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use crate::config::{Config, Endpoint};
use crate::exit::Exit;
use crate::process::channel::Channel;
use crate::stats::Seat;

/// A worker's orders.
#[derive(Debug)]
pub struct Assignment<'a> {
    /// The slot it serves, from 1.
    pub slot: u32,
    /// Who gives the orders.
    pub controller: Pid,
    /// The addresses to listen on, with real ports.
    pub endpoints: &'a [Endpoint],
    /// The slot's listeners, one for each endpoint, with their queues; none if the worker is the
    /// first in its slot: then it opens them and sends duplicates along with READY.
    pub listeners: Vec<OwnedFd>,
    /// The wire to the controller.
    pub channel: Channel,
    /// Its place in the shared statistics.
    pub seat: Seat<'a>,
    /// How to serve.
    pub config: &'a Config,
}

/// A worker's whole life, run in a process of its own.
pub type WorkerMain = fn(Assignment<'_>) -> Exit;
