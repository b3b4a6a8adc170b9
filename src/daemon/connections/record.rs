//! Data of a connection for the access log.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;

use crate::daemon::stats::Reason;

/// Addresses, duration, and byte counts of a connection.
#[derive(Clone, Debug)]
pub struct Record {
    /// Address of the client; `None` if the client was gone before it could be read.
    pub peer: Option<SocketAddr>,
    /// Address that the client connected to.
    pub local: Option<SocketAddr>,
    /// Time of the accept.
    pub since: Instant,
    /// Bytes received and answered.
    pub received: u64,
    /// Bytes of answers that the kernel has taken.
    pub sent: u64,
}

/// Receives the record of every finished connection.
pub trait Recorder: fmt::Debug {
    /// Records a connection that was closed for `reason`.
    fn record(&mut self, record: &Record, reason: Reason);
}

impl Record {
    pub(super) fn begin(stream: &TcpStream) -> Box<Self> {
        Box::new(Self {
            peer: stream.peer_addr().ok().map(canonical),
            local: stream.local_addr().ok().map(canonical),
            since: Instant::now(),
            received: 0,
            sent: 0,
        })
    }
}

/// Returns `address` with an IPv4-mapped IPv6 address, as dual-stack sockets have it, written as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
