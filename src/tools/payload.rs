//! The payload: an endless byte stream whose content is known at every position, so that echoed bytes
//! can be compared wherever they belong.

/// Maximum length of a slice returned by [`Payload::bytes`], in bytes.
pub(super) const MAX_SLICE: usize = 256 * 1024;

/// Length of the random pattern in bytes. It is a prime, so no buffer size divides it: a block that is
/// lost, repeated, or swapped never matches the block in its place.
const PERIOD: usize = 262_147;

/// An endless byte stream, and the comparison of echoed bytes with it.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    /// One period and [`MAX_SLICE`] further bytes, so that every slice is contiguous.
    table: Vec<u8>,
    period: usize,
}

/// The first echoed byte that differs from the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Index within the compared bytes.
    pub index: usize,
    pub expected: u8,
    pub got: u8,
}

impl Payload {
    /// Returns a payload of pseudo-random bytes, identical in every run.
    pub(super) fn pattern() -> Self {
        let mut period = vec![0; PERIOD];
        fastrand::Rng::with_seed(0).fill(&mut period);
        Self::repeat(&period)
    }

    /// Returns a payload that repeats `text`, which must not be empty.
    pub(super) fn repeat(text: &[u8]) -> Self {
        debug_assert!(!text.is_empty(), "an empty text has no bytes to repeat");
        let table = text.iter().copied().cycle().take(text.len() + MAX_SLICE).collect();
        Self { table, period: text.len() }
    }

    /// Returns up to `max` bytes from `position` on, and never more than [`MAX_SLICE`].
    pub(super) fn bytes(&self, position: u64, max: u64) -> &[u8] {
        let start = (position % self.period as u64) as usize;
        let length = max.min(MAX_SLICE as u64) as usize;
        &self.table[start..start + length]
    }

    /// Compares echoed bytes with the payload from `position` on.
    ///
    /// # Errors
    /// The first byte that differs.
    pub(super) fn compare(&self, position: u64, echoed: &[u8]) -> Result<(), Mismatch> {
        for (number, got) in echoed.chunks(MAX_SLICE).enumerate() {
            let start = number * MAX_SLICE;
            let expected = self.bytes(position + start as u64, got.len() as u64);
            // Comparing slices is much faster than comparing bytes one by one.
            if got == expected {
                continue;
            }
            let mut pairs = expected.iter().zip(got).enumerate();
            if let Some((index, (&expected, &got))) = pairs.find(|(_, (one, other))| one != other) {
                return Err(Mismatch { index: start + index, expected, got });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_period_is_a_prime_and_longer_than_any_slice() {
        assert!((2..600).all(|divisor| PERIOD % divisor != 0) && 600 * 600 > PERIOD);
        const { assert!(PERIOD > MAX_SLICE) };
        assert_eq!(Payload::pattern().table.len(), PERIOD + MAX_SLICE);
    }

    #[test]
    fn a_slice_continues_where_the_last_one_ended() {
        let payload = Payload::pattern();
        let end = PERIOD as u64;
        assert_eq!(
            payload.bytes(end - 3, 10),
            [payload.bytes(end - 3, 3), payload.bytes(0, 7)].concat()
        );
        assert_eq!(payload.bytes(5, u64::MAX).len(), MAX_SLICE);
        assert_eq!(payload.bytes(5 + 7 * end, 9), payload.bytes(5, 9));
    }

    #[test]
    fn a_text_repeats() {
        let payload = Payload::repeat(b"abc");
        assert_eq!(payload.bytes(0, 7), b"abcabca");
        assert_eq!(payload.bytes(2, 2), b"ca");
        let long = payload.bytes(1, MAX_SLICE as u64);
        assert_eq!(payload.compare(1, long), Ok(()));
        assert_eq!(
            payload.compare(0, b"abx"),
            Err(Mismatch { index: 2, expected: b'c', got: b'x' })
        );
    }

    #[test]
    fn input_longer_than_a_slice_is_compared_to_its_end() {
        let payload = Payload::pattern();
        let mut all = Vec::new();
        while all.len() < 2 * MAX_SLICE + 100 {
            all.extend_from_slice(payload.bytes(9 + all.len() as u64, 50_000));
        }
        assert_eq!(payload.compare(9, &all), Ok(()));
        let last = all.len() - 1;
        all[last] ^= 1;
        assert_eq!(payload.compare(9, &all).expect_err("wrong").index, last);
    }

    proptest! {
        #[test]
        fn lost_repeated_and_swapped_blocks_are_detected(
            position in 0..1_000_000_u64,
            first in 1..70_000_usize,
            second in 1..70_000_usize,
        ) {
            let payload = Payload::pattern();
            let sent = payload.bytes(position, (first + second) as u64);
            let (head, tail) = sent.split_at(first);
            // A few bytes may repeat by chance.
            prop_assume!(first > 8 && second > 8);
            prop_assert!(payload.compare(position, tail).is_err());
            prop_assert!(payload.compare(position, &[head, head].concat()).is_err());
            prop_assert!(payload.compare(position, &[tail, head].concat()).is_err());
        }
    }
}
