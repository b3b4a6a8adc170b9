//! Which connections are to be opened, and how fast. Pure: times are nanoseconds since the run began,
//! and arguments.

use std::collections::VecDeque;

/// Connections that may be on their way at once, by all threads: more could overflow the queue of a
/// server that is doing its best (128 is a common length), and then wait for a second try.
const UNDER_WAY: u32 = 128;

/// The slots that want a connection.
#[derive(Debug)]
pub(super) struct Opening {
    waiting: VecDeque<u32>,
    pace: Option<Pace>,
    under_way: u32,
    most: u32,
    stopped: bool,
}

impl Opening {
    /// Slots 0 to `count` - 1 of one of so many threads. If that is limited, the first at the first
    /// time of `pace`, and one every so many nanoseconds from then on.
    pub(super) fn new(count: u32, threads: u32, pace: Option<(f64, f64)>) -> Self {
        Self {
            waiting: (0..count).collect(),
            pace: pace.map(|(first, interval)| Pace { interval, next: first }),
            under_way: 0,
            most: (UNDER_WAY / threads).max(1),
            stopped: false,
        }
    }

    /// A slot wants a connection.
    pub(super) fn want(&mut self, slot: u32) {
        if !self.stopped {
            self.waiting.push_back(slot);
        }
    }

    /// No slot gets one any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.waiting.clear();
    }

    /// Whether no slot waits for one.
    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The slot whose connection may be begun now; it is on its way then.
    pub(super) fn take(&mut self, now: u64) -> Option<u32> {
        if !self.is_possible() || self.pace.as_mut().is_some_and(|pace| !pace.take(now)) {
            return None;
        }
        self.under_way += 1;
        self.waiting.pop_front()
    }

    /// A connection is not on its way any more: it has arrived, or has failed.
    pub(super) fn arrived(&mut self) {
        self.under_way -= 1;
    }

    /// Connections on their way.
    pub(super) fn under_way(&self) -> u32 {
        self.under_way
    }

    /// When the next connection may be begun, unless one must first arrive.
    pub(super) fn next(&self, now: u64) -> Option<u64> {
        self.is_possible().then(|| self.pace.map_or(now, |pace| pace.next()))
    }

    fn is_possible(&self) -> bool {
        self.under_way < self.most && !self.waiting.is_empty()
    }
}

/// Limits how often something happens.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: f64,
    next: f64,
}

impl Pace {
    /// What was missed may be made up for, but no more than this.
    const LAG: f64 = 20e6;

    /// Whether one may happen now; if so it is counted.
    fn take(&mut self, now: u64) -> bool {
        let now = now as f64;
        if self.next > now {
            return false;
        }
        self.next = self.next.max(now - Self::LAG) + self.interval;
        true
    }

    /// When the next one may happen.
    fn next(&self) -> u64 {
        self.next.ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_makes_up_for_a_moment_and_not_for_a_pause() {
        let mut pace = Pace { interval: 1e6, next: 0.0 };
        assert!(pace.take(0) && !pace.take(999_999) && pace.take(1_000_000));
        assert_eq!(pace.next(), 2_000_000);
        // 10 ms late: ten at once, and the one of that moment.
        assert_eq!((0..100).filter(|_| pace.take(12_000_000)).count(), 11);
        // An hour late: 20 ms of it.
        let hour = 3_600_000_000_000;
        assert_eq!((0..100).filter(|_| pace.take(hour)).count(), 21);
    }

    #[test]
    fn no_more_are_on_their_way_than_a_queue_holds() {
        let mut opening = Opening::new(1000, 2, None);
        let begun: Vec<u32> = std::iter::from_fn(|| opening.take(5)).collect();
        assert_eq!(begun, (0..64).collect::<Vec<_>>());
        assert_eq!((opening.under_way(), opening.next(5)), (64, None));
        opening.arrived();
        assert_eq!(opening.next(6), Some(6));
        assert_eq!(opening.take(6), Some(64));
        assert!(!opening.is_over());
        opening.stop();
        opening.arrived();
        opening.want(3);
        assert!(opening.is_over());
        assert_eq!((opening.take(7), opening.next(7)), (None, None));
    }

    #[test]
    fn a_slot_is_opened_again_in_its_turn_and_at_the_pace() {
        let mut opening = Opening::new(2, 1, Some((0.0, 1e9)));
        assert_eq!((opening.take(0), opening.take(0)), (Some(0), None));
        opening.arrived();
        opening.want(0);
        assert_eq!(opening.next(1), Some(1_000_000_000));
        assert_eq!(opening.take(1_000_000_000), Some(1));
        assert_eq!(opening.take(2_000_000_000), Some(0));
    }
}
