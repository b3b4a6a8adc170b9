//! Non-blocking connection setup for `check` and `bench`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Starts a non-blocking connect. The socket becomes writable when the connection is established or has
/// failed; `take_error` tells which.
///
/// `source` is the local address, and `receive_buffer` the `SO_RCVBUF` in bytes, which the kernel
/// doubles. Without them the system chooses.
///
/// # Errors
/// Immediate failures: no descriptor, no local port, no route, a source address of another machine.
pub(super) fn connect(
    address: SocketAddr,
    source: Option<IpAddr>,
    receive_buffer: Option<usize>,
) -> io::Result<TcpStream> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A short last segment must not wait until the previous one is acknowledged.
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        // Must precede connect(2): the handshake announces the window.
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = source {
        // The kernel then picks the port in connect(2), so connections to different servers can
        // share one.
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
    fn it_connects_from_the_given_source_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let source = IpAddr::from([127, 0, 0, 7]);
        let stream = connect(address, Some(source), Some(4096)).expect("begun");
        let (_, peer) = listener.accept().expect("accepted");
        assert_eq!(peer.ip(), source);
        assert_eq!(stream.local_addr().expect("connected"), peer);
        assert!(stream.nodelay().expect("an option"));
        // No machine has a documentation address (RFC 5737).
        assert!(connect(address, Some(IpAddr::from([192, 0, 2, 1])), None).is_err());
    }
}
