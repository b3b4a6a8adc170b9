//! Listening sockets and address reservations. Controller and workers share this code, because all
//! members of a `SO_REUSEPORT` group must have the same options.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::{Endpoint, Keepalive, ListenConfig, ListenerConfig, Scope};
use crate::sys::sockets::address_of;

/// Longest `TCP_USER_TIMEOUT`, 24.8 days: the kernel rejects more milliseconds than fit into an
/// int.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// Error of listening on an address, for example `cannot listen on 0.0.0.0:80: permission denied
/// (ports below 1024 need CAP_NET_BIND_SERVICE)`.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", explain(.source))]
pub struct ListenError {
    /// Requested address.
    pub address: SocketAddr,
    /// Error of the system call.
    pub source: io::Error,
}

/// Error of setting an option on a socket, for example `cannot set --keepalive-delay: invalid
/// argument`.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {option}: {}", explain(.source))]
pub struct TuneError {
    /// Name of the option on the command line.
    pub option: &'static str,
    /// Error of the system call.
    pub source: io::Error,
}

/// Address reservation: a socket that is bound and never listens. While it exists, no other program
/// gets the port, even between the exit of a worker and the start of the next one.
#[derive(Debug)]
pub struct Reservation {
    /// Configured endpoint, whose port can be 0.
    pub wanted: Endpoint,
    /// Bound endpoint with the real port.
    pub endpoint: Endpoint,
    /// Socket that is bound to the address.
    pub socket: OwnedFd,
}

impl From<TuneError> for io::Error {
    fn from(error: TuneError) -> Self {
        Self::other(error)
    }
}

impl ListenError {
    /// Returns `true` if another attempt would fail for the same reason.
    pub fn is_lasting(&self) -> bool {
        let lasting =
            [libc::EADDRINUSE, libc::EACCES, libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT, libc::EINVAL];
        let rejected = self.source.get_ref().and_then(|it| it.downcast_ref::<TuneError>());
        let source = rejected.map_or(&self.source, |rejected| &rejected.source);
        source.raw_os_error().is_some_and(|errno| lasting.contains(&errno))
    }

    /// Returns `true` if another program uses the address.
    pub fn is_in_use(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EADDRINUSE)
    }
}

impl Reservation {
    /// Reserves an address. If it is not `shared`, no other program may listen on it. A port of 0
    /// becomes `free_port`, or any free port if that is 0 too.
    ///
    /// # Errors
    /// [`ListenError`] if the address is in use, not one of this machine, or not permitted.
    pub fn new(wanted: Endpoint, free_port: u16, shared: bool) -> Result<Self, ListenError> {
        let reservation = || {
            let (socket, mut endpoint) = new_socket(&wanted)?;
            if endpoint.address.port() == 0 {
                endpoint.address.set_port(free_port);
            }
            // A bind without SO_REUSEPORT detects a second instance; the workers share the port
            // after that. Without SO_REUSEADDR two instances that start at once cannot both
            // succeed; it is needed only if connections of the last run are in TIME_WAIT.
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
        reservation().map_err(|source| ListenError { address: wanted.address, source })
    }
}

/// Opens a socket in the `SO_REUSEPORT` group of a reserved address, bound and ready to [`listen`].
///
/// # Errors
/// [`ListenError`].
pub fn open(endpoint: &Endpoint, options: &ListenConfig) -> Result<OwnedFd, ListenError> {
    let open = || {
        let (socket, endpoint) = new_socket(endpoint)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        tune(&SockRef::from(&socket), options.listener_at(endpoint.address))?;
        socket.bind(&endpoint.address.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| ListenError { address: endpoint.address, source })
}

/// Lets a bound socket accept connections, or changes the queue length of a listening one. The
/// order in which sockets begin to listen is their order in the group.
///
/// # Errors
/// [`ListenError`]: `EADDRINUSE` if another program has begun to listen first.
pub fn listen(socket: &OwnedFd, options: &ListenConfig) -> Result<(), ListenError> {
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    SockRef::from(socket).listen(backlog).map_err(|source| {
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        ListenError { address: address_of(socket).unwrap_or(unknown), source }
    })
}

/// Sets the options that accepted sockets inherit on Linux, so that connections need no system
/// call.
///
/// # Errors
/// [`TuneError`] for the first option that setsockopt(2) rejects; none in practice.
pub fn tune(socket: &SockRef<'_>, listener: &ListenerConfig) -> Result<(), TuneError> {
    let failed = |option| move |source| TuneError { option, source };
    socket.set_tcp_nodelay(listener.nodelay).map_err(failed("--enable-nodelay"))?;
    // Urgent data is echoed in its place.
    socket.set_out_of_band_inline(true).map_err(failed("SO_OOBINLINE"))?;
    keep_alive(socket, listener.keepalive).map_err(failed("--keepalive-delay"))
}

/// Sets the options of a new configuration on a socket that listens on `address`, and its queue
/// length if `ours` is `true`: no other program uses the socket.
///
/// # Errors
/// [`TuneError`] for the first option that is rejected. The socket keeps listening.
pub fn retune(
    socket: &OwnedFd,
    address: SocketAddr,
    options: &ListenConfig,
    ours: bool,
) -> Result<(), TuneError> {
    if ours {
        let option = "--connection-backlog";
        listen(socket, options).map_err(|error| TuneError { option, source: error.source })?;
    }
    tune(&SockRef::from(socket), options.listener_at(address))
}

/// Opens a non-blocking socket for an endpoint; an IPv4 socket for a dual-stack wildcard if the
/// host has no IPv6.
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

/// Sets keepalive and `TCP_USER_TIMEOUT`. Keepalive alone does not detect a lost peer while sent
/// data is not acknowledged (tcp(7)).
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
        Some(Errno::EADDRINUSE) => "address already in use \
             (use --allow-shared-port to share it with another tcp-echo)"
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
    use crate::config::{Config, Layers, OptionDefinition};

    fn listen(text: &str) -> ListenConfig {
        let command_line = OptionDefinition::find("listen").expect("an option").parse(text);
        let command_line = command_line.expect("valid");
        Config::load(&Layers { command_line, ..Layers::default() }).expect("valid").listen
    }

    #[test]
    fn a_socket_has_the_options_of_its_listener() {
        let options = |socket: &OwnedFd| {
            let socket = SockRef::from(socket);
            let delay = socket
                .keepalive()
                .expect("readable")
                .then(|| socket.tcp_keepalive_time().expect("readable"));
            (socket.tcp_nodelay().expect("readable"), delay)
        };
        let delay = |seconds| Some(Duration::from_secs(seconds));
        let config = listen("127.0.0.1:0?enable-nodelay=false&keepalive-delay=9,127.0.0.2:0");
        let sockets: Vec<OwnedFd> =
            config.endpoints().map(|endpoint| open(&endpoint, &config).expect("free")).collect();
        assert_eq!(options(&sockets[0]), (false, delay(9)));
        assert_eq!(options(&sockets[1]), (true, None));

        let config = listen("127.0.0.1:0,127.0.0.2:0?keepalive-delay=7&enable-nodelay=false");
        for socket in &sockets {
            let bound = address_of(socket).expect("bound");
            retune(socket, bound, &config, false).expect("valid options");
        }
        assert_eq!(options(&sockets[0]), (true, None));
        assert_eq!(options(&sockets[1]), (false, delay(7)));
    }

    #[test]
    fn a_write_timeout_is_limited_to_the_kernels_maximum() {
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
