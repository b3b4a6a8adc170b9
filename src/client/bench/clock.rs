//! The time of a run, and an alarm that is exact to some microseconds: the event loop itself waits in
//! whole milliseconds, which would all be counted as latency.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;

/// Nanoseconds since the run began, the same in all threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The beginning, by the clock that timers go by: were it another one that was read a moment later,
    /// an alarm would come before its time.
    base: Duration,
}

impl Clock {
    /// The run begins now.
    ///
    /// # Errors
    /// None in practice: every Linux has this clock.
    pub(super) fn start() -> io::Result<Self> {
        Ok(Self { base: uptime()? })
    }

    /// The time, in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        uptime().map_or(0, |uptime| (uptime - self.base).as_nanos() as u64)
    }

    /// A time of the run as the event loop counts; now, if it has passed.
    pub(super) fn instant(&self, at: u64) -> Instant {
        Instant::now() + Duration::from_nanos(at.saturating_sub(self.now()))
    }
}

fn uptime() -> io::Result<Duration> {
    Ok(clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?.into())
}

/// Wakes the event loop.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    clock: Clock,
    /// When it goes off, or went off.
    at: u64,
}

impl Alarm {
    /// An alarm that is not set. Its event means nothing but that the loop has turned.
    ///
    /// # Errors
    /// No descriptor left.
    pub(super) fn new(clock: Clock, registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let descriptor = timer.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        Ok(Self { timer, clock, at: 0 })
    }

    /// Sets it, unless it goes off by itself before that.
    pub(super) fn set(&mut self, at: u64, now: u64) {
        if now < self.at && self.at <= at {
            return;
        }
        self.at = at;
        let time = TimeSpec::from_duration(self.clock.base + Duration::from_nanos(at));
        // A time that has passed goes off at once. Only bad arguments can fail.
        let _ = self.timer.set(Expiration::OneShot(time), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
    }
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn the_alarm_wakes_the_loop_and_again_when_it_is_set_again() {
        let mut poll = Poll::new().expect("epoll");
        let mut events = Events::with_capacity(8);
        let clock = Clock::start().expect("a clock");
        let mut alarm = Alarm::new(clock, poll.registry(), Token(7)).expect("a timer");
        for _ in 0..3 {
            let at = clock.now() + 2_000_000;
            alarm.set(at, clock.now());
            // A later time changes nothing.
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
