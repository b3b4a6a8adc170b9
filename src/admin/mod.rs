//! The admin process: shows all figures over HTTP, in a process of its own.
//!
//! It runs on the same loop and the same table of connections as a worker, and reads the shared
//! statistics. Nothing that happens to it, or that a client does to it, touches the echo. [`run`] is
//! its whole life; the other side is [`crate::controller`].

mod host;
mod http;
mod listener;
mod metrics;
mod page;
mod request;
mod response;
mod routes;
mod server;

use std::io;

use mio::Poll;
use nix::sys::signal::Signal;
use tracing::{debug, error};

use self::server::Server;
use crate::assignment::AdminAssignment;
use crate::event_loop;
use crate::exit::Exit;
use crate::process::fork;
use crate::process::signals::{self, SignalStream};
use crate::protocol::FromAdmin;
use crate::stats::Statistics;

/// Signals it acts on.
const HANDLED: [Signal; 1] = [Signal::SIGTERM];

/// Signals that are the controller's business, though they may reach the whole group.
const IGNORED: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
    Signal::SIGPIPE,
];

/// Answers until told to stop.
pub fn run(assignment: AdminAssignment<'_>) -> Exit {
    // Until it can listen to signals, nothing but SIGKILL reaches it.
    if !fork::die_with(assignment.controller, Signal::SIGKILL) {
        return Exit::Failure;
    }
    let served = start(&assignment).and_then(|(mut poll, mut server)| {
        debug!("answering");
        event_loop::run(&mut poll, &mut server)
    });
    match served {
        Ok(()) => debug!("stopped"),
        Err(error) => {
            error!("the admin process cannot go on: {error}");
            return Exit::Failure;
        }
    }
    Exit::Ok
}

/// The boot order: event loop, signals, and only then READY and the first signal.
fn start<'a>(assignment: &'a AdminAssignment<'a>) -> io::Result<(Poll, Server<'a>)> {
    let poll = Poll::new()?;
    let signals = SignalStream::new(&HANDLED)?;
    signals::ignore(&IGNORED)?;
    let server = Server::new(&poll, assignment, signals)?;
    assignment.channel.send(&FromAdmin::Ready, &[])?;
    signals::unblock_all()?;
    if !fork::die_with(assignment.controller, Signal::SIGTERM) {
        return Err(io::Error::other("the controller is gone"));
    }
    Ok((poll, server))
}

/// What happens to `pieces` that a client sends one after the other, for whoever looks for trouble:
/// all that is answered, and whether that ends the connection.
#[doc(hidden)]
pub fn converse<'a>(
    statistics: &Statistics,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, bool) {
    http::converse(statistics, pieces)
}
