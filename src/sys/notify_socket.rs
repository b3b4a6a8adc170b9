//! Messages to the service manager: sd_notify(3).

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// A connection to the socket that the environment variable `NOTIFY_SOCKET` names.
///
/// Every message is one datagram. As the socket is connected, it can be used after an exec even if its path
/// is no longer reachable.
#[derive(Debug)]
pub(crate) struct NotifySocket(UnixDatagram);

impl NotifySocket {
    /// Connects to the socket that `value` names: an absolute path, or `@` and an abstract name.
    ///
    /// # Errors
    /// `InvalidInput` for any other value (systemd also knows `vsock:`, for whole machines) and for
    /// one longer than 107 bytes; `ENOENT` or `ECONNREFUSED` if there is no listener, `EACCES` without
    /// permission.
    pub(crate) fn from_env_value(value: &OsStr) -> io::Result<Self> {
        let address = match value.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(value)?,
            _ => {
                let value = value.to_string_lossy();
                let reason = format!("NOTIFY_SOCKET={value} is not a Unix socket");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(Self(socket))
    }

    /// Sends a message: lines of `NAME=value`, at most 4096 bytes, the limit of systemd. Never
    /// blocks.
    ///
    /// # Errors
    /// `EAGAIN` if the manager does not read: the message can be sent again. `ECONNREFUSED` if it is gone.
    pub(crate) fn send(&self, message: &str) -> io::Result<()> {
        self.send_with(message, &[])
    }

    /// Sends a message and duplicates of `descriptors`, at most 253 (unix(7)), for `FDSTORE=1`.
    /// Never blocks.
    ///
    /// # Errors
    /// Those of [`send`](Self::send), and `EINVAL` for too many descriptors.
    pub(crate) fn send_with(
        &self,
        message: &str,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
        // A call that does not block cannot be interrupted.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let message = [IoSlice::new(message.as_bytes())];
        sendmsg::<()>(self.0.as_raw_fd(), &message, control, flags, None)?;
        Ok(())
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for NotifySocket {
    /// Restores a connected socket that was kept open across an exec.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::cmsg_space;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::fs::File;
    use std::io::{IoSliceMut, Read};
    use std::os::fd::FromRawFd;
    use std::os::unix::net::UnixStream;

    /// A manager that listens at a path, and who talks to it.
    fn at_path() -> (tempfile::TempDir, UnixDatagram, NotifySocket) {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bind");
        let socket = NotifySocket::from_env_value(path.as_os_str()).expect("connect");
        (directory, manager, socket)
    }

    fn next(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 5000];
        let length = manager.recv(&mut bytes).expect("datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn each_message_is_one_datagram() {
        let (_directory, manager, socket) = at_path();
        socket.send("READY=1\nSTATUS=6/6 workers, 0 connections").expect("send");
        socket.send("WATCHDOG=1").expect("send");
        assert_eq!(next(&manager), "READY=1\nSTATUS=6/6 workers, 0 connections");
        assert_eq!(next(&manager), "WATCHDOG=1");
    }

    #[test]
    fn an_abstract_name_needs_no_file() {
        let name = format!("tcp-echo-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("name");
        let manager = UnixDatagram::bind_addr(&address).expect("bind");
        let value = format!("@{name}");
        let socket = NotifySocket::from_env_value(value.as_ref()).expect("connect");
        socket.send("STOPPING=1").expect("send");
        assert_eq!(next(&manager), "STOPPING=1");
    }

    #[test]
    fn descriptors_come_along() {
        let (_directory, manager, socket) = at_path();
        let (one, other) = UnixStream::pair().expect("pair");
        let null = File::open("/dev/null").expect("open");
        socket.send_with("FDSTORE=1", &[one.as_fd(), null.as_fd()]).expect("send");
        drop(one);
        let mut bytes = [0; 100];
        let mut control = cmsg_space!([RawFd; 2]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::empty();
        let received = recvmsg::<()>(manager.as_raw_fd(), &mut parts, Some(&mut control), flags);
        let received = received.expect("receive");
        let mut files = Vec::new();
        for part in received.cmsgs().expect("control messages") {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                // SAFETY: the kernel has just installed these descriptors for us.
                files.extend(numbers.into_iter().map(|fd| unsafe { File::from_raw_fd(fd) }));
            }
        }
        let length = received.bytes;
        assert_eq!(&bytes[..length], b"FDSTORE=1");
        assert_eq!(files.len(), 2);
        drop(other);
        // The very socket: it ends as its other end is closed.
        assert_eq!(files[0].read(&mut [0; 1]).expect("read"), 0);
    }

    #[test]
    fn a_manager_that_does_not_read_blocks_nobody() {
        let (_directory, manager, socket) = at_path();
        let refused = (0..100_000).find_map(|_| socket.send("WATCHDOG=1").err());
        assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        assert_eq!(next(&manager), "WATCHDOG=1");
        socket.send("WATCHDOG=1").expect("room again");
        drop(manager);
        let error = socket.send("WATCHDOG=1").expect_err("nobody there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn it_survives_exec_only_where_it_is_meant_to() {
        let (directory, manager, socket) = at_path();
        let flags = fcntl(&socket, FcntlArg::F_GETFD).expect("flags");
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
        let carried = socket.as_fd().try_clone_to_owned().expect("duplicate");
        drop((socket, directory));
        NotifySocket::from(carried).send("READY=1").expect("send");
        assert_eq!(next(&manager), "READY=1");
    }

    #[test]
    fn other_addresses_are_refused() {
        let error = |value: &str| NotifySocket::from_env_value(value.as_ref()).expect_err(value);
        let reason = "NOTIFY_SOCKET=vsock:2:1234 is not a Unix socket";
        assert_eq!(error("vsock:2:1234").to_string(), reason);
        for value in ["", "@", "relative/path", &format!("/{}", "x".repeat(200))] {
            assert_eq!(error(value).kind(), io::ErrorKind::InvalidInput, "{value}");
        }
        assert_eq!(error("/nowhere/at/all").kind(), io::ErrorKind::NotFound);
        assert_eq!(error("@tcp-echo-nobody").kind(), io::ErrorKind::ConnectionRefused);
    }
}
