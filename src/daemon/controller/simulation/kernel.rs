//! The simulated kernel: listening sockets, their groups, and the connections in their queues.
//!
//! The controller, processes, messages in flight, and the service manager hold descriptors of
//! sockets. Closing the last descriptor resets the connections in the socket's queue, and the last
//! member of the group moves to the socket's position (net/core/sock_reuseport.c).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::random::Random;

/// Capacity of a handoff queue in connections.
const HANDOFF_CAPACITY: usize = 20;

/// Index of a socket in [`Kernel::sockets`].
pub(super) type SocketId = usize;

/// Listening socket or receiving end of a handoff queue.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    /// Address; `None` for a handoff queue.
    pub(super) address: Option<SocketAddr>,
    pub(super) listening: bool,
    /// Number of descriptors.
    pub(super) descriptors: u32,
    /// Times at which the waiting connections were established.
    pub(super) waiting: VecDeque<Instant>,
}

/// Sockets that listen on one address.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) members: Vec<SocketId>,
    /// Positions that the attached program selects from.
    pub(super) program: Option<Vec<u16>>,
}

/// Connection with a selected socket that is not established yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handshake {
    pub(super) socket: SocketId,
    pub(super) due: Instant,
    /// `true` if a remaining socket could have been selected.
    pub(super) sound: bool,
}

/// Connection that the kernel reset because its socket was closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reset {
    pub(super) socket: SocketId,
    /// Time at which it was established; `None` during the handshake.
    pub(super) established: Option<Instant>,
    pub(super) sound: bool,
}

/// Simulated kernel.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) sockets: Vec<Socket>,
    pub(super) groups: BTreeMap<SocketAddr, Group>,
    pub(super) handshakes: Vec<Handshake>,
    /// Connections that were reset since the last check.
    pub(super) resets: Vec<Reset>,
    /// Number of changes of all groups.
    pub(super) moves: u64,
    /// Number of connections to addresses without a listener.
    pub(super) refused: u64,
}

impl Kernel {
    /// Opens a socket with one descriptor; it does not listen yet.
    pub(super) fn open(&mut self, address: Option<SocketAddr>) -> SocketId {
        let waiting = VecDeque::new();
        self.sockets.push(Socket { address, listening: false, descriptors: 1, waiting });
        self.sockets.len() - 1
    }

    /// Makes a socket listen as the last member of its group.
    pub(super) fn listen(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        let Some(address) = socket.address.filter(|_| !socket.listening) else { return };
        socket.listening = true;
        self.groups.entry(address).or_default().members.push(id);
        self.moves += 1;
    }

    /// Duplicates a descriptor.
    pub(super) fn duplicate(&mut self, id: SocketId) -> SocketId {
        self.sockets[id].descriptors += 1;
        id
    }

    /// Closes a descriptor.
    pub(super) fn close(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        assert!(socket.descriptors > 0, "the simulation closes a descriptor twice");
        socket.descriptors -= 1;
        if socket.descriptors > 0 {
            return;
        }
        let lost = std::mem::take(&mut socket.waiting);
        let reset = |since| Reset { socket: id, established: Some(since), sound: true };
        self.resets.extend(lost.into_iter().map(reset));
        let (address, listening) = (socket.address, socket.listening);
        let Some(address) = address.filter(|_| listening) else { return };
        let Some(group) = self.groups.get_mut(&address) else { return };
        if let Some(position) = group.members.iter().position(|member| *member == id) {
            group.members.swap_remove(position);
            self.moves += 1;
        }
        if group.members.is_empty() {
            self.groups.remove(&address);
        }
    }

    /// Attaches a program to the group of a listening socket, or detaches it. Returns `true` on
    /// success.
    pub(super) fn steer(&mut self, member: SocketId, program: Option<Vec<u16>>) -> bool {
        let socket = &self.sockets[member];
        let address = socket.address.filter(|_| socket.listening);
        let Some(group) = address.and_then(|it| self.groups.get_mut(&it)) else { return false };
        group.program = program;
        true
    }

    /// Begins a handshake. The socket is selected now and receives the connection at its end.
    pub(super) fn connect(
        &mut self,
        address: SocketAddr,
        now: Instant,
        handshake: Duration,
        sound: bool,
        random: &mut Random,
    ) {
        let Some(group) = self.groups.get(&address) else {
            self.refused += 1;
            return;
        };
        let steered = group.program.as_ref().and_then(|positions| {
            let position = positions.get(random.index(positions.len().max(1)))?;
            group.members.get(usize::from(*position)).copied()
        });
        let socket = steered.unwrap_or_else(|| group.members[random.index(group.members.len())]);
        self.handshakes.push(Handshake { socket, due: now + handshake, sound });
    }

    /// Returns the time at which the next handshake ends.
    pub(super) fn next_handshake(&self) -> Option<Instant> {
        self.handshakes.iter().map(|handshake| handshake.due).min()
    }

    /// Ends the handshakes that are due, and returns the sockets that received connections.
    pub(super) fn establish(&mut self, now: Instant) -> Vec<SocketId> {
        let mut established = Vec::new();
        let (sockets, resets) = (&mut self.sockets, &mut self.resets);
        self.handshakes.retain(|handshake| {
            if handshake.due > now {
                return true;
            }
            let Handshake { socket, due, sound } = *handshake;
            if sockets[socket].descriptors > 0 {
                sockets[socket].waiting.push_back(due);
                established.push(socket);
            } else {
                resets.push(Reset { socket, established: None, sound });
            }
            false
        });
        established
    }

    /// Adds an accepted connection to a handoff queue. Returns `false` if the queue is full or has
    /// no receiver.
    pub(super) fn hand_off(&mut self, queue: SocketId, since: Instant) -> bool {
        let queue = &mut self.sockets[queue];
        let fits = queue.descriptors > 0 && queue.waiting.len() < HANDOFF_CAPACITY;
        if fits {
            queue.waiting.push_back(since);
        }
        fits
    }
}
