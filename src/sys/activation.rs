//! Socket activation: listening sockets opened by the service manager (sd_listen_fds(3)).
//!
//! The manager opens them before it starts this process and keeps duplicates, so that clients can connect
//! during a restart. Therefore shutdown(2) must not be called on one: it would affect the manager's
//! duplicate, too. close(2) does not.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;
use socket2::{Protocol, SockRef, Type};

/// `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

/// Maximum number of passed sockets.
const MOST: usize = 1024;

/// Name of a socket without a name.
const UNKNOWN: &str = "unknown";

/// A listening TCP socket passed by the service manager, non-blocking and closed on exec.
#[derive(Debug)]
pub(crate) struct Passed {
    /// `FileDescriptorName=` of its unit, or the `FDNAME=` under which it was stored.
    pub name: String,
    pub socket: OwnedFd,
    /// Local address.
    pub address: SocketAddr,
}

/// Returns the sockets passed to this process, `pid`; none if the variables are not set or name another
/// process. `variables` looks up environment variables.
///
/// Must be called once, before anything opens descriptors. The caller removes `LISTEN_PID`, `LISTEN_FDS`
/// and `LISTEN_FDNAMES` from the environment afterwards.
///
/// # Errors
/// `InvalidInput` if a variable is invalid (`LISTEN_FDS=x is not a number from 0 to 1024`) or a
/// descriptor is of another kind (`descriptor 3 (LISTEN_FDS) is not a listening TCP socket`).
pub(crate) fn take(
    pid: Pid,
    variables: impl Fn(&str) -> Option<OsString>,
) -> io::Result<Vec<Passed>> {
    let numbered = (FIRST..).zip(names(pid, variables)?);
    // SAFETY: according to the variables the service manager has opened these descriptors for this process,
    // and nothing else uses them.
    numbered.map(|(number, name)| unsafe { adopt(number, name) }).collect()
}

/// Returns the names of the passed sockets in the order of their descriptors.
fn names(pid: Pid, variables: impl Fn(&str) -> Option<OsString>) -> io::Result<Vec<String>> {
    let value = |name| variables(name).map(|value| value.to_string_lossy().into_owned());
    // The variables may be those of the parent, which has not removed them.
    let Some(meant_for) = value("LISTEN_PID") else { return Ok(Vec::new()) };
    match meant_for.parse() {
        Ok(number) if Pid::from_raw(number) == pid => {}
        Ok(_) => return Ok(Vec::new()),
        Err(_) => return Err(invalid(format!("LISTEN_PID={meant_for} is not a process id"))),
    }
    let Some(count) = value("LISTEN_FDS") else { return Ok(Vec::new()) };
    let Some(count) = count.parse().ok().filter(|count| (0..=MOST).contains(count)) else {
        return Err(invalid(format!("LISTEN_FDS={count} is not a number from 0 to {MOST}")));
    };
    let Some(names) = value("LISTEN_FDNAMES").filter(|_| count > 0) else {
        return Ok(vec![UNKNOWN.to_owned(); count]);
    };
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    if names.len() != count {
        let names = names.join(":");
        return Err(invalid(format!("LISTEN_FDNAMES={names} does not fit LISTEN_FDS={count}")));
    }
    Ok(names)
}

/// Takes ownership of an inherited descriptor.
///
/// # Safety
/// Nothing else in this process may use or close descriptor `number`.
unsafe fn adopt(number: RawFd, name: String) -> io::Result<Passed> {
    // SAFETY: any number may be asked about.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(invalid(format!("descriptor {number} (LISTEN_FDS) is not open")));
    }
    // SAFETY: it is open, and the caller guarantees that nothing else uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let Some(address) = listening_address(SockRef::from(&socket)) else {
        let reason = format!("descriptor {number} (LISTEN_FDS) is not a listening TCP socket");
        return Err(invalid(reason));
    };
    let options = SockRef::from(&socket);
    options.set_cloexec(true)?;
    // By default the manager passes blocking ones. There accept(2) would block if the client has gone.
    options.set_nonblocking(true)?;
    Ok(Passed { name, socket, address })
}

