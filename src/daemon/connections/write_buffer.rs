//! The pending write of a connection: bytes that the kernel did not take yet.
//!
//! If the client does not read, the write timeout (`timeouts`) or the drain deadline
//! (`Connections::reset_all`) resets the connection, which discards the bytes. `Connection::finish`
//! counts them.

use std::io;

use super::Pools;
use super::transport::{SplicePipe, Transport};

/// Bytes to be sent, in order. Exists only while there are any.
#[derive(Debug)]
pub(super) enum WriteBuffer<P> {
    /// Bytes copied from the receive buffer or from the service.
    Copied(Copied),
    /// Bytes in a pipe, never copied.
    Piped(P),
}

impl<P: SplicePipe> WriteBuffer<P> {
    /// Returns a copy of `bytes`; `None` if there are none.
    pub(super) fn copy(bytes: &[u8], pools: &mut Pools<P>) -> Option<Box<Self>> {
        if bytes.is_empty() {
            return None;
        }
        let bytes = pools.buffers.copy(bytes);
        Some(Box::new(Self::Copied(Copied { bytes, sent: 0 })))
    }

    /// Appends bytes. They must not follow bytes in a pipe.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        match self {
            Self::Copied(copied) => copied.bytes.extend_from_slice(bytes),
            Self::Piped(_) => unreachable!("nothing is sent while a write is pending"),
        }
    }

    /// Returns the number of bytes still to be sent.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Copied(copied) => copied.unsent().len(),
            Self::Piped(pipe) => pipe.len(),
        }
    }

    /// Sends once and returns the number of bytes that the kernel took.
    pub(super) fn send<X: Transport<Pipe = P>>(&mut self, transport: &mut X) -> io::Result<usize> {
        match self {
            Self::Copied(copied) => {
                let sent = transport.send(copied.unsent())?;
                copied.advance(sent);
                Ok(sent)
            }
            Self::Piped(pipe) => transport.splice_to(pipe),
        }
    }

    /// Returns the memory or the pipe to its pool.
    pub(super) fn release(self, pools: &mut Pools<P>) {
        match self {
            Self::Copied(copied) => pools.buffers.release(copied.bytes),
            Self::Piped(pipe) => pools.pipes.release(pipe),
        }
    }
}

/// Copied bytes, the first of which are sent.
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
    use crate::sys::pipe::Pipe;
    use proptest::prelude::*;

    #[test]
    fn no_bytes_need_no_buffer() {
        assert!(WriteBuffer::copy(b"", &mut Pools::<Pipe>::new(false, 0)).is_none());
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
