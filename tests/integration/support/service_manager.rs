//! A service manager: hears what the daemon says on `NOTIFY_SOCKET`, keeps sockets for it, and
//! passes sockets to it.

use std::io::{ErrorKind, IoSliceMut};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use crate::support::{Launch, secs};

/// Service manager with a notification socket.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    name: String,
    stored: Vec<(String, RawFd)>,
    _directory: Option<TempDir>,
}

impl Manager {
    /// Creates a manager that listens at a path.
    pub(crate) fn at_path() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let name = path.to_str().expect("a temporary directory has a plain name").to_owned();
        Self { socket, name, stored: Vec::new(), _directory: Some(directory) }
    }

    /// Creates a manager that listens at an abstract name, unique to this process and `number`.
    pub(crate) fn at_abstract_name(number: u32) -> Self {
        let name = format!("tcp-echo-suite-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self { socket, name: format!("@{name}"), stored: Vec::new(), _directory: None }
    }

    /// Sets `NOTIFY_SOCKET` for a launch.
    pub(crate) fn watch(&self, launch: Launch) -> Launch {
        launch.env("NOTIFY_SOCKET", &self.name)
    }

    /// The next datagram, if one comes within `limit`. A descriptor that comes along is closed by the
    /// kernel, for nobody asks for it.
    pub(crate) fn next_message(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut text = [0; 8192];
        loop {
            match self.socket.recv(&mut text) {
                Ok(length) => return Some(String::from_utf8(text[..length].to_vec()).unwrap()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("the manager cannot receive: {error}"),
            }
        }
    }

    /// Everything from now on up to the first datagram that begins with `last`, without the watchdog.
    #[track_caller]
    pub(crate) fn messages_until(&self, limit: Duration, last: &str) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let mut all: Vec<String> = Vec::new();
        while !all.last().is_some_and(|text| text.starts_with(last)) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next_message(left.max(Duration::from_millis(1))) {
                Some(text) if text == "WATCHDOG=1" => {}
                Some(text) => all.push(text),
                None => panic!("{last:?} is not said within {limit:?}, only {all:#?}"),
            }
        }
        all
    }

    /// Returns the next datagram and its descriptors, which the caller must close. A test
    /// that uses it needs an exclusive lock: a process that starts meanwhile inherits them.
    fn receive(&self, limit: Duration) -> Option<(String, Vec<RawFd>)> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut text = [0; 8192];
        let mut space = cmsg_space!([RawFd; 4]);
        let mut slice = [IoSliceMut::new(&mut text)];
        let from = self.socket.as_raw_fd();
        let heard = loop {
            match recvmsg::<()>(from, &mut slice, Some(&mut space), MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                heard => break heard.expect("the manager hears"),
            }
        };
        let rights = heard.cmsgs().unwrap().filter_map(|message| match message {
            ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors = rights.flatten().collect();
        let length = heard.bytes;
        Some((String::from_utf8(text[..length].to_vec()).unwrap(), descriptors))
    }

    /// Hears everything up to READY and keeps the sockets that are to be stored, for
    /// [`pass_stored`](Self::pass_stored). A test that uses it runs alone.
    #[track_caller]
    pub(crate) fn store_until_ready(&mut self) {
        loop {
            let heard = self.receive(secs(5));
            let (text, descriptors) = heard.expect("the daemon says that it is ready");
            if let Some(name) = stored_name(&text) {
                assert!(text.starts_with("FDSTORE=1\n"), "{text:?}");
                self.stored.extend(descriptors.into_iter().map(|one| (name.to_owned(), one)));
            }
            if text.starts_with("READY=1") {
                return;
            }
        }
    }

    /// Fills the queue with meaningless datagrams, so that the daemon's do not fit.
    pub(crate) fn fill_queue(&self) {
        let noise = UnixDatagram::unbound().unwrap();
        noise.connect_addr(&self.socket.local_addr().unwrap()).unwrap();
        noise.set_nonblocking(true).unwrap();
        let full = (0..100_000).find_map(|_| noise.send(b"X_NOISE=1").err());
        assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
    }

    /// Hears everything up to the next barrier and returns it: what was said before counts as done when
    /// it is dropped. A test that uses it runs alone.
    #[track_caller]
    pub(crate) fn wait_barrier(&self, limit: Duration) -> Barrier {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let heard = self.receive(left.max(Duration::from_millis(1)));
            let (text, descriptors) = heard.expect("the daemon sends a barrier");
            let barrier = Barrier(descriptors);
            if text == "BARRIER=1" {
                assert_eq!(barrier.0.len(), 1, "one descriptor comes with a barrier");
                return barrier;
            }
        }
    }

    /// Closes the sockets that are stored under this name.
    pub(crate) fn remove(&mut self, name: &str) {
        let (removed, stored) =
            std::mem::take(&mut self.stored).into_iter().partition(|(known, _)| known == name);
        self.stored = stored;
        drop(Barrier(Vec::into_iter(removed).map(|(_, descriptor)| descriptor).collect()));
    }

    /// Returns the names of the stored sockets.
    pub(crate) fn stored_names(&self) -> Vec<&str> {
        self.stored.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Passes the stored sockets to a launch.
    pub(crate) fn pass_stored(&self, launch: Launch) -> Launch {
        let numbers: Vec<RawFd> = self.stored.iter().map(|(_, number)| *number).collect();
        let line = passing(&numbers);
        let launch = launch.env("LISTEN_FDNAMES", &self.stored_names().join(":"));
        launch.under(&["bash", "-c", &line])
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for (_, number) in &self.stored {
            nix::unistd::close(*number).expect("it is ours");
        }
    }
}

