//! The socket of the admin process. The controller keeps it while the process is replaced, so that
//! no client is rejected. The process is in slot 0 of the supervisor.

use std::io;
use std::os::fd::AsRawFd;

use crate::config::{AdminAddress, AdminConfig};
use crate::daemon::admin_socket::{AdminSocket, AdminSocketError, BoundAddress};
use crate::daemon::controller::reload::state_handover::HandoverAdminSocket;
use crate::sys::exec::adopt_descriptor;

/// The admin socket, if one is wanted.
#[derive(Debug, Default)]
pub(crate) struct AdminListener {
    /// The configured address and the socket.
    socket: Option<(AdminAddress, AdminSocket)>,
}

/// Change of the admin socket by a new configuration.
#[derive(Debug)]
pub(crate) enum SocketChange {
    /// The socket stays.
    None,
    /// Another socket, or none, replaces the current one.
    Socket(Option<(AdminAddress, AdminSocket)>),
}

impl SocketChange {
    /// Reverts a change that was not applied.
    pub(crate) fn undo(self) {
        if let Self::Socket(Some((_, socket))) = self {
            socket.remove();
        }
    }
}

impl AdminListener {
    /// Opens the configured socket of a daemon that starts.
    ///
    /// # Errors
    /// [`AdminSocketError`].
    pub(crate) fn create(config: &AdminConfig) -> Result<Self, AdminSocketError> {
        let mut admin = Self::default();
        let change = admin.open(config)?;
        admin.apply(change);
        Ok(admin)
    }

    /// Restores the socket of the previous image.
    ///
    /// # Errors
    /// The descriptor is missing.
    pub(crate) fn restore(handover: Option<HandoverAdminSocket>) -> io::Result<Self> {
        let Some((address, bound, socket)) = handover else { return Ok(Self::default()) };
        Ok(Self {
            socket: Some((
                address,
                AdminSocket { address: bound, socket: adopt_descriptor(socket)? },
            )),
        })
    }

    /// Returns the state handover of the socket.
    pub(crate) fn serialize(&self) -> Option<HandoverAdminSocket> {
        let (address, socket) = self.socket.as_ref()?;
        Some((address.clone(), socket.address.clone(), socket.socket.as_raw_fd()))
    }

    /// Opens the socket of a new configuration, unless the current one has its address.
    ///
    /// # Errors
    /// [`AdminSocketError`].
    pub(crate) fn open(&self, config: &AdminConfig) -> Result<SocketChange, AdminSocketError> {
        if self.socket.as_ref().map(|(address, _)| address) == config.address.as_ref() {
            return Ok(SocketChange::None);
        }
        let open = |address: &AdminAddress| Ok((address.clone(), AdminSocket::open(address)?));
        Ok(SocketChange::Socket(config.address.as_ref().map(open).transpose()?))
    }

    /// Applies a change.
    pub(crate) fn apply(&mut self, change: SocketChange) {
        if let SocketChange::Socket(socket) = change {
            self.remove();
            self.socket = socket;
        }
    }

    /// Returns `true` if a socket exists, which means that an admin process is wanted.
    pub(crate) fn is_wanted(&self) -> bool {
        self.socket.is_some()
    }

    /// Closes the socket, and removes its file.
    pub(crate) fn remove(&mut self) {
        if let Some((_, socket)) = self.socket.take() {
            socket.remove();
        }
    }

    /// Removes and returns the socket, in the process that becomes the admin process.
    pub(crate) fn take_socket(&mut self) -> Option<AdminSocket> {
        self.socket.take().map(|(_, socket)| socket)
    }

    /// Returns the URL for a browser, or the path of a Unix socket.
    pub(crate) fn url(&self) -> String {
        match self.socket.as_ref().map(|(_, socket)| &socket.address) {
            Some(BoundAddress::Tcp(address)) => format!("http://{address}/"),
            Some(BoundAddress::Unix(path, _)) => format!("unix:{}", path.display()),
            None => String::new(),
        }
    }
}
