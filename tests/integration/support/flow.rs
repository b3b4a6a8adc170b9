//! Reads and writes of a stream that must not stand still, except while the kernel waits to retransmit.
//!
//! The kernel drops segments if a receive buffer or the memory of all TCP sockets (tcp(7), `tcp_mem`) is
//! exhausted. The sender doubles the time to each further retransmission, and sends nothing before, even
//! if the receiver has room again. No process can shorten that time.

use std::io;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::client::{is_timeout, uninterrupted};
use super::proc::{self, Socket};
use super::secs;

/// Longest time in which a stream may stand still while the kernel waits to retransmit.
const MAX_BACKOFF: Duration = secs(60);

/// Reads or writes, and returns the number of bytes; fails the test if the stream stands still.
#[track_caller]
pub(crate) fn flow(stream: &TcpStream, mut transfer: impl FnMut() -> io::Result<usize>) -> usize {
    let begin = Instant::now();
    loop {
        let error = match uninterrupted(&mut transfer) {
            Ok(length) => return length,
            Err(error) => error,
        };
        let ends = Ends::of(stream);
        let backoff = is_timeout(&error) && ends.wait_to_retransmit();
        let took = begin.elapsed();
        let state = format!("after {took:?}: {error}\n{ends:?}\n{}", tcp_info(stream));
        assert!(backoff && took < MAX_BACKOFF, "the stream does not flow, {state}");
        println!("the kernel waits to retransmit, {state}");
    }
}

/// Both sockets of a connection; `None` for one that is closed.
#[derive(Debug)]
struct Ends {
    client: Option<Socket>,
    server: Option<Socket>,
}

impl Ends {
    fn of(client: &TcpStream) -> Self {
        let ports =
            [client.local_addr(), client.peer_addr()].map(|end| end.map_or(0, |end| end.port()));
        let mut ends = Self { client: None, server: None };
        for socket in proc::sockets() {
            match [socket.local.port(), socket.remote.port()] {
                found if found == ports => ends.client = Some(socket),
                [local, remote] if [remote, local] == ports => ends.server = Some(socket),
                _ => {}
            }
        }
        ends
    }

    /// Returns `true` if only a retransmission can move bytes: one end waits to retransmit, and the
    /// process at the other end has read everything that has arrived.
    fn wait_to_retransmit(&self) -> bool {
        let (Some(client), Some(server)) = (&self.client, &self.server) else { return false };
        let lost = |from: &Socket, to: &Socket| from.retransmits && to.queued == 0;
        lost(client, server) || lost(server, client)
    }
}

/// Returns what ss(8) shows about both ends: queues, timers, backoff, drops.
fn tcp_info(client: &TcpStream) -> String {
    let port = client.local_addr().map_or(0, |local| local.port());
    let filter = format!("( sport = :{port} or dport = :{port} )");
    match Command::new("ss").args(["-tinmo", &filter]).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => format!("cannot run ss: {error}"),
    }
}
