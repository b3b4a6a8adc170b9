//! Timeouts of a connection: idle, write, linger, and the jitter of a drain.

use std::time::Duration;

use crate::config::ConnectionConfig;
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
