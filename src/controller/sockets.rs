//! The descriptors that the controller keeps for the queues: they outlive the workers, and so do the
//! connections that wait there.
//!
//! Who attends which queue is decided in [`super::queues`]; here are only the sockets. The controller
//! lets each listen, because the order of listen(2) decides their positions in the groups.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use super::queues::{Kind, Queues};
use super::steering::Steering;
use crate::config::{Endpoint, ListenConfig};
use crate::ids::QueueId;
use crate::process::channel::Channel;
use crate::process::sockets::{self, Claim, ListenError};

/// Both ends of a slot's handoff queue: what has not been taken when a worker dies is still there for
/// its successor.
#[derive(Debug)]
pub(super) struct HandoffEnds {
    pub(super) slot: u32,
    pub(super) sender: Channel,
    pub(super) receiver: Channel,
}

/// All sockets, by the names of their queues.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// Bound and never listening: the addresses are ours between two workers, too.
    pub(super) claims: Vec<Claim>,
    /// The addresses of sockets that were passed to us; if any, they are all that is listened on.
    pub(super) passed: Vec<Endpoint>,
    pub(super) listening: BTreeMap<QueueId, OwnedFd>,
    pub(super) handoff: BTreeMap<QueueId, HandoffEnds>,
    pub(super) steering: Steering,
    /// Nothing new is accepted any more.
    pub(super) closing: bool,
}

impl Sockets {
    /// The addresses that the daemon listens on, as they are bound.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        match self.passed.is_empty() {
            true => self.claims.iter().map(|claim| claim.endpoint).collect(),
            false => self.passed.clone(),
        }
    }

    /// Gives all listening sockets the options of a new configuration. A socket that refuses one serves
    /// on without it: the first refusal is logged.
    pub(super) fn retune(&self, options: &ListenConfig, queues: &Queues) {
        let refused = self.listening.iter().filter_map(|(id, socket)| {
            let (address, ours) = match queues.kind(*id)? {
                Kind::Accept(address) => (address, true),
                Kind::External(address) => (address, false),
                Kind::Handoff => return None,
            };
            let error = sockets::retune(socket, options, ours).err()?;
            Some((address, error))
        });
        if let Some((address, error)) = refused.collect::<Vec<_>>().first() {
            warn!(%address, "reloaded socket keeps its former options: {error}");
        }
    }

    /// The socket of an accept queue.
    pub(super) fn listener(&self, id: QueueId) -> Option<BorrowedFd<'_>> {
        self.listening.get(&id).map(AsFd::as_fd)
    }

    /// The descriptors of a new worker that inherits these queues: their own, and if there is a handoff
    /// queue among them the sending ends of all.
    pub(super) fn for_worker(&self, queues: &[QueueId]) -> Vec<RawFd> {
        let listening = queues.iter().filter_map(|id| self.listening.get(id));
        let receiving = queues.iter().filter_map(|id| self.handoff.get(id));
        let hands_off = queues.iter().any(|id| self.handoff.contains_key(id));
        let sending = self.handoff.values().filter(|_| hands_off);
        let sending = sending.map(|ends| ends.sender.as_raw_fd());
        let receiving = receiving.map(|ends| ends.receiver.as_raw_fd());
        listening.map(AsRawFd::as_raw_fd).chain(receiving).chain(sending).collect()
    }

    /// Returns `true` if a connection waits in a queue.
    pub(super) fn is_waiting(&self, id: QueueId) -> bool {
        if let Some(socket) = self.listening.get(&id) {
            return sockets::queue(socket).0 > 0;
        }
        self.handoff.get(&id).is_some_and(|ends| {
            let mut event = [PollFd::new(ends.receiver.as_fd(), PollFlags::POLLIN)];
            poll(&mut event, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        })
    }

    /// Closes the descriptors of a queue.
    pub(super) fn close(&mut self, id: QueueId) {
        self.listening.remove(&id);
        self.handoff.remove(&id);
    }

    /// Opens a handoff queue for `slot`.
    ///
    /// # Errors
    /// No descriptors left.
    pub(super) fn open_handoff(&mut self, id: QueueId, slot: u32) -> io::Result<()> {
        let (sender, receiver) = Channel::pair()?;
        self.handoff.insert(id, HandoffEnds { slot, sender, receiver });
        Ok(())
    }

    /// Lets a socket listen that a worker has bound, and keeps it.
    ///
    /// # Errors
    /// [`ListenError`]; the socket is closed then.
    pub(super) fn listen(
        &mut self,
        id: QueueId,
        socket: OwnedFd,
        options: &ListenConfig,
    ) -> Result<Kind, ListenError> {
        sockets::listen(&socket, options)?;
        let unknown = |source| ListenError { address: ([0; 4], 0).into(), source };
        let address = sockets::address_of(&socket).map_err(unknown)?;
        self.listening.insert(id, socket);
        Ok(Kind::Accept(address))
    }
}
