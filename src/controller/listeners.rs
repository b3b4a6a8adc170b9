//! The sockets that the slots keep: they outlive the workers, and so do the connections queued there.
//!
//! All sockets of an address form a `SO_REUSEPORT` group, and the kernel knows its members by their
//! position: the order in which they began to listen, where closing one moves the last into its
//! place. Steering needs these positions, so it is the controller that lets each socket listen.

use std::collections::BTreeSet;
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
                any |= !kept.closing;
                kept.closing = true;
            }
        }
        for member in self.members.iter_mut().filter(|member| member.slot == slot) {
            member.closing |= !is_among(endpoints, member.address);
        }
        any
    }

    /// The queues of the sockets of `slot` that were given up are empty: closes them. Should the slot
    /// have been given up twice, the first time is over.
    pub(super) fn closed(&mut self, slot: u32) {
        let addresses: BTreeSet<SocketAddr> = self.kept.iter().map(|kept| kept.address).collect();
        for address in addresses {
            let of_slot =
                |kept: &Kept| kept.slot == slot && kept.address == address && kept.closing;
            if let Some(index) = self.kept.iter().position(of_slot) {
                self.kept.remove(index);
                self.remove_member(slot, address);
            }
        }
    }

    fn remove_member(&mut self, slot: u32, address: SocketAddr) {
        let gone =
            |member: &Member| member.slot == slot && member.address == address && member.closing;
        let Some(gone) = self.members.iter().position(gone) else { return };
        self.members.remove(gone);
        // The kernel moves the last member into the gap.
        let last = self.members.iter().rposition(|member| member.address == address);
        if let Some(last) = last.filter(|&last| last >= gone) {
            let member = self.members.remove(last);
            self.members.insert(gone, member);
        }
    }

    /// Lets `slot` share the sockets that were passed to us, where it has none of its own.
    ///
    /// # Errors
    /// No descriptors left.
    pub(super) fn share_foreign(&mut self, slot: u32) -> io::Result<()> {
        for address in self.foreign.clone() {
            let mut of_address = self.kept.iter().filter(|kept| kept.address == address);
            if of_address.clone().any(|kept| kept.slot == slot) {
                continue;
            }
            if let Some(kept) = of_address.next() {
                let socket = kept.socket.try_clone()?;
                self.keep(slot, socket)?;
            }
        }
        Ok(())
    }

    /// Gives the passed sockets of `from` to `to`: whoever passed them holds them open, so closing
    /// them would leave queues without anybody.
    pub(super) fn reassign_foreign(&mut self, from: u32, to: u32) {
        let foreign = &self.foreign;
        for kept in self.kept.iter_mut().filter(|kept| kept.slot == from) {
            if foreign.contains(&kept.address) {
                kept.slot = to;
            }
        }
    }

    /// Closes everything.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// One socket and the slots of its group, in the kernel's order, for each address whose group is
    /// all ours.
    pub(super) fn groups(&self) -> Vec<(SocketAddr, BorrowedFd<'_>, Vec<Option<u32>>)> {
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
        groups.into_iter().map(|(address, socket)| (address, socket, slots(address))).collect()
    }
}

fn is_among(endpoints: &[Endpoint], address: SocketAddr) -> bool {
    endpoints.iter().any(|endpoint| endpoint.address == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots with a socket on each of two addresses, in this order.
    fn listeners(slots: &[u32]) -> Listeners {
        let mut listeners = Listeners::default();
        let mut members = Vec::new();
        for &slot in slots {
            for port in [1, 2] {
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket").into();
                listeners.kept.push(Kept { slot, address, socket, closing: false });
                members.push(Member { address, slot, closing: false });
            }
        }
        listeners.set_members(members, Vec::new());
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
    fn a_slot_that_was_given_up_twice_is_closed_twice() {
        let mut listeners = listeners(&[1, 2]);
        listeners.give_up(2);
        let again = self::listeners(&[2]);
        listeners.kept.extend(again.kept);
        listeners.members.extend(again.members);
        listeners.closed(2);
        assert_eq!(order(&listeners, 1), [1, 2]);
        assert!(listeners.members.iter().all(|member| !member.closing));
        assert_eq!(listeners.of(2).len(), 2);
    }

    #[test]
    fn what_was_not_given_up_is_not_closed() {
        let mut listeners = listeners(&[1, 2]);
        listeners.closed(1);
        assert_eq!(order(&listeners, 1), [1, 2]);
    }
}
