//! Talking to the service manager: the notifier's texts, sent.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read};
use tracing::warn;

use super::fleet::Event;
use super::notify::{BARRIER, Notifier, View, fdstore, fdstore_remove, watchdog_interval};
use super::{BARRIERS, Controller};
use crate::ids::QueueId;
use crate::process::fork::own_pid;
use crate::process::notify_socket::NotifySocket;
use crate::stats::Word;

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<NotifySocket>,
    notifier: Notifier,
    /// Queues whose duplicate it was told to close, and what it closes then.
    barriers: Vec<(QueueId, u32, OwnedFd)>,
}

impl ServiceManager {
    /// Looks for a manager in the environment.
    pub(super) fn find() -> Self {
        let variable = |name: &str| -> Option<OsString> { std::env::var_os(name) };
        let socket = variable("NOTIFY_SOCKET").filter(|value| !value.is_empty());
        let socket = socket.and_then(|value| {
            let opened = NotifySocket::from_env_value(&value);
            opened.inspect_err(|error| warn!("cannot talk to the service manager: {error}")).ok()
        });
        let interval = watchdog_interval(own_pid(), variable);
        Self { socket, notifier: Notifier::new(interval), barriers: Vec::new() }
    }

    /// Returns `true` if there is a service manager, to keep sockets.
    pub(super) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// When it wants to hear from us.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.socket.as_ref().and(self.notifier.deadline())
    }
}

impl Controller<'_> {
    /// Tells the service manager what has changed.
    pub(super) fn notify(&mut self, now: Instant) {
        if self.manager.socket.is_none() {
            return;
        }
        let view = self.view(now);
        let uptime = self.publisher.clock.uptime(now).as_micros() as u64;
        let texts = self.manager.notifier.tick(view, now, uptime);
        let Some(socket) = &self.manager.socket else { return };
        for text in texts {
            if let Err(error) = socket.send(&text) {
                warn!("the service manager does not listen: {error}");
                self.manager.notifier.unheard();
                return;
            }
        }
    }

    fn view(&self, now: Instant) -> View {
        let supervisor = &self.fleet.supervisor;
        let statistics = &self.publisher.statistics;
        let blocks = self.children.workers().map(|(.., wire)| statistics.seat(wire.block));
        let workers_ready = supervisor.healthy().len() as u32;
        View {
            phase: self.phase(),
            workers_ready,
            workers_wanted: supervisor.wanted(),
            connections: blocks
                .map(|block| block.get(Word::Connections))
                .fold(0, u64::saturating_add),
            healthy: workers_ready * 2 >= supervisor.wanted(),
            drain_left: supervisor.drain_left(now).unwrap_or(Duration::ZERO),
        }
    }

    /// Has the manager keep a socket, so that what is queued there survives even our own crash.
    pub(super) fn store(&mut self, queue: QueueId) {
        let (slot, number) = self.fleet.queues.stored_number(queue);
        let listener = self.sockets.listener(queue);
        let (Some(socket), Some(listener)) = (&self.manager.socket, listener) else {
            return self.tell(Event::Stored(queue, None));
        };
        let sent = socket.send_with(&fdstore(slot, number), &[listener]);
        if let Err(error) = &sent {
            warn!(slot, "the service manager does not keep a socket: {error}");
        }
        self.tell(Event::Stored(queue, sent.is_ok().then_some(number)));
    }

    /// Has the manager close its duplicate, and say so: by closing what comes with the barrier, once
    /// it has read all that was sent before (sd_notify(3), `BARRIER=1`). What is not said is repeated.
    pub(super) fn unstore(&mut self, queue: QueueId) {
        let (slot, number) = self.fleet.queues.stored_number(queue);
        let Some(socket) = &self.manager.socket else {
            return self.tell(Event::Unstored(queue, number));
        };
        let sent = socket.send(&fdstore_remove(slot, number)).and_then(|()| {
            let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
            socket.send_with(BARRIER, &[theirs.as_fd()])?;
            Ok(ours)
        });
        match sent {
            Ok(ours) => {
                let mut source = SourceFd(&ours.as_raw_fd());
                // Unwatched, it is found out at the next tick.
                let _ = self.inputs.registry.register(&mut source, BARRIERS, Interest::READABLE);
                // The one before says nothing more: this one is read later.
                self.manager.barriers.retain(|(other, ..)| *other != queue);
                self.manager.barriers.push((queue, number, ours));
            }
            Err(error) => warn!(slot, "the service manager does not drop a socket: {error}"),
        }
    }

    /// Notes which duplicates the manager has closed.
    pub(super) fn check_barriers(&mut self) {
        let is_closed = |pipe: &OwnedFd| matches!(read(pipe, &mut [0]), Ok(0));
        let barriers = std::mem::take(&mut self.manager.barriers);
        let (closed, waiting) = barriers.into_iter().partition(|(.., pipe)| is_closed(pipe));
        self.manager.barriers = waiting;
        let closed: Vec<(QueueId, u32, OwnedFd)> = closed;
        for (queue, number, pipe) in closed {
            let _ = self.inputs.registry.deregister(&mut SourceFd(&pipe.as_raw_fd()));
            self.tell(Event::Unstored(queue, number));
        }
    }
}
