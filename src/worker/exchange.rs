//! `--balance least-connections`: passing connections to a sibling that has fewer.
//!
//! The kernel's hash spreads many connections evenly, but not a few. Whoever accepts a connection
//! compares its own number with its siblings' and passes the socket on if somebody has clearly fewer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::unistd::dup;

use crate::assignment::Exchange;
use crate::ids::QueueId;
use crate::process::channel::{Channel, Received};
use crate::protocol::Handoff;
use crate::stats::{Seat, Siblings, Word};

/// The receiving end of a handoff queue.
#[derive(Debug)]
struct Inbox {
    queue: QueueId,
    channel: Channel,
    /// Whether something may wait in it.
    ready: bool,
}

/// A worker's part in the exchange.
#[derive(Debug)]
pub(super) struct Balancer<'a> {
    /// Its own, and those that it was granted.
    inboxes: Vec<Inbox>,
    outboxes: Vec<(u32, Channel)>,
    siblings: Siblings<'a>,
    own: Seat<'a>,
    slot: u32,
    token: Token,
}

impl<'a> Balancer<'a> {
    /// Attends no handoff queue yet, and hands nothing off; tokens of handoff queues are `token`.
    pub(super) fn new(siblings: Siblings<'a>, slot: u32, own: Seat<'a>, token: Token) -> Self {
        Self { inboxes: Vec::new(), outboxes: Vec::new(), siblings, own, slot, token }
    }

    /// Takes part: attends the handoff queue of its slot, and hands off.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn join(&mut self, exchange: Exchange, registry: &Registry) -> io::Result<()> {
        self.outboxes = exchange.outboxes;
        self.attend(exchange.inbox.0, exchange.inbox.1, registry)
    }

    /// Returns `true` if it hands connections off.
    pub(super) fn hands_off(&self) -> bool {
        !self.outboxes.is_empty()
    }

    /// Takes what is handed off to this queue, its own or a sibling's. One that is attended already
    /// stays as it is.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn attend(
        &mut self,
        queue: QueueId,
        channel: Channel,
        registry: &Registry,
    ) -> io::Result<()> {
        if self.inboxes.iter().any(|inbox| inbox.queue == queue) {
            return Ok(());
        }
        registry.register(&mut SourceFd(&channel.as_raw_fd()), self.token, Interest::READABLE)?;
        // What was handed off to the worker before this one is still there.
        self.inboxes.push(Inbox { queue, channel, ready: true });
        Ok(())
    }

    /// Leaves what is still in these queues to others. Deregistered first: the controller holds
    /// duplicates.
    pub(super) fn close(&mut self, queues: &[QueueId], registry: &Registry) {
        self.inboxes.retain(|inbox| {
            let stays = !queues.contains(&inbox.queue);
            if !stays {
                let _ = registry.deregister(&mut SourceFd(&inbox.channel.as_raw_fd()));
            }
            stays
        });
    }

    /// The queues that are attended.
    pub(super) fn queues(&self) -> Vec<QueueId> {
        self.inboxes.iter().map(|inbox| inbox.queue).collect()
    }

    /// Notes that something waits in one of the inboxes.
    pub(super) fn mark(&mut self) {
        self.inboxes.iter_mut().for_each(|inbox| inbox.ready = true);
    }

    /// Whether something may wait in an inbox.
    pub(super) fn has_work(&self) -> bool {
        self.inboxes.iter().any(|inbox| inbox.ready)
    }

    /// A sibling that was not there before.
    pub(super) fn add(&mut self, slot: u32, outbox: OwnedFd) {
        self.outboxes.retain(|(known, _)| *known != slot);
        self.outboxes.push((slot, outbox.into()));
    }

    /// Passes a connection that was just accepted to the worker with the fewest; gives it back if that
    /// is this one. Either way it counts from now on: take it off with [`Seat::take`] when it is among
    /// the connections.
    pub(super) fn pass(&self, stream: TcpStream) -> Option<TcpStream> {
        let Some((slot, block, pid, seat)) = self.reserve() else { return Some(stream) };
        let outbox = self.outboxes.iter().find(|(known, _)| *known == slot);
        let message = Handoff::Reserved { block, pid };
        let sent = outbox.map(|(_, way)| way.send(&message, &[stream.as_fd()]));
        if let Some(Ok(())) = sent {
            return None;
        }
        // A full handoff queue is no reason to lose a connection.
        seat.unpass();
        self.own.pass();
        Some(stream)
    }

    /// Reserves a place at the worker with the fewest, ourselves before others (`None`). Several may
    /// choose the same one at the same moment: one that finds it fuller than thought tries again.
    fn reserve(&self) -> Option<(u32, usize, u64, Seat<'a>)> {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            let own = self.own.load();
            let loads = self.siblings.iter().map(|(slot, _, seat)| (slot, seat.load()));
            let Some((slot, load)) = choose(loads, self.slot, own) else {
                self.own.pass();
                if self.own.load() <= own + 1 {
                    return None;
                }
                self.own.unpass();
                continue;
            };
            let mut siblings = self.siblings.iter();
            let Some((_, block, seat)) = siblings.find(|(known, ..)| *known == slot) else {
                continue;
            };
            let pid = seat.get(Word::Pid);
            seat.pass();
            if seat.load() <= load + 1 {
                return Some((slot, block, pid, seat));
            }
            seat.unpass();
        }
        self.own.pass();
        None
    }

    /// The next connection that was handed off, and the worker that it was reserved with, to be told
    /// ([`Seat::take`]) once the connection is among our own: in between it would count nowhere, and
    /// siblings would hand us more. A worker that has ended in the meantime needs no telling.
    ///
    /// # Errors
    /// No descriptor is free: a receive would lose the connection. It stays in the queue.
    pub(super) fn take(&mut self) -> Result<Option<(TcpStream, Option<Seat<'a>>)>, Errno> {
        while let Some(inbox) = self.inboxes.iter_mut().find(|inbox| inbox.ready) {
            drop(dup(&inbox.channel)?);
            let (handoff, mut sockets) = match inbox.channel.receive::<Handoff>() {
                Ok(Received::Message(handoff, sockets)) => (handoff, sockets),
                Ok(Received::Nothing | Received::Closed) | Err(_) => {
                    inbox.ready = false;
                    continue;
                }
            };
            let Some(socket) = sockets.pop() else { continue };
            let seat = match handoff {
                Handoff::Connection => Some(self.own),
                Handoff::Reserved { block, pid } => {
                    self.siblings.seat(block).filter(|seat| seat.get(Word::Pid) == pid)
                }
            };
            return Ok(Some((TcpStream::from_std(socket.into()), seat)));
        }
        Ok(None)
    }
}

