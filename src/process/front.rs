//! A listening socket that one process at a time accepts from: of the internet or of this machine.
//!
//! Unlike the sockets in [`super::sockets`] it belongs to no group: nobody else can have the address.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::sockets::address_of;
use crate::config::AdminAddress;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Bytes that the kernel holds for a connection in each direction, more or less. The send buffer is
/// for our answers, of which the usual one fits.
const BUFFER: usize = 64 * 1024;

/// A client that takes nothing for so long is given up, even when we have closed already.
const UNREAD: Duration = Duration::from_secs(10);

/// A Unix socket is for its owner and its group.
const NOT_FOR_OTHERS: Mode = Mode::from_bits_truncate(0o117);

/// Where a [`Front`] listens, and what is to be removed when it does not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A TCP address, with its real port.
    Tcp(SocketAddr),
    /// A Unix socket: its path, and the device and inode of the file that we have made there.
    Unix(PathBuf, (u64, u64)),
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (--admin): {}", explain(.source))]
pub struct FrontError {
    /// What was asked for.
    pub address: AdminAddress,
    /// What the system said.
    pub source: io::Error,
}

/// A listening socket with its place.
#[derive(Debug)]
pub struct Front {
    /// Where it is.
    pub place: Place,
    /// The socket, non-blocking.
    pub socket: OwnedFd,
}

impl Front {
    /// Listens on `address`. The file of a Unix socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`FrontError`]: the address is in use, not ours, or not permitted.
    pub fn open(address: &AdminAddress) -> Result<Self, FrontError> {
        let opened = match address {
            AdminAddress::Tcp(address) => open_tcp(*address),
            AdminAddress::Unix(path) => open_unix(path),
        };
        opened.map_err(|source| FrontError { address: address.clone(), source })
    }

    /// Gives the address up: the file of a Unix socket goes, if it is still ours.
    pub fn remove(self) {
        if let Place::Unix(path, identity) = &self.place {
            if identity_of(path).is_ok_and(|found| found == *identity) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<Front> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of the last run may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Answers are whole: none waits for another.
    socket.set_tcp_nodelay(true)?;
    // What clients do not read is ours to give up, not the kernel's to keep.
    socket.set_send_buffer_size(BUFFER)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_tcp_user_timeout(Some(UNREAD))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = OwnedFd::from(socket);
    Ok(Front { place: Place::Tcp(address_of(&socket)?), socket })
}

fn open_unix(path: &Path) -> io::Result<Front> {
    let socket = new_unix()?;
    let address = SockAddr::unix(path)?;
    // The file has its mode from the first moment: there is one thread, nobody else makes any now.
    let before = umask(NOT_FOR_OTHERS);
    let bound = socket.bind(&address).or_else(|error| {
        if error.raw_os_error() != Some(libc::EADDRINUSE) || !is_stale(path) {
            return Err(error);
        }
        fs::remove_file(path)?;
        socket.bind(&address)
    });
    umask(before);
    bound?;
    socket.listen(BACKLOG)?;
    Ok(Front { place: Place::Unix(path.to_owned(), identity_of(path)?), socket: socket.into() })
}

fn new_unix() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
}

/// Whether the file is a socket that nobody listens on. One that does not answer now because its
/// queue is full is none.
pub fn is_stale(path: &Path) -> bool {
    let is_socket =
        fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let connect = || new_unix()?.connect(&SockAddr::unix(path)?);
    let refused = connect().is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED));
    is_socket && refused
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => "address in use".into(),
        Some(Errno::EADDRNOTAVAIL) => "no interface of this host has this address".into(),
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn unix(directory: &Path) -> AdminAddress {
        AdminAddress::Unix(directory.join("admin"))
    }

    #[test]
    fn an_address_has_one_listener() {
        let first = Front::open(&"0".parse().expect("an address")).expect("a free port");
        let Place::Tcp(address) = first.place else { panic!("{:?}", first.place) };
        let error = Front::open(&AdminAddress::Tcp(address)).expect_err("it is in use");
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {address} (--admin): address in use")
        );
    }

    #[test]
    fn a_unix_socket_is_for_owner_and_group_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin");
        let front = Front::open(&unix(directory.path())).expect("a socket");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).expect("it answers");
        assert!(Front::open(&unix(directory.path())).is_err(), "somebody answers there");
        front.remove();
        assert!(!path.exists());
    }

    #[test]
    fn only_a_socket_that_nobody_answers_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin");
        let former = Front::open(&unix(directory.path())).expect("a socket");
        drop(former.socket);
        let front = Front::open(&unix(directory.path())).expect("the former one is stale");
        fs::remove_file(&path).expect("it is there");
        fs::write(&path, "precious").expect("a file");
        assert!(Front::open(&unix(directory.path())).is_err(), "a file is no socket");
        front.remove();
        assert_eq!(fs::read(&path).expect("still there"), b"precious", "not ours any more");
    }
}
