//! Sockets that the service manager passes.
//!
//! Some are from a socket unit and come with names of the unit's choice; others are ours, kept by the
//! manager while we were gone, and their names say which slot they belong to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::SockRef;

use super::notify::stored_listener;
use super::queues::{Kind, Queues};
use super::sockets::Sockets;
use crate::config::{Endpoint, ListenConfig, Scope};
use crate::process;
use crate::process::activation::Passed;

/// Keeps the passed sockets, each as an external queue; returns the addresses that they listen on.
///
/// # Errors
/// An option that a socket refuses.
pub(super) fn adopt(
    passed: Vec<Passed>,
    options: &ListenConfig,
    sockets: &mut Sockets,
    queues: &mut Queues,
) -> io::Result<Vec<Endpoint>> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for Passed { name, address, socket } in passed {
        process::sockets::tune(&SockRef::from(&socket), options)?;
        if !endpoints.iter().any(|endpoint| endpoint.address == address) {
            endpoints.push(Endpoint { address, scope: scope_of(&socket, address) });
        }
        let stored = stored_listener(&name).filter(|(slot, _)| *slot > 0);
        let id = queues.reserve();
        queues.add(id, Kind::External(address), stored.map_or(0, |(slot, _)| slot), None);
        if let Some((_, number)) = stored {
            queues.stored(id, number);
        }
        sockets.listening.insert(id, socket);
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
