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
use crate::process::channel::{Channel, Message, Received};
use crate::stats::{Seat, Siblings};

/// Where connections that were passed to a slot arrive.
#[derive(Debug)]
struct Inbox<'a> {
    slot: u32,
    channel: Channel,
    /// Whose connections these would be; nobody's, if the slot has no worker.
    seat: Option<Seat<'a>>,
    /// Whether something may wait in it.
    ready: bool,
}

/// A worker's part in the exchange.
#[derive(Debug)]
pub(super) struct Balancer<'a> {
    /// Its own, and those of siblings in trouble.
    inboxes: Vec<Inbox<'a>>,
    outboxes: Vec<(u32, Channel)>,
    siblings: Siblings<'a>,
    own: Seat<'a>,
    slot: u32,
    token: Token,
}

impl<'a> Balancer<'a> {
    /// Takes part, with the inbox registered under `token`.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn new(
        exchange: Exchange<'a>,
        slot: u32,
        own: Seat<'a>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let Exchange { inbox, outboxes, siblings } = exchange;
        let mut balancer = Self { inboxes: Vec::new(), outboxes, siblings, own, slot, token };
        balancer.open(slot, inbox, Some(own), registry)?;
        Ok(balancer)
    }

    fn open(
        &mut self,
        slot: u32,
        channel: Channel,
        seat: Option<Seat<'a>>,
        registry: &Registry,
    ) -> io::Result<()> {
        registry.register(&mut SourceFd(&channel.as_raw_fd()), self.token, Interest::READABLE)?;
        // What was passed to the worker before this one is still there.
        self.inboxes.push(Inbox { slot, channel, seat, ready: true });
        Ok(())
    }

    /// Takes what is passed to a sibling that cannot, too.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn adopt(
        &mut self,
        slot: u32,
        inbox: OwnedFd,
        seat: Option<usize>,
        registry: &Registry,
    ) -> io::Result<()> {
        let seat = seat.and_then(|seat| self.siblings.seat(seat));
        self.open(slot, inbox.into(), seat, registry)
    }

    /// The sibling takes its own again.
    pub(super) fn release(&mut self, slot: u32, registry: &Registry) {
        for inbox in self.inboxes.iter().filter(|inbox| inbox.slot == slot) {
            let _ = registry.deregister(&mut SourceFd(&inbox.channel.as_raw_fd()));
        }
        self.inboxes.retain(|inbox| inbox.slot != slot);
    }

    /// Notes that something waits in one of the inboxes.
    pub(super) fn mark(&mut self) {
        self.inboxes.iter_mut().for_each(|inbox| inbox.ready = true);
    }

    /// Whether something may wait in an inbox.
    pub(super) fn has_work(&self) -> bool {
        self.inboxes.iter().any(|inbox| inbox.ready)
    }

    /// Leaves what is still there to a successor. Deregistered first: the controller holds duplicates.
    pub(super) fn leave(mut self, registry: &Registry) {
        while let Some(slot) = self.inboxes.first().map(|inbox| inbox.slot) {
            self.release(slot, registry);
        }
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
        let (slot, seat) = self.reserve();
        if slot == self.slot {
            return Some(stream);
        }
        let outbox = self.outboxes.iter().find(|(known, _)| *known == slot);
        let sent = outbox.map(|(_, way)| way.send(&Message::Connection, &[stream.as_fd()]));
        if let Some(Ok(())) = sent {
            return None;
        }
        // A full inbox is no reason to lose anybody.
        seat.unpass();
        self.own.pass();
        Some(stream)
    }

    /// Reserves a place at the worker with the fewest, ourselves before others. Several may choose the
    /// same one at the same moment: whoever finds it fuller than thought looks again.
    fn reserve(&self) -> (u32, Seat<'a>) {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            let own = self.own.load();
            let loads = self.siblings.iter().map(|(slot, seat)| (slot, seat.load()));
            let (slot, load) = choose(loads, self.slot, own).unwrap_or((self.slot, own));
            let listed = self.siblings.iter().find(|(known, _)| *known == slot);
            let seat = listed.map_or(self.own, |(_, seat)| seat);
            seat.pass();
            if seat.load() <= load + 1 {
                return (slot, seat);
            }
            seat.unpass();
        }
        self.own.pass();
        (self.slot, self.own)
    }

    /// The next connection that was passed on, and whom to tell that it was taken, once it is among
    /// our own: in between it would count nowhere, and others would pass us more.
    ///
    /// # Errors
    /// No descriptor is free: a receive would lose the connection. It stays in the inbox.
    pub(super) fn take(&mut self) -> Result<Option<(TcpStream, Option<Seat<'a>>)>, Errno> {
        while let Some(inbox) = self.inboxes.iter_mut().find(|inbox| inbox.ready) {
            drop(dup(&inbox.channel)?);
            match inbox.channel.receive() {
                Ok(Received::Message(Message::Connection, mut sockets)) => {
                    let Some(socket) = sockets.pop() else { continue };
                    return Ok(Some((TcpStream::from_std(socket.into()), inbox.seat)));
                }
                Ok(Received::Message(..)) => {}
                Ok(Received::Nothing | Received::Closed) | Err(_) => inbox.ready = false,
            }
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
