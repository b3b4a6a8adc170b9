//! Descriptors that the controller keeps for the queues, so that the connections in a queue outlive
//! the worker that attended it.
//!
//! [`super::queues`] decides which worker attends which queue. The controller calls listen(2) for
//! each socket, because the order of these calls decides the positions in the `SO_REUSEPORT`
//! groups.
//!
//! | module | contents |
//! |---|---|
//! | `queue_effects` | actions of [`super::queues`]: grants, releases, closing |
//! | `steering_programs` | programs that keep new connections away from unhealthy workers |
//! | `reservations` | address reservations |
//! | `socket_activation` | sockets passed by the service manager |
//! | `admin_listener` | socket of the admin process |

pub(crate) mod admin_listener;
mod queue_effects;
pub(crate) mod reservations;
pub(crate) mod socket_activation;
pub(crate) mod steering_programs;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use self::steering_programs::SteeringPrograms;
use crate::config::{Endpoint, ListenConfig};
use crate::daemon::controller::queues::{Kind, Queues};
use crate::daemon::ids::{QueueId, SlotId};
use crate::daemon::listeners::{self, ListenError, Reservation};
use crate::sys::channel::Channel;
use crate::sys::sockets;

/// Both ends of a slot's handoff queue; connections in it outlive the worker.
#[derive(Debug)]
pub(crate) struct HandoffEnds {
    pub(crate) slot: SlotId,
    pub(crate) sender: Channel,
    pub(crate) receiver: Channel,
}

/// Sockets by the identifiers of their queues.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Bound sockets that never listen: no other program gets the address between two workers.
    pub(crate) reservations: Vec<Reservation>,
    /// Addresses of passed sockets; if any, no other address is listened on.
    pub(crate) passed: Vec<Endpoint>,
    pub(crate) listening: BTreeMap<QueueId, OwnedFd>,
    pub(crate) handoff: BTreeMap<QueueId, HandoffEnds>,
    pub(crate) steering: SteeringPrograms,
    /// `true` once no new connections are accepted.
    pub(crate) closing: bool,
}

impl Sockets {
    /// Returns the bound addresses of the daemon.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        match self.passed.is_empty() {
            true => self.reservations.iter().map(|reservation| reservation.endpoint).collect(),
            false => self.passed.clone(),
        }
    }

    /// Sets the options of a new configuration on all listening sockets. A failure is logged once,
    /// and the socket keeps its previous options.
    pub(crate) fn retune(&self, options: &ListenConfig, queues: &Queues) {
        let failed = self.listening.iter().filter_map(|(id, socket)| {
            let (address, ours) = match queues.kind(*id)? {
                Kind::Accept(address) => (address, true),
                Kind::External(address) => (address, false),
                Kind::Handoff => return None,
            };
            let error = listeners::retune(socket, address, options, ours).err()?;
            Some((address, error))
        });
        if let Some((address, error)) = failed.collect::<Vec<_>>().first() {
            warn!(%address, "cannot change options of listening socket: {error}");
        }
    }

    /// Returns the socket of an accept queue.
    pub(crate) fn listener(&self, id: QueueId) -> Option<BorrowedFd<'_>> {
        self.listening.get(&id).map(AsFd::as_fd)
    }

    /// Returns the descriptors of a new worker that inherits these queues. With a handoff queue
    /// among them, the sending ends of all handoff queues are included.
    pub(crate) fn for_worker(&self, queues: &[QueueId]) -> Vec<RawFd> {
        let listening = queues.iter().filter_map(|id| self.listening.get(id));
        let receiving = queues.iter().filter_map(|id| self.handoff.get(id));
        let hands_off = queues.iter().any(|id| self.handoff.contains_key(id));
        let sending = self.handoff.values().filter(|_| hands_off);
        let sending = sending.map(|ends| ends.sender.as_raw_fd());
        let receiving = receiving.map(|ends| ends.receiver.as_raw_fd());
        listening.map(AsRawFd::as_raw_fd).chain(receiving).chain(sending).collect()
    }

    /// Returns `true` if a connection waits in a queue.
    pub(crate) fn is_waiting(&self, id: QueueId) -> bool {
        if let Some(socket) = self.listening.get(&id) {
            return sockets::queue(socket).0 > 0;
        }
        self.handoff.get(&id).is_some_and(|ends| {
            let mut event = [PollFd::new(ends.receiver.as_fd(), PollFlags::POLLIN)];
            poll(&mut event, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        })
    }

    /// Closes the descriptors of a queue.
    pub(crate) fn close(&mut self, id: QueueId) {
        self.listening.remove(&id);
        self.handoff.remove(&id);
    }

    /// Opens a handoff queue for `slot`.
    ///
    /// # Errors
    /// No descriptors left.
    pub(crate) fn open_handoff(&mut self, id: QueueId, slot: SlotId) -> io::Result<()> {
        let (sender, receiver) = Channel::pair()?;
        self.handoff.insert(id, HandoffEnds { slot, sender, receiver });
        Ok(())
    }

    /// Keeps a socket that a worker has bound, and lets it listen.
    ///
    /// # Errors
    /// [`ListenError`]; the socket is closed then.
    pub(crate) fn listen(
        &mut self,
        id: QueueId,
        socket: OwnedFd,
        options: &ListenConfig,
    ) -> Result<Kind, ListenError> {
        listeners::listen(&socket, options)?;
        let unknown = |source| ListenError { address: ([0; 4], 0).into(), source };
        let address = sockets::address_of(&socket).map_err(unknown)?;
        self.listening.insert(id, socket);
        Ok(Kind::Accept(address))
    }
}
