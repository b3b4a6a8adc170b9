//! The bytes that are sent: an endless stream, known at every position, so that what comes back can
//! be compared wherever it belongs.

/// The most that [`Source::bytes`] gives at once.
pub(super) const REACH: usize = 256 * 1024;

/// The pattern repeats after a prime number of bytes: no buffer size divides it, so a block that is
/// lost, repeated or exchanged does not fall on its own likeness.
const PERIOD: usize = 262_147;

/// An endless stream of bytes, and the comparison with what has come back.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// One period, and [`REACH`] bytes of the next ones, so that every slice is in one piece.
    table: Vec<u8>,
    period: usize,
}

/// The first wrong byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Where it is, relative to what was compared.
    pub index: usize,
    /// What was sent there.
    pub expected: u8,
    /// What came back.
    pub got: u8,
}

impl Source {
    /// The pattern: bytes that look random and are always the same.
    pub(super) fn pattern() -> Self {
        let mut dice = Dice::new(0);
        let period: Vec<u8> = (0..PERIOD).map(|_| dice.next().to_le_bytes()[3]).collect();
        Self::repeat(&period)
    }

    /// A text again and again. It must not be empty.
    pub(super) fn repeat(text: &[u8]) -> Self {
        debug_assert!(!text.is_empty(), "an empty text has no bytes to repeat");
        let table = text.iter().copied().cycle().take(text.len() + REACH).collect();
        Self { table, period: text.len() }
    }

    /// The bytes from `position` on: `most`, or [`REACH`] if that is less.
    pub(super) fn bytes(&self, position: u64, most: u64) -> &[u8] {
        let start = (position % self.period as u64) as usize;
        let length = most.min(REACH as u64) as usize;
        &self.table[start..start + length]
    }

    /// Compares what came back with the stream from `position` on.
    ///
    /// # Errors
    /// The first byte that differs.
    pub(super) fn compare(&self, position: u64, got: &[u8]) -> Result<(), Mismatch> {
        for (index, piece) in got.chunks(REACH).enumerate() {
            let before = index * REACH;
            let sent = self.bytes(position + before as u64, piece.len() as u64);
            if piece != sent {
                let pairs = sent.iter().zip(piece).enumerate();
                let first = pairs.map(|(index, (sent, got))| (index, *sent, *got));
                if let Some((index, expected, got)) = first.into_iter().find(|(_, a, b)| a != b) {
                    return Err(Mismatch { index: before + index, expected, got });
                }
            }
        }
        Ok(())
    }
}

/// Reproducible choices: the same seed gives the same sequence.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Dice that always roll the sequence of `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits (splitmix64).
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_period_is_a_prime_and_longer_than_any_slice() {
        assert!((2..600).all(|divisor| PERIOD % divisor != 0) && 600 * 600 > PERIOD);
        const { assert!(PERIOD > REACH) };
        assert_eq!(Source::pattern().table.len(), PERIOD + REACH);
    }

    #[test]
    fn a_slice_goes_on_where_the_last_one_ended() {
        let source = Source::pattern();
        let end = PERIOD as u64;
        assert_eq!(
            source.bytes(end - 3, 10),
            [source.bytes(end - 3, 3), source.bytes(0, 7)].concat()
        );
        assert_eq!(source.bytes(5, u64::MAX).len(), REACH);
        assert_eq!(source.bytes(5 + 7 * end, 9), source.bytes(5, 9));
    }

    #[test]
    fn a_text_repeats() {
        let source = Source::repeat(b"abc");
        assert_eq!(source.bytes(0, 7), b"abcabca");
        assert_eq!(source.bytes(2, 2), b"ca");
        let long = source.bytes(1, REACH as u64);
        assert_eq!(source.compare(1, long), Ok(()));
        assert_eq!(
            source.compare(0, b"abx"),
            Err(Mismatch { index: 2, expected: b'c', got: b'x' })
        );
    }

    #[test]
    fn what_is_longer_than_a_slice_is_compared_to_its_end() {
        let source = Source::pattern();
        let mut all = Vec::new();
        while all.len() < 2 * REACH + 100 {
            all.extend_from_slice(source.bytes(9 + all.len() as u64, 50_000));
        }
        assert_eq!(source.compare(9, &all), Ok(()));
        let last = all.len() - 1;
        all[last] ^= 1;
        assert_eq!(source.compare(9, &all).expect_err("wrong").index, last);
    }

    proptest! {
        #[test]
        fn loss_repetition_and_exchange_are_seen(
            position in 0..1_000_000_u64,
            first in 1..70_000_usize,
            second in 1..70_000_usize,
        ) {
            let source = Source::pattern();
            let sent = source.bytes(position, (first + second) as u64);
            let (head, tail) = sent.split_at(first);
            // One byte may be its own likeness; a few hardly are.
            prop_assume!(first > 8 && second > 8);
            prop_assert!(source.compare(position, tail).is_err());
            prop_assert!(source.compare(position, &[head, head].concat()).is_err());
            prop_assert!(source.compare(position, &[tail, head].concat()).is_err());
        }
    }
}
