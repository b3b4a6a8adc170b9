//! `--balance least-connections`: handing connections off to a sibling that has fewer.
//!
//! The kernel's hash spreads many connections evenly, but not a few. A worker that accepts a connection
//! compares its load with its siblings', and sends the socket to a sibling that has fewer connections.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::unistd::dup;

use crate::daemon::assignment::HandoffQueues;
use crate::daemon::ids::{BlockId, QueueId, SlotId};
use crate::daemon::protocol::Handoff;
use crate::daemon::stats::{Field, HealthTable, StatsBlock};
use crate::sys::channel::{Channel, Received};

/// Receiving end of a handoff queue.
#[derive(Debug)]
struct Receiver {
    queue: QueueId,
    channel: Channel,
    /// `true` if connections may wait in the queue.
    ready: bool,
}

/// A handoff that a worker has reserved with a sibling.
struct Reservation<'a> {
    slot: SlotId,
    block_id: BlockId,
    pid: u64,
    block: StatsBlock<'a>,
}

/// A connection that a sibling has handed off.
#[derive(Debug)]
pub(super) struct HandedOff<'a> {
    pub(super) stream: TcpStream,
    /// Statistics block of the worker that the handoff was reserved with; `None` if that has ended.
    pub(super) reserved_with: Option<StatsBlock<'a>>,
}

/// Handoff queues of a worker, and its view of its siblings' loads.
#[derive(Debug)]
pub(super) struct Balancer<'a> {
    /// Queues that the worker attends: its slot's, and those that it was granted.
    receivers: Vec<Receiver>,
    /// Sending ends by slot; empty if the worker keeps its connections.
    senders: Vec<(SlotId, Channel)>,
    siblings: HealthTable<'a>,
    own: StatsBlock<'a>,
    slot: SlotId,
    token: Token,
}

impl<'a> Balancer<'a> {
    /// Creates a balancer that attends no queue and hands nothing off. It registers queues with `token`.
    pub(super) fn new(
        siblings: HealthTable<'a>,
        slot: SlotId,
        own: StatsBlock<'a>,
        token: Token,
    ) -> Self {
        Self { receivers: Vec::new(), senders: Vec::new(), siblings, own, slot, token }
    }

    /// Begins to hand connections off, and attends the queue of the worker's slot.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn join(&mut self, queues: HandoffQueues, registry: &Registry) -> io::Result<()> {
        self.senders = queues.senders;
        self.attend(queues.receiver.0, queues.receiver.1, registry)
    }

    /// Returns `true` if the worker hands connections off.
    pub(super) fn hands_off(&self) -> bool {
        !self.senders.is_empty()
    }

    /// Attends a queue, unless it is attended already.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn attend(
        &mut self,
        queue: QueueId,
        channel: Channel,
        registry: &Registry,
    ) -> io::Result<()> {
        if self.receivers.iter().any(|receiver| receiver.queue == queue) {
            return Ok(());
        }
        registry.register(&mut SourceFd(&channel.as_raw_fd()), self.token, Interest::READABLE)?;
        // Connections that were handed off to an earlier worker may wait in it.
        self.receivers.push(Receiver { queue, channel, ready: true });
        Ok(())
    }

    /// Closes these queues. What waits in them is left to the controller's duplicates, which is also why
    /// a queue has to be deregistered: a registration lives as long as any duplicate.
    pub(super) fn close(&mut self, queues: &[QueueId], registry: &Registry) {
        self.receivers.retain(|receiver| {
            let stays = !queues.contains(&receiver.queue);
            if !stays {
                let _ = registry.deregister(&mut SourceFd(&receiver.channel.as_raw_fd()));
            }
            stays
        });
    }

    /// Returns the queues that are attended.
    pub(super) fn queues(&self) -> Vec<QueueId> {
        self.receivers.iter().map(|receiver| receiver.queue).collect()
    }

    /// Notes that connections wait in one of the queues.
    pub(super) fn mark(&mut self) {
        self.receivers.iter_mut().for_each(|receiver| receiver.ready = true);
    }

    /// Returns `true` if connections may wait in one of the queues.
    pub(super) fn has_work(&self) -> bool {
        self.receivers.iter().any(|receiver| receiver.ready)
    }

    /// Sets the sending end of the queue of `slot`.
    pub(super) fn set_sender(&mut self, slot: SlotId, sender: OwnedFd) {
        self.senders.retain(|(known, _)| *known != slot);
        self.senders.push((slot, sender.into()));
    }

    /// Hands an accepted connection off to the worker with the fewest, or returns it if that is this
    /// worker. A connection that is returned is reserved with this worker: the caller commits it
    /// ([`StatsBlock::commit_handoff`]).
    pub(super) fn hand_off(&self, stream: TcpStream) -> Option<TcpStream> {
        let Some(reservation) = self.reserve() else { return Some(stream) };
        let Reservation { slot, block_id, pid, block } = reservation;
        let sender = self.senders.iter().find(|(known, _)| *known == slot);
        let message = Handoff::Reserved { block_id, pid };
        let sent = sender.map(|(_, channel)| channel.send(&message, &[stream.as_fd()]));
        if let Some(Ok(())) = sent {
            return None;
        }
        // A full handoff queue is no reason to lose a connection.
        block.cancel_handoff();
        self.own.reserve_handoff();
        Some(stream)
    }

    /// Reserves a handoff with the worker that has the fewest connections; `None` if that is this one,
    /// which is preferred. If two workers reserve with the same one, both retry, at most eight times.
    fn reserve(&self) -> Option<Reservation<'a>> {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            let own = self.own.load();
            let loads = self.siblings.iter().map(|(slot, _, block)| (slot, block.load()));
            let Some((slot, load)) = choose(loads, self.slot, own) else {
                self.own.reserve_handoff();
                if self.own.load() <= own + 1 {
                    return None;
                }
                self.own.cancel_handoff();
                continue;
            };
            let mut siblings = self.siblings.iter();
            let Some((_, block_id, block)) = siblings.find(|(known, ..)| *known == slot) else {
                continue;
            };
            let pid = block.get(Field::Pid);
            block.reserve_handoff();
            if block.load() <= load + 1 {
                return Some(Reservation { slot, block_id, pid, block });
            }
            block.cancel_handoff();
        }
        self.own.reserve_handoff();
        None
    }

    /// Receives the next connection that was handed off, which the caller commits.
    ///
    /// # Errors
    /// No descriptor is free. The connection stays in the queue: a receive would lose it.
    pub(super) fn receive(&mut self) -> Result<Option<HandedOff<'a>>, Errno> {
        while let Some(receiver) = self.receivers.iter_mut().find(|receiver| receiver.ready) {
            drop(dup(&receiver.channel)?);
            let (handoff, mut sockets) = match receiver.channel.receive::<Handoff>() {
                Ok(Received::Message(handoff, sockets)) => (handoff, sockets),
                Ok(Received::Nothing | Received::Closed) | Err(_) => {
                    receiver.ready = false;
                    continue;
                }
            };
            let Some(socket) = sockets.pop() else { continue };
            let reserved_with = match handoff {
                Handoff::Connection => Some(self.own),
                Handoff::Reserved { block_id, pid } => {
                    self.siblings.block(block_id).filter(|block| block.get(Field::Pid) == pid)
                }
            };
            return Ok(Some(HandedOff {
                stream: TcpStream::from_std(socket.into()),
                reserved_with,
            }));
        }
        Ok(None)
    }
}

