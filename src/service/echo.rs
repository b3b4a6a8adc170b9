//! The echo protocol (RFC 862): what comes in goes out.

use super::{Answer, Service};

/// Sends back what it gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Service for Echo {
    type Session = ();

    const PASSES_THROUGH: bool = true;

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
