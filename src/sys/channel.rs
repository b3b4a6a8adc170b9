//! A channel between two processes for messages with descriptors. It ends when the peer dies.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Maximum number of descriptors in a message; unix(7) permits 253.
pub(crate) const MOST_DESCRIPTORS: usize = 64;

/// Maximum length of a message, in bytes.
pub(crate) const LONGEST_MESSAGE: usize = 1024;

/// The result of [`Channel::receive`].
#[derive(Debug)]
pub enum Received<M> {
    /// A message and its descriptors. If the receiver's descriptor table is full, the last ones are lost
    /// (recv(2), `MSG_CTRUNC`).
    Message(M, Vec<OwnedFd>),
    /// No message is waiting.
    Nothing,
    /// The peer closed its end or died.
    Closed,
}

/// One end of a channel, non-blocking.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl From<OwnedFd> for Channel {
    /// Restores an end that was kept open across an exec.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl Channel {
    /// Creates two connected ends.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a message and duplicates of `descriptors`, at most [`MOST_DESCRIPTORS`].
    ///
    /// # Errors
    /// `EPIPE` if the peer is gone, `EAGAIN` if its receive queue is full, `EMSGSIZE` for a message longer
    /// than [`LONGEST_MESSAGE`].
    pub fn send<M: Serialize>(
        &self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > LONGEST_MESSAGE {
            return Err(Errno::EMSGSIZE.into());
        }
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            let sent = sendmsg::<()>(
                self.0.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            );
            match sent {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Receives the next message. Its descriptors are closed on exec.
    ///
    /// # Errors
    /// `EPROTO` for bytes that are not a message, otherwise those of recvmsg(2).
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Received<M>> {
        let mut bytes = [0; LONGEST_MESSAGE];
        let (length, descriptors) = match self.receive_bytes(&mut bytes) {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(errno.into()),
        };
        if length == 0 {
            return Ok(Received::Closed);
        }
        let message = serde_json::from_slice(&bytes[..length]).map_err(|_| Errno::EPROTO)?;
        Ok(Received::Message(message, descriptors))
    }

    // Not with nix: after MSG_CTRUNC its recvmsg returns an error and leaks the descriptors that arrived.
    fn receive_bytes(&self, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
        // Aligned for the headers in it.
        let mut control = [0_u64; 8 + MOST_DESCRIPTORS / 2];
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: a structure of numbers and pointers, for which zeroes are a value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        let length = loop {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control) as _;
            let flags = libc::MSG_CMSG_CLOEXEC;
            // SAFETY: the header points to buffers of the lengths that it names, which outlive the
            // call.
            let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, flags) };
            match Errno::result(received) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(length) => break length as usize,
            }
        };
        let mut descriptors = Vec::new();
        // SAFETY: the kernel has written whole headers into the control buffer, and set its length.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: a header that is not null lies in the control buffer.
        while let Some(part) = unsafe { next.as_ref() } {
            if (part.cmsg_level, part.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                // SAFETY: the data of a header lies behind it, in the same buffer.
                let data = unsafe { libc::CMSG_DATA(part) }.cast::<RawFd>();
                // SAFETY: computes a constant.
                let head = unsafe { libc::CMSG_LEN(0) } as usize;
                #[allow(clippy::unnecessary_cast)]
                // Of 32 bits where libc is musl.
                let length = part.cmsg_len as usize;
                for index in 0..length.saturating_sub(head) / size_of::<RawFd>() {
                    // SAFETY: the length says that there are so many numbers, of descriptors that the
                    // kernel has just installed and nothing else in this process knows.
                    descriptors
                        .push(unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) });
                }
            }
            // SAFETY: as for the first header.
            next = unsafe { libc::CMSG_NXTHDR(&raw const header, part) };
        }
        Ok((length, descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Text = Received<String>;

    #[test]
    fn messages_and_descriptors_arrive_whole_and_in_order() {
        let (one, other) = Channel::pair().expect("channel");
        assert!(matches!(other.receive(), Ok(Text::Nothing)));
        let file = std::fs::File::open("/dev/null").expect("open");
        one.send(&"two", &[file.as_fd(), file.as_fd()]).expect("send");
        one.send(&"none", &[]).expect("send");
        match other.receive() {
            Ok(Text::Message(text, descriptors)) => {
                assert_eq!((text.as_str(), descriptors.len()), ("two", 2));
            }
            wrong => panic!("{wrong:?}"),
        }
        match other.receive() {
            Ok(Text::Message(text, descriptors)) => {
                assert_eq!((text.as_str(), descriptors.len()), ("none", 0));
            }
            wrong => panic!("{wrong:?}"),
        }
        drop(one);
        assert!(matches!(other.receive(), Ok(Text::Closed)));
        assert!(other.send(&"late", &[]).is_err());
    }

    #[test]
    fn as_many_descriptors_as_may_be_fit() {
        let (one, other) = Channel::pair().expect("channel");
        let file = std::fs::File::open("/dev/null").expect("open");
        one.send(&"many", &[file.as_fd(); MOST_DESCRIPTORS]).expect("send");
        match other.receive() {
            Ok(Text::Message(_, descriptors)) => assert_eq!(descriptors.len(), MOST_DESCRIPTORS),
            wrong => panic!("{wrong:?}"),
        }
    }

    #[test]
    fn nonsense_and_what_is_too_long_is_refused() {
        let (one, other) = Channel::pair().expect("channel");
        one.send(&7, &[]).expect("send");
        assert!(other.receive::<String>().is_err());
        assert!(one.send(&"x".repeat(LONGEST_MESSAGE), &[]).is_err());
    }
}
