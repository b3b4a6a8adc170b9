//! Steering: new connections go to slots that can serve them.
//!
//! A program in the kernel picks a member of a group by a random number. It is attached only while
//! some slot is not healthy; otherwise the kernel's own hash is just as good and costs nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use tracing::{debug, warn};

use crate::process::steering;

/// What is attached to each address's group; `None`: nothing.
#[derive(Debug, Default)]
pub(super) struct Steering {
    attached: BTreeMap<SocketAddr, Option<Vec<u16>>>,
    refused: bool,
}

impl Steering {
    /// Gives the new connections of a group to these positions; `None` for all of them. `member` is
    /// any listening member.
    pub(super) fn steer(
        &mut self,
        address: SocketAddr,
        member: &OwnedFd,
        wanted: Option<Vec<u16>>,
    ) {
        if self.refused || self.attached.get(&address) == Some(&wanted) {
            return;
        }
        let done = match &wanted {
            Some(positions) => steering::steer(member.as_fd(), positions),
            None => steering::unsteer(member.as_fd()),
        };
        match done {
            Ok(()) => debug!(%address, members = ?wanted, "steering"),
            Err(error) => {
                self.refused = true;
                warn!("cannot steer connections away from workers in trouble: {error}");
                return;
            }
        }
        self.attached.insert(address, wanted);
    }
}
