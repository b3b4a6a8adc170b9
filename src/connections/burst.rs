//! Decides when memory is worth giving back: as a burst of bytes that clients did not read ends.

/// When fewer bytes have waited, the allocator's leftovers are not worth looking for.
const WORTH_LOOKING: u64 = 256 * 1024;

/// After a burst, memory is looked for so often, a second apart: the pools give theirs back late.
const LOOKS: u32 = 3;

/// A burst, as far as it is not over.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// So many bytes waited at its height, or when memory was last looked for; 0 when there is none.
    height: u64,
    /// So often more is memory looked for.
    looks: u32,
}

impl Burst {
    /// Whether to give memory back now; to be asked once a second. `waited` bytes wait, or have
    /// begun to wait within that second.
    ///
    /// True each time when half has gone, to the end: what still waits keeps whole pages.
    pub(super) fn ebbs(&mut self, waited: u64) -> bool {
        if self.height > 0 || waited > WORTH_LOOKING {
            self.height = self.height.max(waited);
        }
        if self.height > 0 && waited <= self.height / 2 {
            self.height = waited;
            self.looks = LOOKS;
        }
        let ebbs = self.looks > 0;
        self.looks = self.looks.saturating_sub(1);
        ebbs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(burst: &mut Burst, waited: &[u64]) -> Vec<bool> {
        waited.iter().map(|&bytes| burst.ebbs(bytes)).collect()
    }

    #[test]
    fn memory_is_looked_for_when_half_is_gone_and_thrice_in_the_end() {
        let mut burst = Burst::default();
        let (most, half) = (100 << 20, 50 << 20);
        assert_eq!(seconds(&mut burst, &[most, most, half + 1]), [false; 3]);
        assert_eq!(seconds(&mut burst, &[half, half, half]), [true; 3]);
        assert_eq!(seconds(&mut burst, &[half, half]), [false; 2], "a level flow is left alone");
        assert_eq!(seconds(&mut burst, &[0, 0, 0, 0, 0]), [true, true, true, false, false]);
    }

    #[test]
    fn a_little_is_not_looked_for() {
        let mut burst = Burst::default();
        assert_eq!(seconds(&mut burst, &[WORTH_LOOKING, 0, WORTH_LOOKING, 1]), [false; 4]);
    }
}
