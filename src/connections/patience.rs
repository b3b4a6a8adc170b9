//! How long a worker waits for a client to do something.

use std::time::Duration;

use crate::config::ConnectionConfig;
use crate::event_loop::timers::{Tick, Wait};
use crate::stats::Reason;

/// While draining, a connection on which nothing has moved for so long has nothing under way.
const QUIET: Duration = Duration::from_secs(1);

/// Time between two looks at a client that something waits for, of 2^32 of the write timeout: a
/// sixteenth.
const LOOK: u32 = 1 << 28;

/// What a connection may take its time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// To send anything.
    pub(super) idle: Wait,
    /// To read anything of what waits for it.
    pub(super) write: Wait,
    /// To close, once we have.
    pub(super) linger: Wait,
    farewell: Option<Farewell>,
}

/// Draining gently: everybody is seen out at a time of their own, not all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Farewell {
    from: Tick,
    spread: Wait,
}

impl Patience {
    /// The configured patience.
    pub(super) fn new(config: &ConnectionConfig) -> Self {
        let wait = |limit: Option<Duration>| limit.map_or(Wait::FOREVER, Wait::from);
        Self {
            idle: wait(config.idle_timeout),
            write: wait(config.write_timeout),
            linger: config.linger_timeout.into(),
            farewell: None,
        }
    }

    /// The same from now on for a worker that drains before it stops: quiet connections go now, busy
    /// ones still end their work.
    pub(super) fn while_stopping(self) -> Self {
        let quiet = Wait::from(QUIET);
        Self { idle: self.idle.min(quiet), linger: self.linger.min(quiet), farewell: None, ..self }
    }

    /// The same for a worker whose successor serves already: quiet connections go within `spread`.
    pub(super) fn while_retiring(self, now: Tick, spread: Duration) -> Self {
        let farewell = Farewell { from: now, spread: spread.into() };
        Self { idle: self.idle.min(QUIET.into()), farewell: Some(farewell), ..self }
    }

    /// When to see again whether a client takes something of what waits for it. A look says only that
    /// it has since the look before: a client is cut off so much too late.
    pub(super) fn next_look(&self, now: Tick) -> Tick {
        now.after(self.write.share(LOOK))
    }

    /// When a connection that last moved at `last_moved` has been idle for too long. `number` is any
    /// number that differs from connection to connection.
    pub(super) fn idle_deadline(&self, last_moved: Tick, number: u32) -> Tick {
        let quiet = last_moved.after(self.idle);
        self.farewell.map_or(quiet, |farewell| {
            // Multiplying by an odd constant scatters numbers that follow each other.
            let scattered = number.wrapping_mul(0x9E37_79B1);
            quiet.max(farewell.from.after(farewell.spread.share(scattered)))
        })
    }
}

/// What a client has failed to do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Send.
    Idle,
    /// Read.
    Write,
    /// Close, after we had, for this reason.
    Linger(Reason),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        let tenth = Wait::from(Duration::from_secs(10));
        Patience { idle: tenth, write: tenth, linger: tenth, farewell: None }
    }

    #[test]
    fn farewells_are_spread_over_the_whole_time() {
        let now = Tick::default().after(Duration::from_secs(100).into());
        let retiring = patience().while_retiring(now, Duration::from_secs(10));
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
    fn a_busy_connection_is_not_seen_out() {
        let now = Tick::default().after(Duration::from_secs(100).into());
        let retiring = patience().while_retiring(Tick::default(), Duration::ZERO);
        assert!(retiring.idle_deadline(now, 1) > now);
        assert!(patience().while_stopping().idle_deadline(now, 1) > now);
    }
}
