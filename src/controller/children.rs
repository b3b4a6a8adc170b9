//! The controller's processes: what each is, and the channel to it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::supervisor::ADMIN;
use crate::process::channel::{Channel, Received};

/// The kind of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A worker, forked for this slot, from 1.
    Worker(u32),
    /// The admin process.
    Admin,
    /// The next build, checking its configuration before a reload.
    ReloadCheck,
}

impl Role {
    /// The process that a slot has: slot 0 is the admin process's.
    pub(super) fn of_slot(slot: u32) -> Self {
        if slot == ADMIN { Self::Admin } else { Self::Worker(slot) }
    }
}

/// A process from its fork, or from the takeover by this image, until it is reaped.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) role: Role,
    pub(super) since: Instant,
    /// It has become ready.
    pub(super) ready: bool,
    /// It has been reaped: its pid may be another process's.
    pub(super) reaped: bool,
    /// The connection to a worker or the admin process.
    pub(super) wire: Option<Wire>,
}

/// The channel to a process and its place in the statistics.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) channel: Channel,
    /// Its statistics block.
    pub(super) block: usize,
    /// It takes connections that siblings hand off.
    pub(super) handoff: bool,
    /// It is of a build that acknowledges nothing.
    pub(super) legacy: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Children {
    all: BTreeMap<Pid, Child>,
}

impl Children {
    /// Adds a process; its channel is watched once [`Self::watch`] is called.
    pub(super) fn insert(&mut self, pid: Pid, role: Role, ready: bool, wire: Option<Wire>) {
        let since = Instant::now();
        self.all.insert(pid, Child { role, since, ready, reaped: false, wire });
    }

    /// Watches the channel of a process: its token is the pid.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn watch(&self, pid: Pid, registry: &Registry) -> io::Result<()> {
        let Some(wire) = self.wire(pid) else { return Ok(()) };
        let token = Token(pid.as_raw() as usize);
        registry.register(&mut SourceFd(&wire.channel.as_raw_fd()), token, Interest::READABLE)
    }

    /// Forgets a process that has been reaped.
    pub(super) fn remove(&mut self, pid: Pid, registry: &Registry) -> Option<Child> {
        let child = self.all.remove(&pid)?;
        if let Some(wire) = &child.wire {
            let _ = registry.deregister(&mut SourceFd(&wire.channel.as_raw_fd()));
        }
        Some(child)
    }

    /// A process.
    pub(super) fn get(&self, pid: Pid) -> Option<&Child> {
        self.all.get(&pid)
    }

    /// The kind of a process.
    pub(super) fn role(&self, pid: Pid) -> Option<Role> {
        self.get(pid).map(|child| child.role)
    }

    /// The channel and the statistics block of a process.
    pub(super) fn wire(&self, pid: Pid) -> Option<&Wire> {
        self.get(pid)?.wire.as_ref()
    }

    /// Notes that a process has got ready.
    pub(super) fn ready(&mut self, pid: Pid) {
        self.all.entry(pid).and_modify(|child| child.ready = true);
    }

    /// Notes that a process has been reaped; what it said last may still be read.
    pub(super) fn reaped(&mut self, pid: Pid) {
        self.all.entry(pid).and_modify(|child| child.reaped = true);
    }

    /// All processes with a channel.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Pid, Role, &Wire)> {
        let all = self.all.iter();
        all.filter_map(|(pid, child)| Some((*pid, child.role, child.wire.as_ref()?)))
    }

    /// The workers.
    pub(super) fn workers(&self) -> impl Iterator<Item = (Pid, u32, &Wire)> {
        self.iter().filter_map(|(pid, role, wire)| match role {
            Role::Worker(slot) => Some((pid, slot, wire)),
            Role::Admin | Role::ReloadCheck => None,
        })
    }

    /// Takes the next message of a process; nothing from one that is not there.
    ///
    /// # Errors
    /// Those of [`Channel::receive`].
    pub(super) fn receive<M: DeserializeOwned>(&self, pid: Pid) -> io::Result<Received<M>> {
        self.wire(pid).map_or(Ok(Received::Nothing), |wire| wire.channel.receive())
    }

    /// Sends a message with descriptors to a process.
    ///
    /// # Errors
    /// `BrokenPipe` if it has ended, which is dealt with when it is reaped; otherwise those of
    /// [`Channel::send`].
    pub(super) fn send<M: Serialize>(
        &self,
        pid: Pid,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let wire = self.wire(pid).ok_or(io::ErrorKind::BrokenPipe)?;
        wire.channel.send(message, descriptors)
    }
}
