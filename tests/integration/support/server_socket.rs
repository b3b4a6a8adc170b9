//! The server's end of a connection, duplicated from the worker so that tests can read its options.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use socket2::Socket;

use super::{Server, proc, skip, wait_for};
use crate::support::{Client, SOON};

/// Duplicates a descriptor of another process (pidfd_getfd(2)).
///
/// Unsafe, because the crates in use have no safe wrapper for it.
fn duplicate(pid: i32, number: i32) -> io::Result<OwnedFd> {
    let owned = |result: libc::c_long| match result {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just opened this descriptor, and no other value owns it.
        number => Ok(unsafe { OwnedFd::from_raw_fd(number as i32) }),
    };
    // SAFETY: the call takes numbers and touches no memory.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call takes numbers and touches no memory.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
}

/// Returns the server's end of a client's connection; skips the test if that is not permitted.
#[track_caller]
pub(crate) fn accepted_socket(server: &Server, client: &Client) -> Option<Socket> {
    let ends = (server.port(), client.stream().local_addr().unwrap().port());
    let target = wait_for(SOON, "the server's end of the connection", || {
        let is_ours = |socket: &proc::Socket| {
            !socket.listens && (socket.local.port(), socket.remote.port()) == ends
        };
        let socket = proc::sockets().into_iter().find(is_ours)?;
        (socket.inode > 0).then(|| format!("socket:[{}]", socket.inode))
    });
    let holder = wait_for(SOON, "the worker that holds it", || {
        server.workers().into_values().find_map(|pid| {
            let mut entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
            let entry = entries.find(|entry| {
                fs::read_link(entry.path()).is_ok_and(|link| link.to_str() == Some(&target))
            })?;
            Some((pid, entry.file_name().to_str()?.parse().ok()?))
        })
    });
    let (pid, number) = holder;
    match duplicate(pid, number) {
        Ok(socket) => Some(Socket::from(socket)),
        Err(error) => {
            skip(&format!("no access to sockets of other processes: {error}"));
            None
        }
    }
}