/// Returns the address on which a socket listens for TCP connections, `None` if it does not.
fn listening_address(socket: SockRef<'_>) -> Option<SocketAddr> {
    let listens = socket.r#type().ok()? == Type::STREAM
        && socket.protocol().ok()? == Some(Protocol::TCP)
        && socket.is_listener().ok()?;
    // Only IPv4 and IPv6 have such an address.
    socket.local_addr().ok().filter(|_| listens)?.as_socket()
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixListener;

    const PID: i32 = 42;

    fn names_in(environment: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let find = |name: &str| environment.iter().find(|(key, _)| *key == name);
        names(Pid::from_raw(PID), |name| find(name).map(|(_, value)| value.into()))
            .map_err(|error| error.to_string())
    }

    fn adopt_from(descriptor: impl IntoRawFd) -> Result<Passed, String> {
        let number = descriptor.into_raw_fd();
        // SAFETY: its owner has just given it up.
        let adopted = unsafe { adopt(number, "echo".into()) };
        adopted.map_err(|error| error.to_string().replace(&number.to_string(), "N"))
    }

    #[test]
    fn descriptors_have_names() {
        let for_us = ("LISTEN_PID", "42");
        assert_eq!(names_in(&[for_us, ("LISTEN_FDS", "2")]), Ok(vec!["unknown".into(); 2]));
        let named = [for_us, ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "a:slot-2-0:")];
        let expected = ["a", "slot-2-0", ""].map(str::to_owned);
        assert_eq!(names_in(&named), Ok(expected.to_vec()));
        assert_eq!(names_in(&[for_us, ("LISTEN_FDS", "1024")]).map(|names| names.len()), Ok(1024));
    }

    #[test]
    fn what_is_not_meant_for_us_is_left_alone() {
        let none = Ok(Vec::new());
        assert_eq!(names_in(&[]), none);
        assert_eq!(names_in(&[("LISTEN_FDS", "1")]), none);
        assert_eq!(names_in(&[("LISTEN_PID", "42")]), none);
        assert_eq!(names_in(&[("LISTEN_PID", "43"), ("LISTEN_FDS", "x")]), none);
        let empty = [("LISTEN_PID", "42"), ("LISTEN_FDS", "0"), ("LISTEN_FDNAMES", "")];
        assert_eq!(names_in(&empty), none);
        assert!(take(Pid::from_raw(PID), |_| None).expect("nothing").is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        let refusal = |pid, fds, names| {
            let environment = [("LISTEN_PID", pid), ("LISTEN_FDS", fds), ("LISTEN_FDNAMES", names)];
            names_in(&environment).expect_err("nonsense")
        };
        assert_eq!(refusal("me", "1", "a"), "LISTEN_PID=me is not a process id");
        for count in ["", "-1", "1025", "x"] {
            let expected = format!("LISTEN_FDS={count} is not a number from 0 to 1024");
            assert_eq!(refusal("42", count, "a"), expected);
        }
        assert_eq!(refusal("42", "2", "a"), "LISTEN_FDNAMES=a does not fit LISTEN_FDS=2");
        assert_eq!(refusal("42", "1", "a:b"), "LISTEN_FDNAMES=a:b does not fit LISTEN_FDS=1");
    }

    #[test]
    fn a_listener_becomes_ours() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                // A host without IPv6.
                assert_eq!(address, "[::1]:0");
                continue;
            };
            let address = listener.local_addr().expect("address");
            fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).expect("flags");
            let number = listener.as_raw_fd();
            let passed = adopt_from(listener).expect("adopted");
            assert_eq!((passed.name.as_str(), passed.address), ("echo", address));
            assert_eq!(passed.socket.as_raw_fd(), number);
            let flags = fcntl(&passed.socket, FcntlArg::F_GETFD).expect("flags");
            assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
            let flags = fcntl(&passed.socket, FcntlArg::F_GETFL).expect("flags");
            assert!(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
            let _client = TcpStream::connect(address).expect("connect");
            TcpListener::from(passed.socket).accept().expect("accept");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let expected = "descriptor N (LISTEN_FDS) is not a listening TCP socket";
        let refusal = |adopted: Result<Passed, String>| adopted.expect_err("refused");
        assert_eq!(refusal(adopt_from(File::open("/dev/null").expect("open"))), expected);
        assert_eq!(refusal(adopt_from(UdpSocket::bind("127.0.0.1:0").expect("bind"))), expected);
        let directory = tempfile::tempdir().expect("directory");
        let unix = UnixListener::bind(directory.path().join("socket")).expect("bind");
        assert_eq!(refusal(adopt_from(unix)), expected);
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        assert_eq!(refusal(adopt_from(client)), expected);
        // SAFETY: no process has so many descriptors; nobody uses this one.
        let error = unsafe { adopt(RawFd::MAX, "echo".into()) }.expect_err("not open");
        assert_eq!(error.to_string(), "descriptor 2147483647 (LISTEN_FDS) is not open");
    }
}