/// Descriptors of a barrier message, closed on drop.
#[derive(Debug)]
#[must_use]
pub(crate) struct Barrier(Vec<RawFd>);

impl Drop for Barrier {
    fn drop(&mut self) {
        for number in &self.0 {
            nix::unistd::close(*number).expect("it is ours");
        }
    }
}

/// Returns the socket name in a message.
fn stored_name(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("FDNAME="))
}

/// Starts the daemon with these sockets, as a socket unit does. They are inherited by whatever is
/// started during their life: the caller must hold an exclusive lock.
pub(crate) fn pass<S: AsFd + AsRawFd>(sockets: &[S], launch: Launch) -> Launch {
    for socket in sockets {
        fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let numbers: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    launch.under(&["bash", "-c", &passing(&numbers)])
}

/// Opens sockets at one address like a socket unit with `ReusePort=yes`.
pub(crate) fn reuseport_group(address: std::net::SocketAddr, count: usize) -> Vec<TcpListener> {
    let mut sockets: Vec<TcpListener> = Vec::new();
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
        let socket = socket.unwrap();
        socket.set_reuse_port(true).unwrap();
        let first = sockets.first().map(|first| first.local_addr().unwrap());
        socket.bind(&first.unwrap_or(address).into()).unwrap();
        socket.listen(128).unwrap();
        sockets.push(socket.into());
    }
    sockets
}

/// A line of shell that moves the descriptors with these numbers to where they are to be (3, 4, ...),
/// closes the originals, sets the variables and becomes the program behind it. It takes two moves,
/// because a target number can be the number of another original.
fn passing(numbers: &[RawFd]) -> String {
    const AWAY: usize = 400;
    let mut line = String::new();
    for (index, number) in numbers.iter().enumerate() {
        line += &format!("exec {}<&{number} {number}<&-\n", AWAY + index);
    }
    for index in 0..numbers.len() {
        line += &format!("exec {}<&{away} {away}<&-\n", 3 + index, away = AWAY + index);
    }
    line + &format!("LISTEN_FDS={} LISTEN_PID=$$ exec \"$0\" \"$@\"", numbers.len())
}

/// Returns `CLOCK_MONOTONIC` in microseconds.
pub(crate) fn monotonic_usec() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every system has this clock");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}

/// Returns the number after `NAME=` in a datagram.
pub(crate) fn number_in(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value?.parse().ok()
}

/// Returns the text with variable numbers replaced by `*`.
pub(crate) fn normalised(text: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some((name @ ("MONOTONIC_USEC" | "EXTEND_TIMEOUT_USEC"), value)) => {
            assert!(value.parse::<u64>().is_ok_and(|value| value > 0), "{text:?}");
            format!("{name}=*")
        }
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
