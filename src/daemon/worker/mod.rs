//! The worker: serves connections, in a process of its own.
//!
//! [`run`] is its whole life. The other side is [`crate::daemon::controller`], behind a
//! `crate::sys::channel`. A worker never forks. Of its siblings it knows only how many connections they
//! have, and their handoff queues.

mod acceptor;
mod drain;
mod handoff;
mod phase;
mod server;
mod tables;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mio::Poll;
use nix::sys::signal::{Signal, raise};
use tracing::{error, info, warn};

use self::phase::Stop;
use self::server::Server;
use crate::config::Fault;
use crate::daemon::assignment::{Assignment, HandoffQueues, IGNORED_SIGNALS};
use crate::daemon::ids::QueueId;
use crate::daemon::listeners::{self, ListenError};
use crate::daemon::protocol::FromWorker;
use crate::event_loop;
use crate::exit::Exit;
use crate::sys::signals::{self, SignalStream};
use crate::sys::{cpu, fork};

/// Signals that a worker acts on.
const HANDLED: [Signal; 1] = [Signal::SIGTERM];

/// An error that prevents a worker from starting.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot set up the event loop: {0}")]
    System(#[from] io::Error),
}

/// Serves until the worker is stopped, and returns the exit status.
pub fn run(mut assignment: Assignment<'_>) -> Exit {
    // Other signals are blocked until the event loop exists.
    if !fork::signal_on_parent_death(assignment.controller, Signal::SIGKILL) {
        return Exit::Failure;
    }
    let listeners = std::mem::take(&mut assignment.listeners);
    let handoff = assignment.handoff.take();
    boot_fault(&assignment);
    let (mut poll, mut server) = match start(&assignment, listeners, handoff) {
        Ok(started) => started,
        Err(error) => {
            let _ = assignment.channel.send(&FromWorker::failed(&error.to_string()), &[]);
            return match error {
                // Another try would fail, too.
                StartError::Listen(error) if error.is_lasting() => Exit::DoNotRespawn,
                StartError::Listen(_) | StartError::System(_) => Exit::Failure,
            };
        }
    };
    match event_loop::run(&mut poll, &mut server) {
        Ok(Stop::Drained) => info!("drained"),
        Ok(Stop::DeadlineReached { reset }) => warn!(reset, "drain deadline reached"),
        Err(error) => {
            error!(%error, "event loop failed");
            return Exit::Failure;
        }
    }
    Exit::Ok
}

/// Creates sockets, event loop, and signal stream, in this order; then reports READY and unblocks
/// signals.
fn start<'a>(
    assignment: &'a Assignment<'a>,
    inherited: Vec<(QueueId, OwnedFd)>,
    handoff: Option<HandoffQueues>,
) -> Result<(Poll, Server<'a>), StartError> {
    let opened = open_sockets(assignment)?;
    if assignment.config.fleet.pin_cpus {
        cpu::pin(assignment.slot.0)?;
    }
    let poll = Poll::new()?;
    let signals = SignalStream::new(&HANDLED)?;
    signals::ignore(&IGNORED_SIGNALS)?;
    let opened_queues: Vec<QueueId> = opened.iter().map(|(queue, _)| *queue).collect();
    let for_slot = opened.iter().map(|(_, socket)| socket.try_clone());
    let for_slot: Vec<OwnedFd> = for_slot.collect::<Result<_, _>>()?;
    let sockets = inherited.into_iter().chain(opened).collect();
    let mut server = Server::new(&poll, assignment, sockets, signals)?;
    if let Some(handoff) = handoff {
        server.join(handoff)?;
    }
    let for_slot: Vec<_> = for_slot.iter().map(AsFd::as_fd).collect();
    assignment.channel.send(&FromWorker::Ready { opened: opened_queues }, &for_slot)?;
    signals::unblock_all()?;
    if !fork::signal_on_parent_death(assignment.controller, Signal::SIGTERM) {
        return Err(io::Error::other("controller exited").into());
    }
    ready_fault(assignment);
    Ok((poll, server))
}

fn open_sockets(assignment: &Assignment<'_>) -> Result<Vec<(QueueId, OwnedFd)>, ListenError> {
    let options = &assignment.config.listen;
    let missing = assignment.missing.iter();
    missing.map(|(queue, endpoint)| Ok((*queue, listeners::open(endpoint, options)?))).collect()
}

/// Carries out the hidden `--fault` of tests. Slot 0 stands for all slots.
fn boot_fault(assignment: &Assignment<'_>) {
    let ours = [0, assignment.slot.0];
    for fault in &assignment.config.faults {
        match fault {
            Fault::CrashAtBoot(slot) if ours.contains(slot) => std::process::abort(),
            Fault::HangAtBoot(slot) if ours.contains(slot) => loop {
                std::thread::park();
            },
            Fault::StopAtBoot(slot) if ours.contains(slot) => {
                let _ = raise(Signal::SIGSTOP);
            }
            _ => {}
        }
    }
}

fn ready_fault(assignment: &Assignment<'_>) {
    let crashes = |fault: &Fault| matches!(fault, Fault::CrashWhenReady(slot) if [0, assignment.slot.0].contains(slot));
    if assignment.config.faults.iter().any(crashes) {
        std::process::abort();
    }
}
