//! The clock of a run, and an alarm with a precision of microseconds. The event loop itself waits in
//! whole milliseconds, which would count as latency.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;

/// Clock of a run in nanoseconds since its start, shared by all threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Start of the run on CLOCK_MONOTONIC, the clock of the alarm's timer, so that no alarm is early.
    start: Duration,
}

impl Clock {
    /// Returns a clock that starts now.
    ///
    /// # Errors
    /// None in practice: every Linux has this clock.
    pub(super) fn start() -> io::Result<Self> {
        Ok(Self { start: monotonic_time()? })
    }

    /// Returns the nanoseconds since the start.
    pub(super) fn now(&self) -> u64 {
        monotonic_time().map_or(0, |time| (time - self.start).as_nanos() as u64)
    }

    /// Converts a time of the run for the event loop. A past time becomes the current one.
    pub(super) fn instant(&self, at: u64) -> Instant {
        Instant::now() + Duration::from_nanos(at.saturating_sub(self.now()))
    }
}

fn monotonic_time() -> io::Result<Duration> {
    Ok(clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?.into())
}

/// A timer that wakes the event loop.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    clock: Clock,
    /// Last time for which it was set.
    at: u64,
}

impl Alarm {
    /// Returns an alarm that is not set. Its event only starts another loop iteration.
    ///
    /// # Errors
    /// No free descriptor.
    pub(super) fn new(clock: Clock, registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let descriptor = timer.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        Ok(Self { timer, clock, at: 0 })
    }

    /// Sets the alarm to `at`, unless it already fires earlier.
    pub(super) fn set(&mut self, at: u64, now: u64) {
        if now < self.at && self.at <= at {
            return;
        }
        self.at = at;
        let time = TimeSpec::from_duration(self.clock.start + Duration::from_nanos(at));
        // A past time fires immediately. Only invalid arguments can fail.
        let _ = self.timer.set(Expiration::OneShot(time), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
    }
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn an_alarm_fires_each_time_it_is_set() {
        let mut poll = Poll::new().expect("epoll");
        let mut events = Events::with_capacity(8);
        let clock = Clock::start().expect("a clock");
        let mut alarm = Alarm::new(clock, poll.registry(), Token(7)).expect("a timer");
        for _ in 0..3 {
            let at = clock.now() + 2_000_000;
            alarm.set(at, clock.now());
            // A later time does not postpone it.
            alarm.set(at + 60_000_000_000, clock.now());
            while events.is_empty() {
                poll.poll(&mut events, Some(Duration::from_secs(10))).expect("polled");
            }
            assert!(events.iter().all(|event| event.token() == Token(7)));
            assert!(clock.now() >= at, "not before its time");
            let then = clock.instant(at);
            assert!(then <= Instant::now());
            events.clear();
        }
    }
}
