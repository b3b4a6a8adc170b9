//! The part of an answer that the kernel would not take yet.

/// Bytes that wait to be sent, in order. Exists only while there are any.
#[derive(Debug)]
pub(super) struct Remainder {
    bytes: Box<[u8]>,
    sent: usize,
}

impl Remainder {
    /// Keeps a copy of `unsent`; `None` when there is nothing to keep.
    pub(super) fn keep(unsent: &[u8]) -> Option<Box<Self>> {
        (!unsent.is_empty()).then(|| Box::new(Self { bytes: unsent.into(), sent: 0 }))
    }

    /// What is still to be sent, never empty.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Notes that the first `count` bytes of [`Self::unsent`] are sent. Returns whether any are left.
    pub(super) fn advance(&mut self, count: usize) -> bool {
        self.sent = (self.sent + count).min(self.bytes.len());
        self.sent < self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_not_kept() {
        assert!(Remainder::keep(b"").is_none());
    }

    proptest! {
        #[test]
        fn every_byte_leaves_once_and_in_order(
            bytes in prop::collection::vec(any::<u8>(), 1..500),
            steps in prop::collection::vec(1usize..90, 1..600),
        ) {
            let mut remainder = Remainder::keep(&bytes).expect("not empty");
            let mut left = Vec::new();
            for step in steps.into_iter().chain(std::iter::repeat(1)) {
                prop_assert!(!remainder.unsent().is_empty());
                let step = step.min(remainder.unsent().len());
                left.extend_from_slice(&remainder.unsent()[..step]);
                if !remainder.advance(step) {
                    break;
                }
            }
            prop_assert_eq!(left, bytes);
        }
    }
}
