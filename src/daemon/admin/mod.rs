//! The admin process: publishes the statistics over HTTP.
//!
//! It uses the event loop and the connection table of the workers, and reads the shared statistics. As it is
//! a separate process, its failures do not affect the workers. [`run`] is its main function;
//! [`crate::daemon::controller`] starts it.

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
use crate::daemon::assignment::{AdminAssignment, IGNORED_SIGNALS};
use crate::daemon::protocol::FromAdmin;
use crate::daemon::stats::Statistics;
use crate::event_loop;
use crate::exit::Exit;
use crate::sys::fork;
use crate::sys::signals::{self, SignalStream};

/// Signals that end the process.
const HANDLED: [Signal; 1] = [Signal::SIGTERM];

/// Runs the admin process until it is told to stop.
pub fn run(assignment: AdminAssignment<'_>) -> Exit {
    // All other signals are blocked until the handlers are installed.
    if !fork::signal_on_parent_death(assignment.controller, Signal::SIGKILL) {
        return Exit::Failure;
    }
    let served = start(&assignment).and_then(|(mut poll, mut server)| {
        debug!("serving requests");
        event_loop::run(&mut poll, &mut server)
    });
    match served {
        Ok(()) => debug!("stopped"),
        Err(error) => {
            error!(%error, "admin process failed");
            return Exit::Failure;
        }
    }
    Exit::Ok
}

/// Starts in this order: event loop, signal handlers, registrations, message to the controller, and unblocking
/// of signals.
fn start<'a>(assignment: &'a AdminAssignment<'a>) -> io::Result<(Poll, Server<'a>)> {
    let poll = Poll::new()?;
    let signals = SignalStream::new(&HANDLED)?;
    signals::ignore(&IGNORED_SIGNALS)?;
    let server = Server::new(&poll, assignment, signals)?;
    assignment.channel.send(&FromAdmin::Ready, &[])?;
    signals::unblock_all()?;
    if !fork::signal_on_parent_death(assignment.controller, Signal::SIGTERM) {
        return Err(io::Error::other("controller died"));
    }
    Ok((poll, server))
}

/// Answers the bytes of a client, received in `pieces`, for fuzzing. Returns the responses, and `true` if the
/// last one ends the connection.
#[doc(hidden)]
pub fn converse<'a>(
    statistics: &Statistics,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, bool) {
    http::converse(statistics, pieces)
}
