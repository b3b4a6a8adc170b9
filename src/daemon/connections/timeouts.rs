//! Timeouts of a connection: idle, write, linger, and the jitter of a drain.
//!
//! [`Timeouts`] computes deadlines and is pure. The timers of [`Connections`] end the connections whose
//! deadline has passed; a drain shortens the deadlines.

use std::time::Duration;

use mio::Token;

use super::connection::{Context, Next};
use super::transport::Transport;
use super::{Connections, context, enqueue, find, key_of, token_of};
use crate::config::{ConnectionConfig, IdleClose};
use crate::daemon::services::Service;
use crate::daemon::stats::Reason;
use crate::event_loop::timers::{Tick, Wait};

/// Time without a moved byte after which a draining worker closes a connection.
const QUIET: Duration = Duration::from_secs(1);

/// Time between two checks of a client that has bytes to read, in 2^-32 of the write timeout: a
/// sixteenth.
const CHECK_INTERVAL: u32 = 1 << 28;

/// Time that a client has for each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// Time to send something.
    pub(super) idle: Wait,
    /// Time to read some of the bytes that wait for the client.
    pub(super) write: Wait,
    /// Time to send a FIN after the daemon's.
    pub(super) linger: Wait,
    jitter: Option<DrainJitter>,
}

/// Random delay before an idle connection is closed, so that a drain does not close all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DrainJitter {
    start: Tick,
    spread: Wait,
}

impl Timeouts {
    /// Returns the configured timeouts.
    pub(super) fn new(config: &ConnectionConfig) -> Self {
        let wait = |limit: Option<Duration>| limit.map_or(Wait::FOREVER, Wait::from);
        Self {
            idle: wait(config.idle_timeout),
            write: wait(config.write_timeout),
            linger: config.linger_timeout.into(),
            jitter: None,
        }
    }

    /// Returns the timeouts of a worker that drains because the daemon stops: quiet connections are
    /// closed at once.
    pub(super) fn draining(self) -> Self {
        let quiet = Wait::from(QUIET);
        Self { idle: self.idle.min(quiet), linger: self.linger.min(quiet), jitter: None, ..self }
    }

    /// Returns the timeouts of a worker that was replaced: quiet connections are closed within
    /// `spread` from `now`.
    pub(super) fn retiring(self, now: Tick, spread: Duration) -> Self {
        let jitter = DrainJitter { start: now, spread: spread.into() };
        Self { idle: self.idle.min(QUIET.into()), jitter: Some(jitter), ..self }
    }

    /// Returns the time of the next check of a client that has bytes to read. A check shows only that
    /// the client has read since the check before, so a reset may come one interval late.
    pub(super) fn next_check(&self, now: Tick) -> Tick {
        now.after(self.write.share(CHECK_INTERVAL))
    }

    /// Returns the idle deadline of a connection on which a byte last moved at `last_moved`. The
    /// `number`, different for each connection, selects its point in the jitter.
    pub(super) fn idle_deadline(&self, last_moved: Tick, number: u32) -> Tick {
        let quiet = last_moved.after(self.idle);
        self.jitter.map_or(quiet, |jitter| {
            // Multiplying by an odd constant scatters consecutive numbers.
            let scattered = number.wrapping_mul(0x9E37_79B1);
            quiet.max(jitter.start.after(jitter.spread.share(scattered)))
        })
    }
}

/// The timeout that bounds a connection in its current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// The client has to send.
    Idle,
    /// The client has to read.
    Write,
    /// The client has to send its FIN. The connection is closed for this reason.
    Linger(Reason),
}

