//! Protocols that a listener's connections can speak; one file each, in the list of
//! `crate::config::services`.

pub mod expansion;
mod identity;
mod line_splitter;
#[cfg(test)]
mod recorder;

pub use identity::Identity;
pub use line_splitter::{LineSplitter, TooLong};

use std::fmt::Debug;
use std::net::SocketAddr;

use crate::config::{ServiceConfig, services};

macro_rules! declare {
    ($($Type:ident $name:ident $purpose:literal $keys:tt,)*) => {
        $(
            pub mod $name;
            pub use self::$name::$Type;
        )*
    };
}
services!(declare);

/// A protocol: what is sent on a connection, and when.
///
/// A connection calls its service while no write is pending, so that a client that does not read costs
/// what one call has sent. Generic, never `dyn`: the compiler inlines the echo.
pub trait Service: Debug {
    /// State of the service for each connection; `()` if there is none.
    type Session: Default + Debug;

    /// `true` if the service owes its input back unchanged. This permits splice(2), and bytes that do
    /// not come back count as lost.
    const RETURNS_INPUT: bool = false;

    /// `true` if input restarts the idle timeout even if the service does not answer it.
    const INPUT_IS_ACTIVITY: bool = true;

    /// `true` if the service sends without input, in [`Self::writable`].
    const PRODUCES: bool = false;

    /// Returns the size of the largest piece of input, in bytes, whose answer is not too long to be kept
    /// for a client that does not read.
    fn max_input(&self) -> usize {
        usize::MAX
    }

    /// Begins a connection.
    fn opened(&mut self, _session: &mut Self::Session, _io: &mut impl Io) {}

    /// Handles `input`, which is never empty.
    fn received(&mut self, session: &mut Self::Session, io: &mut impl Io, input: &[u8]);

    /// Handles the end of the input, the client's FIN. The connection ends once everything is sent.
    fn input_ended(&mut self, _session: &mut Self::Session, _io: &mut impl Io) {}

    /// Sends more: everything is sent, and the kernel has room.
    fn writable(&mut self, _session: &mut Self::Session, _io: &mut impl Io) {}
}

/// A service that a listener can have.
pub trait Create: Service + Sized {
    /// Creates the service of a listener, in a worker.
    fn create(context: &ServiceContext<'_>) -> Self;
}

/// Facts for the creation of a service.
#[derive(Debug)]
pub struct ServiceContext<'a> {
    /// Parameters of the listener.
    pub config: &'a ServiceConfig,
    /// Limit of a pending write, in bytes.
    pub buffer_size: usize,
    /// The worker that answers.
    pub identity: &'a Identity,
}

/// The connection that a service is called for.
pub trait Io {
    /// Sends bytes. What the kernel does not take is kept and sent later, in order.
    fn send(&mut self, bytes: &[u8]);

    /// Ends the connection in order: sends a FIN behind the last byte, and discards input until the
    /// client's FIN.
    fn finish(&mut self);

    /// Returns the address of the client; `None` if the client has left already.
    fn peer(&self) -> Option<SocketAddr>;

    /// Returns the address that the client has connected to; `None` if the client has left already.
    fn local(&self) -> Option<SocketAddr>;
}
