//! Socket options and states that std does not offer.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Returns the local address of a socket.
///
/// # Errors
/// `Unsupported` if it is not an IP socket.
pub(crate) fn address_of(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(socket).local_addr()?;
    address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Returns `true` if IPv6 sockets can be created, even if no IPv6 address is configured.
pub(crate) fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).is_ok()
}

/// Returns the number of bytes in the send queue that the peer has not acknowledged (tcp(7), `SIOCOUTQ`).
pub(crate) fn unsent(socket: &impl AsRawFd) -> u32 {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int, and the descriptor is open.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if done == 0 { count.unsigned_abs() } else { 0 }
}

/// Returns the length of the accept queue of a listening socket and its limit (tcp(7), `TCP_INFO`).
pub(crate) fn queue(listener: &impl AsRawFd) -> (u32, u32) {
    // SAFETY: a structure of numbers, for which zeroes are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, and the descriptor is open.
    let done = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    // Of a listening socket these fields are the length and the limit of the accept queue.
    if done == 0 { (info.tcpi_unacked, info.tcpi_sacked) } else { (0, 0) }
}

/// Makes close(2) reset the connection (RST) and discard unsent bytes.
pub(crate) fn reset_on_close(socket: &impl AsFd) {
    // With any other time close(2) would block.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
