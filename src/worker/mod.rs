//! The worker: serves connections, in a process of its own.
//!
//! [`run`] is its whole life. The other side is [`crate::controller`]; the wire between them is
//! [`crate::process::channel`]. A worker never forks; of its siblings it knows at
//! most how many connections they have.

mod acceptor;
mod exchange;
mod lifecycle;
mod server;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mio::Poll;
use nix::sys::signal::{Signal, raise};
use tracing::{error, info, warn};

use self::lifecycle::Stop;
use self::server::Server;
use crate::assignment::{Assignment, Exchange};
use crate::config::Fault;
use crate::event_loop;
use crate::exit::Exit;
use crate::ids::QueueId;
use crate::process::signals::{self, SignalStream};
use crate::process::sockets::{self, ListenError};
use crate::process::{cpu, fork};
use crate::protocol::FromWorker;
use crate::service::Echo;

/// Signals a worker acts on.
const HANDLED: [Signal; 1] = [Signal::SIGTERM];

/// Signals that are the controller's business, though they may reach the whole group.
const IGNORED: [Signal; 10] = [
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

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot set up the event loop: {0}")]
    System(#[from] io::Error),
}

/// Serves until told to stop.
pub fn run(mut assignment: Assignment<'_>) -> Exit {
    // Until it can listen to signals, nothing but SIGKILL reaches it.
    if !fork::die_with(assignment.controller, Signal::SIGKILL) {
        return Exit::Failure;
    }
    let listeners = std::mem::take(&mut assignment.listeners);
    let exchange = assignment.exchange.take();
    boot_fault(&assignment);
    let (mut poll, mut server) = match start(&assignment, listeners, exchange) {
        Ok(started) => started,
        Err(error) => {
            let _ = assignment.channel.send(&FromWorker::failed(&error.to_string()), &[]);
            return match error {
                // The address will not become ours by trying again.
                StartError::Listen(error) if error.is_lasting() => Exit::DoNotRespawn,
                StartError::Listen(_) | StartError::System(_) => Exit::Failure,
            };
        }
    };
    match event_loop::run(&mut poll, &mut server) {
        Ok(Stop::Drained) => info!("drained"),
        Ok(Stop::DeadlineReached { reset }) => warn!(reset, "drain deadline reached"),
        Err(error) => {
            error!("the event loop failed: {error}");
            return Exit::Failure;
        }
    }
    Exit::Ok
}

/// The boot order: sockets, event loop, signals, and only then READY and the first signal.
fn start<'a>(
    assignment: &'a Assignment<'a>,
    inherited: Vec<(QueueId, OwnedFd)>,
    exchange: Option<Exchange>,
) -> Result<(Poll, Server<'a, Echo>), StartError> {
    let opened = open_sockets(assignment)?;
    if assignment.config.fleet.pin_cpus {
        cpu::pin(assignment.slot)?;
    }
    let poll = Poll::new()?;
    let signals = SignalStream::new(&HANDLED)?;
    signals::ignore(&IGNORED)?;
    let opened_queues: Vec<QueueId> = opened.iter().map(|(queue, _)| *queue).collect();
    let for_slot = opened.iter().map(|(_, socket)| socket.try_clone());
    let for_slot: Vec<OwnedFd> = for_slot.collect::<Result<_, _>>()?;
    let sockets = inherited.into_iter().chain(opened).collect();
    let mut server = Server::new(&poll, assignment, sockets, signals, Echo)?;
    if let Some(exchange) = exchange {
        server.join(exchange)?;
    }
    let for_slot: Vec<_> = for_slot.iter().map(AsFd::as_fd).collect();
    assignment.channel.send(&FromWorker::Ready { opened: opened_queues }, &for_slot)?;
    signals::unblock_all()?;
    if !fork::die_with(assignment.controller, Signal::SIGTERM) {
        return Err(io::Error::other("the controller is gone").into());
    }
    ready_fault(assignment);
    Ok((poll, server))
}

fn open_sockets(assignment: &Assignment<'_>) -> Result<Vec<(QueueId, OwnedFd)>, ListenError> {
    let options = &assignment.config.listen;
    let missing = assignment.missing.iter();
    missing.map(|(queue, endpoint)| Ok((*queue, sockets::open(endpoint, options)?))).collect()
}

/// The test hooks behind the hidden `--fault`; slot 0 stands for all.
fn boot_fault(assignment: &Assignment<'_>) {
    let ours = [0, assignment.slot];
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
    let crashes = |fault: &Fault| matches!(fault, Fault::CrashWhenReady(slot) if [0, assignment.slot].contains(slot));
    if assignment.config.faults.iter().any(crashes) {
        std::process::abort();
    }
}