/// Returns the sibling with the fewest connections and their number, if that is less than the
/// `connections` of the worker in slot `own`.
fn choose(
    loads: impl Iterator<Item = (SlotId, u64)>,
    own: SlotId,
    connections: u64,
) -> Option<(SlotId, u64)> {
    let others = loads.filter(|(slot, _)| *slot != own);
    others.min_by_key(|(_, load)| *load).filter(|(_, least)| *least < connections)
}

#[cfg(test)]
mod tests {
    use super::{SlotId, choose};
    use proptest::prelude::*;

    #[test]
    fn the_sibling_with_the_fewest_connections_is_chosen() {
        let [one, two, three] = [1, 2, 3].map(SlotId);
        let loads = [(one, 4), (two, 2), (three, 3)];
        assert_eq!(choose(loads.into_iter(), one, 4), Some((two, 2)));
        assert_eq!(choose(loads.into_iter(), two, 2), None, "the worker itself");
        assert_eq!(choose([(one, 4), (two, 4)].into_iter(), one, 4), None, "as many");
        assert_eq!(choose([].into_iter(), one, 4), None);
    }

    proptest! {
        #[test]
        fn loads_end_up_even_whichever_worker_accepts(
            accepts in prop::collection::vec(0usize..6, 1..300),
        ) {
            let mut loads = [0_u64; 6];
            for accept in accepts {
                let seen: Vec<(SlotId, u64)> = SlotId::workers(6).zip(loads).collect();
                let own = seen[accept].0;
                let server = choose(seen.into_iter(), own, loads[accept]);
                let server = server.and_then(|(slot, _)| slot.worker_index());
                loads[server.unwrap_or(accept)] += 1;
                let (most, least) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
                prop_assert!(most - least <= 1, "{loads:?}");
            }
        }

        #[test]
        fn a_connection_that_counts_nowhere_for_a_moment_does_no_harm(
            accepts in prop::collection::vec(any::<(bool, bool)>(), 1..300),
        ) {
            let mut loads = [0_u64; 2];
            for (accept, sibling_is_taking_one) in accepts {
                let (own, other) = (usize::from(accept), usize::from(!accept));
                let seen = loads[other].saturating_sub(u64::from(sibling_is_taking_one));
                let sibling = (SlotId::from_worker_index(other), seen);
                let server = choose([sibling].into_iter(), SlotId::from_worker_index(own), loads[own]);
                loads[server.map_or(own, |_| other)] += 1;
                prop_assert!(loads[0].abs_diff(loads[1]) <= 1, "{loads:?}");
            }
        }
    }
}
