//! A timer wheel for very many deadlines: O(1) to arm, nothing to cancel.
//!
//! Time is counted in [`Tick`]s and always an argument. An entry that is no longer wanted fires all the
//! same; its owner compares it with the deadline that counts, and arms it again or ignores it. So a byte
//! that moves costs no timer operation.

use std::time::{Duration, Instant};

use crate::sys::clock;

/// A point in time: 100 ms steps since the loop's [`Clock`] started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u32);

/// A duration in ticks, converted once, so that a byte that moves costs one addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(u32);

impl Wait {
    /// A wait that never ends.
    pub const FOREVER: Self = Self(u32::MAX);

    /// Returns `part` of 2^32 of the wait.
    #[must_use]
    pub fn share(self, part: u32) -> Self {
        Self(((u64::from(self.0) * u64::from(part)) >> 32) as u32)
    }
}

impl From<Duration> for Wait {
    fn from(duration: Duration) -> Self {
        // One more: the current tick may have begun 99 ms ago, and nothing may fire early.
        let ticks = duration.as_nanos().div_ceil(TICK.as_nanos()) + 1;
        Self(u32::try_from(ticks).unwrap_or(u32::MAX))
    }
}

/// Length of a tick.
const TICK: Duration = Duration::from_millis(100);

/// Ticks that the ring spans, 51 s. An entry further away fires early and is armed again.
const SPAN: u32 = 512;
const MAP_WORDS: usize = SPAN as usize / 64;

/// Entries of a bucket above which its memory is freed once it has fired.
const KEPT_CAPACITY: usize = 1024;

impl Tick {
    /// A tick that is never reached (13 years).
    pub const NEVER: Self = Self(u32::MAX);

    /// Returns the first tick at which `wait` has passed since any moment of this one.
    pub fn after(self, wait: Wait) -> Self {
        Self(self.0.saturating_add(wait.0))
    }

    /// Returns the time since an earlier tick, rounded to a tick.
    pub fn since(self, earlier: Self) -> Duration {
        TICK * self.0.saturating_sub(earlier.0)
    }

    fn bucket(self) -> usize {
        (self.0 % SPAN) as usize
    }
}

/// Converts system time to ticks and back, and to an uptime that all processes share.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// Uptime of the system at `start`.
    uptime: Duration,
}

impl Clock {
    /// Starts a clock at tick 0.
    pub fn start(now: Instant) -> Self {
        Self { start: now, uptime: clock::uptime() }
    }

    /// Returns the tick at `now`.
    pub fn tick(&self, now: Instant) -> Tick {
        let ticks = now.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        Tick(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// Returns the time at which `tick` begins.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.start + TICK * tick.0
    }

    /// Returns the time from the boot of the system (`CLOCK_MONOTONIC`) to `now`.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        self.uptime + now.saturating_duration_since(self.start)
    }

    /// Returns the time from the boot of the system to `now`, in milliseconds. Processes exchange
    /// times in this form.
    pub(crate) fn uptime_ms(&self, now: Instant) -> u64 {
        clock::millis(self.uptime(now))
    }
}

/// A ring of deadlines. The key `K` identifies the owner of an entry.
#[derive(Debug)]
pub struct TimerRing<K> {
    buckets: Vec<Vec<K>>,
    /// Bits of the buckets that are not empty.
    occupied: [u64; MAP_WORDS],
    /// Last tick that has fired.
    now: Tick,
}

impl<K> TimerRing<K> {
    /// Creates an empty ring at tick 0.
    pub fn new() -> Self {
        let buckets = (0..SPAN).map(|_| Vec::new()).collect();
        Self { buckets, occupied: [0; MAP_WORDS], now: Tick(0) }
    }

    /// Adds an entry for `key`, and returns the tick at which it fires: `at`, or the ring's horizon if
    /// that is earlier, or the next tick if `at` has passed.
    pub fn arm(&mut self, at: Tick, key: K) -> Tick {
        let soonest = self.now.0.saturating_add(1);
        let at = Tick(at.0.clamp(soonest, self.now.0.saturating_add(SPAN - 1)));
        let bucket = at.bucket();
        self.buckets[bucket].push(key);
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        at
    }

