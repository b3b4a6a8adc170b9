//! The wire between the controller and a worker: whole messages, descriptors beside them, and an end
//! of file when the other side dies.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::config::listen::MOST_ADDRESSES;

/// The most descriptors one message carries.
pub const MOST_DESCRIPTORS: usize = MOST_ADDRESSES;

/// The longest message, in bytes; a longer text is cut.
const LONGEST_MESSAGE: usize = 1024;

/// What is said on the wire. It is JSON, because the two sides may be of different versions: an old
/// worker goes on under the controller of the build that has replaced its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// From a worker: it is ready to accept. The sockets that it has bound come along, in the order
    /// of its endpoints, for the controller to keep and to let listen.
    Ready,
    /// From a worker: it has had all the connections it may have, and ends when they have.
    Retiring,
    /// From a worker: it was told to drain, by whomever, and ends when its connections have.
    Draining,
    /// From a worker: it cannot start, and why.
    Failed(String),
    /// From a worker: the listeners of this slot, which was given up, are empty and closed.
    Closed {
        /// The slot.
        slot: u32,
    },
    /// To a worker: its time is over. Its connections end when they are quiet.
    Retire {
        /// Go on accepting for so long, because the queue has no other heir; 0: stop now.
        accept_ms: u64,
        /// Reset after so long what has not ended.
        drain_ms: u64,
        /// Let idle connections go at random points of this time.
        spread_ms: u64,
    },
    /// To a worker: accept from the queue of this slot too. Its listeners come along.
    Adopt {
        /// The slot.
        slot: u32,
        /// Only for so long: then empty the queue and close it.
        for_ms: Option<u64>,
    },
    /// To a worker: the way to a sibling comes along, for connections that are passed to it.
    Sibling {
        /// The sibling's slot.
        slot: u32,
    },
    /// To a worker: take what was passed to this slot too. Its inbox comes along.
    AdoptInbox {
        /// The slot.
        slot: u32,
        /// The seat of the worker that was to take it, if there is one.
        seat: Option<usize>,
    },
    /// From worker to worker: a connection that the receiver is to serve comes along.
    Connection,
    /// To a worker: the slot is looked after again.
    Release {
        /// The slot.
        slot: u32,
    },
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let encoded = serde_json::to_vec(self).unwrap_or_default();
        match self {
            Self::Failed(reason) if encoded.len() > LONGEST_MESSAGE => {
                // Every character may take six bytes as JSON.
                let cut: String = reason.chars().take(LONGEST_MESSAGE / 8).collect();
                serde_json::to_vec(&Self::Failed(cut)).unwrap_or_default()
            }
            _ => encoded,
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
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

impl From<OwnedFd> for Channel {
    /// An end that was carried across an exec.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

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
        for text in ["x", "\u{1}", "ß"] {
            let long = Message::Failed(text.repeat(5000)).encode();
            assert!(long.len() <= LONGEST_MESSAGE && Message::decode(&long).is_some());
        }
        assert_eq!(Message::decode(b"{\"sing\":1}"), None);
        assert_eq!(Message::decode(b""), None);
    }
}
