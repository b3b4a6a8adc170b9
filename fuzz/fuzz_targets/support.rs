//! A connection for fuzzing services: it takes everything, and records it.

use std::net::SocketAddr;

use tcp_echo::daemon::services::{Io, Service};

/// Bytes that a service has sent, and whether it has ended the connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recorder {
    pub sent: Vec<u8>,
    pub finished: bool,
}

impl Io for Recorder {
    fn send(&mut self, bytes: &[u8]) {
        assert!(!self.finished, "sent after the end");
        assert!(!bytes.is_empty(), "sent nothing");
        self.sent.extend_from_slice(bytes);
    }

    fn finish(&mut self) {
        self.finished = true;
    }

    fn peer(&self) -> Option<SocketAddr> {
        Some(([192, 0, 2, 7], 51_234).into())
    }

    fn local(&self) -> Option<SocketAddr> {
        Some(([198, 51, 100, 1], 8090).into())
    }
}

/// Runs a connection whose input arrives in pieces of `size` bytes, and ends the input.
pub fn converse<S: Service>(service: &mut S, input: &[u8], size: usize) -> Recorder {
    let (mut io, mut session) = (Recorder::default(), S::Session::default());
    service.opened(&mut session, &mut io);
    for piece in input.chunks(size.min(service.max_input())) {
        if io.finished {
            return io;
        }
        service.received(&mut session, &mut io, piece);
    }
    if !io.finished {
        service.input_ended(&mut session, &mut io);
    }
    io
}

/// Lines of an input that is there at once.
pub fn lines(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.strip_suffix(b"\r").unwrap_or(line)
    })
}
