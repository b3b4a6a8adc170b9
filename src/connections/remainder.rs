//! The part of an answer that the kernel would not take yet.

use std::io;
use std::net::TcpStream;

use super::Pools;
use crate::process::pipe::Pipe;

/// What waits to be sent, in order. Exists only while there is any.
#[derive(Debug)]
pub(super) enum Remainder {
    /// A copy.
    Copied(Copied),
    /// In a pipe, never copied.
    Piped(Pipe),
}

impl Remainder {
    /// Keeps a copy of `unsent`; `None` when there is nothing to keep.
    pub(super) fn keep(unsent: &[u8], pools: &mut Pools) -> Option<Box<Self>> {
        if unsent.is_empty() {
            return None;
        }
        let bytes = pools.buffers.keep(unsent);
        Some(Box::new(Self::Copied(Copied { bytes, sent: 0 })))
    }

    /// How many bytes are still to be sent.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Copied(copied) => copied.unsent().len(),
            Self::Piped(pipe) => pipe.len(),
        }
    }

    /// One send of what is left: how much the kernel took.
    pub(super) fn send(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        match self {
            Self::Copied(copied) => {
                let sent = io::Write::write(stream, copied.unsent())?;
                copied.advance(sent);
                Ok(sent)
            }
            Self::Piped(pipe) => pipe.drain(stream),
        }
    }

    /// Gives back what it was kept in.
    pub(super) fn release(self, pools: &mut Pools) {
        match self {
            Self::Copied(copied) => pools.buffers.give_back(copied.bytes),
            Self::Piped(pipe) => pools.pipes.give_back(pipe),
        }
    }
}

/// A copy of bytes, the first of which are sent.
#[derive(Debug)]
pub(super) struct Copied {
    bytes: Vec<u8>,
    sent: usize,
}

impl Copied {
    fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn advance(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_not_kept() {
        assert!(Remainder::keep(b"", &mut Pools::new(false, 0)).is_none());
    }

    proptest! {
        #[test]
        fn every_byte_leaves_once_and_in_order(
            bytes in prop::collection::vec(any::<u8>(), 1..500),
            steps in prop::collection::vec(1usize..90, 1..600),
        ) {
            let mut copied = Copied { bytes: bytes.clone(), sent: 0 };
            let mut left = Vec::new();
            for step in steps.into_iter().chain(std::iter::repeat(1)) {
                let step = step.min(copied.unsent().len());
                left.extend_from_slice(&copied.unsent()[..step]);
                copied.advance(step);
                if copied.unsent().is_empty() {
                    break;
                }
            }
            prop_assert_eq!(left, bytes);
        }
    }
}
