//! The discard protocol (RFC 863): reads everything, sends nothing.

use super::{Create, Io, Service, ServiceContext};

/// A service that discards its input. The client's FIN ends the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Create for Discard {
    fn create(_: &ServiceContext<'_>) -> Self {
        Self
    }
}

impl Service for Discard {
    type Session = ();

    fn received(&mut self, (): &mut (), _: &mut impl Io, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::super::recorder::converse;
    use super::*;

    #[test]
    fn nothing_is_sent_and_the_connection_stays_open() {
        let io = converse(&mut Discard, [&b"foo"[..], &[0; 100_000], b"\nquit\n"]);
        assert_eq!((io.sent.len(), io.finished), (0, false));
    }

    #[test]
    fn input_keeps_the_connection_from_being_idle() {
        const { assert!(Discard::INPUT_IS_ACTIVITY) };
    }

    #[test]
    fn a_piece_of_input_has_any_size() {
        assert_eq!(Discard.max_input(), usize::MAX);
    }
}
