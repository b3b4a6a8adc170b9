//! Deadlines of very many things in one coarse ring: O(1) to arm, nothing to cancel.
//!
//! Time is counted in [`Tick`]s and always an argument. An entry that was armed and is no longer
//! wanted simply fires; its owner compares it with what it remembers and arms it again or forgets it.
//! So bytes that move cost no timer operation at all.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// A point in time: 100 ms steps since the loop's [`Clock`] started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u32);

/// A span of time, counted in ticks once so that a moving byte costs an addition only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(u32);

impl Wait {
    /// Longer than anything lasts.
    pub const FOREVER: Self = Self(u32::MAX);

    /// A part of this span: `part` of 2^32.
    #[must_use]
    pub fn share(self, part: u32) -> Self {
        Self(((u64::from(self.0) * u64::from(part)) >> 32) as u32)
    }
}

impl From<Duration> for Wait {
    fn from(duration: Duration) -> Self {
        // One more: the tick it starts in may have begun 99 ms ago, and nothing may fire early.
        let ticks = duration.as_nanos().div_ceil(TICK.as_nanos()) + 1;
        Self(u32::try_from(ticks).unwrap_or(u32::MAX))
    }
}

/// The length of a tick.
const TICK: Duration = Duration::from_millis(100);

/// Ticks the ring spans, 51 s: an entry further away fires early and is armed again.
const SPAN: u32 = 512;
const MAP_WORDS: usize = SPAN as usize / 64;

/// A bucket that grew larger than this gives its memory back when it has fired.
const KEPT_CAPACITY: usize = 1024;

impl Tick {
    /// Later than any tick that is ever reached (13 years).
    pub const NEVER: Self = Self(u32::MAX);

    /// The first tick at which `wait` has passed since any moment of this one.
    pub fn after(self, wait: Wait) -> Self {
        Self(self.0.saturating_add(wait.0))
    }

    /// The time since an earlier tick, to a tick.
    pub fn since(self, earlier: Self) -> Duration {
        TICK * self.0.saturating_sub(earlier.0)
    }

    fn bucket(self) -> usize {
        (self.0 % SPAN) as usize
    }
}

/// Turns the system's clock into ticks and back, and into a time that all processes understand.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// The system's uptime then.
    uptime: Duration,
}

impl Clock {
    /// A clock at tick 0.
    pub fn start(now: Instant) -> Self {
        // clock_gettime(2) with CLOCK_MONOTONIC does not fail on Linux.
        let uptime = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Self { start: now, uptime }
    }

    /// The tick that `now` is in.
    pub fn tick(&self, now: Instant) -> Tick {
        let ticks = now.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        Tick(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// When a tick begins.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.start + TICK * tick.0
    }

    /// The system's uptime (`CLOCK_MONOTONIC`) at `now`, the same in every process.
    pub fn uptime(&self, now: Instant) -> Duration {
        self.uptime + now.saturating_duration_since(self.start)
    }
}

/// The ring. `K` says whose deadline it is.
#[derive(Debug)]
pub struct TimerRing<K> {
    buckets: Vec<Vec<K>>,
    /// One bit for each bucket that is not empty.
    occupied: [u64; MAP_WORDS],
    /// The last tick that has fired.
    now: Tick,
}

impl<K> TimerRing<K> {
    /// An empty ring at tick 0.
    pub fn new() -> Self {
        let buckets = (0..SPAN).map(|_| Vec::new()).collect();
        Self { buckets, occupied: [0; MAP_WORDS], now: Tick(0) }
    }

    /// Puts `key` into the ring and returns when it will fire: at `at`, or at the ring's horizon if
    /// that comes first, or at the next tick if `at` has passed.
    pub fn arm(&mut self, at: Tick, key: K) -> Tick {
        let soonest = self.now.0.saturating_add(1);
        let at = Tick(at.0.clamp(soonest, self.now.0.saturating_add(SPAN - 1)));
        let bucket = at.bucket();
        self.buckets[bucket].push(key);
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        at
    }

    /// Moves to `now` and appends all that fires on the way to `due`, with the tick it was armed for.
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

    /// The tick of the first entry.
    pub fn next(&self) -> Option<Tick> {
        let first = Tick(self.now.0.wrapping_add(1)).bucket();
        // The words in ring order, the first one cut at `first`, and once more at the end uncut.
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
    fn what_is_late_fires_next_and_what_is_far_fires_at_the_horizon() {
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
