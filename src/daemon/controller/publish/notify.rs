//! Notifications to the service manager (sd_notify(3)): contents and times. Pure; `service_manager`
//! sends them.
//!
//! Each notification is one datagram. It follows from the difference between the current status and
//! the last one sent, so it does not matter how often, or upon which event, the notifier runs.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::daemon::ids::SlotId;
use crate::daemon::stats::Phase;
use crate::text;

/// Shortest time between two status texts or requests for more time.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Time after the drain in which the daemon ends.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// Status of the daemon for the service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DaemonStatus {
    /// Phase of the daemon. The [`Notifier`] must see [`Phase::Reloading`] at least once in every
    /// reload, even if it fails at once, because the manager waits for it.
    pub(crate) phase: Phase,
    /// Number of healthy workers.
    pub(crate) workers_ready: u32,
    /// Wanted number of workers.
    pub(crate) workers_wanted: u32,
    /// Number of open connections.
    pub(crate) connections: u64,
    /// `true` if at least half of the workers are healthy; otherwise the watchdog is not notified,
    /// and the manager restarts the daemon.
    pub(crate) healthy: bool,
    /// Remaining time of the drain; used in [`Phase::Draining`] only.
    pub(crate) drain_left: Duration,
}

impl DaemonStatus {
    fn text(&self) -> String {
        let connections = text::plural(self.connections, "connection");
        match self.phase {
            Phase::Starting | Phase::Serving => {
                format!("{}/{} workers, {connections}", self.workers_ready, self.workers_wanted)
            }
            Phase::Reloading => "reloading".to_owned(),
            Phase::Draining => format!("draining, {connections}"),
        }
    }
}

/// Last notification, and the times of the next ones.
#[derive(Debug)]
pub(crate) struct Notifier {
    /// Last announced phase.
    phase: Phase,
    text: String,
    sent_at: Option<Instant>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    /// Half of the manager's watchdog interval, so that one notification can be late.
    every: Duration,
    /// Time of the next notification; `None` means at once.
    due: Option<Instant>,
}

impl Notifier {
    /// Returns a notifier that has sent nothing. `watchdog` is the result of [`watchdog_interval`].
    ///
    /// Each image has a new one: repeated notifications are harmless, and its first `WATCHDOG=1` is
    /// due at once, because the last one of the previous image can be half an interval old.
    pub(crate) fn new(watchdog: Option<Duration>) -> Self {
        let watchdog = watchdog.map(|interval| Watchdog { every: interval / 2, due: None });
        Self { phase: Phase::Starting, text: String::new(), sent_at: None, watchdog }
    }

    /// Returns the datagrams to send now, in this order.
    ///
    /// Must be called whenever the phase changes, at least once a second, and at the
    /// [`deadline`](Self::deadline). `monotonic_usec` is the current `CLOCK_MONOTONIC` in
    /// microseconds: the manager ignores a reload that is older than its request.
    pub(crate) fn tick(
        &mut self,
        status: DaemonStatus,
        now: Instant,
        monotonic_usec: u64,
    ) -> Vec<String> {
        let mut texts = Vec::new();
        let text = status.text();
        let new_phase = std::mem::replace(&mut self.phase, status.phase) != status.phase;
        let prefix = match status.phase {
            Phase::Starting => None,
            Phase::Serving if new_phase => Some("READY=1\n".to_owned()),
            Phase::Reloading if new_phase => {
                Some(format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}\n"))
            }
            Phase::Draining if new_phase => Some("STOPPING=1\n".to_owned()),
            _ if self.has_just_sent(now) => None,
            Phase::Draining => {
                Some(format!("EXTEND_TIMEOUT_USEC={}\n", more_time(status.drain_left)))
            }
            Phase::Serving | Phase::Reloading => (text != self.text).then(String::new),
        };
        if let Some(prefix) = prefix {
            texts.push(format!("{prefix}STATUS={text}"));
            self.text = text;
            self.sent_at = Some(now);
        }
        if let Some(watchdog) = &mut self.watchdog {
            texts.extend(watchdog.tick(status.healthy, now));
        }
        texts
    }

    /// Returns the time of the next watchdog notification or request for more time; `None` if once
    /// a second is sufficient.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().and_then(|watchdog| watchdog.due);
        let sent = self.sent_at.filter(|_| self.phase == Phase::Draining);
        watchdog.into_iter().chain(sent.map(|at| at + STATUS_INTERVAL)).min()
    }

    /// Makes the next [`tick`](Self::tick) repeat everything, because a datagram could not be sent.
    /// Repeated notifications are harmless.
    pub(crate) fn resend_all(&mut self) {
        self.phase = Phase::Starting;
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.due = None;
        }
    }

    fn has_just_sent(&self, now: Instant) -> bool {
        self.sent_at.is_some_and(|at| now.saturating_duration_since(at) < STATUS_INTERVAL)
    }
}

impl Watchdog {
    fn tick(&mut self, healthy: bool, now: Instant) -> Option<String> {
        if self.due.is_some_and(|due| now < due) {
            return None;
        }
        // Half an interval remains, in which a recovery must be noticed in time.
        let pause = if healthy { self.every } else { self.every / 8 };
        self.due = Some(now + pause);
        healthy.then(|| "WATCHDOG=1".to_owned())
    }
}

/// Returns the time that the manager should wait, in microseconds from now. The manager ignores 0
/// and 2^64 - 1, never shortens its own timeout, and extends the watchdog's too.
fn more_time(drain_left: Duration) -> u64 {
    let wanted = drain_left.saturating_add(EXIT_GRACE).as_micros();
    u64::try_from(wanted).unwrap_or(u64::MAX).min(u64::MAX - 1)
}

/// Returns the watchdog interval of this process, `pid`: `WATCHDOG_USEC`, if `WATCHDOG_PID` names
/// this process or is not set (sd_watchdog_enabled(3)). `variables` looks up environment variables.
/// `None` means no watchdog or an invalid value.
pub(crate) fn watchdog_interval(
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

/// Text of a datagram whose descriptor the manager closes after it has read all earlier datagrams.
pub(crate) const BARRIER: &str = "BARRIER=1";

/// Returns the text that stores the listening socket with number `endpoint` (from 0) of its slot
/// with the manager. The manager does not poll the socket, because a listener never reports an end
/// of file.
pub(crate) fn fdstore(slot: SlotId, endpoint: u32) -> String {
    format!("FDSTORE=1\nFDPOLL=0\nFDNAME={}", stored_name(slot, endpoint))
}

/// Returns the text that makes the manager close the socket stored by [`fdstore`].
pub(crate) fn fdstore_remove(slot: SlotId, endpoint: u32) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={}", stored_name(slot, endpoint))
}

/// Returns the slot and the number in a name of a stored socket, or `None` for any other name.
pub(crate) fn stored_listener(name: &str) -> Option<(SlotId, u32)> {
    let (slot, endpoint) = name.strip_prefix("slot-")?.split_once('-')?;
    Some((SlotId(slot.parse().ok()?), endpoint.parse().ok()?))
}

/// Returns the name of a stored socket: no colon, which separates names in `LISTEN_FDNAMES`, and
/// far fewer than 255 bytes.
fn stored_name(slot: SlotId, endpoint: u32) -> String {
    format!("slot-{slot}-{endpoint}")
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
