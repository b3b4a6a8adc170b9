//! Listening sockets: one way to build them, used by the controller and by every worker, because all
//! members of a `SO_REUSEPORT` group must be alike.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::{Endpoint, ListenConfig, Scope};

/// Why an address cannot be listened on. Reads: `cannot listen on 0.0.0.0:80: permission denied
/// (ports below 1024 need CAP_NET_BIND_SERVICE)`.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", explain(.source))]
pub struct ListenError {
    /// What was asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// An address claimed for this daemon: bound, not listening. While it exists no other program gets
/// the port, not even between the death of one worker and the start of the next.
#[derive(Debug)]
pub struct Claim {
    /// The address as bound: with the real port where 0 was asked for.
    pub endpoint: Endpoint,
    _socket: Socket,
}

impl Claim {
    /// Claims an address, refusing one that any other program listens on, unless the port may be
    /// shared.
    ///
    /// # Errors
    /// [`ListenError`] for an address that is in use, not ours, or not permitted.
    pub fn new(wanted: &Endpoint, options: &ListenConfig) -> Result<Self, ListenError> {
        let claim = || {
            let (socket, endpoint) = new_socket(wanted)?;
            // Bound alone first, so that a second instance is noticed; only then open to our workers.
            socket.set_reuse_port(options.share_port)?;
            socket.bind(&endpoint.address.into())?;
            socket.set_reuse_port(true)?;
            let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let endpoint = Endpoint { address: bound, ..endpoint };
            Ok(Self { endpoint, _socket: socket })
        };
        claim().map_err(|source| ListenError { address: wanted.address, source })
    }
}

/// Opens a listener in the `SO_REUSEPORT` group of a claimed address.
///
/// # Errors
/// [`ListenError`].
pub fn listen(endpoint: &Endpoint, options: &ListenConfig) -> Result<OwnedFd, ListenError> {
    let open = || {
        let (socket, endpoint) = new_socket(endpoint)?;
        socket.set_reuse_port(true)?;
        // Linux hands these on to accepted sockets: set once here, they cost a connection nothing.
        socket.set_tcp_nodelay(options.nodelay)?;
        // An urgent byte is a byte like any other: it comes back in its place.
        socket.set_out_of_band_inline(true)?;
        if let Some(delay) = options.keepalive {
            keep_alive(&socket, delay)?;
        }
        socket.bind(&endpoint.address.into())?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    };
    open().map_err(|source| ListenError { address: endpoint.address, source })
}

/// Ends a connection by RST when the socket is closed, throwing away what is unsent.
pub fn reset_on_close(socket: &impl AsFd) {
    // Only ever zero: any other linger would block the whole loop in close(2).
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// A non-blocking socket for this endpoint; an IPv4 one for a dual-stack wildcard where the host has
/// no IPv6.
fn new_socket(endpoint: &Endpoint) -> io::Result<(Socket, Endpoint)> {
    let mut endpoint = *endpoint;
    let open = |domain| Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP));
    let mut socket = open(Domain::for_address(endpoint.address));
    let no_ipv6 = |error: &io::Error| error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    if endpoint.scope == Scope::DualStack && socket.as_ref().is_err_and(no_ipv6) {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, endpoint.address.port()));
        endpoint = Endpoint { address, scope: Scope::V4 };
        socket = open(Domain::IPV4);
    }
    let socket = socket?;
    match endpoint.scope {
        Scope::V4 => {}
        Scope::V6Only => socket.set_only_v6(true)?,
        Scope::DualStack => socket.set_only_v6(false)?,
    }
    // Connections of the last run that are still in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    Ok((socket, endpoint))
}

/// Probes a silent peer after `delay`, three times, ten seconds apart, and gives up on a stalled one
/// after the same time, which keepalive alone would not (tcp(7), `TCP_USER_TIMEOUT`).
fn keep_alive(socket: &Socket, delay: Duration) -> io::Result<()> {
    const INTERVAL: Duration = Duration::from_secs(10);
    const PROBES: u32 = 3;
    let keepalive =
        TcpKeepalive::new().with_time(delay).with_interval(INTERVAL).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(delay + INTERVAL * PROBES))
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => "address in use: another program or another tcp-echo has it \
             (--allow-shared-port to share it with a tcp-echo)"
            .into(),
        Some(Errno::EACCES) => {
            "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".into()
        }
        Some(Errno::EADDRNOTAVAIL) => "no interface of this host has this address".into(),
        Some(Errno::EAFNOSUPPORT) => "this host does not support the address family".into(),
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    }
}
