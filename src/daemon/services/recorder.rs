//! A connection for the tests of services: records what a service does with it.

use std::net::SocketAddr;

use super::{Io, Service};

/// A connection that takes everything at once.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Bytes sent, in order.
    pub sent: Vec<u8>,
    /// Bytes sent by each call of the service that sent any.
    pub calls: Vec<usize>,
    /// `true` if the service has ended the connection.
    pub finished: bool,
    /// Address of the client.
    pub peer: Option<SocketAddr>,
    /// Local address.
    pub local: Option<SocketAddr>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            calls: Vec::new(),
            finished: false,
            peer: Some(([192, 0, 2, 7], 51_234).into()),
            local: Some(([198, 51, 100, 1], 8090).into()),
        }
    }
}

impl Io for Recorder {
    fn send(&mut self, bytes: &[u8]) {
        assert!(!self.finished, "sent after the end");
        self.sent.extend_from_slice(bytes);
    }

    fn finish(&mut self) {
        self.finished = true;
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn local(&self) -> Option<SocketAddr> {
        self.local
    }
}

impl Recorder {
    /// Calls the service once.
    pub(super) fn call(&mut self, call: impl FnOnce(&mut Self)) {
        let before = self.sent.len();
        call(self);
        if self.sent.len() > before {
            self.calls.push(self.sent.len() - before);
        }
    }

    /// Returns what was sent as text.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.sent).expect("text")
    }
}

/// Runs a connection: opens it, receives each piece, and ends the input. As the worker does, it splits a
/// piece that is larger than the service accepts, and calls nothing after the service has finished.
pub(super) fn converse<'a, S: Service>(
    service: &mut S,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Recorder {
    let mut io = Recorder::default();
    let mut session = S::Session::default();
    io.call(|io| service.opened(&mut session, io));
    let max_input = service.max_input();
    for input in pieces.into_iter().flat_map(|piece| piece.chunks(max_input)) {
        if io.finished {
            return io;
        }
        io.call(|io| service.received(&mut session, io, input));
    }
    if !io.finished {
        io.call(|io| service.input_ended(&mut session, io));
    }
    io
}
