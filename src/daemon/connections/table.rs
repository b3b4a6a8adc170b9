//! The table of connections of a listener, whatever its service.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;

use super::Connections;
use crate::daemon::services::Service;
use crate::event_loop::timers::Tick;

/// [`Connections`] without its type of service. A call serves many connections, or an event: on the way
/// of the bytes nothing is called through it.
pub trait Table: Debug {
    /// See [`Connections::insert`].
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    fn insert(&mut self, registry: &Registry, stream: TcpStream, now: Tick) -> io::Result<()>;

    /// See [`Connections::len`].
    fn len(&self) -> usize;

    /// See [`Connections::is_empty`].
    fn is_empty(&self) -> bool;

    /// See [`Connections::mark`].
    fn mark(&mut self, event: &Event);

    /// See [`Connections::work`].
    fn work(&mut self, now: Tick);

    /// See [`Connections::has_work`].
    fn has_work(&self) -> bool;

    /// See [`Connections::next_timer`].
    fn next_timer(&self) -> Option<Tick>;

    /// See [`Connections::drain`].
    fn drain(&mut self, now: Tick, spread: Option<Duration>);

    /// See [`Connections::housekeeping`].
    fn housekeeping(&mut self);

    /// See [`Connections::reset_all`].
    fn reset_all(&mut self, now: Tick) -> usize;
}

impl<S: Service> Table for Connections<'_, S> {
    fn insert(&mut self, registry: &Registry, stream: TcpStream, now: Tick) -> io::Result<()> {
        self.insert(registry, stream, now)
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn mark(&mut self, event: &Event) {
        self.mark(event);
    }

    fn work(&mut self, now: Tick) {
        self.work(now);
    }

    fn has_work(&self) -> bool {
        self.has_work()
    }

    fn next_timer(&self) -> Option<Tick> {
        self.next_timer()
    }

    fn drain(&mut self, now: Tick, spread: Option<Duration>) {
        self.drain(now, spread);
    }

    fn housekeeping(&mut self) {
        self.housekeeping();
    }

    fn reset_all(&mut self, now: Tick) -> usize {
        self.reset_all(now)
    }
}