/// Who is to serve a connection, if not `own` with its `connections`: the sibling with the fewest, if
/// that leaves it with no more than we would have; and how many it has.
fn choose(
    loads: impl Iterator<Item = (u32, u64)>,
    own: u32,
    connections: u64,
) -> Option<(u32, u64)> {
    let others = loads.filter(|(slot, _)| *slot != own);
    others.min_by_key(|(_, load)| *load).filter(|(_, least)| *least < connections)
}

#[cfg(test)]
mod tests {
    use super::choose;
    use proptest::prelude::*;

    #[test]
    fn the_one_with_the_fewest_gets_it() {
        let loads = [(1, 4), (2, 2), (3, 3)];
        assert_eq!(choose(loads.into_iter(), 1, 4), Some((2, 2)));
        assert_eq!(choose(loads.into_iter(), 2, 2), None, "that is us");
        assert_eq!(choose([(1, 4), (2, 4)].into_iter(), 1, 4), None, "nobody has fewer");
        assert_eq!(choose([].into_iter(), 1, 4), None);
    }

    proptest! {
        #[test]
        fn whoever_accepts_all_end_up_even(accepts in prop::collection::vec(0usize..6, 1..300)) {
            let mut loads = [0_u64; 6];
            for accept in accepts {
                let seen: Vec<(u32, u64)> = (1..).zip(loads).collect();
                let server = choose(seen.into_iter(), accept as u32 + 1, loads[accept]);
                loads[server.map_or(accept, |(slot, _)| slot as usize - 1)] += 1;
                let (most, least) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
                prop_assert!(most - least <= 1, "{loads:?}");
            }
        }
    }
}
