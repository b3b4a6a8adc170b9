//! What the service manager is told (sd_notify(3)), and when. Pure: the texts come out, somebody
//! else sends them.
//!
//! Each text is one datagram. They follow from comparing what is with what was said last, so it
//! does not matter how often, or upon which event, one asks.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::stats::Phase;

/// A status is news at most so often, and so is a plea for more time.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How much longer than its drain the whole daemon may take to end.
const EPILOGUE: Duration = Duration::from_secs(2);

/// What there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The phase of the daemon. [`Phase::Reloading`] must be shown to the [`Notifier`] at least once
    /// in every reload, even one that fails at once: the manager waits for it.
    pub phase: Phase,
    /// Workers that accept connections.
    pub workers_ready: u32,
    /// Workers that there should be.
    pub workers_wanted: u32,
    /// Connections open now.
    pub connections: u64,
    /// Whether enough workers' loops turn for the daemon to be worth keeping: if not, the watchdog
    /// gets nothing, and the manager will kill and restart us.
    pub healthy: bool,
    /// How long draining may still take; of no interest in other phases.
    pub drain_left: Duration,
}

impl View {
    fn status(&self) -> String {
        let connections = match self.connections {
            1 => "1 connection".to_owned(),
            count => format!("{count} connections"),
        };
        match self.phase {
            Phase::Starting | Phase::Serving => {
                format!("{}/{} workers, {connections}", self.workers_ready, self.workers_wanted)
            }
            Phase::Reloading => "reloading".to_owned(),
            Phase::Draining => format!("draining, {connections}"),
        }
    }
}

/// Knows what was said and what is due.
#[derive(Debug)]
pub struct Notifier {
    /// The phase that was announced.
    phase: Phase,
    status: String,
    status_at: Option<Instant>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    /// Half of what the manager grants: one message may come late.
    every: Duration,
    /// `None`: at once.
    due: Option<Instant>,
}

impl Notifier {
    /// One that has said nothing yet. `watchdog` is what [`watchdog_interval`] has found.
    ///
    /// After a re-exec a new one will do: whatever it says twice does no harm, and its first
    /// `WATCHDOG=1` comes at once, as the last one of the old image may be half an interval old.
    pub fn new(watchdog: Option<Duration>) -> Self {
        let watchdog = watchdog.map(|interval| Watchdog { every: interval / 2, due: None });
        Self { phase: Phase::Starting, status: String::new(), status_at: None, watchdog }
    }

    /// What to send now, in this order, each text in a datagram of its own.
    ///
    /// To be asked whenever the phase changes, at least once a second, and at the
    /// [`deadline`](Self::deadline). `monotonic_usec` is `CLOCK_MONOTONIC` in microseconds, read
    /// for this call: the manager takes a reload for an earlier one if it is older than its
    /// request.
    pub fn tick(&mut self, view: View, now: Instant, monotonic_usec: u64) -> Vec<String> {
        let mut texts = Vec::new();
        let status = view.status();
        let new_phase = std::mem::replace(&mut self.phase, view.phase) != view.phase;
        let news = match view.phase {
            Phase::Starting => None,
            Phase::Serving if new_phase => Some("READY=1\n".to_owned()),
            Phase::Reloading if new_phase => {
                Some(format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}\n"))
            }
            Phase::Draining if new_phase => Some("STOPPING=1\n".to_owned()),
            _ if self.has_just_spoken(now) => None,
            Phase::Draining => {
                Some(format!("EXTEND_TIMEOUT_USEC={}\n", more_time(view.drain_left)))
            }
            Phase::Serving | Phase::Reloading => (status != self.status).then(String::new),
        };
        if let Some(news) = news {
            texts.push(format!("{news}STATUS={status}"));
            self.status = status;
            self.status_at = Some(now);
        }
        if let Some(watchdog) = &mut self.watchdog {
            texts.extend(watchdog.tick(view.healthy, now));
        }
        texts
    }

    /// When to ask again for the watchdog's sake, or because more time is needed; `None` if the second
    /// that always passes at most is soon enough.
    pub fn deadline(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().and_then(|watchdog| watchdog.due);
        let spoken = self.status_at.filter(|_| self.phase == Phase::Draining);
        watchdog.into_iter().chain(spoken.map(|at| at + STATUS_INTERVAL)).min()
    }

    /// A text could not be sent, or was lost: the next [`tick`](Self::tick) says all again that
    /// matters. The manager takes no harm from hearing it twice.
    pub fn unheard(&mut self) {
        self.phase = Phase::Starting;
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.due = None;
        }
    }

    fn has_just_spoken(&self, now: Instant) -> bool {
        self.status_at.is_some_and(|at| now.saturating_duration_since(at) < STATUS_INTERVAL)
    }
}

impl Watchdog {
    fn tick(&mut self, healthy: bool, now: Instant) -> Option<String> {
        if self.due.is_some_and(|due| now < due) {
            return None;
        }
        // Half an interval is left, in which a recovery should be noticed in time.
        let pause = if healthy { self.every } else { self.every / 8 };
        self.due = Some(now + pause);
        healthy.then(|| "WATCHDOG=1".to_owned())
    }
}

/// How long the manager is to wait, in microseconds from now. It ignores 0 and 2^64 - 1, never
/// shortens what it grants anyway, and grants the watchdog the same.
fn more_time(drain_left: Duration) -> u64 {
    let wanted = drain_left.saturating_add(EPILOGUE).as_micros();
    u64::try_from(wanted).unwrap_or(u64::MAX).min(u64::MAX - 1)
}

/// How long the manager waits for a `WATCHDOG=1` of process `pid`, which is this one, before it
/// kills it: `WATCHDOG_USEC`, if `WATCHDOG_PID` is ours or not set (sd_watchdog_enabled(3)).
/// `variables` looks up environment variables. `None` for no watchdog, and for nonsense.
pub fn watchdog_interval(
    pid: Pid,
    variables: impl Fn(&str) -> Option<OsString>,
) -> Option<Duration> {
    let number = |name| variables(name).map(|value| value.to_str()?.parse::<u64>().ok());
    let meant_for_us = number("WATCHDOG_PID").is_none_or(|meant_for| {
        meant_for.is_some_and(|meant_for| i64::try_from(meant_for) == Ok(pid.as_raw().into()))
    });
    let interval = number("WATCHDOG_USEC")?.filter(|&interval| interval > 0 && meant_for_us)?;
    Some(Duration::from_micros(interval))
}

/// The text that goes with a descriptor which the manager closes once it has read everything that
/// was sent before.
pub const BARRIER: &str = "BARRIER=1";

/// The text that, with a listening socket, number `endpoint` (from 0) of its slot, has the
/// manager keep it until the next start. It is not to watch it: a listener has no end to wait for.
pub fn fdstore(slot: u32, endpoint: u32) -> String {
    format!("FDSTORE=1\nFDPOLL=0\nFDNAME={}", stored_name(slot, endpoint))
}

/// The text that has the manager close what [`fdstore`] gave it.
pub fn fdstore_remove(slot: u32, endpoint: u32) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={}", stored_name(slot, endpoint))
}

/// Whose listener has come back under this name: slot and address; `None` for any other name.
pub fn stored_listener(name: &str) -> Option<(u32, u32)> {
    let (slot, endpoint) = name.strip_prefix("slot-")?.split_once('-')?;
    Some((slot.parse().ok()?, endpoint.parse().ok()?))
}

/// Without a colon, which separates names in `LISTEN_FDNAMES`, and far from the 255 bytes allowed.
fn stored_name(slot: u32, endpoint: u32) -> String {
    format!("slot-{slot}-{endpoint}")
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
