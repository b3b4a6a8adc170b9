//! Buffers for what is left to send: a bounded pool, so that a busy connection does not ask the
//! allocator again and again, and nothing is kept when the burst is over.

/// Smaller ones are cheap to make and would only fill the pool.
const SMALLEST: usize = 32 * 1024;

/// None has less room: glibc keeps what is smaller in a cache that it never gives back (tcache), and
/// after a burst each piece in there would hold a page.
const LEAST_ROOM: usize = 1040;

/// Buffers that wait in the pool.
const MOST: usize = 16;

/// The pool.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Vec<Vec<u8>>,
    /// So many have not been needed lately.
    fewest_free: usize,
    /// So many bytes were copied into buffers lately.
    kept: u64,
}

impl Buffers {
    /// A copy of `bytes`.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| bytes.len() >= SMALLEST && buffer.capacity() >= bytes.len();
        let mut buffer = match self.free.iter().position(fits) {
            Some(index) => self.free.swap_remove(index),
            None => Vec::with_capacity(bytes.len().max(LEAST_ROOM)),
        };
        self.fewest_free = self.fewest_free.min(self.free.len());
        self.kept += bytes.len() as u64;
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// Takes a buffer back.
    pub(super) fn give_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() >= SMALLEST && self.free.len() < MOST {
            buffer.clear();
            self.free.push(buffer);
        }
    }

    /// How many bytes have been kept since this was last asked.
    pub(super) fn take_kept(&mut self) -> u64 {
        std::mem::take(&mut self.kept)
    }

    /// Frees those that nobody has needed since the last time.
    pub(super) fn shrink(&mut self) {
        let unneeded = self.fewest_free.min(self.free.len());
        self.free.drain(..unneeded);
        self.fewest_free = self.free.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_is_used_again_and_freed_when_nobody_needs_it() {
        let mut buffers = Buffers::default();
        let large = buffers.keep(&[1; SMALLEST + 1]);
        assert_eq!(buffers.take_kept(), SMALLEST as u64 + 1);
        let place = large.as_ptr();
        buffers.give_back(large);
        let again = buffers.keep(&[2; SMALLEST]);
        assert_eq!((again.as_ptr(), again.as_slice()), (place, &[2; SMALLEST][..]));
        assert_eq!(buffers.take_kept(), SMALLEST as u64, "since it was last asked");
        buffers.give_back(again);
        buffers.give_back(buffers_of(1));
        assert_eq!(buffers.free.len(), 1, "small ones are not kept");
        buffers.shrink();
        buffers.shrink();
        assert!(buffers.free.is_empty());
    }

    #[test]
    fn the_pool_is_bounded() {
        let mut buffers = Buffers::default();
        (0..100).for_each(|_| buffers.give_back(buffers_of(SMALLEST)));
        assert_eq!(buffers.free.len(), MOST);
    }

    fn buffers_of(length: usize) -> Vec<u8> {
        vec![0; length]
    }
}
