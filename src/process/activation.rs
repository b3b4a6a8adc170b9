//! Listening sockets that the service manager has opened: sd_listen_fds(3).
//!
//! It opens them before we exist and keeps duplicates of its own, so nobody is refused while we are
//! being restarted. That is also why shutdown(2) must never be called on one: it would end the
//! manager's, too. Closing is fine.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;
use socket2::{Protocol, SockRef, Type};

/// `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

/// The most sockets that may be passed.
const MOST: usize = 1024;

/// The name of what has none.
const UNKNOWN: &str = "unknown";

/// A listening TCP socket that was passed to us, now ours: non-blocking, and closed on exec.
#[derive(Debug)]
pub struct Passed {
    /// `FileDescriptorName=` of its unit, or the `FDNAME=` under which it was stored.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
    /// The address it listens on, with its real port.
    pub address: SocketAddr,
}

/// Takes the sockets that were passed to process `pid`, which is this one; none if none were, or if
/// they were meant for another process. `variables` looks up environment variables.
///
/// To be called once, before anything opens descriptors; afterwards the caller removes
/// `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` from the environment.
///
/// # Errors
/// `InvalidInput` when a variable is nonsense (`LISTEN_FDS=x is not a number from 0 to 1024`) or a
/// descriptor is something else (`descriptor 3 (LISTEN_FDS) is not a listening TCP socket`).
pub fn take(pid: Pid, variables: impl Fn(&str) -> Option<OsString>) -> io::Result<Vec<Passed>> {
    let numbered = (FIRST..).zip(names(pid, variables)?);
    // SAFETY: whoever started us has left these descriptors for us, the variables say so, and
    // nothing else here knows about them.
    numbered.map(|(number, name)| unsafe { adopt(number, name) }).collect()
}

/// The names of the sockets that were passed to us, in the order of their descriptors.
fn names(pid: Pid, variables: impl Fn(&str) -> Option<OsString>) -> io::Result<Vec<String>> {
    let value = |name| variables(name).map(|value| value.to_string_lossy().into_owned());
    // A process that we were started by may have got them, and forgotten to remove the variables.
    let Some(meant_for) = value("LISTEN_PID") else { return Ok(Vec::new()) };
    match meant_for.parse() {
        Ok(number) if Pid::from_raw(number) == pid => {}
        Ok(_) => return Ok(Vec::new()),
        Err(_) => return Err(nonsense(format!("LISTEN_PID={meant_for} is not a process id"))),
    }
    let Some(count) = value("LISTEN_FDS") else { return Ok(Vec::new()) };
    let Some(count) = count.parse().ok().filter(|count| (0..=MOST).contains(count)) else {
        return Err(nonsense(format!("LISTEN_FDS={count} is not a number from 0 to {MOST}")));
    };
    let Some(names) = value("LISTEN_FDNAMES").filter(|_| count > 0) else {
        return Ok(vec![UNKNOWN.to_owned(); count]);
    };
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    if names.len() != count {
        let names = names.join(":");
        return Err(nonsense(format!("LISTEN_FDNAMES={names} does not fit LISTEN_FDS={count}")));
    }
    Ok(names)
}

/// Makes an inherited descriptor ours.
///
/// # Safety
/// Nothing else in this process may use or close descriptor `number`.
unsafe fn adopt(number: RawFd, name: String) -> io::Result<Passed> {
    // SAFETY: any number may be asked about.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(nonsense(format!("descriptor {number} (LISTEN_FDS) is not open")));
    }
    // SAFETY: it is open, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let Some(address) = listening_address(SockRef::from(&socket)) else {
        let reason = format!("descriptor {number} (LISTEN_FDS) is not a listening TCP socket");
        return Err(nonsense(reason));
    };
    let options = SockRef::from(&socket);
    options.set_cloexec(true)?;
    // The manager passes blocking ones unless told otherwise: a client that is gone before
    // accept(2) would halt the worker.
    options.set_nonblocking(true)?;
    Ok(Passed { name, socket, address })
}

/// Where a socket listens for TCP connections; `None` if it does not, or is no socket at all.
fn listening_address(socket: SockRef<'_>) -> Option<SocketAddr> {
    let listens = socket.r#type().ok()? == Type::STREAM
        && socket.protocol().ok()? == Some(Protocol::TCP)
        && socket.is_listener().ok()?;
    // Of the families, only the two of the internet have such an address.
    socket.local_addr().ok().filter(|_| listens)?.as_socket()
}

fn nonsense(reason: String) -> io::Error {
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
