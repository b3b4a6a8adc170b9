//! How the client connects.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Begins to connect and does not wait for it: the socket is writable once it is connected, and
/// tells by its error that it cannot be.
///
/// `source` is the address to connect from, `receive_buffer` the bytes that the kernel may keep for
/// us (it takes twice as much, for its own books); without them the system decides.
///
/// # Errors
/// What the system sees at once: no descriptor, no port, no route, a source that is not ours.
pub(super) fn connect(
    address: SocketAddr,
    source: Option<IpAddr>,
    receive_buffer: Option<usize>,
) -> io::Result<TcpStream> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A short last segment must not wait for the acknowledgement of those before it.
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        // Only before the connection: its window is announced with it.
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = source {
        // The port is picked with the connection, so that it need not differ from those that are
        // used towards other servers.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn it_connects_from_the_address_it_is_told() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let source = IpAddr::from([127, 0, 0, 7]);
        let stream = connect(address, Some(source), Some(4096)).expect("begun");
        let (_, peer) = listener.accept().expect("accepted");
        assert_eq!(peer.ip(), source);
        assert_eq!(stream.local_addr().expect("connected"), peer);
        assert!(stream.nodelay().expect("an option"));
        // Documentation addresses (RFC 5737) are nobody's.
        assert!(connect(address, Some(IpAddr::from([192, 0, 2, 1])), None).is_err());
    }
}
