//! What is remembered of a connection for the access log.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;

use crate::stats::Reason;

/// A connection from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Record {
    /// The client; `None` when it had gone before it could be asked for.
    pub peer: Option<SocketAddr>,
    /// The address that it has connected to.
    pub local: Option<SocketAddr>,
    /// When it was accepted.
    pub since: Instant,
    /// Bytes that were received and answered.
    pub received: u64,
    /// Bytes of answers that the kernel has taken.
    pub sent: u64,
}

/// Is told of every connection that has ended.
pub trait Recorder: fmt::Debug {
    /// This one has, for this reason.
    fn record(&mut self, record: &Record, reason: Reason);
}

impl Record {
    pub(super) fn begin(stream: &TcpStream) -> Box<Self> {
        Box::new(Self {
            peer: stream.peer_addr().ok().map(plain),
            local: stream.local_addr().ok().map(plain),
            since: Instant::now(),
            received: 0,
            sent: 0,
        })
    }
}

/// An IPv4 address that is written as an IPv6 one, as a dual-stack socket has it, as what it is.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
