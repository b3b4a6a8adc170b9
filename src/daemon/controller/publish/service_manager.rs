//! The connection to the service manager: sends notifications, and stores listening sockets.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read};
use tracing::warn;

use crate::daemon::controller::fleet::Event;
use crate::daemon::controller::publish::notify::{
    BARRIER, DaemonStatus, Notifier, fdstore, fdstore_remove, watchdog_interval,
};
use crate::daemon::controller::{BARRIERS, Controller};
use crate::daemon::ids::QueueId;
use crate::daemon::stats::Field;
use crate::sys::fork::own_pid;
use crate::sys::notify_socket::NotifySocket;

/// Connection to the service manager, if one is configured.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: Option<NotifySocket>,
    notifier: Notifier,
    /// Queues whose duplicate it was told to close, their numbers, and the pipes that it closes
    /// then.
    barriers: Vec<(QueueId, u32, OwnedFd)>,
}

impl ServiceManager {
    /// Connects to the manager that the environment names.
    pub(crate) fn from_environment() -> Self {
        let variable = |name: &str| -> Option<OsString> { std::env::var_os(name) };
        let socket = variable("NOTIFY_SOCKET").filter(|value| !value.is_empty());
        let socket = socket.and_then(|value| {
            let opened = NotifySocket::from_env_value(&value);
            opened.inspect_err(|error| warn!("cannot connect to service manager: {error}")).ok()
        });
        let interval = watchdog_interval(own_pid(), variable);
        Self { socket, notifier: Notifier::new(interval), barriers: Vec::new() }
    }

    /// Returns `true` if there is a service manager, which can store sockets.
    pub(crate) fn is_present(&self) -> bool {
        self.socket.is_some()
    }

    /// Returns the time of the next notification.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.socket.as_ref().and(self.notifier.deadline())
    }
}

impl Controller<'_> {
    /// Notifies the service manager of changes.
    pub(crate) fn notify(&mut self, now: Instant) {
        if self.manager.socket.is_none() {
            return;
        }
        let status = self.daemon_status(now);
        let uptime = self.publisher.clock.uptime(now).as_micros() as u64;
        let texts = self.manager.notifier.tick(status, now, uptime);
        let Some(socket) = &self.manager.socket else { return };
        for text in texts {
            if let Err(error) = socket.send(&text) {
                warn!("cannot notify service manager: {error}");
                self.manager.notifier.resend_all();
                return;
            }
        }
    }

    fn daemon_status(&self, now: Instant) -> DaemonStatus {
        let supervisor = &self.fleet.supervisor;
        let statistics = &self.publisher.statistics;
        let blocks = self.children.workers().map(|(.., link)| statistics.block(link.block_id));
        let workers_ready = supervisor.healthy().len() as u32;
        DaemonStatus {
            phase: self.phase(),
            workers_ready,
            workers_wanted: supervisor.wanted(),
            connections: blocks
                .map(|block| block.get(Field::Connections))
                .fold(0, u64::saturating_add),
            healthy: workers_ready * 2 >= supervisor.wanted(),
            drain_left: supervisor.drain_left(now).unwrap_or(Duration::ZERO),
        }
    }

    /// Stores a duplicate of a socket with the manager, so that its queue survives a crash of the
    /// daemon.
    pub(crate) fn store(&mut self, queue: QueueId) {
        let (slot, number) = self.fleet.queues.stored_number(queue);
        let listener = self.sockets.listener(queue);
        let (Some(socket), Some(listener)) = (&self.manager.socket, listener) else {
            return self.apply(Event::Stored(queue, None));
        };
        let sent = socket.send_with(&fdstore(slot, number), &[listener]);
        if let Err(error) = &sent {
            warn!(slot = slot.0, "cannot store socket with service manager: {error}");
        }
        self.apply(Event::Stored(queue, sent.is_ok().then_some(number)));
    }

    /// Makes the manager close its duplicate. It confirms by closing the pipe that comes with the
    /// barrier (sd_notify(3), `BARRIER=1`), after all earlier messages. Without confirmation the
    /// queues repeat the request.
    pub(crate) fn unstore(&mut self, queue: QueueId) {
        let Some((slot, number)) = self.fleet.queues.removed_number(queue) else { return };
        let Some(socket) = &self.manager.socket else {
            return self.apply(Event::Unstored(queue, number));
        };
        // An earlier barrier says nothing about this removal, even if it cannot be sent.
        self.manager.barriers.retain(|(other, ..)| *other != queue);
        let sent = socket.send(&fdstore_remove(slot, number)).and_then(|()| {
            let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
            socket.send_with(BARRIER, &[theirs.as_fd()])?;
            Ok(ours)
        });
        match sent {
            Ok(ours) => {
                let (pipe, interest) = (ours.as_raw_fd(), Interest::READABLE);
                // Every loop iteration checks the pipes anyway.
                let _ = self.inputs.registry.register(&mut SourceFd(&pipe), BARRIERS, interest);
                self.manager.barriers.push((queue, number, ours));
            }
            Err(error) => {
                warn!(slot = slot.0, "cannot remove socket from service manager: {error}");
            }
        }
    }

    /// Applies an event for each duplicate that the manager has closed.
    pub(crate) fn check_barriers(&mut self) {
        let is_closed = |pipe: &OwnedFd| matches!(read(pipe, &mut [0]), Ok(0));
        let barriers = std::mem::take(&mut self.manager.barriers);
        let (closed, waiting) = barriers.into_iter().partition(|(.., pipe)| is_closed(pipe));
        self.manager.barriers = waiting;
        let closed: Vec<(QueueId, u32, OwnedFd)> = closed;
        for (queue, number, pipe) in closed {
            let _ = self.inputs.registry.deregister(&mut SourceFd(&pipe.as_raw_fd()));
            self.apply(Event::Unstored(queue, number));
        }
    }
}
