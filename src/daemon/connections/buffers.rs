//! The pool of write buffers: bounded, so that a busy connection rarely calls the allocator, and a
//! burst leaves nothing behind.

/// Bytes that a buffer needs to enter the pool. Smaller buffers are cheap to allocate.
const SMALLEST_POOLED: usize = 32 * 1024;

/// Least capacity of a buffer. glibc keeps smaller blocks in a cache that it never returns (tcache), and
/// each of them would hold a page after a burst.
const MIN_CAPACITY: usize = 1040;

/// Most buffers in the pool.
const MAX_POOLED: usize = 16;

/// Free buffers for bytes that the kernel did not take.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    free: Vec<Vec<u8>>,
    /// Fewest free buffers since the last [`Self::shrink`].
    low_watermark: usize,
    /// Bytes copied since the last [`Self::take_copied`].
    copied: u64,
}

impl BufferPool {
    /// Returns a copy of `bytes`, in a buffer of the pool if one is large enough.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let fits =
            |buffer: &Vec<u8>| bytes.len() >= SMALLEST_POOLED && buffer.capacity() >= bytes.len();
        let mut buffer = match self.free.iter().position(fits) {
            Some(index) => self.free.swap_remove(index),
            None => Vec::with_capacity(bytes.len().max(MIN_CAPACITY)),
        };
        self.low_watermark = self.low_watermark.min(self.free.len());
        self.copied += bytes.len() as u64;
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// Returns `buffer` to the pool, or frees it if it is small or the pool is full.
    pub(super) fn release(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() >= SMALLEST_POOLED && self.free.len() < MAX_POOLED {
            buffer.clear();
            self.free.push(buffer);
        }
    }

    /// Returns the number of bytes copied since the last call.
    pub(super) fn take_copied(&mut self) -> u64 {
        std::mem::take(&mut self.copied)
    }

    /// Frees the buffers that were not needed since the last call.
    pub(super) fn shrink(&mut self) {
        let unneeded = self.low_watermark.min(self.free.len());
        self.free.drain(..unneeded);
        self.low_watermark = self.free.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_is_reused_and_freed_once_unneeded() {
        let mut pool = BufferPool::default();
        let large = pool.copy(&[1; SMALLEST_POOLED + 1]);
        assert_eq!(pool.take_copied(), SMALLEST_POOLED as u64 + 1);
        let address = large.as_ptr();
        pool.release(large);
        let again = pool.copy(&[2; SMALLEST_POOLED]);
        assert_eq!((again.as_ptr(), again.as_slice()), (address, &[2; SMALLEST_POOLED][..]));
        assert_eq!(pool.take_copied(), SMALLEST_POOLED as u64, "since the last call");
        pool.release(again);
        pool.release(vec![0; 1]);
        assert_eq!(pool.free.len(), 1, "small buffers are not pooled");
        pool.shrink();
        pool.shrink();
        assert!(pool.free.is_empty());
    }

    #[test]
    fn the_pool_is_bounded() {
        let mut pool = BufferPool::default();
        (0..100).for_each(|_| pool.release(vec![0; SMALLEST_POOLED]));
        assert_eq!(pool.free.len(), MAX_POOLED);
    }
}
