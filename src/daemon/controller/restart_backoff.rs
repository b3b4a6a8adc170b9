//! Restart backoff: the delay before the next process of a slot.
//!
//! A process that served for half a second or longer is replaced at once. After the second failed
//! start in a row the delay is 100 ms; it doubles with every further one, up to 30 s.

use std::time::Duration;

/// Delay after the second failed start; it doubles with every further one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest delay.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// Time of service that resets the count of failed starts.
const HEALTHY: Duration = Duration::from_secs(60);
/// Time of service after which a failure is not a failed start.
const SERVED: Duration = Duration::from_millis(500);

/// Failed starts of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts the failure of a process that served for `served` (`None` if it never became ready),
    /// and returns the delay before the next one. `jitter`, 0 to 1, varies the delay by up to a
    /// quarter, so that slots that fail together do not restart together.
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
        let delay = FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(MAX_DELAY);
        delay.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0)).min(MAX_DELAY)
    }
}

/// Random numbers for restart delays (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    /// Returns the sequence of a seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Returns the next number, 0 to 1.
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

    fn delays(served: Option<Duration>, count: usize) -> Vec<u128> {
        let mut backoff = Backoff::default();
        (0..count).map(|_| backoff.after_failure(served, 0.5).as_millis()).collect()
    }

    #[test]
    fn a_crash_loop_slows_down_to_half_a_minute() {
        let expected = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
        assert_eq!(delays(None, 12), expected);
        assert_eq!(delays(Some(Duration::from_millis(499)), 4), expected[..4]);
    }

    #[test]
    fn a_worker_that_served_is_replaced_at_once() {
        assert_eq!(delays(Some(SERVED), 5), [0; 5]);
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
        fn a_delay_stays_within_its_bounds(seed: u64, failures in 2usize..200) {
            let (mut backoff, mut jitter) = (Backoff::default(), Jitter::new(seed));
            let mut last = Duration::ZERO;
            for _ in 0..failures {
                last = backoff.after_failure(None, jitter.next());
            }
            prop_assert!(last >= FIRST_DELAY.mul_f64(0.75) && last <= MAX_DELAY);
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
