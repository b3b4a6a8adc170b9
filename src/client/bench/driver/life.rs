//! The life of a thread's connections: opened, finished, given up, closed.

use std::io;
use std::time::Duration;

use mio::{Interest, Token};

use super::{Driver, PATIENCE, Stage, nanoseconds};
use crate::client::bench::connection::Connection;
use crate::client::bench::plan::Traffic;
use crate::client::bench::schedule::{Task, Timetable};
use crate::client::bench::tally::{Cause, Trouble};
use crate::client::socket;

/// Nanoseconds from a failed try to open a connection to the next.
const RETRY: u64 = 1_000_000_000;
/// Connections begun in a turn: the open ones want theirs.
const OPENING_PER_TURN: u32 = 64;

impl Driver<'_> {
    /// Begins to open connections, as many as may be now.
    pub(super) fn open_some(&mut self, now: u64) {
        for _ in 0..OPENING_PER_TURN {
            let Some(index) = self.opening.take(now) else { return };
            if let Err(error) = self.open(index, now) {
                self.opening.arrived();
                self.tally.failed += 1;
                self.tally.error(error.into());
                self.schedule(Task::Retry, index, now + RETRY);
            }
        }
    }

    fn open(&mut self, index: u32, now: u64) -> io::Result<()> {
        let number = index * self.plan.threads + self.thread;
        if let Traffic::Open { interval } = self.plan.traffic {
            // From the first try on, whatever becomes of that and of all connections to come.
            let table = &mut self.slots[index as usize].timetable;
            table.get_or_insert_with(|| Timetable::new(now, interval, number));
        }
        let sources = &self.plan.sources;
        let source = (number as usize).checked_rem(sources.len()).map(|place| sources[place]);
        let mut stream = socket::connect(self.plan.address, source, None)?;
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let token = Token((slot.generation as usize) << 32 | index as usize);
        self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (life, timetable) = (slot.generation, slot.timetable);
        slot.connection = Some(Connection::new(stream, self.plan, number, life, timetable));
        self.present += 1;
        let deadline = self.entry(Task::ConnectDeadline, index, now + PATIENCE);
        self.deadlines.push_back(deadline);
        Ok(())
    }

    /// The connection is no longer on its way.
    pub(super) fn note_arrival(&mut self, index: u32) {
        if let Some(connection) = &mut self.slots[index as usize].connection {
            if connection.on_its_way {
                connection.on_its_way = false;
                self.opening.arrived();
            }
        }
    }

    /// No further message on this connection.
    fn finish(&mut self, index: u32) {
        if let Some(connection) = &mut self.slots[index as usize].connection {
            connection.finish(self.plan);
            self.queue(index);
        }
    }

    /// The same, and the echo must be back within some time.
    pub(super) fn finish_in_time(&mut self, index: u32, now: u64) {
        self.finish(index);
        let deadline = self.entry(Task::EndDeadline, index, now + PATIENCE);
        self.deadlines.push_back(deadline);
    }

    pub(super) fn on_opened(&mut self, index: u32) {
        let now = self.clock.now();
        if let Some(connection) = &mut self.slots[index as usize].connection {
            if let Some(first) = connection.release_due(now, self.plan) {
                self.schedule(Task::Send, index, first);
                // One that is due at once has been released after its turn.
                self.queue(index);
            }
        }
        match self.plan.lifetime {
            Some(Duration::ZERO) => self.finish_in_time(index, now),
            Some(lifetime) => self.schedule(Task::Finish, index, now + nanoseconds(lifetime)),
            None => {}
        }
    }

    /// A connection has taken too long.
    pub(super) fn give_up(&mut self, index: u32) {
        let Some(connection) = &self.slots[index as usize].connection else { return };
        if connection.is_connecting() {
            let trouble = Trouble::new(Cause::ConnectTimeout, "no answer to connect");
            self.fail(index, trouble);
        } else if connection.owed() > 0 {
            let trouble = connection.stalled();
            self.fail(index, trouble);
        } else {
            // A server that does not close behind us has echoed all the same.
            self.close(index);
        }
    }

    /// A connection has ended in order; another one takes its place while the run goes on.
    pub(super) fn close(&mut self, index: u32) {
        self.tally.closed += 1;
        self.remove(index);
        self.opening.want(index);
    }

    /// A connection has failed. One that has echoed is opened anew at once; otherwise the server
    /// gets a rest.
    pub(super) fn fail(&mut self, index: u32, trouble: Trouble) {
        self.tally.error(trouble);
        let Some(connection) = &self.slots[index as usize].connection else { return };
        self.tally.failed += u64::from(connection.is_connecting());
        self.tally.bytes_lost += connection.owed();
        let has_echoed = connection.has_echoed();
        self.remove(index);
        if has_echoed {
            self.opening.want(index);
        } else {
            self.schedule(Task::Retry, index, self.clock.now() + RETRY);
        }
    }

    fn remove(&mut self, index: u32) {
        self.note_arrival(index);
        let slot = &mut self.slots[index as usize];
        if let Some(connection) = slot.connection.take() {
            slot.timetable = connection.timetable_left(self.plan);
        }
        self.present -= 1;
    }

    /// The run is over: no further message.
    pub(super) fn end(&mut self, now: u64) {
        self.stage = Stage::Ending(now + PATIENCE);
        self.tally.ended = now;
        self.opening.stop();
        (0..self.slots.len() as u32).for_each(|index| self.finish(index));
        for slot in &self.slots {
            let left = |connection: &Connection| connection.timetable_left(self.plan);
            let table = slot.connection.as_ref().map_or(slot.timetable, left);
            self.tally.unsent += table.map_or(0, |table| table.due(now));
        }
    }
}
