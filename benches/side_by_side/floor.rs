//! The floor: a minimal echo server. One thread, one edge-triggered epoll loop, one buffer, and two system
//! calls per echo, without limits, timers, or shutdown.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// Size of the buffer: 256 KiB is faster than less for large messages, and as fast for small ones.
const BUFFER: usize = 256 * 1024;
const LISTENER: Token = Token(usize::MAX);

struct Floor {
    /// Connections by descriptor.
    table: Vec<Option<TcpStream>>,
    /// Pending output by descriptor.
    unsent: HashMap<usize, Vec<u8>>,
    buffer: Vec<u8>,
}

/// Echoes until it is killed.
///
/// # Errors
/// Those of epoll(7).
pub(crate) fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut floor = Floor { table: Vec::new(), unsent: HashMap::new(), buffer: vec![0; BUFFER] };
    loop {
        match poll.poll(&mut events, None) {
            // A stop signal or a debugger.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        for event in &events {
            let Token(index) = event.token();
            if event.token() == LISTENER {
                floor.accept(&listener, &poll)?;
            } else if floor.echo(index, event.is_readable(), event.is_read_closed()).is_err() {
                floor.unsent.remove(&index);
                floor.table[index] = None;
            }
        }
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let index = stream.as_raw_fd() as usize;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(index), interest)?;
            if index >= self.table.len() {
                self.table.resize_with(index + 1, || None);
            }
            self.table[index] = Some(stream);
        }
    }

    /// Echoes the available input. An error ends the connection.
    fn echo(&mut self, index: usize, readable: bool, ends: bool) -> io::Result<()> {
        let Some(stream) = &mut self.table[index] else { return Ok(()) };
        if let Some(unsent) = self.unsent.get_mut(&index) {
            let sent = send(stream, unsent)?;
            unsent.drain(..sent);
            if !unsent.is_empty() {
                return Ok(());
            }
            self.unsent.remove(&index);
        } else if !readable {
            return Ok(());
        }
        loop {
            let count = match stream.read(&mut self.buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let sent = send(stream, &self.buffer[..count])?;
            if sent < count {
                self.unsent.insert(index, self.buffer[sent..count].to_vec());
                return Ok(());
            }
            // A short receive means that the socket is empty, unless a FIN follows.
            if count < self.buffer.len() && !ends {
                return Ok(());
            }
        }
    }
}

/// Sends once, and returns the number of bytes sent.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        outcome => outcome,
    }
}
