//! The simulated service manager, which stores named duplicates of sockets and answers barriers.

use std::collections::VecDeque;
use std::time::Instant;

use super::kernel::{Kernel, SocketId};
use crate::daemon::ids::{QueueId, SlotId};

/// Slot and number of a stored socket.
pub(super) type StoredName = (SlotId, u32);

/// Datagram to the manager.
#[derive(Clone, Copy, Debug)]
pub(super) enum Datagram {
    Store(StoredName, SocketId),
    Remove(StoredName),
    /// Barrier with its number.
    Barrier(u64),
}

/// Simulated service manager.
#[derive(Debug, Default)]
pub(super) struct Manager {
    datagrams: VecDeque<Datagram>,
    pub(super) store: Vec<(StoredName, SocketId)>,
    /// Time until which the manager reads no datagram.
    pub(super) stalled: Option<Instant>,
    /// Number of sends that fail next.
    pub(super) failing: u32,
    /// Number of received duplicates that are discarded next.
    pub(super) losing: u32,
    /// `true` if a duplicate was discarded.
    pub(super) lost: bool,
    /// Barriers that the manager has passed.
    passed: Vec<u64>,
    /// Barriers that the controller waits for: the queue, its number in the store, and the barrier.
    pub(super) barriers: Vec<((QueueId, u32), u64)>,
    next_barrier: u64,
    pub(super) due: Option<Instant>,
}

impl Manager {
    /// Sends a datagram with a duplicate of its socket; returns `true` on success.
    pub(super) fn send(&mut self, datagram: Datagram, due: Instant, kernel: &mut Kernel) -> bool {
        if self.failing > 0 {
            self.failing -= 1;
            return false;
        }
        if let Datagram::Store(_, socket) = datagram {
            kernel.duplicate(socket);
        }
        self.datagrams.push_back(datagram);
        self.due.get_or_insert(due);
        true
    }

    /// Sends a barrier for a queue; returns `true` on success.
    pub(super) fn send_barrier(
        &mut self,
        queue: (QueueId, u32),
        due: Instant,
        kernel: &mut Kernel,
    ) -> bool {
        let number = self.next_barrier;
        self.next_barrier += 1;
        let sent = self.send(Datagram::Barrier(number), due, kernel);
        if sent {
            self.barriers.push((queue, number));
        }
        sent
    }

    /// Returns the time at which the manager reads next.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.due.map(|due| self.stalled.map_or(due, |until| until.max(due)))
    }

    /// Reads all datagrams. Returns `true` if the controller waits for a barrier that was passed.
    pub(super) fn step(&mut self, kernel: &mut Kernel) -> bool {
        (self.due, self.stalled) = (None, None);
        for datagram in std::mem::take(&mut self.datagrams) {
            match datagram {
                Datagram::Store(_, socket) if self.losing > 0 => {
                    self.losing -= 1;
                    self.lost = true;
                    kernel.close(socket);
                }
                // The manager stores one duplicate of each socket.
                Datagram::Store(_, socket) if self.has(socket) => kernel.close(socket),
                Datagram::Store(name, socket) => self.store.push((name, socket)),
                Datagram::Remove(name) => {
                    let gone = self.store.iter().filter(|(other, _)| *other == name);
                    gone.for_each(|(_, socket)| kernel.close(*socket));
                    self.store.retain(|(other, _)| *other != name);
                }
                Datagram::Barrier(number) => self.passed.push(number),
            }
        }
        self.has_answer()
    }

    /// Returns `true` if the controller waits for a barrier that was passed.
    pub(super) fn has_answer(&self) -> bool {
        self.barriers.iter().any(|(_, number)| self.passed.contains(number))
    }

    /// Removes and returns the queues whose barriers were passed, as `Controller::check_barriers`.
    pub(super) fn take_answers(&mut self) -> Vec<(QueueId, u32)> {
        let passed = &self.passed;
        let (closed, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.barriers).into_iter().partition(|(_, it)| passed.contains(it));
        self.barriers = waiting;
        closed.into_iter().map(|(queue, _)| queue).collect()
    }

    /// Returns the number of duplicates of a socket, stored or in flight.
    pub(super) fn holds(&self, socket: SocketId) -> u32 {
        let coming = self
            .datagrams
            .iter()
            .filter(|datagram| matches!(datagram, Datagram::Store(_, other) if *other == socket));
        coming.count() as u32 + u32::from(self.has(socket))
    }

    fn has(&self, socket: SocketId) -> bool {
        self.store.iter().any(|(_, other)| *other == socket)
    }
}
