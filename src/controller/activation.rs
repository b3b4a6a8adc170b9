//! Sockets that the service manager passes: which slot gets which.
//!
//! Some are from a socket unit and come with names of the unit's choice; others are ours, kept by the
//! manager while we were gone, and their names say which slot they belong to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::SockRef;

use super::listeners::Listeners;
use super::notify::stored_listener;
use crate::config::{Endpoint, ListenConfig, Scope};
use crate::process::activation::Passed;
use crate::process::sockets;

/// For each slot from 1 to `slots`, the sockets it gets, by their place in the list. `stored` says, for
/// each socket, which slot it had, if it was ours. Every socket gets a slot, and every slot a socket;
/// where there are more slots than sockets they share.
fn distribute(stored: &[Option<u32>], slots: u32) -> Vec<Vec<usize>> {
    let mut shares = vec![Vec::new(); slots as usize];
    let mut next = 0;
    for (index, owner) in stored.iter().enumerate() {
        let place = owner.map_or(next, |slot| slot as usize - 1);
        next += usize::from(owner.is_none());
        shares[place % slots as usize].push(index);
    }
    for slot in 0..shares.len() {
        // One that was ours stays with its slot: a slot without one opens its own beside it.
        let passed: Vec<usize> =
            (0..stored.len()).filter(|&index| stored[index].is_none()).collect();
        if shares[slot].is_empty() && !passed.is_empty() {
            shares[slot].push(passed[slot % passed.len()]);
        }
    }
    shares
}

/// Gives the passed sockets to the slots; returns the addresses that they listen on.
///
/// # Errors
/// No descriptors left, or an option that a socket refuses.
pub(super) fn adopt(
    passed: Vec<Passed>,
    slots: u32,
    options: &ListenConfig,
    listeners: &mut Listeners,
) -> io::Result<Vec<Endpoint>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for passed in &passed {
        sockets::tune(&SockRef::from(&passed.socket), options)?;
        if !addresses.contains(&passed.address) {
            addresses.push(passed.address);
        }
    }
    let mut endpoints = Vec::new();
    for address in addresses {
        let of_address: Vec<&Passed> =
            passed.iter().filter(|passed| passed.address == address).collect();
        let stored: Vec<Option<u32>> = of_address
            .iter()
            .map(|passed| {
                stored_listener(&passed.name).map(|(slot, _)| slot).filter(|&slot| slot > 0)
            })
            .collect();
        for (share, slot) in distribute(&stored, slots).into_iter().zip(1..) {
            for index in share {
                listeners.keep_foreign(slot, of_address[index].socket.try_clone()?)?;
            }
        }
        endpoints.push(Endpoint { address, scope: scope_of(&of_address[0].socket, address) });
    }
    Ok(endpoints)
}

fn scope_of(socket: &OwnedFd, address: SocketAddr) -> Scope {
    let only_v6 = || SockRef::from(socket).only_v6().unwrap_or(false);
    match address {
        SocketAddr::V4(_) => Scope::V4,
        SocketAddr::V6(v6) if v6.ip().is_unspecified() && !only_v6() => Scope::DualStack,
        SocketAddr::V6(_) => Scope::V6Only,
    }
}

#[cfg(test)]
mod tests {
    use super::distribute;

    #[test]
    fn one_socket_is_shared_by_all() {
        assert_eq!(distribute(&[None], 3), [vec![0], vec![0], vec![0]]);
    }

    #[test]
    fn as_many_sockets_as_slots_are_one_each() {
        assert_eq!(distribute(&[None, None], 2), [vec![0], vec![1]]);
    }

    #[test]
    fn nobody_goes_without_and_no_queue_is_forgotten() {
        assert_eq!(distribute(&[None, None], 3), [vec![0], vec![1], vec![0]]);
        assert_eq!(distribute(&[None, None, None], 2), [vec![0, 2], vec![1]]);
    }

    #[test]
    fn stored_sockets_go_back_where_they_were() {
        assert_eq!(distribute(&[Some(2), Some(1)], 2), [vec![1], vec![0]]);
        assert_eq!(distribute(&[Some(3), Some(1)], 2), [vec![0, 1], vec![]], "fewer slots now");
        assert_eq!(distribute(&[Some(1)], 2), [vec![0], vec![]], "the new slot opens its own");
    }
}
