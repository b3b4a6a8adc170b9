//! The echo protocol (RFC 862).

use super::{Io, Service};

/// A service that returns its input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Service for Echo {
    type Session = ();

    const RETURNS_INPUT: bool = true;

    fn received(&mut self, (): &mut (), io: &mut impl Io, input: &[u8]) {
        io.send(input);
    }
}
