//! Connection ramp-up: which connections to open, and how fast. Pure: times are arguments, in
//! nanoseconds since the start of the run.

use std::collections::VecDeque;

/// Maximum number of connections being opened, over all threads. More could overflow the accept queue
/// of a healthy server (128 is a common length) and cost a SYN retransmission.
const MAX_OPENING: u32 = 128;

/// The queue of clients that wait for a connection, and the limits on opening it.
#[derive(Debug)]
pub(super) struct RampUp {
    waiting: VecDeque<u32>,
    rate_limit: Option<RateLimit>,
    opening: u32,
    max_opening: u32,
    stopped: bool,
}

impl RampUp {
    /// Queues clients 0 to `count` - 1 of one of `threads` threads. `pace` is the time of the first
    /// connection and the interval between connections, if that is limited.
    pub(super) fn new(count: u32, threads: u32, pace: Option<(f64, f64)>) -> Self {
        Self {
            waiting: (0..count).collect(),
            rate_limit: pace.map(|(next, interval)| RateLimit { interval, next }),
            opening: 0,
            max_opening: (MAX_OPENING / threads).max(1),
            stopped: false,
        }
    }

    /// Queues a client for another connection.
    pub(super) fn enqueue(&mut self, client: u32) {
        if !self.stopped {
            self.waiting.push_back(client);
        }
    }

    /// Empties the queue for the rest of the run.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.waiting.clear();
    }

    /// Returns `true` if no client waits for a connection.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the client whose connection may be opened now, and counts it as being opened.
    pub(super) fn start_next(&mut self, now: u64) -> Option<u32> {
        if !self.is_possible() || self.rate_limit.as_mut().is_some_and(|limit| !limit.take(now)) {
            return None;
        }
        self.opening += 1;
        self.waiting.pop_front()
    }

    /// Counts a connection as no longer being opened: it was accepted or has failed.
    pub(super) fn finish_one(&mut self) {
        self.opening -= 1;
    }

    /// Returns the number of connections being opened.
    pub(super) fn opening(&self) -> u32 {
        self.opening
    }

    /// Returns the time of the next connection, or `None` until another one is accepted.
    pub(super) fn next(&self, now: u64) -> Option<u64> {
        self.is_possible().then(|| self.rate_limit.map_or(now, |limit| limit.next.ceil() as u64))
    }

    fn is_possible(&self) -> bool {
        self.opening < self.max_opening && !self.waiting.is_empty()
    }
}

/// Limit of the connect rate.
#[derive(Clone, Copy, Debug)]
struct RateLimit {
    /// Nanoseconds between two connections.
    interval: f64,
    next: f64,
}

impl RateLimit {
    /// Maximum delay that a burst may compensate, in nanoseconds.
    const MAX_LAG: f64 = 20e6;

    /// Returns `true` and counts a connection if one may be opened now.
    fn take(&mut self, now: u64) -> bool {
        let now = now as f64;
        if self.next > now {
            return false;
        }
        self.next = self.next.max(now - Self::MAX_LAG) + self.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_limit_compensates_a_short_delay_only() {
        let mut limit = RateLimit { interval: 1e6, next: 0.0 };
        assert!(limit.take(0) && !limit.take(999_999) && limit.take(1_000_000));
        assert_eq!(limit.next, 2e6);
        // 10 ms late: ten missed ones, and the one due now.
        assert_eq!((0..100).filter(|_| limit.take(12_000_000)).count(), 11);
        // An hour late: those of the last 20 ms.
        let hour = 3_600_000_000_000;
        assert_eq!((0..100).filter(|_| limit.take(hour)).count(), 21);
    }

    #[test]
    fn no_more_are_opened_at_once_than_a_queue_holds() {
        let mut ramp_up = RampUp::new(1000, 2, None);
        let started: Vec<u32> = std::iter::from_fn(|| ramp_up.start_next(5)).collect();
        assert_eq!(started, (0..64).collect::<Vec<_>>());
        assert_eq!((ramp_up.opening(), ramp_up.next(5)), (64, None));
        ramp_up.finish_one();
        assert_eq!(ramp_up.next(6), Some(6));
        assert_eq!(ramp_up.start_next(6), Some(64));
        assert!(!ramp_up.is_done());
        ramp_up.stop();
        ramp_up.finish_one();
        ramp_up.enqueue(3);
        assert!(ramp_up.is_done());
        assert_eq!((ramp_up.start_next(7), ramp_up.next(7)), (None, None));
    }

    #[test]
    fn a_client_reconnects_in_order_and_at_the_limited_rate() {
        let mut ramp_up = RampUp::new(2, 1, Some((0.0, 1e9)));
        assert_eq!((ramp_up.start_next(0), ramp_up.start_next(0)), (Some(0), None));
        ramp_up.finish_one();
        ramp_up.enqueue(0);
        assert_eq!(ramp_up.next(1), Some(1_000_000_000));
        assert_eq!(ramp_up.start_next(1_000_000_000), Some(1));
        assert_eq!(ramp_up.start_next(2_000_000_000), Some(0));
    }
}
