//! The connections of a worker: a table for each kind of listener.
//!
//! Listeners with equal settings share a table, with its buffers and pipes.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;

use crate::config::Endpoint;
use crate::daemon::access_log::AccessLog;
use crate::daemon::assignment::Assignment;
use crate::daemon::connections::record::Recorder;
use crate::daemon::connections::table::Table;
use crate::daemon::connections::{Connections, table_of};
use crate::daemon::services::Echo;
use crate::event_loop::timers::Tick;

/// All connections of a worker.
#[derive(Debug)]
pub(super) struct Tables<'a> {
    /// Endpoint of each listener, and the number of its table.
    listeners: Vec<(Endpoint, usize)>,
    tables: Vec<Box<dyn Table + 'a>>,
}

impl<'a> Tables<'a> {
    /// Creates the tables of the configured listeners.
    pub(super) fn new(assignment: &Assignment<'a>) -> Self {
        let config = assignment.config;
        let access_log = AccessLog::open(&config.log, assignment.slot.0, assignment.block);
        let access_log = access_log.map(|log| Rc::new(RefCell::new(log)));
        let recorder = || access_log.clone().map(|log| Box::new(log) as Box<dyn Recorder + 'a>);
        let echo = Connections::new(0, &config.connection, Echo, assignment.block, recorder());
        let listeners = config.listen.endpoints.iter().map(|endpoint| (*endpoint, 0));
        Self { listeners: listeners.collect(), tables: vec![Box::new(echo)] }
    }

    /// Returns the number of the table for connections to this address. Those of an address that the
    /// configuration does not have, because a reload has dropped it, go to the first one.
    pub(super) fn number_for(&self, local: SocketAddr) -> usize {
        let rank = |endpoint: &Endpoint| rank(endpoint.address, local);
        let ranked = self.listeners.iter().map(|(endpoint, table)| (rank(endpoint), *table));
        ranked.max_by_key(|(rank, _)| *rank).map_or(0, |(_, table)| table)
    }

    /// Adds a connection to a table.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn insert(
        &mut self,
        number: usize,
        registry: &Registry,
        stream: TcpStream,
        now: Tick,
    ) -> io::Result<()> {
        self.tables[number].insert(registry, stream, now)
    }

    /// Returns the number of open connections.
    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(|table| table.len()).sum()
    }

    /// Returns `true` if no connection is open.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.is_empty())
    }

    /// Notes an event of a connection.
    pub(super) fn mark(&mut self, event: &Event) {
        if let Some(table) = self.tables.get_mut(table_of(event.token())) {
            table.mark(event);
        }
    }

    /// See [`Connections::work`].
    pub(super) fn work(&mut self, now: Tick) {
        self.tables.iter_mut().for_each(|table| table.work(now));
    }

    /// Returns `true` if a connection has work left.
    pub(super) fn has_work(&self) -> bool {
        self.tables.iter().any(|table| table.has_work())
    }

    /// Returns the time of the next timer.
    pub(super) fn next_timer(&self) -> Option<Tick> {
        self.tables.iter().filter_map(|table| table.next_timer()).min()
    }

    /// See [`Connections::drain`].
    pub(super) fn drain(&mut self, now: Tick, spread: Option<Duration>) {
        self.tables.iter_mut().for_each(|table| table.drain(now, spread));
    }

    /// See [`Connections::housekeeping`].
    pub(super) fn housekeeping(&mut self) {
        self.tables.iter_mut().for_each(|table| table.housekeeping());
    }

    /// See [`Connections::reset_all`].
    pub(super) fn reset_all(&mut self, now: Tick) -> usize {
        self.tables.iter_mut().map(|table| table.reset_all(now)).sum()
    }
}

/// Returns how well a configured address fits one that a client has connected to: the address itself
/// before a wildcard, the port itself before a free one.
fn rank(configured: SocketAddr, local: SocketAddr) -> u8 {
    let ip = match configured.ip() {
        ip if ip.to_canonical() == local.ip().to_canonical() => 2,
        ip if ip.is_unspecified() => u8::from(ip.is_ipv6() || local.ip().to_canonical().is_ipv4()),
        _ => 0,
    };
    let port = match configured.port() {
        port if port == local.port() => 2,
        0 => 1,
        _ => 0,
    };
    if ip == 0 || port == 0 { 0 } else { 10 * port + ip }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Scope;

    #[test]
    fn a_connection_goes_to_the_table_of_the_closest_listener() {
        let listeners = ["[::]:7", "127.0.0.1:7", "0.0.0.0:9", "[::1]:0", "10.0.0.1:0"];
        let endpoint = |text: &str| Endpoint {
            address: text.parse().expect("an address"),
            scope: Scope::DualStack,
        };
        let listeners = listeners.iter().enumerate().map(|(table, text)| (endpoint(text), table));
        let tables = Tables { listeners: listeners.collect(), tables: Vec::new() };
        for (local, table) in [
            ("[::1]:7", 0),
            ("10.0.0.1:7", 0),
            ("[::ffff:10.0.0.1]:7", 0),
            ("127.0.0.1:7", 1),
            ("[::ffff:127.0.0.1]:7", 1),
            ("127.0.0.1:9", 2),
            ("[::1]:40000", 3),
            ("10.0.0.1:40000", 4),
        ] {
            assert_eq!(tables.number_for(local.parse().expect("an address")), table, "{local}");
        }
    }
}
