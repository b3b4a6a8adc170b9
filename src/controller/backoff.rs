//! How long a slot waits before its next worker.

use std::time::Duration;

/// The second of two quick failures costs this much, and every further one twice as much.
const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(30);
/// A worker that has served for so long starts the count anew.
const HEALTHY: Duration = Duration::from_secs(60);
/// A worker that has served for so long was no failed start: it is replaced at once.
const SERVED: Duration = Duration::from_millis(500);

/// The failures of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A worker has died that had served for `served`, or had not got ready at all (`None`): how long
    /// to wait before the next one. `jitter`, 0 to 1, spreads the wait by a quarter to both sides, so
    /// that slots that fail together do not come back together.
    pub(super) fn after_failure(&mut self, served: Option<Duration>, jitter: f64) -> Duration {
        let served = served.unwrap_or_default();
        if served >= HEALTHY {
            self.failures = 0;
        }
        if served >= SERVED {
            return Duration::ZERO;
        }
        let failures = self.failures;
        self.failures += 1;
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let wait = FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST);
        wait.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0)).min(LONGEST)
    }
}

/// Random numbers, good enough to spread things in time (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    /// A sequence of its own for each seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number, from 0 to 1.
    pub(super) fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waits(served: Option<Duration>, count: usize) -> Vec<u128> {
        let mut backoff = Backoff::default();
        (0..count).map(|_| backoff.after_failure(served, 0.5).as_millis()).collect()
    }

    #[test]
    fn a_crash_loop_slows_down_to_half_a_minute() {
        let expected = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
        assert_eq!(waits(None, 12), expected);
        assert_eq!(waits(Some(Duration::from_millis(499)), 4), expected[..4]);
    }

    #[test]
    fn a_worker_that_had_served_is_replaced_at_once() {
        assert_eq!(waits(Some(SERVED), 5), [0; 5]);
    }

    #[test]
    fn only_a_minute_of_health_clears_the_count() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.after_failure(None, 0.5);
        }
        backoff.after_failure(Some(Duration::from_secs(59)), 0.5);
        assert_eq!(backoff.after_failure(None, 0.5).as_millis(), 1600);
        backoff.after_failure(Some(Duration::from_secs(60)), 0.5);
        assert_eq!(backoff.after_failure(None, 0.5).as_millis(), 0);
    }

    proptest! {
        #[test]
        fn a_wait_stays_within_its_bounds(seed: u64, failures in 2usize..200) {
            let (mut backoff, mut jitter) = (Backoff::default(), Jitter::new(seed));
            let mut last = Duration::ZERO;
            for _ in 0..failures {
                last = backoff.after_failure(None, jitter.next());
            }
            prop_assert!(last >= FIRST.mul_f64(0.75) && last <= LONGEST);
        }

        #[test]
        fn jitter_is_a_fraction(seed: u64) {
            let mut jitter = Jitter::new(seed);
            for _ in 0..100 {
                prop_assert!((0.0..=1.0).contains(&jitter.next()));
            }
        }
    }
}
