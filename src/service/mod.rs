//! What to do with the bytes of a connection. One service is one file.

mod echo;

pub use echo::Echo;

/// A TCP service: called with what a client sent, it says what to answer.
///
/// Generic, never `dyn`, so that the compiler sees through it: the echo costs nothing extra.
pub trait Service {
    /// What the service keeps for each connection; `()` if nothing.
    type Session: Default + std::fmt::Debug;

    /// Whether every answer is the input itself: then bytes need not be looked at on their way.
    const PASSES_THROUGH: bool = false;

    /// Whether a client that sends is not idle, even where it gets no answer.
    const INPUT_IS_ACTIVITY: bool = true;

    /// Answers `input`, which is never empty. The answer may be the input itself, or lie in the
    /// service; it is sent or kept before the service is called again.
    fn answer<'a>(&'a mut self, session: &mut Self::Session, input: &'a [u8]) -> Answer<'a>;
}

/// What a service has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// What to send; may be empty.
    pub bytes: &'a [u8],
    /// Whether it is the last: once it is sent, the connection ends from our side.
    pub last: bool,
}

impl<'a> From<&'a [u8]> for Answer<'a> {
    /// An answer that others may follow.
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, last: false }
    }
}
