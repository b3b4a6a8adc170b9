//! The sockets that the slots keep: they outlive the workers, and so do the connections queued there.
//!
//! All sockets of an address form a `SO_REUSEPORT` group, and the kernel knows its members by their
//! position: the order in which they began to listen, where closing one moves the last into its
//! place. Steering needs these positions, so it is the controller that lets each socket listen.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::config::{Endpoint, ListenConfig};
use crate::process::sockets::{self, ListenError};

/// A member of a group. Of a slot that was given up only this is left, until its worker has closed
/// the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) address: SocketAddr,
    pub(super) slot: u32,
    /// Whether the slot has been given up.
    pub(super) closing: bool,
}

#[derive(Debug)]
struct Kept {
    slot: u32,
    address: SocketAddr,
    socket: OwnedFd,
    /// Its slot, or its address, has been given up: it is there only until its queue is empty.
    closing: bool,
}

/// All slots' sockets.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    kept: Vec<Kept>,
    /// Every group's members, each group in the kernel's order.
    members: Vec<Member>,
    /// Addresses whose groups have members that we do not know.
    foreign: Vec<SocketAddr>,
}

impl Listeners {
    /// Lets a new socket of `slot` listen, and keeps it.
    ///
    /// # Errors
    /// [`ListenError`]; the socket is closed then.
    pub(super) fn start(
        &mut self,
        slot: u32,
        socket: OwnedFd,
        options: &ListenConfig,
    ) -> Result<(), ListenError> {
        sockets::listen(&socket, options)?;
        if let Ok(address) = sockets::address_of(&socket) {
            self.members.push(Member { address, slot, closing: false });
            self.kept.push(Kept { slot, address, socket, closing: false });
        }
        Ok(())
    }

    /// Keeps a socket that listens already and is known to its group, or to none.
    ///
    /// # Errors
    /// It is no IP socket.
    pub(super) fn keep(&mut self, slot: u32, socket: OwnedFd) -> io::Result<()> {
        let address = sockets::address_of(&socket)?;
        self.kept.push(Kept { slot, address, socket, closing: false });
        Ok(())
    }

    /// Keeps a socket that somebody else has opened: nobody knows its place in a group.
    ///
    /// # Errors
    /// It is no IP socket.
    pub(super) fn keep_foreign(&mut self, slot: u32, socket: OwnedFd) -> io::Result<()> {
        let address = sockets::address_of(&socket)?;
        if !self.foreign.contains(&address) {
            self.foreign.push(address);
        }
        self.keep(slot, socket)
    }

    /// The addresses whose groups nobody knows.
    pub(super) fn foreign(&self) -> &[SocketAddr] {
        &self.foreign
    }

    /// What is known of the groups, as the image before or the service manager has it.
    pub(super) fn set_members(&mut self, members: Vec<Member>, foreign: Vec<SocketAddr>) {
        self.members = members;
        self.foreign = foreign;
    }

