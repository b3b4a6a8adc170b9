//! The life of the connections of a load thread: open, finish, time out, close.

use std::io;
use std::time::Duration;

use mio::{Interest, Token};

use super::{Driver, Stage, TIMEOUT, nanoseconds};
use crate::tools::bench::connection::Connection;
use crate::tools::bench::schedule::{Action, Schedule};
use crate::tools::bench::stats::{Cause, ConnectionError};
use crate::tools::bench::workload::Traffic;
use crate::tools::socket;

/// Delay before a client reconnects to a server that has not echoed, in nanoseconds.
const RETRY_DELAY: u64 = 1_000_000_000;
/// Maximum number of connections to open in one loop iteration.
const MAX_OPENED_PER_ITERATION: u32 = 64;

impl Driver<'_> {
    /// Opens as many connections as the ramp-up permits now.
    pub(super) fn open_connections(&mut self, now: u64) {
        for _ in 0..MAX_OPENED_PER_ITERATION {
            let Some(client) = self.ramp_up.start_next(now) else { return };
            if let Err(error) = self.open(client, now) {
                self.ramp_up.finish_one();
                self.stats.failed += 1;
                self.stats.count_error(error.into());
                self.schedule(Action::Retry, client, now + RETRY_DELAY);
            }
        }
    }

    fn open(&mut self, index: u32, now: u64) -> io::Result<()> {
        let workload = self.workload;
        let number = index * workload.threads + self.thread;
        let client = &mut self.clients[index as usize];
        if let Traffic::Open { interval } = workload.traffic {
            // The schedule starts with the first attempt and outlives failures.
            client.schedule.get_or_insert_with(|| Schedule::new(now, interval, number));
        }
        let sources = &workload.source_ips;
        let source = (number as usize).checked_rem(sources.len()).map(|turn| sources[turn]);
        let mut stream = socket::connect(workload.address, source, None)?;
        client.generation = client.generation.wrapping_add(1);
        let token = Token((client.generation as usize) << 32 | index as usize);
        self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let connection =
            Connection::new(stream, workload, number, client.generation, client.schedule);
        client.connection = Some(connection);
        self.connections += 1;
        self.add_deadline(Action::ConnectDeadline, index, now);
        Ok(())
    }

    /// Tells the ramp-up that a connection is no longer being opened.
    pub(super) fn finish_opening(&mut self, client: u32) {
        if let Some(connection) = &mut self.clients[client as usize].connection {
            if connection.opening {
                connection.opening = false;
                self.ramp_up.finish_one();
            }
        }
    }

    /// Starts no further message on the connection of a client.
    fn finish(&mut self, client: u32) {
        let workload = self.workload;
        if let Some(connection) = self.connection(client) {
            connection.finish(workload);
            self.queue(client);
        }
    }

    /// Starts no further message, and expects the end of the echo before a deadline.
    pub(super) fn finish_in_time(&mut self, client: u32, now: u64) {
        self.finish(client);
        self.add_deadline(Action::FinishDeadline, client, now);
    }

    pub(super) fn on_established(&mut self, client: u32) {
        let (now, workload) = (self.clock.now(), self.workload);
        let next_send = self.connection(client).and_then(|it| it.permit_due(now, workload));
        if let Some(next_send) = next_send {
            self.schedule(Action::Send, client, next_send);
            // Messages already due were permitted only after this advance.
            self.queue(client);
        }
        match workload.lifetime {
            Some(Duration::ZERO) => self.finish_in_time(client, now),
            Some(lifetime) => self.schedule(Action::Finish, client, now + nanoseconds(lifetime)),
            None => {}
        }
    }

    /// Ends a connection whose deadline has passed.
    pub(super) fn time_out(&mut self, client: u32) {
        let Some(connection) = self.connection(client) else { return };
        if connection.is_connecting() {
            let error = ConnectionError::new(Cause::ConnectTimeout, "no answer to connect");
            self.fail(client, error);
        } else if connection.in_flight() > 0 {
            let error = connection.stalled();
            self.fail(client, error);
        } else {
            // The echo is complete even if the server does not close its side.
            self.close(client);
        }
    }

    /// Counts a regular end of a connection and lets the client reconnect.
    pub(super) fn close(&mut self, client: u32) {
        self.stats.closed += 1;
        self.remove(client);
        self.ramp_up.enqueue(client);
    }

    /// Counts a failed connection. The client reconnects at once if there was an echo, and otherwise after
    /// a delay, to spare the server.
    pub(super) fn fail(&mut self, client: u32, error: ConnectionError) {
        self.stats.count_error(error);
        let Some(connection) = &self.clients[client as usize].connection else { return };
        self.stats.failed += u64::from(connection.is_connecting());
        self.stats.bytes_lost += connection.in_flight();
        let has_echoed = connection.has_echoed();
        self.remove(client);
        if has_echoed {
            self.ramp_up.enqueue(client);
        } else {
            self.schedule(Action::Retry, client, self.clock.now() + RETRY_DELAY);
        }
    }

    fn remove(&mut self, index: u32) {
        self.finish_opening(index);
        let client = &mut self.clients[index as usize];
        if let Some(connection) = client.connection.take() {
            client.schedule = connection.remaining_schedule(self.workload);
        }
        self.connections -= 1;
    }

    /// Ends the run: starts no further message or connection, and counts the messages that were due.
    pub(super) fn end_run(&mut self, now: u64) {
        self.stage = Stage::Finishing { deadline: now + TIMEOUT };
        self.stats.ended = now;
        self.ramp_up.stop();
        (0..self.clients.len() as u32).for_each(|client| self.finish(client));
        for client in &self.clients {
            let schedule = match &client.connection {
                Some(connection) => connection.remaining_schedule(self.workload),
                None => client.schedule,
            };
            self.stats.unsent += schedule.map_or(0, |schedule| schedule.due(now));
        }
    }
}
