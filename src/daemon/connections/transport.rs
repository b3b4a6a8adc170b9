//! System calls that a connection makes, behind a trait, so that tests can script their results.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::sys::pipe::Pipe;
use crate::sys::sockets;

/// A non-blocking stream socket, as a connection uses it.
///
/// Every method is one system call. The compiler resolves all calls: in the daemon there is only
/// [`TcpStream`].
pub trait Transport {
    /// The pipe that splice(2) moves bytes through.
    type Pipe: SplicePipe;

    /// Receives into `buffer` and returns the number of bytes, 0 at the end of file.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends from `bytes` and returns the number of bytes taken.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Moves received bytes into an empty `pipe` and returns their number. 0 means the end of file or
    /// that an urgent byte is next.
    fn splice_from(&mut self, pipe: &mut Self::Pipe) -> io::Result<usize>;

    /// Moves bytes from `pipe` to the socket and returns their number.
    fn splice_to(&mut self, pipe: &mut Self::Pipe) -> io::Result<usize>;

    /// Returns the number of sent bytes that the peer has not acknowledged.
    fn unsent(&self) -> u32;

    /// Returns the address of the peer; `None` if the peer has left already.
    fn peer(&self) -> Option<SocketAddr>;

    /// Returns the address that the peer has connected to; `None` if the peer has left already.
    fn local(&self) -> Option<SocketAddr>;

    /// Sends a FIN behind all bytes sent.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Makes the close of the socket send RST and discard unsent bytes.
    fn reset_on_close(&mut self);
}

/// A pipe that holds bytes between two calls of splice(2).
pub trait SplicePipe: Sized {
    /// Creates an empty pipe for at most `capacity` bytes.
    fn open(capacity: usize) -> io::Result<Self>;

    /// Returns the number of bytes in the pipe.
    fn len(&self) -> usize;
}

impl Transport for TcpStream {
    type Pipe = Pipe;

    #[inline]
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    #[inline]
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    #[inline]
    fn splice_from(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        pipe.fill(self)
    }

    #[inline]
    fn splice_to(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        pipe.drain(self)
    }

    fn unsent(&self) -> u32 {
        sockets::unsent(self)
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.peer_addr().ok().map(canonical)
    }

    fn local(&self) -> Option<SocketAddr> {
        self.local_addr().ok().map(canonical)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn reset_on_close(&mut self) {
        sockets::reset_on_close(self);
    }
}

/// Returns `address` with an IPv4-mapped IPv6 address, as dual-stack sockets have it, written as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl SplicePipe for Pipe {
    fn open(capacity: usize) -> io::Result<Self> {
        Self::new(capacity)
    }

    #[inline]
    fn len(&self) -> usize {
        Self::len(self)
    }
}
