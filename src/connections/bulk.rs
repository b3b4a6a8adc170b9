//! Whether what a client sends is bulk, which passes through a pipe without being copied.

/// A receive of so many bytes is a sign of bulk, a smaller one of the opposite. The last piece of a
/// long message is small, too: one alone changes nothing.
const LARGE: usize = 64 * 1024;

/// With so many more signs for it than against it, it is. Up to twice as many are remembered.
const ENOUGH: u8 = 8;

/// The client has not kept up.
const NEVER: u8 = u8::MAX;

/// The signs so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bulk(u8);

impl Bulk {
    /// Whether it is bulk.
    pub(super) fn is_it(self) -> bool {
        (ENOUGH..NEVER).contains(&self.0)
    }

    /// Takes the size of a receive as a sign.
    pub(super) fn weigh(&mut self, count: usize) {
        self.0 = match count {
            _ if self.0 == NEVER => NEVER,
            LARGE.. => (self.0 + 1).min(2 * ENOUGH),
            _ => self.0.saturating_sub(1),
        };
    }

    /// A client that does not keep up is served by copying from now on: pages that lie in a queue count
    /// for more than their bytes against what all connections may have (tcp(7), `tcp_mem`).
    pub(super) fn give_up(&mut self) {
        self.0 = NEVER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is bulk after receives of these sizes.
    fn after(sizes: impl IntoIterator<Item = usize>) -> bool {
        let mut bulk = Bulk::default();
        sizes.into_iter().for_each(|size| bulk.weigh(size));
        bulk.is_it()
    }

    #[test]
    fn it_takes_eight_more_large_ones_than_small_ones() {
        assert!(!after([]));
        assert!(!after([LARGE; 7]));
        assert!(after([LARGE; 8]));
        assert!(!after([LARGE - 1; 100]));
        // Messages of 256 KiB, the last piece of each small.
        assert!(after([LARGE, LARGE, LARGE, 100].repeat(5)));
        assert!(!after([LARGE, 100].repeat(100)));
    }

    #[test]
    fn it_is_forgotten_as_fast_as_it_was_learnt() {
        let long = std::iter::repeat_n(LARGE, 1000);
        assert!(after(long.clone().chain([1; 8])));
        assert!(!after(long.chain([1; 9])));
    }

    #[test]
    fn who_is_slow_once_is_slow() {
        let mut bulk = Bulk::default();
        bulk.give_up();
        for size in [1, LARGE].repeat(300) {
            bulk.weigh(size);
            assert!(!bulk.is_it());
        }
    }
}
