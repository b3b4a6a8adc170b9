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

use crate::config::{ListenConfig, ListenerConfig, ServiceName, services};
use crate::daemon::access_log::AccessLog;
use crate::daemon::assignment::Assignment;
use crate::daemon::connections::record::Recorder;
use crate::daemon::connections::table::Table;
use crate::daemon::connections::{Connections, table_of};
use crate::daemon::services::{self, Create, Identity, ServiceContext};
use crate::daemon::stats::StatsBlock;
use crate::event_loop::timers::Tick;

/// All connections of a worker.
#[derive(Debug)]
pub(super) struct Tables<'a> {
    config: &'a ListenConfig,
    /// Each table, with the first of its listeners.
    tables: Vec<(&'a ListenerConfig, Box<dyn Table + 'a>)>,
}

impl<'a> Tables<'a> {
    /// Creates the tables of the configured listeners.
    pub(super) fn new(assignment: &Assignment<'a>) -> Self {
        let (slot, block) = (assignment.slot.0, assignment.block);
        let access_log = AccessLog::open(&assignment.config.log, slot, block);
        let access_log = access_log.map(|log| Rc::new(RefCell::new(log)));
        let recorder = || access_log.clone().map(|log| Box::new(log) as Box<dyn Recorder + 'a>);
        Self::of(&assignment.config.listen, &Identity::of_worker(slot), block, recorder)
    }

    fn of(
        config: &'a ListenConfig,
        identity: &Identity,
        block: StatsBlock<'a>,
        recorder: impl Fn() -> Option<Box<dyn Recorder + 'a>>,
    ) -> Self {
        let tables = (0..).zip(config.kinds()).map(|(number, listener)| {
            (listener, open(number, listener, identity, block, recorder()))
        });
        Self { config, tables: tables.collect() }
    }

    /// Returns the number of the table for connections to this address.
    pub(super) fn number_for(&self, local: SocketAddr) -> usize {
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let listener = self.config.listener_at(local);
        let has = |(first, _): &(&ListenerConfig, _)| first.serves_like(listener);
        self.tables.iter().position(has).unwrap_or_default()
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
        self.tables[number].1.insert(registry, stream, now)
    }

    /// Returns the number of open connections.
    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(|(_, table)| table.len()).sum()
    }

    /// Returns `true` if no connection is open.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.iter().all(|(_, table)| table.is_empty())
    }

    /// Notes an event of a connection.
    pub(super) fn mark(&mut self, event: &Event) {
        if let Some((_, table)) = self.tables.get_mut(table_of(event.token())) {
            table.mark(event);
        }
    }

    /// See [`Connections::work`].
    pub(super) fn work(&mut self, now: Tick) {
        self.tables.iter_mut().for_each(|(_, table)| table.work(now));
    }

    /// Returns `true` if a connection has work left.
    pub(super) fn has_work(&self) -> bool {
        self.tables.iter().any(|(_, table)| table.has_work())
    }

    /// Returns the time of the next timer.
    pub(super) fn next_timer(&self) -> Option<Tick> {
        self.tables.iter().filter_map(|(_, table)| table.next_timer()).min()
    }

    /// See [`Connections::drain`].
    pub(super) fn drain(&mut self, now: Tick, spread: Option<Duration>) {
        self.tables.iter_mut().for_each(|(_, table)| table.drain(now, spread));
    }

    /// See [`Connections::housekeeping`].
    pub(super) fn housekeeping(&mut self) {
        self.tables.iter_mut().for_each(|(_, table)| table.housekeeping());
    }

    /// See [`Connections::reset_all`].
    pub(super) fn reset_all(&mut self, now: Tick) -> usize {
        self.tables.iter_mut().map(|(_, table)| table.reset_all(now)).sum()
    }
}

/// Opens a table for the service of a listener.
fn open<'a>(
    number: u32,
    listener: &'a ListenerConfig,
    identity: &Identity,
    block: StatsBlock<'a>,
    recorder: Option<Box<dyn Recorder + 'a>>,
) -> Box<dyn Table + 'a> {
    let connection = &listener.connection;
    let buffer_size = connection.buffer_size;
    let context = ServiceContext { config: &listener.service, buffer_size, identity };
    macro_rules! open {
        ($($Type:ident $name:ident $purpose:literal $keys:tt,)*) => {
            match listener.service.name {
                $(ServiceName::$Type => {
                    let service = services::$Type::create(&context);
                    Box::new(Connections::new(number, connection, service, block, recorder))
                })*
            }
        };
    }
    services!(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Layers, OptionDefinition};
    use crate::daemon::ids::BlockId;
    use crate::daemon::stats::Statistics;

    #[test]
    fn listeners_that_serve_alike_share_a_table() {
        let listen = OptionDefinition::find("listen").expect("an option");
        let listeners = "*:1,lines://*:2,echo://*:3,lines://*:4?quit=true,*:5?splice=off,\
                         discard://127.0.0.1:0";
        let command_line = listen.parse(listeners).expect("listeners");
        let layers = Layers { command_line, ..Layers::default() };
        let config = Config::load(&layers).expect("valid");
        let statistics = Statistics::new().expect("memory");
        let (block, identity) = (statistics.block(BlockId(0)), Identity::of_worker(1));
        let tables = Tables::of(&config.listen, &identity, block, || None);
        assert_eq!(tables.tables.len(), 5);
        for (local, number) in [
            ("[::1]:1", 0),
            ("[::ffff:10.0.0.1]:2", 1),
            ("10.0.0.1:3", 0),
            ("[::1]:4", 2),
            ("127.0.0.1:5", 3),
            ("127.0.0.1:40000", 4),
        ] {
            assert_eq!(tables.number_for(local.parse().expect("an address")), number, "{local}");
        }
    }
}
