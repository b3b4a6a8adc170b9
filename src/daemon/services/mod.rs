//! Protocols that a process can speak; one file each.

mod echo;

pub use echo::Echo;

/// A TCP service: answers the input of a connection.
///
/// Generic, never `dyn`: the compiler inlines the echo.
pub trait Service {
    /// State of the service for each connection; `()` if there is none.
    type Session: Default + std::fmt::Debug;

    /// `true` if the service returns its input unchanged, which permits splice(2).
    const RETURNS_INPUT: bool = false;

    /// `true` if input restarts the idle timeout even if the service does not answer it.
    const INPUT_IS_ACTIVITY: bool = true;

    /// Answers `input`, which is never empty. The answer may borrow from the input or the service; it is
    /// sent or copied before the next call.
    fn answer<'a>(&'a mut self, session: &mut Self::Session, input: &'a [u8]) -> Answer<'a>;
}

/// The answer of a service to a piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Bytes to send; may be empty.
    pub bytes: &'a [u8],
    /// `true` if the daemon ends the connection once `bytes` are sent.
    pub last: bool,
}

impl<'a> From<&'a [u8]> for Answer<'a> {
    /// An answer after which the connection stays open.
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, last: false }
    }
}