    /// Advances to `now`, and appends the entries that fire to `due`, with their ticks.
    pub fn advance(&mut self, now: Tick, due: &mut Vec<(Tick, K)>) {
        while self.now < now {
            let Some(next) = self.next().filter(|&next| next <= now) else {
                self.now = now;
                return;
            };
            self.now = next;
            let bucket = next.bucket();
            due.extend(self.buckets[bucket].drain(..).map(|key| (next, key)));
            if self.buckets[bucket].capacity() > KEPT_CAPACITY {
                self.buckets[bucket] = Vec::new();
            }
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
    }

    /// Returns the tick of the first entry.
    pub fn next(&self) -> Option<Tick> {
        let first = Tick(self.now.0.wrapping_add(1)).bucket();
        // The words in ring order: the first one from bit `first` on, and at the end whole.
        for step in 0..=MAP_WORDS {
            let word = (first / 64 + step) % MAP_WORDS;
            let mask = if step == 0 { u64::MAX << (first % 64) } else { u64::MAX };
            let bits = self.occupied[word] & mask;
            if bits != 0 {
                let bucket = word * 64 + bits.trailing_zeros() as usize;
                let distance = (bucket + SPAN as usize - first) as u32 % SPAN;
                return Some(Tick(self.now.0 + 1 + distance));
            }
        }
        None
    }
}

impl<K> Default for TimerRing<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fired(ring: &mut TimerRing<u32>, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        ring.advance(Tick(now), &mut due);
        due.into_iter().map(|(_, key)| key).collect()
    }

    #[test]
    fn fires_at_its_tick_and_not_before() {
        let mut ring = TimerRing::new();
        assert_eq!(ring.next(), None);
        assert_eq!(ring.arm(Tick(10), 1), Tick(10));
        assert_eq!(ring.next(), Some(Tick(10)));
        assert!(fired(&mut ring, 9).is_empty());
        assert_eq!(fired(&mut ring, 10), [1]);
        assert_eq!(ring.next(), None);
    }

    #[test]
    fn a_late_entry_fires_next_and_a_far_one_at_the_horizon() {
        let mut ring = TimerRing::new();
        assert!(fired(&mut ring, 1000).is_empty());
        assert_eq!(ring.arm(Tick(3), 1), Tick(1001));
        assert_eq!(ring.arm(Tick::NEVER, 2), Tick(1000 + SPAN - 1));
        assert_eq!(fired(&mut ring, 1001), [1]);
        assert_eq!(fired(&mut ring, 5000), [2]);
    }

    #[test]
    fn a_wait_never_ends_early() {
        let start = Instant::now();
        let clock = Clock::start(start);
        let armed_at = start + Duration::from_millis(199);
        let fires = clock.instant(clock.tick(armed_at).after(Duration::from_secs(1).into()));
        let waited = fires - armed_at;
        assert!(waited >= Duration::from_secs(1) && waited <= Duration::from_millis(1200));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_early(entries in prop::collection::vec(1u32..2000, 1..60), step in 1u32..700) {
            let mut ring = TimerRing::new();
            let mut armed: Vec<(Tick, u32)> =
                entries.iter().map(|&at| (ring.arm(Tick(at), at), at)).collect();
            let mut due = Vec::new();
            let mut now = 0;
            while now < SPAN {
                now += step;
                ring.advance(Tick(now), &mut due);
                prop_assert!(due.iter().all(|&(at, _)| at <= Tick(now)));
            }
            due.sort_unstable();
            armed.sort_unstable();
            prop_assert_eq!(due, armed);
            prop_assert_eq!(ring.next(), None);
        }

        #[test]
        fn next_is_the_earliest(offset in 0u32..3000, entries in prop::collection::vec(1u32..SPAN, 1..20)) {
            let mut ring = TimerRing::new();
            ring.advance(Tick(offset), &mut Vec::<(Tick, u32)>::new());
            let first = entries.iter().map(|&at| ring.arm(Tick(offset + at), at)).min();
            prop_assert_eq!(ring.next(), first);
        }
    }
}
