//! Listening sockets: one way to build them, used by the controller and by every worker, because all
//! members of a `SO_REUSEPORT` group must be alike.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::{Endpoint, Keepalive, ListenConfig, Scope};

/// The longest `TCP_USER_TIMEOUT`, 24.8 days: the kernel refuses more milliseconds than an int has.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

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

/// An option of the daemon that the system refuses to set on a socket. Reads: `cannot set
/// --keepalive-delay: invalid argument`.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {option}: {}", explain(.source))]
pub struct TuneError {
    /// The option, as it is typed.
    pub option: &'static str,
    /// The error of the system call.
    pub source: io::Error,
}

/// An address claimed for this daemon: bound, not listening. While it exists no other program gets
/// the port, not even between the death of one worker and the start of the next.
#[derive(Debug)]
pub struct Claim {
    /// What was asked for; its port may be 0.
    pub wanted: Endpoint,
    /// The address as bound: with the real port where 0 was asked for.
    pub endpoint: Endpoint,
    /// What holds it.
    pub socket: OwnedFd,
}

impl From<TuneError> for io::Error {
    fn from(error: TuneError) -> Self {
        Self::other(error)
    }
}

impl ListenError {
    /// Whether trying again would fail the same way.
    pub fn is_lasting(&self) -> bool {
        let lasting =
            [libc::EADDRINUSE, libc::EACCES, libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT, libc::EINVAL];
        let refused = self.source.get_ref().and_then(|it| it.downcast_ref::<TuneError>());
        let source = refused.map_or(&self.source, |refused| &refused.source);
        source.raw_os_error().is_some_and(|errno| lasting.contains(&errno))
    }

    /// Whether another program has the address.
    pub fn is_in_use(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EADDRINUSE)
    }
}

impl Claim {
    /// Claims an address, refusing one that any other program listens on, unless it may be
    /// `shared`. `free_port`, if not 0, is the port to take where any would do.
    ///
    /// # Errors
    /// [`ListenError`] for an address that is in use, not ours, or not permitted.
    pub fn new(wanted: Endpoint, free_port: u16, shared: bool) -> Result<Self, ListenError> {
        let claim = || {
            let (socket, mut endpoint) = new_socket(&wanted)?;
            if endpoint.address.port() == 0 {
                endpoint.address.set_port(free_port);
            }
            // Bound alone first, so that a second instance is noticed; only then open to our workers.
            // Without SO_REUSEADDR two that start at the same moment do not get past each other; it is
            // needed only where connections of the last run are still in TIME_WAIT.
            socket.set_reuse_port(shared)?;
            socket.set_reuse_address(shared)?;
            let address = endpoint.address.into();
            socket.bind(&address).or_else(|_| {
                socket.set_reuse_address(true)?;
                socket.bind(&address)
            })?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            let socket = OwnedFd::from(socket);
            endpoint.address = address_of(&socket)?;
            Ok(Self { wanted, endpoint, socket })
        };
        claim().map_err(|source| ListenError { address: wanted.address, source })
    }
}

/// The local address of a socket.
///
/// # Errors
/// It is no IP socket.
pub fn address_of(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(socket).local_addr()?;
    address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Whether there can be IPv6 sockets. With the protocol there may still be no address.
pub fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).is_ok()
}

/// Opens a socket in the `SO_REUSEPORT` group of a claimed address, bound and ready to [`listen`].
///
/// # Errors
/// [`ListenError`].
pub fn open(endpoint: &Endpoint, options: &ListenConfig) -> Result<OwnedFd, ListenError> {
    let open = || {
        let (socket, endpoint) = new_socket(endpoint)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        tune(&SockRef::from(&socket), options)?;
        socket.bind(&endpoint.address.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| ListenError { address: endpoint.address, source })
}

/// Lets a bound socket accept connections, or gives a listening one another length of queue. The
/// order in which sockets begin to listen is their order in the group.
///
/// # Errors
/// [`ListenError`]: `EADDRINUSE` when another program was faster.
pub fn listen(socket: &OwnedFd, options: &ListenConfig) -> Result<(), ListenError> {
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    SockRef::from(socket).listen(backlog).map_err(|source| {
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        ListenError { address: address_of(socket).unwrap_or(unknown), source }
    })
}

/// Sets what accepted sockets inherit on Linux: set once here, it costs a connection nothing.
///
/// # Errors
/// [`TuneError`] for the first option that setsockopt(2) refuses; none in practice.
pub fn tune(socket: &SockRef<'_>, options: &ListenConfig) -> Result<(), TuneError> {
    let failed = |option| move |source| TuneError { option, source };
    socket.set_tcp_nodelay(options.nodelay).map_err(failed("--enable-nodelay"))?;
    // An urgent byte is a byte like any other: it comes back in its place.
    socket.set_out_of_band_inline(true).map_err(failed("SO_OOBINLINE"))?;
    keep_alive(socket, options.keepalive).map_err(failed("--keepalive-delay"))
}

/// Gives a listening socket the options of a new configuration, with its queue's length if the socket
/// is `ours` alone.
///
/// # Errors
/// [`TuneError`] for the first option that the system refuses. The socket listens on as it did.
pub fn retune(socket: &OwnedFd, options: &ListenConfig, ours: bool) -> Result<(), TuneError> {
    if ours {
        let option = "--connection-backlog";
        listen(socket, options).map_err(|error| TuneError { option, source: error.source })?;
    }
    tune(&SockRef::from(socket), options)
}

/// How many bytes the kernel holds for the peer, not yet acknowledged (tcp(7), `SIOCOUTQ`).
pub fn unsent(socket: &impl AsRawFd) -> u32 {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int, and the descriptor is open.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if done == 0 { count.unsigned_abs() } else { 0 }
}

/// How many connections wait at a listening socket, and how many may (tcp(7), `TCP_INFO`).
pub fn queue(listener: &impl AsRawFd) -> (u32, u32) {
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
    // For a socket that listens, these two fields have another meaning than their names say.
    if done == 0 { (info.tcpi_unacked, info.tcpi_sacked) } else { (0, 0) }
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
    Ok((socket, endpoint))
}

/// Probes a silent peer after some time, and gives up on one that does not even acknowledge, which
/// keepalive alone would not while data is on the way (tcp(7), `TCP_USER_TIMEOUT`).
fn keep_alive(socket: &SockRef<'_>, keepalive: Option<Keepalive>) -> io::Result<()> {
    socket.set_keepalive(keepalive.is_some())?;
    let Some(keepalive) = keepalive else { return socket.set_tcp_user_timeout(None) };
    let probes = TcpKeepalive::new()
        .with_time(keepalive.delay)
        .with_interval(Keepalive::INTERVAL)
        .with_retries(Keepalive::PROBES);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(keepalive.give_up.map(|limit| limit.min(LONGEST_USER_TIMEOUT)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_timeout_beyond_what_the_kernel_counts_is_cut_to_that() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let limit = |days: u64| {
            let give_up = Some(Duration::from_secs(days * 24 * 3600));
            let keepalive = Keepalive { delay: Duration::from_secs(60), give_up };
            keep_alive(&SockRef::from(&socket), Some(keepalive)).expect("the kernel takes it");
            socket.tcp_user_timeout().expect("it can be read")
        };
        assert_eq!(limit(24), Some(Duration::from_secs(24 * 24 * 3600)));
        assert_eq!(limit(25), Some(LONGEST_USER_TIMEOUT));
        assert_eq!(limit(365), Some(LONGEST_USER_TIMEOUT));
    }
}
