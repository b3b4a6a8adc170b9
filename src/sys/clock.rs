//! Clocks of the system, and times as whole milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Returns the time since the boot of the system (`CLOCK_MONOTONIC`), the same in every process.
pub(crate) fn uptime() -> Duration {
    // clock_gettime(2) does not fail for this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Returns the time since 1970 in milliseconds; 0 if the clock is set to an earlier time.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// Returns `duration` in milliseconds, rounded down.
pub(crate) fn millis(duration: Duration) -> u64 {
    // 64 bits hold 584 million years.
    duration.as_millis() as u64
}
