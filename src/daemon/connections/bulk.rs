//! Detection of bulk transfers, whose bytes splice(2) moves without a copy.

/// Size of a receive, in bytes, that suggests a bulk transfer; a smaller one suggests the opposite. The
/// last part of a long message is small, too, so a single receive decides nothing.
const LARGE: usize = 64 * 1024;

/// Large receives in excess of small ones that make a bulk transfer. At most twice as many count.
const THRESHOLD: u8 = 8;

/// Score of a connection that is never treated as a bulk transfer again.
const DISABLED: u8 = u8::MAX;

/// Large receives in excess of small ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BulkDetector(u8);

impl BulkDetector {
    /// Returns `true` if the connection carries a bulk transfer.
    pub(super) fn is_bulk(self) -> bool {
        (THRESHOLD..DISABLED).contains(&self.0)
    }

    /// Counts a receive of `count` bytes.
    pub(super) fn observe(&mut self, count: usize) {
        self.0 = match count {
            _ if self.0 == DISABLED => DISABLED,
            LARGE.. => (self.0 + 1).min(2 * THRESHOLD),
            _ => self.0.saturating_sub(1),
        };
    }

    /// Disables detection, for a client that does not keep up: pages in a pipe count for more than their
    /// bytes against the memory of all TCP sockets (tcp(7), `tcp_mem`).
    pub(super) fn disable(&mut self) {
        self.0 = DISABLED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `true` if receives of these sizes are a bulk transfer.
    fn is_bulk_after(sizes: impl IntoIterator<Item = usize>) -> bool {
        let mut bulk = BulkDetector::default();
        sizes.into_iter().for_each(|size| bulk.observe(size));
        bulk.is_bulk()
    }

    #[test]
    fn eight_large_receives_more_than_small_ones_are_bulk() {
        assert!(!is_bulk_after([]));
        assert!(!is_bulk_after([LARGE; 7]));
        assert!(is_bulk_after([LARGE; 8]));
        assert!(!is_bulk_after([LARGE - 1; 100]));
        // Messages of 256 KiB, the last part of each small.
        assert!(is_bulk_after([LARGE, LARGE, LARGE, 100].repeat(5)));
        assert!(!is_bulk_after([LARGE, 100].repeat(100)));
    }

    #[test]
    fn a_long_transfer_is_forgotten_after_nine_small_receives() {
        let long = std::iter::repeat_n(LARGE, 1000);
        assert!(is_bulk_after(long.clone().chain([1; 8])));
        assert!(!is_bulk_after(long.chain([1; 9])));
    }

    #[test]
    fn a_disabled_detector_stays_disabled() {
        let mut bulk = BulkDetector::default();
        bulk.disable();
        for size in [1, LARGE].repeat(300) {
            bulk.observe(size);
            assert!(!bulk.is_bulk());
        }
    }
}
