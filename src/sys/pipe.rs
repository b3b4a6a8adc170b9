//! A pipe that moves bytes between sockets without copying them: splice(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// A pipe and the number of bytes in it.
#[derive(Debug)]
pub struct Pipe {
    read: File,
    write: OwnedFd,
    capacity: usize,
    filled: usize,
}

impl Pipe {
    /// Creates a pipe for at most `capacity` bytes.
    ///
    /// # Errors
    /// Out of descriptors; `EPERM` at the user's limit of pipe memory (pipe(7)).
    pub fn new(capacity: usize) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let size = i32::try_from(capacity).unwrap_or(i32::MAX);
        // The kernel rounds up.
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(size))?;
        Ok(Self { read: read.into(), write, capacity, filled: 0 })
    }

    /// Returns the number of bytes in the pipe.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Returns `true` if there are no bytes in the pipe.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves received bytes from a socket into the pipe and returns their number. 0 means end of file, or an
    /// urgent byte, which splice(2) does not pass; a receive tells the two apart.
    ///
    /// # Errors
    /// `EAGAIN` if nothing was received, otherwise those of splice(2) and of the socket.
    pub fn fill(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let count = move_bytes(socket, &self.write, self.capacity)?;
        self.filled += count;
        Ok(count)
    }

    /// Moves bytes from the pipe to a socket and returns their number.
    ///
    /// # Errors
    /// `EAGAIN` if the send buffer is full, otherwise those of splice(2) and of the socket.
    pub fn drain(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let count = move_bytes(&self.read, socket, self.filled)?;
        self.filled = self.filled.saturating_sub(count);
        Ok(count)
    }
}

/// Returns `true` if an error means that splice(2) cannot be used; other errors are those of the socket.
pub fn is_unusable(error: &io::Error) -> bool {
    let own = [Errno::EINVAL, Errno::ENOSYS, Errno::EPERM, Errno::EACCES, Errno::ENOMEM];
    own.iter().any(|&errno| error.raw_os_error() == Some(errno as i32))
}

fn move_bytes(from: &impl AsFd, to: &impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from, None, to, None, most, flags) {
            Err(Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_go_through_whole_and_in_order() {
        let (mut client, server) = UnixStream::pair().expect("sockets");
        server.set_nonblocking(true).expect("non-blocking");
        let mut pipe = Pipe::new(65536).expect("a pipe");
        assert_eq!(pipe.fill(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello").expect("write");
        assert_eq!(pipe.fill(&server).expect("fill"), 5);
        assert_eq!(pipe.len(), 5);
        assert_eq!(pipe.drain(&server).expect("drain"), 5);
        assert!(pipe.is_empty());
        let mut back = [0; 5];
        client.read_exact(&mut back).expect("read");
        assert_eq!(&back, b"hello");
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        assert_eq!(pipe.fill(&server).expect("end of file"), 0);
    }
}
