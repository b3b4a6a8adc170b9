//! The decision when to trim memory: as a burst of bytes that clients did not read ends.

/// Bytes below which the allocator's free memory is not worth trimming.
const MIN_PEAK: u64 = 256 * 1024;

/// Trims after a drop, a second apart: the pools free their memory late.
const TRIMS: u32 = 3;

/// Follows the bytes that wait for clients, and says when to trim memory.
#[derive(Debug, Default)]
pub(super) struct TrimPolicy {
    /// Peak of the current burst, in bytes, or the level of the last drop; 0 if there is no burst.
    peak: u64,
    /// Trims still due.
    remaining: u32,
}

impl TrimPolicy {
    /// Returns `true` if memory is to be trimmed now. Called once a second with the bytes that wait, or
    /// have begun to wait within that second.
    ///
    /// Memory is trimmed each time the level has halved, down to zero: bytes that still wait keep whole
    /// pages.
    pub(super) fn is_due(&mut self, waiting: u64) -> bool {
        if self.peak > 0 || waiting > MIN_PEAK {
            self.peak = self.peak.max(waiting);
        }
        if self.peak > 0 && waiting <= self.peak / 2 {
            self.peak = waiting;
            self.remaining = TRIMS;
        }
        let due = self.remaining > 0;
        self.remaining = self.remaining.saturating_sub(1);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(policy: &mut TrimPolicy, waiting: &[u64]) -> Vec<bool> {
        waiting.iter().map(|&bytes| policy.is_due(bytes)).collect()
    }

    #[test]
    fn memory_is_trimmed_three_times_after_each_halving() {
        let mut policy = TrimPolicy::default();
        let (most, half) = (100 << 20, 50 << 20);
        assert_eq!(seconds(&mut policy, &[most, most, half + 1]), [false; 3]);
        assert_eq!(seconds(&mut policy, &[half, half, half]), [true; 3]);
        assert_eq!(seconds(&mut policy, &[half, half]), [false; 2], "a constant level is no drop");
        assert_eq!(seconds(&mut policy, &[0, 0, 0, 0, 0]), [true, true, true, false, false]);
    }

    #[test]
    fn a_small_burst_is_ignored() {
        let mut policy = TrimPolicy::default();
        assert_eq!(seconds(&mut policy, &[MIN_PEAK, 0, MIN_PEAK, 1]), [false; 4]);
    }
}