    /// Gives all sockets the options of a new configuration.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(super) fn retune(&self, options: &ListenConfig) -> Result<(), ListenError> {
        for kept in &self.kept {
            let failed = |source| ListenError { address: kept.address, source };
            sockets::tune(&SockRef::from(&kept.socket), options).map_err(failed)?;
            if !self.foreign.contains(&kept.address) {
                sockets::listen(&kept.socket, options)?;
            }
        }
        Ok(())
    }

    /// All members, each group in the kernel's order.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Every socket with its slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &OwnedFd)> {
        self.kept.iter().map(|kept| (kept.slot, &kept.socket))
    }

    /// The sockets of `slot`.
    pub(super) fn of(&self, slot: u32) -> Vec<BorrowedFd<'_>> {
        let kept = self.kept.iter().filter(|kept| kept.slot == slot && !kept.closing);
        kept.map(|kept| kept.socket.as_fd()).collect()
    }

    /// The sockets of `slot` that were given up.
    pub(super) fn closing(&self, slot: u32) -> Vec<BorrowedFd<'_>> {
        let kept = self.kept.iter().filter(|kept| kept.slot == slot && kept.closing);
        kept.map(|kept| kept.socket.as_fd()).collect()
    }

    /// Takes out the sockets of `slot` that listen on one of `endpoints`; in a process that becomes
    /// its worker.
    pub(super) fn take(&mut self, slot: u32, endpoints: &[Endpoint]) -> Vec<OwnedFd> {
        let wanted =
            |kept: &Kept| kept.slot == slot && !kept.closing && is_among(endpoints, kept.address);
        let (taken, left) =
            std::mem::take(&mut self.kept).into_iter().partition::<Vec<_>, _>(wanted);
        self.kept = left;
        taken.into_iter().map(|kept| kept.socket).collect()
    }

    /// The endpoints that `slot` has no socket for.
    pub(super) fn missing(&self, slot: u32, endpoints: &[Endpoint]) -> Vec<Endpoint> {
        let has = |endpoint: &&Endpoint| {
            let of_slot = self.kept.iter().filter(|kept| kept.slot == slot && !kept.closing);
            of_slot.map(|kept| kept.address).any(|address| address == endpoint.address)
        };
        endpoints.iter().filter(|endpoint| !has(endpoint)).copied().collect()
    }

    /// Gives up the sockets of `slot`; they stay until their queues are empty.
    pub(super) fn give_up(&mut self, slot: u32) {
        self.give_up_others(slot, &[]);
    }

    /// Gives up the sockets of `slot` that listen on none of `endpoints`; says whether there were any.
    pub(super) fn give_up_others(&mut self, slot: u32, endpoints: &[Endpoint]) -> bool {
        let mut any = false;
        for kept in self.kept.iter_mut().filter(|kept| kept.slot == slot) {
            if !is_among(endpoints, kept.address) {
                kept.closing = true;
                any = true;
            }
        }
        for member in self.members.iter_mut().filter(|member| member.slot == slot) {
            member.closing |= !is_among(endpoints, member.address);
        }
        any
    }

    /// The queues of the sockets of `slot` that were given up are empty: closes them.
    pub(super) fn closed(&mut self, slot: u32) {
        self.kept.retain(|kept| kept.slot != slot || !kept.closing);
        while let Some(gone) =
            self.members.iter().position(|member| member.slot == slot && member.closing)
        {
            let address = self.members.remove(gone).address;
            // The kernel moves the last member into the gap.
            let last = self.members.iter().rposition(|member| member.address == address);
            if let Some(last) = last.filter(|&last| last >= gone) {
                let member = self.members.remove(last);
                self.members.insert(gone, member);
            }
        }
    }

    /// Closes everything.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// One socket and the slots of its group, in the kernel's order, for each address whose group is
    /// all ours.
    pub(super) fn groups(&self) -> Vec<(BorrowedFd<'_>, Vec<Option<u32>>)> {
        let mut groups: Vec<(SocketAddr, BorrowedFd<'_>)> = Vec::new();
        for kept in &self.kept {
            let known = groups.iter().any(|(address, _)| *address == kept.address);
            if !known && !self.foreign.contains(&kept.address) {
                groups.push((kept.address, kept.socket.as_fd()));
            }
        }
        let slots = |address| {
            let members = self.members.iter().filter(move |member| member.address == address);
            members.map(|member| (!member.closing).then_some(member.slot)).collect()
        };
        groups.into_iter().map(|(address, socket)| (socket, slots(address))).collect()
    }
}

fn is_among(endpoints: &[Endpoint], address: SocketAddr) -> bool {
    endpoints.iter().any(|endpoint| endpoint.address == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(slots: &[u32]) -> Listeners {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let member = |&slot: &u32, port| Member { address: address(port), slot, closing: false };
        let mut listeners = Listeners::default();
        let groups = slots.iter().flat_map(|slot| [member(slot, 1), member(slot, 2)]);
        listeners.set_members(groups.collect(), Vec::new());
        listeners
    }

    fn order(listeners: &Listeners, port: u16) -> Vec<u32> {
        let of_port = listeners.members.iter().filter(|member| member.address.port() == port);
        of_port.map(|member| member.slot).collect()
    }

    #[test]
    fn the_last_member_moves_into_the_gap() {
        let mut listeners = listeners(&[1, 2, 3, 4]);
        listeners.give_up(2);
        listeners.closed(2);
        assert_eq!(order(&listeners, 1), [1, 4, 3]);
        assert_eq!(order(&listeners, 2), [1, 4, 3]);
    }

    #[test]
    fn the_last_member_leaves_no_gap() {
        let mut listeners = listeners(&[1, 2, 3]);
        listeners.give_up(3);
        listeners.closed(3);
        assert_eq!(order(&listeners, 1), [1, 2]);
    }

    #[test]
    fn what_was_not_given_up_is_not_closed() {
        let mut listeners = listeners(&[1, 2]);
        listeners.closed(1);
        assert_eq!(order(&listeners, 1), [1, 2]);
    }
}
