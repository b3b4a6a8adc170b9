//! The address of the admin process: a socket that stays when the process goes, so no client is
//! refused. The process itself is slot 0 of the supervisor.

use std::io;
use std::os::fd::AsRawFd;

use nix::unistd::Pid;

use super::Controller;
use super::handover::HandedFront;
use crate::config::{AdminAddress, AdminConfig};
use crate::process::exec::take_over;
use crate::process::front::{Front, FrontError, Place};
use crate::stats::FleetWord;
use crate::stats::events::Kind;

/// The admin socket, if one is wanted.
#[derive(Debug, Default)]
pub(super) struct AdminSocket {
    /// The configured address and the socket.
    front: Option<(AdminAddress, Front)>,
}

/// What a new configuration changes.
#[derive(Debug)]
pub(super) enum Change {
    /// Nothing: the socket goes on.
    None,
    /// There is another socket from now on, or none.
    Front(Option<(AdminAddress, Front)>),
}

impl Change {
    /// Takes the change back before it was carried out.
    pub(super) fn undo(self) {
        if let Self::Front(Some((_, front))) = self {
            front.remove();
        }
    }
}

impl AdminSocket {
    /// Opens what `config` wants, for a daemon that is started.
    ///
    /// # Errors
    /// [`FrontError`].
    pub(super) fn create(config: &AdminConfig) -> Result<Self, FrontError> {
        let mut admin = Self::default();
        let change = admin.open(config)?;
        admin.renew(change);
        Ok(admin)
    }

    /// Goes on with the socket of the image before.
    ///
    /// # Errors
    /// The descriptor is not there.
    pub(super) fn restore(handed: Option<HandedFront>) -> io::Result<Self> {
        let Some((address, place, socket)) = handed else { return Ok(Self::default()) };
        Ok(Self { front: Some((address, Front { place, socket: take_over(socket)? })) })
    }

    /// The socket, for the next image.
    pub(super) fn serialize(&self) -> Option<HandedFront> {
        let (address, front) = self.front.as_ref()?;
        Some((address.clone(), front.place.clone(), front.socket.as_raw_fd()))
    }

    /// Opens what `config` wants and is not there yet.
    ///
    /// # Errors
    /// [`FrontError`].
    pub(super) fn open(&self, config: &AdminConfig) -> Result<Change, FrontError> {
        if self.front.as_ref().map(|(address, _)| address) == config.address.as_ref() {
            return Ok(Change::None);
        }
        let open = |address: &AdminAddress| Ok((address.clone(), Front::open(address)?));
        Ok(Change::Front(config.address.as_ref().map(open).transpose()?))
    }

    /// Carries out a change.
    pub(super) fn renew(&mut self, change: Change) {
        if let Change::Front(front) = change {
            self.remove();
            self.front = front;
        }
    }

    /// Returns `true` if there is a socket, and an admin process is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.front.is_some()
    }

    /// Closes the socket, and removes its file.
    pub(super) fn remove(&mut self) {
        if let Some((_, front)) = self.front.take() {
            front.remove();
        }
    }

    /// Takes out the socket, in the process that becomes the admin process.
    pub(super) fn take_front(&mut self) -> Option<Front> {
        self.front.take().map(|(_, front)| front)
    }

    /// Where it answers, as a browser needs it.
    pub(super) fn url(&self) -> String {
        match self.front.as_ref().map(|(_, front)| &front.place) {
            Some(Place::Tcp(address)) => format!("http://{address}/"),
            Some(Place::Unix(path, _)) => format!("unix:{}", path.display()),
            None => String::new(),
        }
    }
}

impl Controller<'_> {
    /// Counts an admin process that was not meant to end.
    pub(super) fn count_admin(&self, pid: Pid) {
        let layout = self.publisher.statistics.layout();
        let restarts = layout.fleet(FleetWord::AdminRestarts);
        layout.set_fleet(FleetWord::AdminRestarts, restarts.wrapping_add(1));
        self.record(Kind::AdminExited, 0, pid.as_raw() as u64);
    }
}