impl<S: Service, X: Transport> Connections<'_, S, X> {
    /// Begins to drain: from now on a connection ends once it is quiet, at a random point of `spread` if
    /// there is one.
    pub fn drain(&mut self, now: Tick, spread: Option<Duration>) {
        self.draining = true;
        self.idle_close = IdleClose::Fin;
        self.idle_message = Box::default();
        self.timeouts = match spread {
            Some(spread) => self.timeouts.retiring(now, spread),
            None => self.timeouts.draining(),
        };
        for (key, connection) in &mut self.table {
            if S::PRODUCES {
                // It is never quiet.
                connection.begin_close(Reason::Drain, b"", &mut context!(self, now));
                let token = token_of(key, connection.generation);
                enqueue(&mut self.queue, connection, token);
            }
            let deadline = connection.deadline(&self.timeouts);
            if deadline < connection.armed {
                connection.armed = self.timers.arm(deadline, key as u32);
            }
        }
    }

    /// Checks the connections whose timers have fired.
    pub(super) fn fire_timers(&mut self, now: Tick) {
        self.timers.advance(now, &mut self.due);
        while let Some((fired, key)) = self.due.pop() {
            // Any other entry was superseded by an earlier one, or is a former connection's. (A former
            // connection's entry for the same tick only causes a second check.)
            match self.table.get(key as usize) {
                Some(connection) if connection.armed == fired => {
                    self.check_deadline(token_of(key as usize, connection.generation), now);
                }
                _ => {}
            }
        }
    }

    /// Closes or begins to close a connection whose deadline has passed; otherwise arms its timer again.
    fn check_deadline(&mut self, token: Token, now: Tick) {
        let Some(connection) = find(&mut self.table, token) else { return };
        if connection.is_due(&self.timeouts, now) {
            // The kernel may have bytes or room that no event has reported yet, if this process was
            // stopped, or the batch of events was full.
            let mut context = context!(self, now);
            match connection.recheck(&mut context) {
                Next::Wait => {}
                Next::Again => enqueue(&mut self.queue, connection, token),
                Next::Close(reason) => return self.close(token, reason, now),
            }
        }
        if connection.deadline(&self.timeouts) > now {
            let check = connection.next_check(&self.timeouts, now);
            connection.armed = self.timers.arm(check, key_of(token));
            return;
        }
        connection.armed = Tick::NEVER;
        match connection.timeout() {
            Timeout::Linger(reason) => self.close(token, reason, now),
            Timeout::Write => {
                connection.reset_on_close();
                self.close(token, Reason::WriteTimeout, now);
            }
            Timeout::Idle if self.idle_close == IdleClose::Reset => {
                connection.reset_on_close();
                self.close(token, Reason::Idle, now);
            }
            Timeout::Idle => {
                let reason = if self.draining { Reason::Drain } else { Reason::Idle };
                let mut context = context!(self, now);
                connection.begin_close(reason, &self.idle_message, &mut context);
                enqueue(&mut self.queue, connection, token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeouts() -> Timeouts {
        let tenth = Wait::from(Duration::from_secs(10));
        Timeouts { idle: tenth, write: tenth, linger: tenth, jitter: None }
    }

    #[test]
    fn drain_jitter_covers_the_whole_spread() {
        let now = Tick::default().after(Duration::from_secs(100).into());
        let retiring = timeouts().retiring(now, Duration::from_secs(10));
        let last = now.after(Duration::from_secs(10).into());
        let mut quarters = [0; 4];
        for number in 0..1000 {
            let at = retiring.idle_deadline(Tick::default(), number);
            assert!(at >= now && at <= last);
            let quarter =
                [2.5, 5.0, 7.5].map(|limit| now.after(Duration::from_secs_f64(limit).into()));
            quarters[quarter.iter().filter(|limit| at > **limit).count()] += 1;
        }
        assert!(quarters.iter().all(|count| (200..300).contains(count)), "{quarters:?}");
    }

    #[test]
    fn a_drain_does_not_close_a_busy_connection() {
        let now = Tick::default().after(Duration::from_secs(100).into());
        let retiring = timeouts().retiring(Tick::default(), Duration::ZERO);
        assert!(retiring.idle_deadline(now, 1) > now);
        assert!(timeouts().draining().idle_deadline(now, 1) > now);
    }
}
