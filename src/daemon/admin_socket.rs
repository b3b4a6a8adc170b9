//! The admin socket: a TCP or Unix socket that one process at a time accepts from.
//!
//! Unlike the sockets in [`super::listeners`] it belongs to no group, so no other process can share
//! the address.

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

use crate::config::AdminAddress;
use crate::sys::sockets::address_of;

/// Length of the accept queue.
const BACKLOG: i32 = 1024;

/// Approximate size of a connection's socket buffers in bytes; a usual response fits.
const BUFFER: usize = 64 * 1024;

/// Time after which a connection is reset if its client reads nothing, even after it was closed.
const UNREAD: Duration = Duration::from_secs(10);

/// File mode mask of a Unix socket: accessible for owner and group only.
const NOT_FOR_OTHERS: Mode = Mode::from_bits_truncate(0o117);

/// Bound address of an [`AdminSocket`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundAddress {
    /// TCP address with the real port.
    Tcp(SocketAddr),
    /// Unix socket: its path, and the device and inode of its file.
    Unix(PathBuf, (u64, u64)),
}

/// Error of listening on the address of the admin process.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (--admin): {}", explain(.source))]
pub struct AdminSocketError {
    /// Configured address.
    pub address: AdminAddress,
    /// Error of the system call.
    pub source: io::Error,
}

/// Listening socket with its bound address.
#[derive(Debug)]
pub struct AdminSocket {
    /// Bound address.
    pub address: BoundAddress,
    /// Non-blocking socket.
    pub socket: OwnedFd,
}

impl AdminSocket {
    /// Listens on `address`. The file of a Unix socket without a listener is replaced.
    ///
    /// # Errors
    /// [`AdminSocketError`] if the address is in use, not one of this machine, or not permitted.
    pub fn open(address: &AdminAddress) -> Result<Self, AdminSocketError> {
        let opened = match address {
            AdminAddress::Tcp(address) => open_tcp(*address),
            AdminAddress::Unix(path) => open_unix(path),
        };
        opened.map_err(|source| AdminSocketError { address: address.clone(), source })
    }

    /// Closes the socket, and removes its file unless another process has replaced it.
    pub fn remove(self) {
        if let BoundAddress::Unix(path, identity) = &self.address {
            if identity_of(path).is_ok_and(|found| found == *identity) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<AdminSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of the last run may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Each response is sent as a whole.
    socket.set_tcp_nodelay(true)?;
    // Limits the kernel memory of clients that do not read.
    socket.set_send_buffer_size(BUFFER)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_tcp_user_timeout(Some(UNREAD))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = OwnedFd::from(socket);
    Ok(AdminSocket { address: BoundAddress::Tcp(address_of(&socket)?), socket })
}

fn open_unix(path: &Path) -> io::Result<AdminSocket> {
    let socket = new_unix()?;
    let address = SockAddr::unix(path)?;
    // The file has its mode from the beginning; the process has one thread, so no other file is
    // affected.
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
    Ok(AdminSocket {
        address: BoundAddress::Unix(path.to_owned(), identity_of(path)?),
        socket: socket.into(),
    })
}

fn new_unix() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
}

/// Returns `true` if the file is a socket without a listener. A full accept queue does not count.
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
        Some(Errno::EADDRINUSE) => "address already in use".into(),
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
        let first = AdminSocket::open(&"0".parse().expect("an address")).expect("a free port");
        let BoundAddress::Tcp(address) = first.address else { panic!("{:?}", first.address) };
        let error = AdminSocket::open(&AdminAddress::Tcp(address)).expect_err("it is in use");
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {address} (--admin): address already in use")
        );
    }

    #[test]
    fn a_unix_socket_is_accessible_for_its_group_and_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin");
        let admin_socket = AdminSocket::open(&unix(directory.path())).expect("a socket");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).expect("it answers");
        assert!(AdminSocket::open(&unix(directory.path())).is_err(), "somebody answers there");
        admin_socket.remove();
        assert!(!path.exists());
    }

    #[test]
    fn only_a_socket_without_listener_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin");
        let previous = AdminSocket::open(&unix(directory.path())).expect("a socket");
        drop(previous.socket);
        let admin_socket =
            AdminSocket::open(&unix(directory.path())).expect("the previous one is stale");
        fs::remove_file(&path).expect("it is there");
        fs::write(&path, "precious").expect("a file");
        assert!(AdminSocket::open(&unix(directory.path())).is_err(), "a file is no socket");
        admin_socket.remove();
        assert_eq!(fs::read(&path).expect("still there"), b"precious", "not ours any more");
    }
}
