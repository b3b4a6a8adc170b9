//! Table of the controller's child processes: role, channel, and statistics block of each.

pub(crate) mod spawn;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::daemon::ids::{BlockId, SlotId};
use crate::sys::channel::{Channel, Received};

/// Role of a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Worker of this slot.
    Worker(SlotId),
    /// Admin process.
    Admin,
    /// Next build, which checks its configuration before a reload.
    ReloadCheck,
}

impl Role {
    /// Returns the role of a slot's process.
    pub(crate) fn of_slot(slot: SlotId) -> Self {
        if slot.is_admin() { Self::Admin } else { Self::Worker(slot) }
    }
}

/// Child process, from its fork or its restoration until it is reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) role: Role,
    pub(crate) since: Instant,
    /// `true` if it was reaped; its pid may belong to another process.
    pub(crate) reaped: bool,
    /// `None` for a reload check.
    pub(crate) link: Option<ProcessLink>,
}

/// Channel to a worker or the admin process, and its statistics block.
#[derive(Debug)]
pub(crate) struct ProcessLink {
    pub(crate) channel: Channel,
    pub(crate) block_id: BlockId,
    /// `true` if siblings may hand connections off to it.
    pub(crate) handoff: bool,
    /// `true` if it is of a build that acknowledges nothing.
    pub(crate) legacy: bool,
}

/// Child processes by pid.
#[derive(Debug, Default)]
pub(crate) struct Children {
    all: BTreeMap<Pid, Child>,
}

impl Children {
    /// Adds a process. [`Self::watch`] registers its channel.
    pub(crate) fn insert(&mut self, pid: Pid, role: Role, link: Option<ProcessLink>) {
        let since = Instant::now();
        self.all.insert(pid, Child { role, since, reaped: false, link });
    }

    /// Registers the channel of a process; its token is the pid.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(crate) fn watch(&self, pid: Pid, registry: &Registry) -> io::Result<()> {
        let Some(link) = self.link(pid) else { return Ok(()) };
        let token = Token(pid.as_raw() as usize);
        registry.register(&mut SourceFd(&link.channel.as_raw_fd()), token, Interest::READABLE)
    }

    /// Removes a process that was reaped.
    pub(crate) fn remove(&mut self, pid: Pid, registry: &Registry) -> Option<Child> {
        let child = self.all.remove(&pid)?;
        if let Some(link) = &child.link {
            let _ = registry.deregister(&mut SourceFd(&link.channel.as_raw_fd()));
        }
        Some(child)
    }

    pub(crate) fn get(&self, pid: Pid) -> Option<&Child> {
        self.all.get(&pid)
    }

    /// Role of a child process.
    pub(crate) fn role(&self, pid: Pid) -> Option<Role> {
        self.get(pid).map(|child| child.role)
    }

    pub(crate) fn link(&self, pid: Pid) -> Option<&ProcessLink> {
        self.get(pid)?.link.as_ref()
    }

    /// Marks a process as reaped; its last messages can still be read.
    pub(crate) fn reaped(&mut self, pid: Pid) {
        self.all.entry(pid).and_modify(|child| child.reaped = true);
    }

    /// Returns the processes with a channel.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Pid, Role, &ProcessLink)> {
        let all = self.all.iter();
        all.filter_map(|(pid, child)| Some((*pid, child.role, child.link.as_ref()?)))
    }

    /// Returns the workers with their slots.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (Pid, SlotId, &ProcessLink)> {
        self.iter().filter_map(|(pid, role, link)| match role {
            Role::Worker(slot) => Some((pid, slot, link)),
            Role::Admin | Role::ReloadCheck => None,
        })
    }

    /// Receives the next message of a process; [`Received::Nothing`] if it is unknown.
    ///
    /// # Errors
    /// Those of [`Channel::receive`].
    pub(crate) fn receive<M: DeserializeOwned>(&self, pid: Pid) -> io::Result<Received<M>> {
        self.link(pid).map_or(Ok(Received::Nothing), |link| link.channel.receive())
    }

    /// Sends a message with descriptors to a process.
    ///
    /// # Errors
    /// `BrokenPipe` if it has ended, which is handled when it is reaped; otherwise those of
    /// [`Channel::send`].
    pub(crate) fn send<M: Serialize>(
        &self,
        pid: Pid,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let link = self.link(pid).ok_or(io::ErrorKind::BrokenPipe)?;
        link.channel.send(message, descriptors)
    }
}
