//! The echo protocol (RFC 862).

use super::{Create, Io, Service, ServiceContext};

/// A service that returns its input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Create for Echo {
    fn create(_: &ServiceContext<'_>) -> Self {
        Self
    }
}

impl Service for Echo {
    type Session = ();

    const RETURNS_INPUT: bool = true;

    fn received(&mut self, (): &mut (), io: &mut impl Io, input: &[u8]) {
        io.send(input);
    }
}
