//! Data of a connection for the access log.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::transport::Transport;
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

/// A recorder of several tables.
impl<R: Recorder> Recorder for Rc<RefCell<R>> {
    fn record(&mut self, record: &Record, reason: Reason) {
        self.borrow_mut().record(record, reason);
    }
}

impl Record {
    pub(super) fn begin(transport: &impl Transport) -> Box<Self> {
        Box::new(Self {
            peer: transport.peer(),
            local: transport.local(),
            since: Instant::now(),
            received: 0,
            sent: 0,
        })
    }
}
