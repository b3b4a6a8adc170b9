//! What to do with the bytes of a connection. One service is one file.

mod echo;

pub use echo::Echo;

/// A TCP service: called with what a client sent, it says what to answer.
///
/// Generic, never `dyn`, so that the compiler sees through it: the echo costs nothing extra.
pub trait Service {
    /// What the service keeps for each connection; `()` if nothing.
    type Session: Default + std::fmt::Debug;

    /// Answers `input`, which is never empty. The answer may be the input itself, or lie in the
    /// service; it is sent or kept before the service is called again.
    fn answer<'a>(&'a mut self, session: &mut Self::Session, input: &'a [u8]) -> &'a [u8];
}
