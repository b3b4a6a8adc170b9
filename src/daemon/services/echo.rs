//! The echo protocol (RFC 862).

use super::{Answer, Service};

/// A service that returns its input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Service for Echo {
    type Session = ();

    const RETURNS_INPUT: bool = true;

    fn answer<'a>(&'a mut self, (): &mut (), input: &'a [u8]) -> Answer<'a> {
        input.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_input_itself() {
        let input = b"foo";
        assert!(std::ptr::eq(Echo.answer(&mut (), input).bytes, input));
    }
}
