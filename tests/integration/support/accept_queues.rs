//! Accept queues: connections that wait at the listener of each slot.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use super::operations::{connection_counts, freeze, send_signal};
use crate::support::{Client, SOON, Server, proc, wait_for, wait_until};

/// Number of connections opened: enough that a listener with a twelfth of them is never empty.
const CONNECTIONS: usize = 240;

/// Arguments for queues that hold all [`CONNECTIONS`].
pub(crate) const LONG_QUEUES: [&str; 2] = ["--connection-backlog", "1024"];

/// Listeners of a server: slot by inode.
#[derive(Debug)]
pub(crate) struct Queues {
    slots: BTreeMap<u64, u32>,
}

impl Queues {
    /// Finds the listener of each slot of a server with one address, as soon as no worker holds the
    /// listener of another slot.
    #[track_caller]
    pub(crate) fn of(server: &Server) -> Self {
        let listener = |(slot, pid): (u32, i32)| match proc::listeners_of(pid)[..] {
            [ref listener] => Some((listener.inode, slot)),
            _ => None,
        };
        let slots = wait_for(SOON, "every worker has one listener", || {
            server.workers().into_iter().map(listener).collect::<Option<BTreeMap<u64, u32>>>()
        });
        assert_eq!(slots.len(), server.workers().len(), "no two slots share a listener");
        Self { slots }
    }

    /// Returns the number of connections that wait at the listener of each slot.
    pub(crate) fn lengths(&self) -> BTreeMap<u32, usize> {
        let slot = |socket: proc::Socket| Some((*self.slots.get(&socket.inode)?, socket.queued));
        proc::listeners().into_iter().filter_map(slot).collect()
    }

    /// Stops the controller and all workers, so that the kernel alone decides by what is attached,
    /// and connects. Returns how many connections wait at each slot, and their clients.
    #[track_caller]
    pub(crate) fn fill(&self, server: &Server) -> (BTreeMap<u32, usize>, Vec<Client>) {
        // After an answer from the controller, what it has logged before is done.
        connection_counts(server);
        freeze(server.controller());
        server.workers().into_values().for_each(freeze);
        let clients: Vec<Client> = (0..CONNECTIONS).map(|_| server.connect()).collect();
        let lengths = wait_for(SOON, "every connection waits in a queue", || {
            let lengths = self.lengths();
            (lengths.values().sum::<usize>() == CONNECTIONS).then_some(lengths)
        });
        println!("waiting at each slot: {lengths:?}");
        (lengths, clients)
    }
}

/// Sends SIGCONT to the controller and the workers, except the worker of slot `except`.
pub(crate) fn resume_all(server: &Server, except: Option<u32>) {
    let workers = server.workers().into_iter();
    workers.filter(|(slot, _)| Some(*slot) != except).for_each(|(_, pid)| {
        send_signal(pid, Signal::SIGCONT);
    });
    send_signal(server.controller(), Signal::SIGCONT);
}

/// Waits until a new worker of `slot` stops itself (`--fault stop-at-boot`); returns its pid.
#[track_caller]
pub(crate) fn stopped_at_boot(server: &Server, slot: u32) -> i32 {
    let (controller, title) = (server.controller(), format!("tcp-echo[wrk{slot}]"));
    wait_for(SOON, "a new worker has stopped itself", || {
        let stopped = |process: &proc::Process| {
            process.ppid == controller && process.title == title && process.state == 'T'
        };
        proc::processes().into_iter().find(stopped).map(|process| process.pid)
    })
}

/// Continues a worker that stopped itself at boot, and waits until it is ready.
#[track_caller]
pub(crate) fn let_boot(server: &Server, slot: u32) {
    let pid = stopped_at_boot(server, slot);
    send_signal(pid, Signal::SIGCONT);
    wait_until(SOON, "the worker is ready", || server.logged_workers().get(&slot) == Some(&pid));
}
