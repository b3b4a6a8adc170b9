//! Socket activation: adopts the sockets that the service manager passes.
//!
//! Sockets of a socket unit have names of the unit's choice. Sockets from the manager's store,
//! which this daemon stored before it ended, have names with their slot.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::SockRef;

use crate::config::{Endpoint, ListenConfig, Scope};
use crate::daemon::controller::publish::notify::stored_listener;
use crate::daemon::controller::queues::{Kind, NO_SLOT, Queues};
use crate::daemon::controller::sockets::Sockets;
use crate::daemon::listeners;
use crate::sys::activation::Passed;

/// Adopts each passed socket as an external queue, and returns their addresses.
///
/// # Errors
/// An option cannot be set on a socket.
pub(crate) fn adopt(
    passed: Vec<Passed>,
    options: &ListenConfig,
    sockets: &mut Sockets,
    queues: &mut Queues,
) -> io::Result<Vec<Endpoint>> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for Passed { name, address, socket } in passed {
        listeners::tune(&SockRef::from(&socket), options.listener_at(address))?;
        if !endpoints.iter().any(|endpoint| endpoint.address == address) {
            endpoints.push(Endpoint { address, scope: scope_of(&socket, address) });
        }
        let stored = stored_listener(&name).filter(|(slot, _)| *slot != NO_SLOT);
        let id = queues.reserve();
        queues.add(id, Kind::External(address), stored.map_or(NO_SLOT, |(slot, _)| slot), None);
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
