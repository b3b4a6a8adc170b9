//! Bytes that tests send: known at every position, so that tests detect each lost, duplicated, or
//! swapped byte.

use std::sync::LazyLock;

/// Length after which the pattern repeats. It is prime: no buffer size divides it, so a block that
/// is lost, repeated, or swapped never meets equal bytes.
pub(crate) const PERIOD: usize = 1_048_583;

/// Twice the period, so that any slice of up to one period is contiguous.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(2026);
    let once: Vec<u8> = (0..PERIOD).map(|_| random.next().to_le_bytes()[3]).collect();
    once.iter().chain(&once).copied().collect()
});

/// Builds the table, so that no test measures its construction.
pub(crate) fn prepare() {
    LazyLock::force(&TABLE);
}

/// Endless stream of bytes, determined by a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    offset: usize,
}

impl Pattern {
    /// Returns the stream of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let offset = Random::new(seed).below(PERIOD as u64);
        Self { offset: offset as usize }
    }

    /// Returns `length` bytes from `position` on; at most [`PERIOD`].
    pub(crate) fn bytes(self, position: u64, length: usize) -> &'static [u8] {
        assert!(length <= PERIOD, "a slice of the pattern is at most one period long");
        let start = (self.offset as u64 + position) % PERIOD as u64;
        &TABLE[start as usize..start as usize + length]
    }

    /// Returns a copy of the first `length` bytes.
    pub(crate) fn start(self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let take = (length - bytes.len()).min(PERIOD);
            bytes.extend_from_slice(self.bytes(bytes.len() as u64, take));
        }
        bytes
    }

    /// Compares the bytes received at `position`; the error names the first wrong position.
    pub(crate) fn check(self, position: u64, got: &[u8]) -> Result<(), String> {
        for (index, piece) in got.chunks(PERIOD).enumerate() {
            let at = position + (index * PERIOD) as u64;
            let wanted = self.bytes(at, piece.len());
            if piece != wanted {
                let first = wanted.iter().zip(piece).take_while(|(a, b)| a == b).count();
                let (wanted, got) = (wanted[first], piece[first]);
                let at = at + first as u64;
                return Err(format!("byte {at} came back as {got:#04x}, sent was {wanted:#04x}"));
            }
        }
        Ok(())
    }
}

/// Reproducible random numbers.
#[derive(Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// Returns the generator for `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next 64 bits (splitmix64).
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
