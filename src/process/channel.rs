//! The wire between the controller and a worker: whole messages, descriptors beside them, and an end
//! of file when the other side dies.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

/// The most descriptors one message carries, and so the most `--listen` addresses there can be.
pub const MOST_DESCRIPTORS: usize = 64;

/// The longest message, in bytes; a longer text is cut.
const LONGEST_MESSAGE: usize = 1024;

/// What a worker tells the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The worker accepts connections. Its listeners come along if it has opened them itself.
    Ready,
    /// The worker accepts no more and ends when its connections have: the slot wants a new one.
    Retiring,
    /// The worker cannot start, and says why.
    Failed(String),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready => b"R".to_vec(),
            Self::Retiring => b"T".to_vec(),
            Self::Failed(reason) => {
                let reason = &reason.as_bytes()[..reason.len().min(LONGEST_MESSAGE - 1)];
                [b"F", reason].concat()
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b'R', []) => Some(Self::Ready),
            (b'T', []) => Some(Self::Retiring),
            (b'F', reason) => Some(Self::Failed(String::from_utf8_lossy(reason).into_owned())),
            _ => None,
        }
    }
}

/// What [`Channel::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A message and the descriptors that came with it.
    Message(Message, Vec<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The other side is gone.
    Closed,
}

/// One end of the wire, non-blocking.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two connected ends.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a message and duplicates of `descriptors`, at most [`MOST_DESCRIPTORS`].
    ///
    /// # Errors
    /// `EPIPE` when the other side is gone, `EAGAIN` when it does not read.
    pub fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = message.encode();
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

    /// Takes the next message.
    ///
    /// # Errors
    /// `EPROTO` for bytes that are no message; otherwise those of recvmsg(2).
    pub fn receive(&self) -> io::Result<Received> {
        let mut bytes = [0; LONGEST_MESSAGE];
        let mut control = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(received) => break received,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::ECONNRESET) => return Ok(Received::Closed),
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut descriptors = Vec::new();
        for part in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                // SAFETY: the kernel has just installed these descriptors for us, and nobody else
                // in this process knows them.
                descriptors
                    .extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let length = received.bytes;
        if length == 0 {
            return Ok(Received::Closed);
        }
        Message::decode(&bytes[..length])
            .map(|message| Received::Message(message, descriptors))
            .ok_or_else(|| Errno::EPROTO.into())
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
    use std::os::fd::AsFd;

    #[test]
    fn messages_and_descriptors_arrive_whole_and_in_order() {
        let (one, other) = Channel::pair().expect("channel");
        assert!(matches!(other.receive(), Ok(Received::Nothing)));
        let file = std::fs::File::open("/dev/null").expect("open");
        one.send(&Message::Ready, &[file.as_fd(), file.as_fd()]).expect("send");
        one.send(&Message::Failed("no".into()), &[]).expect("send");
        match other.receive() {
            Ok(Received::Message(Message::Ready, descriptors)) => assert_eq!(descriptors.len(), 2),
            wrong => panic!("{wrong:?}"),
        }
        match other.receive() {
            Ok(Received::Message(Message::Failed(reason), _)) => assert_eq!(reason, "no"),
            wrong => panic!("{wrong:?}"),
        }
        drop(one);
        assert!(matches!(other.receive(), Ok(Received::Closed)));
        assert!(other.send(&Message::Ready, &[]).is_err());
    }

    #[test]
    fn a_long_reason_is_cut_and_nonsense_refused() {
        let long = Message::Failed("x".repeat(5000)).encode();
        assert_eq!(long.len(), LONGEST_MESSAGE);
        assert_eq!(Message::decode(b"R?"), None);
        assert_eq!(Message::decode(b""), None);
    }
}
